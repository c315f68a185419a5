"""Every Python block in README.md and docs/ runs, page by page, in the order in which a reader meets them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

from databases import empty_database

ROOT = Path(__file__).parents[1]
SERVERS = {"postgresql.md": "postgresql", "mariadb.md": "mariadb", "backup-and-restore.md": "postgresql"}
"""Pages whose blocks open the database that ``DATABASE_URL`` names."""
EXAMPLES = {"fastapi.md": "fastapi_shop", "flask.md": "flask_shop"}
"""Pages whose blocks are taken from an example, unless they have no file's name in their first line."""
OLD_WORDS = pytest.mark.filterwarnings("ignore:The declarative_mixin decorator:DeprecationWarning")
"""Advanced Alchemy uses what SQLAlchemy 2.1 has deprecated."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Blocks(CodeBlockParser):
    """Runs the blocks of one page in one namespace; `await` stands at the top level, as in `python -m asyncio`."""

    def __init__(self, runner: asyncio.Runner) -> None:
        super().__init__("python")
        self.runner = runner

    def evaluate(self, example: Example) -> None:
        # As in a program's own file, so that its functions travel by value to other processes.
        example.namespace.setdefault("__name__", "__main__")
        source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        code = compile(source, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        awaitable = eval(code, example.namespace)
        if inspect.iscoroutine(awaitable):
            self.runner.run(awaitable)


def as_module(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The namespace of a module that can be imported, since functions with models in them do not travel by value."""
    module = ModuleType(name)
    module.__file__ = str(folder / f"{name}.py")
    monkeypatch.setitem(sys.modules, name, module)
    return vars(module)


@OLD_WORDS
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack, asyncio.Runner() as runner:
        if page.name in SERVERS:
            url = stack.enter_context(empty_database(SERVERS[page.name], tmp_path))
            monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
        document = Document.parse(str(page), Blocks(runner))
        if page.name in EXAMPLES:
            document.namespace = as_module("shop", tmp_path, monkeypatch)
        for example in document.examples():
            example.evaluate()


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_page_shows_its_example_as_it_is(page: str) -> None:
    shown = re.findall(
        r"```(?:python|text)\n# (\S+\.py)\n(.*?)```", (ROOT / "docs/how-to" / page).read_text(), re.DOTALL
    )
    assert shown
    for name, block in shown:
        assert block in (ROOT / "examples" / EXAMPLES[page] / name).read_text()
