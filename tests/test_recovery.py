"""Salvaging what can be read of a database that was damaged for real."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import sitq
from by_hand import run_one
from damage import PAGE, filled, leaves, overwrite_page
from sitq import schema


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "recovered" / "tasks.db"


@pytest.fixture(autouse=True)
def folder_of_target(target: Path) -> None:
    target.parent.mkdir()


def rows_on_pages(path: Path, pages: list[int], table: str = "tasks") -> list[str]:
    """The ids of the rows on some pages, by taking the pages out of a copy and looking what is missing."""
    data = path.read_bytes()
    ids = []
    for number in pages:
        page = data[(number - 1) * PAGE : number * PAGE]
        assert page[0] == 13, "a leaf"
        with closing(sqlite3.connect(path)) as connection:
            (first, last) = row_numbers(page)
            column = "id" if table == "tasks" else "task_id"
            query = f"SELECT {column} FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid"
            ids += [row[0] for row in connection.execute(query, (first, last))]
    return ids


def row_numbers(page: bytes) -> tuple[int, int]:
    """The first and the last number of the rows on a leaf."""
    cells = int.from_bytes(page[3:5], "big")
    numbers = []
    for cell in range(cells):
        at = int.from_bytes(page[8 + 2 * cell : 10 + 2 * cell], "big")
        _, at = varint(page, at)  # the size of the row
        numbers.append(varint(page, at)[0])
    return min(numbers), max(numbers)


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    while True:
        value = (value << 7) | (data[at] & 0x7F)
        at += 1
        if data[at - 1] < 0x80:
            return value, at


def lost_ids(report: sitq.RecoveryReport, table: str = "tasks") -> list[str | None]:
    return [rows.task_id for rows in report.lost if rows.table == table]


def test_a_sound_database_is_copied_whole(path: Path, target: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        queue = sitq.SyncTaskQueue(backend)
        queue.options(priority=3, delay=60, timeout=5).enqueue(len, "x")
        queue.enqueue(len, "four")
        queue.pause("mail")
        run_one(backend)
    report = sitq.recover(str(path), str(target))
    assert report.complete
    assert report.salvaged == {"tasks": 2, "results": 1, "sitq_queues": 1}
    assert every_row(path) == every_row(target)
    assert list(target.parent.iterdir()) == [target]


def every_row(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        tables = ("tasks", "results", "sitq_queues")
        return [connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in tables]


@pytest.mark.parametrize("damage", [b"\xff" * PAGE, b"\0" * PAGE], ids=["noise", "zeros"])
@pytest.mark.parametrize("which", [[0], [5], [-1], [2, 3, 4], [1, 3, 9, -1]])
def test_rows_around_bad_pages_are_salvaged_and_the_lost_ones_named(
    path: Path, target: Path, which: list[int], damage: bytes
) -> None:
    ids = filled(path, 600)
    pages = [leaves(path)[number] for number in which]
    doomed = rows_on_pages(path, pages)
    for page in pages:
        overwrite_page(path, page, damage)
    before = path.read_bytes()
    report = sitq.recover(path, target)
    assert lost_ids(report) == doomed
    assert {rows.first_rowid == rows.last_rowid for rows in report.lost} == {True}
    assert all("malformed" in rows.reason for rows in report.lost)
    assert report.salvaged["tasks"] == len(ids) - len(doomed)
    with sitq.SQLiteBackend(target) as backend:
        assert backend.list_all_tasks() == [task_id for task_id in ids if task_id not in doomed]
        assert backend.check().ok
        assert run_one(backend) is not None
    assert path.read_bytes() == before


def test_a_truncated_database_gives_what_is_left(path: Path, target: Path) -> None:
    ids = filled(path, 600)
    os.truncate(path, path.stat().st_size * 2 // 3)
    with pytest.raises(sitq.DatabaseCorruptError, match=r"sitq\.recover"):
        sitq.SQLiteBackend(path).initialize()
    report = sitq.recover(path, target)
    with sitq.SQLiteBackend(target) as backend:
        salvaged = backend.list_all_tasks()
    assert salvaged == [task_id for task_id in ids if task_id in salvaged]
    assert len(salvaged) == report.salvaged["tasks"] > 200
    gone = {number for rows in report.lost for number in range(rows.first_rowid, (rows.last_rowid or 600) + 1)}
    assert gone == {number for number, task_id in enumerate(ids, 1) if task_id not in salvaged}


def test_a_lost_task_takes_its_result_along_and_both_are_named(path: Path, target: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [("x",)] * 300)
        while run_one(backend):
            pass
    page = leaves(path)[4]
    doomed = rows_on_pages(path, [page])
    overwrite_page(path, page)
    report = sitq.recover(path, target)
    assert lost_ids(report) == doomed
    assert lost_ids(report, "results") == doomed
    assert {rows.reason for rows in report.lost if rows.table == "results"} == {"FOREIGN KEY constraint failed"}
    assert report.salvaged["results"] == len(ids) - len(doomed)
    with sitq.SQLiteBackend(target) as backend:
        assert backend.check().ok


def test_rows_whose_index_is_gone_as_well_are_told_by_their_numbers(path: Path, target: Path) -> None:
    filled(path, 600)
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_tasks_1'"
        ).fetchone()
    page = leaves(path)[4]
    first, last = row_numbers(path.read_bytes()[(page - 1) * PAGE : page * PAGE])
    overwrite_page(path, page)
    overwrite_page(path, root)
    report = sitq.recover(path, target)
    (lost,) = report.lost
    assert (lost.table, lost.first_rowid, lost.last_rowid, lost.task_id) == ("tasks", first, last, None)
    assert report.salvaged["tasks"] == 600 - (last - first + 1)


def test_what_only_the_log_holds_is_salvaged_too(path: Path, target: Path) -> None:
    with sitq.SQLiteBackend(path) as backend:
        ids = sitq.SyncTaskQueue(backend).enqueue_many(len, [("x",)] * 30)
        for part in path.parent.glob("tasks.db*"):
            shutil.copy(part, part.with_name(part.name.replace("tasks", "crashed")))
    crashed = path.with_name("crashed.db")
    assert crashed.with_name("crashed.db-wal").stat().st_size > 0
    assert sitq.recover(crashed, target).salvaged["tasks"] == 30
    with sitq.SQLiteBackend(target) as backend:
        assert backend.list_all_tasks() == ids


def test_an_older_schema_comes_out_as_the_present_one(path: Path, target: Path) -> None:
    ids = filled(path, 3)
    with sitq.SQLiteBackend(path) as backend, backend._database.dialect.lock_schema(backend.engine) as connection:
        schema.downgrade(connection, "0001")
    assert sitq.recover(path, target).complete
    with sitq.SQLiteBackend(target) as backend:
        assert backend.list_all_tasks() == ids
        assert backend.health_check().schema_revision == schema.HEAD


def destroy_header(path: Path) -> None:
    overwrite_page(path, 1)


def destroy_list_of_tables(path: Path) -> None:
    header = path.read_bytes()[:100]
    overwrite_page(path, 1, header + b"\xff" * (PAGE - 100))


def make_foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE accounts (id)")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (destroy_header, sitq.NotADatabaseError),
        (destroy_list_of_tables, sitq.DatabaseCorruptError),
        (make_foreign, sitq.DatabaseCorruptError),
        (Path.unlink, sitq.BackendError),
    ],
)
def test_where_nothing_can_be_salvaged_nothing_is_made(
    path: Path, target: Path, spoil: Any, error: type[Exception]
) -> None:
    filled(path, 30)
    spoil(path)
    with pytest.raises(error) as caught:
        sitq.recover(path, target)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert list(target.parent.iterdir()) == []


def test_a_target_that_exists_is_left_alone(path: Path, target: Path, tmp_path: Path) -> None:
    filled(path, 1)
    target.write_text("mine")
    with pytest.raises(sitq.BackendError, match="exists already"):
        sitq.recover(path, target)
    assert target.read_text() == "mine"
    with pytest.raises(sitq.DatabasePermissionError, match="does not exist"):
        sitq.recover(path, tmp_path / "nowhere" / "x.db")
