"""Every error that sitq raises, as one tree.

::

    SitqError
    ├── InvalidArgumentError (ValueError)      a call was given something that cannot be
    │   └── ConfigurationError                 an option's value is not allowed
    │       └── NotAvailableError              an option needs something that is not here
    ├── SerializationError                     a function, argument or value has no bytes form
    │   └── DeserializationError               stored bytes could not be loaded
    │       └── SignatureError                 stored bytes are not signed as they must be, and were not loaded
    ├── TaskError
    │   ├── TaskNotFoundError (LookupError)    no task has this id
    │   ├── TaskFailedError                    the function raised, or could not be run
    │   ├── TaskCancelledError                 the task was cancelled before it ended
    │   ├── DuplicateTaskError                 an unfinished task bears the same unique key
    │   ├── NotInTaskError (LookupError)       current_task() was called outside a task
    │   ├── TaskCrashedError                   the process that ran the task died
    │   └── ResultTimeoutError (TimeoutError)  the task had not ended in time
    ├── BackendError                           the database refused or could not be reached
    │   ├── DatabaseUnavailableError (ConnectionError)  the server is away, or the connection was lost
    │   ├── DatabaseLockedError                somebody else holds the write lock
    │   ├── DatabaseCorruptError               the file is damaged
    │   ├── NotADatabaseError                  the file is something else
    │   ├── DatabaseFullError                  no space is left
    │   ├── DatabasePermissionError (PermissionError)   the file may not be opened or written
    │   ├── DatabaseReplacedError              the file was removed, or another put in its place
    │   ├── DatabaseIOError                    the operating system could not read or write the file
    │   ├── PoolTimeoutError (TimeoutError)    no connection was free in time
    │   ├── ReadOnlyError                      the backend was opened with readonly=True
    │   ├── AccessDeniedError (PermissionError)    the acting user may not do this
    │   ├── EncryptionError                    the file and the encryption key do not go together
    │   │   ├── WrongKeyError                  the file cannot be read with this key
    │   │   ├── KeyMissingError                the file is encrypted, and no key was given
    │   │   └── NotEncryptedError              a key was given, and the file is not encrypted
    │   └── SchemaError                        the tables are not what this version needs
    │       ├── SchemaOutdatedError            older by more than indexes, and auto_upgrade=False
    │       ├── SchemaTooNewError              newer, and not merely more columns
    │       └── ForeignTableError              a table of that name belongs to someone else
    └── WorkerError                            a worker was used in a way it cannot be

Errors of a driver or of the user's function are kept as ``__cause__`` or as text. No message holds a
payload, an argument's value, a key or a password. ``SitqWarning`` stands beside the tree, and so does what a
task's function raises to be run again or cancelled: ``sitq.Retry``, ``Snooze`` and ``Cancel`` (``sitq.control``).
"""

from __future__ import annotations


class SitqError(Exception):
    """The root of every error that sitq raises."""


class SitqWarning(UserWarning):
    """Something works, but perhaps not as it was meant; the message says what to do."""


class InvalidArgumentError(SitqError, ValueError):
    """A call was given something that cannot be; the message names it and what is allowed."""


class ConfigurationError(InvalidArgumentError):
    """An option's value is not allowed; the message names the option, the value and what is allowed."""


class NotAvailableError(ConfigurationError):
    """An option is known, but what it needs is not installed or not part of this version."""


class SerializationError(SitqError):
    """A function, an argument or a return value cannot be turned into bytes; the message names which."""


class DeserializationError(SerializationError):
    """Stored bytes cannot be turned back into a function, arguments or a value."""


class SignatureError(DeserializationError):
    """Stored bytes are unsigned, were altered, or belong to another task; they were not loaded."""


class TaskError(SitqError):
    """The root of what can be wrong with one task."""


