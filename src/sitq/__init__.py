"""A task queue that lives in the database an app already has."""

from . import sqlite
from .app_migrations import include_object, migrations_path
from .backends.base import Backend, BaseBackend
from .backends.mariadb import MariaDBBackend
from .backends.opening import open_backend
from .backends.postgresql import PostgreSQLBackend
from .backends.sql import SQLAlchemyBackend
from .backends.sqlite import SQLiteBackend
from .backends.sqlite_recovery import recover
from .claims import CancelResult, RetryResult
from .control import Cancel, Retry, Snooze, TaskControl
from .copy_report import CopyReport
from .copying import acopy, copy
from .current import CurrentTask, current_task
from .declaring import declare_models
from .exceptions import (
    AccessDeniedError,
    BackendError,
    ConfigurationError,
    DatabaseCorruptError,
    DatabaseFullError,
    DatabaseIOError,
    DatabaseLockedError,
    DatabasePermissionError,
    DatabaseReplacedError,
    DatabaseUnavailableError,
    DeserializationError,
    DuplicateTaskError,
    EncryptionError,
    ForeignTableError,
    InvalidArgumentError,
    KeyMissingError,
    NotADatabaseError,
    NotAvailableError,
    NotEncryptedError,
    NotInTaskError,
    PoolTimeoutError,
    ReadOnlyError,
    ResultTimeoutError,
    SchemaError,
    SchemaOutdatedError,
    SchemaTooNewError,
    SerializationError,
    SignatureError,
    SitqError,
    SitqWarning,
    TaskCancelledError,
    TaskCrashedError,
    TaskError,
    TaskFailedError,
    TaskNotFoundError,
    WorkerError,
    WrongKeyError,
)
from .health import CheckReport, Health, LostRows, RecoveryReport
from .injection import injected
from .models import Models, QueueStateMixin, Result, ResultMixin, Task, TaskMixin, TaskStatus
from .queue import TaskQueue
from .retry import FailedAttempt
from .serialization import CloudpickleSerializer, JSONSerializer, Serializer
from .sync import SyncTaskQueue
from .tasks import task
from .worker import Worker

__all__ = [
    "AccessDeniedError",
    "Backend",
    "BackendError",
    "BaseBackend",
    "Cancel",
    "CancelResult",
    "CheckReport",
    "CloudpickleSerializer",
    "ConfigurationError",
    "CopyReport",
    "CurrentTask",
    "DatabaseCorruptError",
    "DatabaseFullError",
    "DatabaseIOError",
    "DatabaseLockedError",
    "DatabasePermissionError",
    "DatabaseReplacedError",
    "DatabaseUnavailableError",
    "DeserializationError",
    "DuplicateTaskError",
    "EncryptionError",
    "FailedAttempt",
    "ForeignTableError",
    "Health",
    "InvalidArgumentError",
    "JSONSerializer",
    "KeyMissingError",
    "LostRows",
    "MariaDBBackend",
    "Models",
    "NotADatabaseError",
    "NotAvailableError",
    "NotEncryptedError",
    "NotInTaskError",
    "PoolTimeoutError",
    "PostgreSQLBackend",
    "QueueStateMixin",
    "ReadOnlyError",
    "RecoveryReport",
    "Result",
    "ResultMixin",
    "ResultTimeoutError",
    "Retry",
    "RetryResult",
    "SQLAlchemyBackend",
    "SQLiteBackend",
    "SchemaError",
    "SchemaOutdatedError",
    "SchemaTooNewError",
    "SerializationError",
    "Serializer",
    "SignatureError",
    "SitqError",
    "SitqWarning",
    "Snooze",
    "SyncTaskQueue",
    "Task",
    "TaskCancelledError",
    "TaskControl",
    "TaskCrashedError",
    "TaskError",
    "TaskFailedError",
    "TaskMixin",
    "TaskNotFoundError",
    "TaskQueue",
    "TaskStatus",
    "Worker",
    "WorkerError",
    "WrongKeyError",
    "acopy",
    "copy",
    "current_task",
    "declare_models",
    "include_object",
    "injected",
    "migrations_path",
    "open_backend",
    "recover",
    "sqlite",
    "task",
]
