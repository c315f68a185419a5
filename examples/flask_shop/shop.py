"""A shop in Flask that owns the queue's tables: an order and its tasks are related, and committed together.

In the folder of this file, with the extra ``examples``:

    flask --app shop db upgrade
    flask --app shop run
    sitq worker shop:backend

``DATABASE_URL`` names another database, ``SMTP_HOST`` and ``SMTP_PORT`` the mail server. An order:

    curl localhost:5000/orders -d product=apple -d pieces=3 -d email=ada@example.org
"""

import os
import smtplib
from email.message import EmailMessage
from pathlib import Path

from flask import Flask, abort, request
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import sitq


class Base(DeclarativeBase):
    """The app's metadata, which sitq's tables are a part of."""


app = Flask("shop")
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ.get("DATABASE_URL", f"sqlite:///{Path('shop.db').resolve()}")
db = SQLAlchemy(app, model_class=Base)
Migrate(app, db)


class Product(db.Model):
    """What there is, and how many of it."""

    __tablename__ = "products"

    name: Mapped[str] = mapped_column(primary_key=True)
    pieces: Mapped[int]


class Order(db.Model):
    """An order, and what is done about it."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    product: Mapped[str]
    pieces: Mapped[int]
    email: Mapped[str]
    tasks: Mapped[list["Job"]] = relationship(back_populates="order")


class Job(sitq.TaskMixin, db.Model):
    """A task, with the order that it is for."""

    __tablename__ = "sitq_tasks"

    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), default=None)
    order: Mapped[Order | None] = relationship(back_populates="tasks", default=None)


models = sitq.declare_models(db.Model, prefix="sitq_", task=Job)

with app.app_context():
    if db.engine.dialect.name == "sqlite":
        sitq.sqlite.configure(db.engine)
    backend = sitq.SQLAlchemyBackend(db.engine, models=models)

queue = sitq.SyncTaskQueue(backend)


@app.before_request
def open_queue() -> None:
    """Look once whether the migrations have made the queue's tables."""
    backend.initialize()


def reading() -> None:
    """Begin a transaction that only reads; SQLite need not keep others from writing for it."""
    db.session.connection(execution_options={"sitq_reads": True})


@sitq.task(max_retries=8, timeout=60)
def send_confirmation(order_id: int) -> None:
    """The task: tell the customer that the order has arrived."""
    message = EmailMessage()
    with app.app_context():
        reading()
        order = db.session.get_one(Order, order_id)
        message["From"], message["To"] = "shop@example.com", order.email
        message["Subject"] = f"Your order {order.id}"
        message["Message-ID"] = f"<order-{order.id}@shop.example.com>"  # the same, should it be sent twice
        message.set_content(f"Thank you for your order: {order.pieces} of {order.product}.")
    host, port = os.environ.get("SMTP_HOST", "localhost"), int(os.environ.get("SMTP_PORT", "25"))
    with smtplib.SMTP(host, port, timeout=30) as server:
        server.send_message(message)


@app.post("/orders")
def place_order() -> tuple[dict[str, object], int]:
    """Store an order, and have it confirmed, in one commit."""
    order = Order(product=request.form["product"], email=request.form["email"], pieces=int(request.form["pieces"]))
    db.session.add(order)
    db.session.flush()  # the database gives it its number
    task_id = queue.enqueue_in(db.session, send_confirmation, order.id)
    order.tasks.append(db.session.get_one(Job, task_id))
    take_from_stock(order)
    db.session.commit()
    return {"id": order.id}, 201


def take_from_stock(order: Order) -> None:
    """Take the pieces, or refuse the order."""
    enough = (Product.name == order.product) & (Product.pieces >= order.pieces)
    taken = db.session.execute(update(Product).where(enough).values(pieces=Product.pieces - order.pieces))
    if order.pieces < 1 or taken.rowcount == 0:
        abort(409)  # the request ends without a commit


@app.get("/orders/<int:order_id>")
def show_order(order_id: int) -> dict[str, object]:
    """Show an order, and what is done about it."""
    reading()
    order = db.get_or_404(Order, order_id)
    return {
        "product": order.product,
        "pieces": order.pieces,
        "tasks": [{"name": task.name, "status": task.status} for task in order.tasks],
    }


@app.get("/unconfirmed")
def show_unconfirmed() -> list[int]:
    """Show the numbers of orders whose confirmation has not been sent."""
    reading()
    waiting = Order.tasks.any((Job.name == "shop.send_confirmation") & (Job.status != "completed"))
    return list(db.session.scalars(select(Order.id).where(waiting).order_by(Order.id)))
