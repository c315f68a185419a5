"""A shop in FastAPI: an order and its confirmation are committed together, and a worker sends the e-mail.

In the folder of this file, with the extra ``examples``:

    alembic upgrade head
    uvicorn shop:app
    sitq worker shop:backend

``DATABASE_URL`` names another database, ``SMTP_HOST`` and ``SMTP_PORT`` the mail server. An order:

    curl localhost:8000/orders --json '{"product": "apple", "pieces": 3, "email": "ada@example.org"}'
"""

import asyncio
import os
import smtplib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, PositiveInt
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import sitq


class Base(DeclarativeBase):
    """The app's metadata; sitq's tables are not in it."""


class Product(Base):
    """What there is, and how many of it."""

    __tablename__ = "products"

    name: Mapped[str] = mapped_column(primary_key=True)
    pieces: Mapped[int]


class Order(Base):
    """An order, and the task that confirms it."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str]
    pieces: Mapped[int]
    email: Mapped[str]
    task_id: Mapped[str | None]


engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///shop.db"))
if engine.dialect.name == "sqlite":
    sitq.sqlite.configure(engine)

backend = sitq.SQLAlchemyBackend(engine)
queue = sitq.TaskQueue(backend)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Make or upgrade the queue's tables before the first request."""
    async with backend:
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def writing() -> AsyncIterator[AsyncSession]:
    """A session for a request that writes. What it has not committed is rolled back."""
    async with AsyncSession(engine) as session:
        yield session


async def reading() -> AsyncIterator[AsyncSession]:
    """A session for a request that only reads; SQLite need not keep others from writing for it."""
    async with AsyncSession(engine.execution_options(sitq_reads=True)) as session:
        yield session


@sitq.task(max_retries=8, timeout=60)
async def send_confirmation(order_id: int) -> None:
    """The task: tell the customer that the order has arrived."""
    async with AsyncSession(engine.execution_options(sitq_reads=True)) as session:
        order = await session.get_one(Order, order_id)
    message = EmailMessage()
    message["From"], message["To"] = "shop@example.com", order.email
    message["Subject"] = f"Your order {order.id}"
    message["Message-ID"] = f"<order-{order.id}@shop.example.com>"  # the same, should it be sent twice
    message.set_content(f"Thank you for your order: {order.pieces} of {order.product}.")
    await asyncio.to_thread(send, message)


def send(message: EmailMessage) -> None:
    """Hand a message to the mail server."""
    host, port = os.environ.get("SMTP_HOST", "localhost"), int(os.environ.get("SMTP_PORT", "25"))
    with smtplib.SMTP(host, port, timeout=30) as server:
        server.send_message(message)


class NewOrder(BaseModel):
    """What a customer sends."""

    product: str
    pieces: PositiveInt
    email: str


@app.post("/orders", status_code=201)
async def place_order(new: NewOrder, session: Annotated[AsyncSession, Depends(writing)]) -> dict[str, int]:
    """Store an order, and have it confirmed, in one commit."""
    order = Order(**new.model_dump())
    session.add(order)
    await session.flush()  # the database gives it its number
    order_id = order.id
    order.task_id = queue.enqueue_in(session, send_confirmation, order_id)
    await take_from_stock(session, new)
    await session.commit()
    return {"id": order_id}


async def take_from_stock(session: AsyncSession, new: NewOrder) -> None:
    """Take the pieces, or refuse the order."""
    enough = (Product.name == new.product) & (Product.pieces >= new.pieces)
    taken = await session.execute(update(Product).where(enough).values(pieces=Product.pieces - new.pieces))
    if taken.rowcount == 0:
        raise HTTPException(409, f"there are not so many pieces of {new.product}")


@app.get("/orders/{order_id}")
async def show_order(order_id: int, session: Annotated[AsyncSession, Depends(reading)]) -> dict[str, object]:
    """Show an order, and whether it was confirmed."""
    found = await session.execute(
        select(Order, sitq.Task.status).outerjoin(sitq.Task, sitq.Task.id == Order.task_id).where(Order.id == order_id)
    )
    row = found.one_or_none()
    if row is None:
        raise HTTPException(404, "there is no such order")
    return {"product": row.Order.product, "pieces": row.Order.pieces, "confirmed": row.status == "completed"}
