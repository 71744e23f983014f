"""Where the real code can be stopped, refused or cut off: the functions of the ledger, the reads of
the catalog, the tower and the verbs of the store are wrapped, never replaced.

A gate stands before each of them and none inside a transaction, so a parked process holds no lock
and no connection. What may go wrong at the next call of a process is its `fault`:

    database  refused      the statement never reached the server
              cut          the server ends the connection in mid-transaction (pg_terminate_backend)
              lost answer  committed, but the client was cut off before it heard of it
    store     refused      the request never reached the store
              lost answer  applied, but reported as an outage
              half         the first half of the points was applied, then an outage
              late         reported as an outage, and applied later: the machine says when
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import sqlalchemy as sa

from indexer import catalog, changes, encoding, entries, gate, indexes, ledger
from indexer.errors import DatabaseUnavailable, StoreUnavailable
from indexer.stores import VectorStore
from proof import baton

DATABASE_FAULTS = ("refused", "cut", "lost answer")
STORE_FAULTS = ("refused", "lost answer", "half", "late")
READS_OF_THE_LEDGER = ("failures", "summary")
ADMIN_STEPS = ("set_state", "set_spec_version", "set_gate", "drop_partition")

READS = (
    *("aliases", "collections", "count", "fetch", "last_fence", "name"),
    *("scroll", "search", "status", "vectors_of"),
)


def _wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        process = baton.gate(name)
        fault = process.take_fault("database") if process else None
        if process and name == "route":
            process.fence = None  # it begins a turn
        if fault == "refused":
            raise DatabaseUnavailable("the proof refused the statement")
        if fault == "cut" and process:
            process.faults["cut"] = name
        result = real(*arguments, **named)
        if fault == "lost answer":
            raise DatabaseUnavailable("the proof lost the answer")
        return result

    return call


def _remembering_the_fence(claim: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(claim)
    def call(*arguments: Any, **named: Any) -> Any:
        batch = claim(*arguments, **named)
        if (process := baton.current()) and batch is not None:
            process.fence = batch.fence
        return batch

    return call


def _dying(fill: Callable[..., Any]) -> Callable[..., Any]:
    """No gate: it is in the middle of a transaction. A process may die right before or after."""

    @functools.wraps(fill)
    def call(*arguments: Any, **named: Any) -> Any:
        process = baton.current()
        fault = process.take_fault("fill") if process else None
        if fault == "killed":
            raise baton.Killed
        result = fill(*arguments, **named)
        if fault == "killed after":
            raise baton.Killed
        return result

    return call


def _of_the_ledger() -> Iterator[tuple[ModuleType, str]]:
    """Every public function of the ledger that opens a transaction of its own."""
    for module in (entries, ledger):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            ours = function.__module__ == module.__name__ and not name.startswith("_")
            first = next(iter(inspect.signature(function).parameters), "")
            if ours and first == "engine" and name not in READS_OF_THE_LEDGER:
                yield module, name


@contextmanager
def installed(engine: sa.Engine) -> Iterator[None]:
    """Processes stop at the seams; the scheduler's own calls pass them."""
    with mock.patch.object(entries, "claim", _remembering_the_fence(entries.claim)):
        seams = [*_of_the_ledger(), (changes, "route"), (catalog, "read"), (catalog, "scan_keys")]
        seams += [(encoding, "encode"), (gate, "run"), *((indexes, name) for name in ADMIN_STEPS)]
        patches = [
            mock.patch.object(owner, name, _wrapped(name, getattr(owner, name)))
            for owner, name in seams
        ]
        patches.append(mock.patch.object(entries, "fill", _dying(entries.fill)))
        cutting = _cutting(engine)
        sa.event.listen(engine, "before_cursor_execute", cutting)
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()
            sa.event.remove(engine, "before_cursor_execute", cutting)


def _cutting(engine: sa.Engine) -> Callable[..., None]:
    """Ends the connection of a process under its feet, where that was ordered."""

    def cut(
        connection: sa.Connection, cursor: Any, statement: str, *_: Any
    ) -> None:  # the signature is SQLAlchemy's
        process = baton.current()
        if process is None or process.take_fault("cut") is None:
            return
        pid = cursor.connection.info.backend_pid
        with engine.connect() as other:
            other.scalar(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            other.commit()

    return cut


class GatedStore:
    """The store, with a gate before every verb that changes something, and its faults.

    With `volatile`, what was not flushed is kept back in here, and `lose_unflushed` forgets it: a
    machine that lost its power. Whoever reads, reads what was written, so it is applied before.
    """

    def __init__(self, store: VectorStore, *, volatile: bool) -> None:
        self.real = store
        self.volatile = volatile
        self.refusals = 0  # so many requests more do not reach it
        self.late: list[Callable[[], object]] = []
        self._unflushed: list[tuple[str, Callable[[], object]]] = []  # by collection

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self.real, name)
        if name in READS:
            if self._unflushed and name not in {"name", "aliases", "collections"}:
                self.apply()
            return verb
        return functools.partial(self._call, name, verb) if callable(verb) else verb

    def apply(self) -> None:
        """What was kept back has reached the disk."""
        unflushed, self._unflushed = self._unflushed, []
        for _, request in unflushed:
            request()

    def lose_unflushed(self) -> None:
        self._unflushed.clear()

    def _call(self, name: str, verb: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        process = baton.gate(name)
        fault = process.take_fault("store") if process else None
        if self.refusals and process:
            self.refusals -= 1
            fault = "refused"
        request = functools.partial(verb, *arguments, **named)
        if fault is None:
            return self._do(name, request)
        if fault == "lost answer":
            self._do(name, request)
        elif fault == "half":
            self._do(name, _halved(verb, arguments, named))
        elif fault == "late":
            self.late.append(functools.partial(self._do, name, request))
        raise StoreUnavailable(f"the proof had {name} fail: {fault}")

    def _do(self, name: str, request: functools.partial[Any]) -> Any:
        if self.volatile and name.endswith("_if_newer"):
            collection = request.args[0].name
            if collection in self.real.collections():  # else the verb itself says that it is gone
                self._unflushed.append((collection, request))
                return None
        if name == "drop_collection":
            dropped = request.args[0]
            self._unflushed = [one for one in self._unflushed if one[0] != dropped]
        self.apply()
        return request()


def _halved(
    verb: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
) -> functools.partial[Any]:
    """The request for the first half of its points (of verbs without points: the whole)."""
    if len(arguments) < 2 or not isinstance(arguments[1], list | tuple | dict):
        return functools.partial(verb, *arguments, **named)
    given = arguments[1]
    half = (len(given) + 1) // 2
    some = dict(list(given.items())[:half]) if isinstance(given, dict) else given[:half]
    return functools.partial(verb, arguments[0], some, *arguments[2:], **named)
