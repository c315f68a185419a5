"""The example apps, started as servers and workers: each order that stands is confirmed once, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

import sitq
from databases import empty_database
from mail_sink import MailSink, mail_sink
from shops import Shop, post_form, post_json, request, until

ORDERS = [("apple", 3), ("apple", 101), ("jalapeño", 1), ("jalapeño", 1), ("jalapeño", 1), ("apple", 4)]
"""What is asked for at once. There are 100 apples, and 2 jalapeños."""

STAND = [("apple", 3), ("apple", 4), ("jalapeño", 1), ("jalapeño", 1)]


@pytest.fixture
def sink() -> Iterator[MailSink]:
    with mail_sink(refusals=1) as sink:
        yield sink


def place_orders(site: str, post: Callable[..., tuple[int, Any]]) -> dict[int, tuple[str, int]]:
    """Ask for all of them at the same time; return those that stand, by their numbers."""

    def place(order: tuple[str, int]) -> tuple[int, Any]:
        product, pieces = order
        return post(f"{site}/orders", product=product, pieces=pieces, email=f"{pieces}@example.org")

    with ThreadPoolExecutor(len(ORDERS)) as threads:
        answers = list(threads.map(place, ORDERS))
    assert sorted(status for status, _ in answers) == [201] * len(STAND) + [409] * (len(ORDERS) - len(STAND))
    placed = {answer["id"]: order for (status, answer), order in zip(answers, ORDERS, strict=True) if status == 201}
    assert sorted(placed.values()) == STAND
    return placed


def what_it_says(message: EmailMessage) -> tuple[str, str, str]:
    return message["To"], message["Subject"], message.get_content().strip()


def confirmations(orders: dict[int, tuple[str, int]]) -> list[tuple[str, str, str]]:
    """What the customers are to be told."""
    return sorted(
        (f"{pieces}@example.org", f"Your order {number}", f"Thank you for your order: {pieces} of {product}.")
        for number, (product, pieces) in orders.items()
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with empty_database(request.param, tmp_path) as url:
        yield url.set(drivername="sqlite+aiosqlite") if request.param == "sqlite" else url


def test_fastapi_confirms_each_order_that_stands_once(url: URL, tmp_path: Path, sink: MailSink) -> None:
    database = url.render_as_string(hide_password=False)
    shop = Shop("fastapi_shop", tmp_path, database, sink.port.result())
    shop.run("-m", "alembic", "upgrade", "head")
    with shop.serving("-m", "uvicorn", "shop:app", "--port", "0") as site, sitq.open_backend(database) as backend:
        orders = place_orders(site, post_json)
        assert sorted(task.name for task in backend.list_tasks(status="queued")) == ["shop.send_confirmation"] * 4
        assert not any(request(f"{site}/orders/{number}")[1]["confirmed"] for number in orders)
        assert sink.messages == []
        workers = ("worker", "another worker") if url.get_backend_name() == "sqlite" else ("worker",)
        with ExitStack() as stack:
            for name in workers:
                stack.enter_context(shop.started(name, "-m", "sitq", "worker", "shop:backend"))
            for number in orders:
                until(lambda number=number: request(f"{site}/orders/{number}")[1]["confirmed"])
        assert sorted(map(what_it_says, sink.messages)) == confirmations(orders)
        stats = backend.get_stats()
        assert (stats.total_tasks, stats.completed_tasks) == (4, 4)
    assert "No new upgrade operations detected" in shop.run("-m", "alembic", "check")


def test_flask_confirms_each_order_that_stands_once(tmp_path: Path, sink: MailSink) -> None:
    shop = Shop("flask_shop", tmp_path, f"sqlite:///{tmp_path / 'shop.db'}", sink.port.result())
    flask = ("-m", "flask", "--app", "shop")
    shop.run(*flask, "db", "upgrade")
    # If this fails after a change of the models: "flask db migrate", as an app's own developers would.
    assert "No new upgrade operations detected" in shop.run(*flask, "db", "check")
    with shop.serving(*flask, "run", "--port", "0") as site:
        orders = place_orders(site, post_form)
        assert request(f"{site}/unconfirmed") == (200, sorted(orders))
        for number, (product, pieces) in orders.items():
            tasks = [{"name": "shop.send_confirmation", "status": "queued"}]
            assert request(f"{site}/orders/{number}")[1] == {"product": product, "pieces": pieces, "tasks": tasks}
        assert sink.messages == []
        with shop.started("worker", "-m", "sitq", "worker", "shop:backend"):
            until(lambda: request(f"{site}/unconfirmed") == (200, []))
    assert sorted(map(what_it_says, sink.messages)) == confirmations(orders)


def test_a_script_of_flask_migrate_runs_as_it_was_generated(tmp_path: Path) -> None:
    script = """
import sys
import flask_migrate, shop

with shop.app.app_context():
    flask_migrate.init(sys.argv[1])
    flask_migrate.migrate(sys.argv[1], message="everything")
    flask_migrate.upgrade(sys.argv[1])
    flask_migrate.migrate(sys.argv[1], message="nothing more")
with shop.backend:
    shop.backend.check_schema()
"""
    shop = Shop("flask_shop", tmp_path, f"sqlite:///{tmp_path / 'shop.db'}", smtp_port=0)
    assert "No changes in schema detected" in shop.run("-c", script, str(tmp_path / "migrations"))
    (_,) = (tmp_path / "migrations" / "versions").glob("*.py")