class TaskNotFoundError(TaskError, LookupError):
    """No task has this id."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"there is no task with the id {task_id!r}")
        self.task_id = task_id


class TaskFailedError(TaskError):
    """The task's function raised, or could not be run.

    Attributes:
        task_id: the task that failed.
        error_type: dotted name of the exception's class on the worker's side, or ``None`` if unknown.
        error_message: its message.
        traceback: the worker's traceback as text, or ``None`` if there is none.
    """

    def __init__(
        self, task_id: str, error_message: str | None, *, error_type: str | None = None, traceback: str | None = None
    ) -> None:
        message = f"task {task_id} failed: {error_message or 'no message was stored'}"
        super().__init__(f"{message}\n\nOn the worker:\n{traceback}" if traceback else message)
        self.task_id = task_id
        self.error_type = error_type
        self.error_message = error_message
        self.traceback = traceback

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_task_failed, (self.task_id, self.error_message, self.error_type, self.traceback)


def _rebuild_task_failed(
    task_id: str, error_message: str | None, error_type: str | None, traceback: str | None
) -> TaskFailedError:
    return TaskFailedError(task_id, error_message, error_type=error_type, traceback=traceback)


class TaskCancelledError(TaskError):
    """The task was cancelled and will give no value.

    Attributes:
        task_id: the task that was cancelled.
        reason: why, or ``None`` if no reason was stored.
    """

    def __init__(self, task_id: str, reason: str | None = None) -> None:
        super().__init__(f"task {task_id} was cancelled" + (f": {reason}" if reason else ""))
        self.task_id = task_id
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return TaskCancelledError, (self.task_id, self.reason)


class TaskCrashedError(TaskError):
    """The process that ran the task died; the message says what is known of it."""


class DuplicateTaskError(TaskError):
    """Another unfinished task bears the unique key, and ``on_conflict="raise"`` asked for this error.

    Attributes:
        task_id: the task that bears it.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(f"task {task_id} bears the same unique_key and has not ended; nothing was enqueued")
        self.task_id = task_id

    def __reduce__(self) -> tuple[object, ...]:
        return DuplicateTaskError, (self.task_id,)


class NotInTaskError(TaskError, LookupError):
    """``current_task()`` was called by code that no worker runs."""


class ResultTimeoutError(TaskError, TimeoutError):
    """The task had not ended when the time to wait for it was up; it may still end later."""


class BackendError(SitqError):
    """The database refused a statement or could not be reached; the driver's error is the cause."""


class DatabaseUnavailableError(BackendError, ConnectionError):
    """The server could not be reached, or the connection was lost; sitq connects anew at the next use.

    A write that raises it may have been committed all the same, if the connection was lost just then.
    """


class DatabaseLockedError(BackendError):
    """Somebody else held the write lock for longer than ``connection_timeout``."""


class DatabaseCorruptError(BackendError):
    """The database file is damaged."""


class NotADatabaseError(BackendError):
    """The file exists, and is not a database that this backend can read."""


class DatabaseFullError(BackendError):
    """No space is left for the database file, or a limit on its size was reached."""


class DatabasePermissionError(BackendError, PermissionError):
    """The operating system does not let this process open or write the database."""


class DatabaseReplacedError(BackendError):
    """The file that was opened is no longer the one under this path; close the backend and open it again."""


class DatabaseIOError(BackendError):
    """The operating system could not read or write the file: a failing disk, a quota, a limit on file sizes."""


class PoolTimeoutError(BackendError, TimeoutError):
    """No pooled connection was free within ``pool_timeout`` seconds."""


class ReadOnlyError(BackendError):
    """A verb that writes was called on a backend opened with ``readonly=True``."""


class AccessDeniedError(BackendError, PermissionError):
    """The backend's lists do not let the acting user do this; the message names user, action and role needed."""


class EncryptionError(BackendError):
    """The file and the encryption key do not go together; the file was not changed."""


class WrongKeyError(EncryptionError):
    """The file cannot be read with this key."""


class KeyMissingError(EncryptionError):
    """The file is encrypted, and no key was given."""


class NotEncryptedError(EncryptionError):
    """A key was given, and the file is not encrypted."""


class SchemaError(BackendError):
    """The tables in the database are not what this version of sitq needs."""


class SchemaOutdatedError(SchemaError):
    """The schema is older than this code and lacks more than indexes, and the backend was told not to upgrade it."""


class SchemaTooNewError(SchemaError):
    """The schema is newer than this code and has changed in more than added columns."""


class ForeignTableError(SchemaError):
    """A table bears one of sitq's names but not its columns, so it belongs to someone else."""


class WorkerError(SitqError):
    """A worker was used in a way it cannot be, such as started twice."""
