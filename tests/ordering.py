"""An app with orders, which enqueues tasks in the transactions of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Engine, String, create_engine, func, make_url, select
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "mariadb": "mariadb+asyncmy"}


class AppBase(DeclarativeBase):
    pass


class Order(AppBase):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[str | None] = mapped_column(String(36))


def confirm(order: int) -> int:
    return order


@contextmanager
def app_engine(url: URL | str, **options: Any) -> Iterator[Engine]:
    """The engine of an app that has made its tables."""
    engine = create_engine(url, **patient(make_url(url), options))
    AppBase.metadata.create_all(engine)
    try:
        yield engine
    finally:
        AppBase.metadata.drop_all(engine)
        engine.dispose()


def async_engine_of(url: URL, **options: Any) -> AsyncEngine:
    return create_async_engine(url.set(drivername=ASYNC_DRIVERS[url.get_backend_name()]), **patient(url, options))


def patient(url: URL, options: dict[str, Any]) -> dict[str, Any]:
    """Options with which SQLite waits for its lock as long as the queue's own writes do."""
    return {"connect_args": {"timeout": 30}, **options} if url.get_backend_name() == "sqlite" else options


def count_orders(engine: Engine) -> int:
    with Session(engine) as session:
        return session.scalar(select(func.count()).select_from(Order)) or 0
