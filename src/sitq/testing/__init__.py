"""The contract that every backend keeps, as tests that a backend of your own can run. Needs pytest."""

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

__all__ = ["BackendContract", "MovableClock"]
