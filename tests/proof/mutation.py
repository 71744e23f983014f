"""How the code is broken on purpose: a mutant replaces pieces of its text while a block lasts.

A mutant whose text is not found (or not once) is an error: the code has moved on, so must it.
"""

from __future__ import annotations
import __future__ as futures

import inspect
import textwrap
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from unittest import mock

import sqlalchemy as sa

from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore


@dataclass(frozen=True, kw_only=True)
class Edit:
    """In `owner`'s attribute `name` (a function or an SQL text), `old` becomes `new`."""

    owner: Any
    name: str
    old: str
    new: str

    def patched(self) -> Any:
        whole = getattr(self.owner, self.name)
        if isinstance(whole, FunctionType):
            return mock.patch.object(self.owner, self.name, self._function(whole))
        return mock.patch.object(self.owner, self.name, sa.text(self._replaced(str(whole))))

    def _replaced(self, text: str) -> str:
        found = text.count(self.old)
        assert found == 1, f"{self.owner.__name__}.{self.name} has {self.old!r} {found} times"
        return text.replace(self.old, self.new)

    def _function(self, function: FunctionType) -> FunctionType:
        source = self._replaced(textwrap.dedent(inspect.getsource(function)))
        code = compile(
            source,
            f"<mutant of {function.__qualname__}>",
            "exec",
            futures.annotations.compiler_flag,
        )
        made: dict[str, Any] = {}
        exec(code, function.__globals__, made)
        return made[function.__name__]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`scenario` names the function of `scenarios` whose history must end in an AssertionError;
    `without` are edits that stay in force when the code is whole again: a second line of defence
    shows only where the first is down."""

    name: str
    edits: tuple[Edit, ...]
    scenario: str
    stores: tuple[type, ...] = (EdgeStore, QdrantStore)
    without: tuple[Edit, ...] = ()

    @contextmanager
    def applied(self) -> Generator[None]:
        with applied(*self.without, *self.edits):
            yield

    @contextmanager
    def whole(self) -> Generator[None]:
        with applied(*self.without):
            yield


@contextmanager
def applied(*edits: Edit) -> Generator[None]:
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.patched())
        yield
