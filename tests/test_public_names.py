"""What `sitq` exports: sorted, complete, and each name there."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import sitq
from sitq import exceptions

FACE = ast.parse(Path(sitq.__file__).read_text())


def imported_names() -> set[str]:
    imports = [node for node in FACE.body if isinstance(node, ast.ImportFrom) and node.module != "__future__"]
    return {alias.asname or alias.name for node in imports for alias in node.names}


def test_the_names_are_sorted_and_each_stands_once() -> None:
    assert list(sitq.__all__) == sorted(set(sitq.__all__))


def test_every_name_can_be_imported() -> None:
    assert [name for name in sitq.__all__ if not hasattr(sitq, name)] == []


def test_every_imported_name_is_exported() -> None:
    assert imported_names() - set(sitq.__all__) == set()


def test_every_error_is_exported() -> None:
    errors = {name for name, value in vars(exceptions).items() if inspect.isclass(value) and not name.startswith("_")}
    assert errors - set(sitq.__all__) == set()


def test_the_documented_names_are_exported() -> None:
    documented = {"Backend", "BaseBackend", "SQLiteBackend", "SyncTaskQueue", "TaskQueue", "Worker", "task"}
    assert documented - set(sitq.__all__) == set()
    assert sitq.Backend is sitq.BaseBackend
    assert sitq.BaseBackend is importlib.import_module("sitq.backends.base").BaseBackend


def test_the_face_holds_no_code() -> None:
    code = [node for node in FACE.body if not isinstance(node, ast.ImportFrom | ast.Assign | ast.Expr)]
    assert code == []
