"""Who is stopped in the middle of a transaction, or whose host is gone, does not keep tasks from others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import sitq
from databases import SERVERS, empty_database
from sitq.backends import mariadb, postgresql
from sitq.claims import ClaimRequest
from test_worker_crashes import until
from working import LONG


@pytest.mark.parametrize("kind", SERVERS)
def test_a_transaction_that_stands_still_is_rolled_back_by_the_server(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (postgresql, mariadb):
        monkeypatch.setattr(module, "LONGEST_PAUSE", 1)
    goes_on = threading.Event()
    stands = threading.Event()

    def write_and_stop(connection: Any, models: Any) -> None:
        connection.exec_driver_sql("UPDATE tasks SET priority = priority + 1")
        stands.set()
        assert goes_on.wait(LONG)

    def try_to_write() -> None:
        with pytest.raises(sitq.DatabaseUnavailableError):
            stopped._database.write(write_and_stop)
        goes_on.clear()

    with empty_database(kind, tmp_path) as url, sitq.open_backend(url) as stopped, sitq.open_backend(url) as other:
        task_id = sitq.SyncTaskQueue(stopped).enqueue(len, "x")
        assert len(stopped.claim(ClaimRequest("stopped", ("default",), 1, lease=0.1))) == 1
        assert isinstance(stopped, sitq.SQLAlchemyBackend)
        writing = threading.Thread(target=try_to_write)
        writing.start()
        assert stands.wait(LONG)
        until(lambda: other.reap() == [task_id])  # else it passes over the row that is locked
        goes_on.set()
        writing.join(LONG)
        assert not goes_on.is_set()
        task = stopped.get_task(task_id)
        assert task is not None
        assert (task.status, task.priority) == ("queued", 0)
