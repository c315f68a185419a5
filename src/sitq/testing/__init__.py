"""What tests need: ``AppTasks`` for those of an app, ``BackendContract`` for those of a backend of your own.

Needs pytest, whose plugin gives an ``AppTasks`` as the fixture ``sitq_testing``.
"""

from __future__ import annotations

import pytest

# Before the modules are imported, so that a failed assert shows its values.
pytest.register_assert_rewrite(
    "sitq.testing.claiming",
    "sitq.testing.finishing",
    "sitq.testing.intervening",
    "sitq.testing.leasing",
    "sitq.testing.opening",
    "sitq.testing.queueing",
    "sitq.testing.storing",
)

from .clock import MovableClock  # noqa: E402  # see above
from .contract import BackendContract  # noqa: E402  # see above
from .tasks import AppTasks  # noqa: E402  # see above

__all__ = ["AppTasks", "BackendContract", "MovableClock"]
