"""A vector store whose calls are measured: seconds by verb, errors by class, a span where asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

from indexer import metrics, tracing
from indexer.errors import StoreError
from indexer.stores import VectorStore

UNMEASURED = ("name", "close")


def observed(store: VectorStore) -> VectorStore:
    """The same store; every verb of it is recorded in `metrics`, from whichever side it is called.
    What a `scroll` costs is recorded batch by batch."""
    return cast("VectorStore", _Observed(store))


class _Observed:
    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._verbs: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        known = self._verbs.get(name)
        if known is not None:
            return known
        found = getattr(self._store, name)
        if name in UNMEASURED or not callable(found):
            return found
        return self._verbs.setdefault(name, _measured(name, found))


def _measured(verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def measured(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            with tracing.span(f"store.{verb}"):
                answer = call(*arguments, **named)
        except StoreError as cause:
            metrics.asked_store(verb, time.perf_counter() - started, cause)
            raise
        if isinstance(answer, Iterator):
            return _each(verb, cast("Iterator[Any]", answer))
        metrics.asked_store(verb, time.perf_counter() - started)
        return answer

    return measured


def _each(verb: str, answers: Iterator[Any]) -> Iterator[Any]:
    """What the store gives, a measured step at a time."""
    while True:
        started = time.perf_counter()
        try:
            answer = next(answers)
        except StopIteration:
            return
        except StoreError as cause:
            metrics.asked_store(verb, time.perf_counter() - started, cause)
            raise
        metrics.asked_store(verb, time.perf_counter() - started)
        yield answer
