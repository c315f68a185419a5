"""Tables that an app owns: declared over every kind of base, checked, related to, and never altered."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    URL,
    Column,
    Dialect,
    Index,
    Integer,
    MetaData,
    NullPool,
    String,
    create_engine,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, declarative_base, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable

import app_models
import sitq
from databases import KINDS, empty_database, engine_to_migrate
from sitq import ConfigurationError, ForeignTableError, InvalidArgumentError, SchemaError, declare_models, schema
from sitq.testing.records import MOMENT, completed, new_row, request

OWN = ("tasks", "results", "sitq_queues")
INDEXES = {"claim", "due", "history", "lease", "timed"}


def plain_base() -> Any:
    class Base(DeclarativeBase):
        pass

    return Base


def dataclass_base() -> Any:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    return Base


def opinionated_base() -> Any:
    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention={"ix": "index_%(column_0_label)s", "pk": "key_of_%(table_name)s"})
        type_annotation_map = {str: String(30), bytes: String(3), datetime: String(5)}  # noqa: RUF012

        row_number: Mapped[int]

    return Base


class Legacy(declarative_base()):  # type: ignore[misc]
    __abstract__ = True


@pytest.fixture(params=[plain_base, dataclass_base, opinionated_base, lambda: Legacy, MetaData])
def base(request: pytest.FixtureRequest) -> Iterator[Any]:
    base = request.param()
    yield base
    if base is Legacy:
        base.metadata.clear()


@pytest.mark.filterwarnings("ignore:This declarative base already contains")
def test_models_are_declared_over_every_kind_of_base(base: Any, tmp_path: Path) -> None:
    models = declare_models(base, prefix="q_")
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}", poolclass=NullPool)
    (base if isinstance(base, MetaData) else base.metadata).create_all(engine)
    assert {f"ix_q_tasks_{name}" for name in INDEXES} < {
        index["name"] for index in inspect(engine).get_indexes("q_tasks")
    }
    assert [key["referred_table"] for key in inspect(engine).get_foreign_keys("q_results")] == ["q_tasks"]
    with sitq.SQLAlchemyBackend(engine, models=models) as backend:
        (task_id,) = backend.enqueue([new_row()])
        assert [claim.id for claim in backend.claim(request())] == [task_id]
        assert backend.get_task(task_id).started_at.tzinfo is UTC  # type: ignore[union-attr]
        backend.check_schema()
    assert set(inspect(engine).get_table_names()) == {"q_tasks", "q_results", "q_queues"}


def test_a_class_of_the_apps_keeps_its_indexes_beside_those_of_the_mixin() -> None:
    class Job(sitq.TaskMixin, plain_base()):
        __tablename__ = "jobs"
        __table_args__ = (Index("by_customer", "customer"), {"comment": "what is to be done"})

        customer: Mapped[str | None] = mapped_column(default=None)

    names = {index.name for index in Job.__table__.indexes}
    assert names == {"by_customer", "uq_jobs_unique_key", *(f"ix_jobs_{name}" for name in INDEXES)}
    assert Job.__table__.comment == "what is to be done"
    assert [field.name for field in declare_models(Job.metadata, task=Job).tables] == [
        "jobs",
        "sitq_results",
        "sitq_queues",
    ]


def copied(metadata: MetaData) -> MetaData:
    copy = MetaData(naming_convention=metadata.naming_convention)
    for table in metadata.tables.values():
        table.to_metadata(copy)
    return copy


def pickled(metadata: MetaData) -> MetaData:
    copy: MetaData = pickle.loads(pickle.dumps(metadata))
    return copy


@pytest.mark.parametrize("dialect", [mysql.dialect, postgresql.dialect, sqlite.dialect])
@pytest.mark.parametrize("copy", [copied, pickled])
def test_copies_of_the_tables_are_made_by_the_same_statements(
    dialect: type[Dialect], copy: Callable[[MetaData], MetaData]
) -> None:
    def statements(metadata: MetaData) -> list[str]:
        tables = metadata.tables.values()
        made = [*map(CreateTable, tables), *(CreateIndex(index) for table in tables for index in table.indexes)]
        return sorted(str(each.compile(dialect=dialect())) for each in made)

    metadata = plain_base().metadata
    declare_models(metadata)
    copy_of_it = copy(metadata)
    made = statements(metadata)
    assert any("LONGBLOB" in each if dialect.name == "mysql" else "WHERE status = 'queued'" in each for each in made)
    assert statements(copy_of_it) == made


# What a queue could not work with.


def with_columns(**columns: Any) -> type:
    return type("Job", (sitq.TaskMixin, plain_base()), {"__tablename__": "jobs", **columns})


def with_required_attribute() -> type:
    class Job(sitq.TaskMixin, plain_base()):
        __tablename__ = "jobs"

        customer: Mapped[str | None]

    return Job


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: with_columns(place=Column(Integer, nullable=False)), "without its column 'place'"),
        (lambda: with_columns(name=Column(Integer)), "column 'name' of the mixin must keep its type"),
        (with_required_attribute, "attribute 'customer': give it a default"),
        (lambda: app_models.JobResult, "made with sitq.TaskMixin"),
        (lambda: sitq.TaskMixin, "not mapped"),
        (lambda: "jobs", "made with sitq.TaskMixin"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_with_the_reason(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(reason)):
        declare_models(MetaData(), task=make(), result=app_models.JobResult)


@pytest.mark.parametrize("prefix", ["9_", "a-b", "x" * 31, "ö", 5, None])
def test_a_prefix_that_is_none_is_refused(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="prefix="):
        declare_models(MetaData(), prefix)


def test_tables_of_the_apps_are_not_declared_again() -> None:
    with pytest.raises(ConfigurationError, match=r"prefix='' .*no table 'tasks'"):
        declare_models(app_models.Base, prefix="")


@pytest.mark.parametrize("models", [app_models.Base, app_models.Job, "job_"])
def test_a_backend_takes_models_only(models: Any) -> None:
    for make in (sitq.SQLiteBackend, sitq.SQLAlchemyBackend):
        with pytest.raises(ConfigurationError, match="declare_models"):
            make("sqlite:///x" if make is sitq.SQLAlchemyBackend else "x.db", models=models)


def test_what_is_no_base_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="base="):
        declare_models(object())


def test_lists_of_users_guard_only_sitqs_own_tables(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lists of users"):
        sitq.SQLiteBackend(tmp_path / "x.db", models=app_models.MODELS, admin_users=["root"])


# In a database.


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[URL]:
    with empty_database(request.param, tmp_path) as url:
        yield url


def test_the_app_has_its_tasks_and_results_and_relates_its_rows_to_those_of_the_queue(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    app_models.Base.metadata.create_all(engine)
    with closing(sitq.SQLAlchemyBackend(url)) as own, pytest.raises(ForeignTableError, match="declare_models"):
        own.initialize()
    with sitq.SQLAlchemyBackend(url, models=app_models.MODELS) as backend, Session(engine) as session:
        queue = sitq.SyncTaskQueue(backend)
        order, other = app_models.Order(), app_models.Order()
        session.add_all([order, other, app_models.Chore(title="sweep")])
        job = session.get_one(app_models.Job, queue.enqueue_in(session, print, "thanks"))
        order.tasks.append(job)
        session.commit()
        waiting = app_models.Order.tasks.any(app_models.Job.status == "queued")
        assert session.scalars(select(app_models.Order).where(waiting)).all() == [order]
        assert [claim.id for claim in backend.claim(request())] == [job.id]
        assert session.scalars(select(app_models.Chore.title)).all() == ["sweep"]
        assert backend.get_stats().running_tasks == 1
        backend.store_task(backend.get_task(job.id) or pytest.fail("it is there"))
        session.rollback()
        assert job.order is order
        assert job.status == "running"
        of_order = select(app_models.Job).join(app_models.Job.order).where(app_models.Order.id == order.id)
        session.rollback()
        assert queue.cancel(of_order) == {job.id: "requested"}
        with pytest.raises(InvalidArgumentError, match=r"selects Task.*select\(Job\)"):
            queue.cancel(select(sitq.Task))


def test_verbs_with_sql_of_their_own_know_the_names_of_the_app(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    app_models.Base.metadata.create_all(engine)
    with sitq.SQLAlchemyBackend(url, models=app_models.MODELS) as backend:
        queue = sitq.SyncTaskQueue(backend)
        once = queue.options(unique_key="a").enqueue(print)
        assert queue.options(unique_key="a").enqueue(print) == once
        assert queue.options(unique_key="a", on_conflict="replace", priority=1).enqueue(print) == once
        many = queue.enqueue_many(print, [(number,) for number in range(300)])
        claims = backend.claim(request(limit=200))
        assert [claim.id for claim in claims] == [once, *many[:199]]
        assert backend.finish([completed(claim) for claim in claims]) == [True] * 200
        assert backend.finish_and_claim([], request(limit=1))[1][0].id == many[199]
        assert backend.reap_workers(["worker-1"]) == [many[199]]
        assert set(queue.retry([once, many[0]]).values()) == {"queued"}
        assert backend.purge(older_than=MOMENT + timedelta(days=1)) == 198
        queue.pause("default")
        assert backend.claim(request()) == []
        assert backend.get_stats().total_tasks == 103


def test_tables_that_lack_something_are_named_and_left_alone(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with closing(sitq.SQLAlchemyBackend(url, models=app_models.MODELS)) as backend:
        with pytest.raises(
            SchemaError, match=r"jobs is missing(?s:.)*job_results is missing(?s:.)*job_queues is missing"
        ):
            backend.initialize()
        app_models.Base.metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE jobs DROP COLUMN errors"))
            connection.execute(text("ALTER TABLE job_results DROP COLUMN traceback"))
            connection.execute(text("ALTER TABLE job_results ADD COLUMN traceback INTEGER"))
        for look in (backend.initialize, backend.check_schema):
            with pytest.raises(SchemaError, match=r"jobs\.errors is missing(?s:.)*job_results\.traceback has the type"):
                look()
        assert "errors" not in {column["name"] for column in inspect(engine).get_columns("jobs")}
        assert not backend.health_check().is_healthy


def test_a_lost_index_is_told_by_check_schema(url: URL) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with sitq.SQLAlchemyBackend(url) as backend:
        backend.check_schema()
        with engine.begin() as connection:
            connection.execute(text("DROP INDEX ix_tasks_history" + (" ON tasks" if "maria" in url.drivername else "")))
        with pytest.raises(SchemaError, match="the index ix_tasks_history of tasks is missing"):
            backend.check_schema()


def test_check_schema_does_not_make_what_is_not_there(url: URL) -> None:
    with closing(sitq.SQLAlchemyBackend(url)) as backend:
        with pytest.raises(SchemaError, match="no tables of sitq"):
            backend.check_schema()
        assert inspect(create_engine(url, poolclass=NullPool)).get_table_names() == []


def test_a_backup_of_an_apps_tables_is_restored(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'app.db'}"
    app_models.Base.metadata.create_all(create_engine(url, poolclass=NullPool))
    with sitq.SQLiteBackend(tmp_path / "app.db", models=app_models.MODELS) as backend:
        ids = backend.enqueue([new_row()])
        backend.backup(tmp_path / "backup.db")
        backend.enqueue([new_row()])
        backend.restore(tmp_path / "backup.db")
        assert backend.list_all_tasks() == ids
        backend.pause_queue("default")
        assert backend.paused_queues() == ["default"]
    with sitq.SQLiteBackend(tmp_path / "own.db") as own:
        sitq.copy(backend, own)
        assert own.list_all_tasks() == ids


# What the documents say.


def test_the_table_of_revisions_says_which_columns_each_brought(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "own-schema.md").read_text()
    rows = re.findall(r"^\| (\d{4}) \|(.*)\|(.*)\|(.*)\|$", page, re.MULTILINE)
    assert tuple(row[0] for row in rows) == schema.REVISIONS
    said: list[list[str]] = [[], [], []]
    engine = engine_to_migrate(URL.create("sqlite", database=str(tmp_path / "sitq.db")))
    for revision, *cells in rows:
        with engine.begin() as connection:
            schema.upgrade(connection, revision)
        for names, cell in zip(said, cells, strict=True):
            names.extend(re.findall(r"`(\w+)`", cell))
        tables = [inspect(engine).get_columns(name) if names else [] for name, names in zip(OWN, said, strict=True)]
        assert [{column["name"] for column in columns} for columns in tables] == [set(names) for names in said]
