"""The whole contract in one class."""

from __future__ import annotations

from .claiming import ClaimingContract
from .crashing import CrashingContract
from .finishing import FinishingContract
from .intervening import InterveningContract
from .leasing import LeasingContract
from .opening import OpeningContract
from .queueing import QueueingContract
from .storing import StoringContract


class BackendContract(
    StoringContract,
    QueueingContract,
    ClaimingContract,
    FinishingContract,
    InterveningContract,
    LeasingContract,
    CrashingContract,
    OpeningContract,
):
    """What every backend does, verb by verb, through the sync verbs and through their async twins.

    Subclass it in a test file of yours, and let pytest run it::

        class TestMyBackend(BackendContract):
            def make_backend(self, folder):
                return MyBackend(folder / "tasks")

    A backend that cannot do one of the following says so in the subclass; all are ``True`` by default.

    Attributes:
        finds_stored_tasks: tasks kept with ``store_task`` alone are listed and claimed, as well as enqueued ones.
        checks_arguments: ``update_task_status`` and ``store_result`` refuse unknown ids, and the former
            unknown statuses, with errors of sitq.
        keeps_after_close: what was stored is still there after ``close``.
    """
