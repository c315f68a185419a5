"""The models of a shop that has tables called ``tasks`` and ``results`` of its own, and owns sitq's tables."""

from __future__ import annotations

from sqlalchemy import ForeignKey, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import sitq


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "index_%(column_0_label)s"})


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    tasks: Mapped[list[Job]] = relationship(back_populates="order")


class Chore(Base):
    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None] = mapped_column(String(100))


class Score(Base):
    __tablename__ = "results"

    id: Mapped[int] = mapped_column(primary_key=True)
    points: Mapped[int | None]


class Job(sitq.TaskMixin, Base):
    __tablename__ = "jobs"

    order_id: Mapped[int | None] = mapped_column(ForeignKey("orders.id"), default=None)
    order: Mapped[Order | None] = relationship(back_populates="tasks", default=None)


class JobResult(sitq.ResultMixin, Base):
    __tablename__ = "job_results"


MODELS = sitq.declare_models(Base, prefix="job_", task=Job, result=JobResult)
