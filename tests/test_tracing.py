"""Spans: one trace from the watcher over the broker to the store; nothing where nobody traces."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from hashing import HashingEncoder
from live import wait_until
from live_world import ENCODER_ID, World, make
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from test_imports import imported_by

from indexer import tracing
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.stores.observed import observed
from indexer.towers import Towers
from workers import thread
from workers.app import QUEUE


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The process traces into memory. OpenTelemetry lets a provider be set once: it is put there
    by hand, and taken away again."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield kept
    provider.shutdown()


@pytest.fixture
def world(engine: sa.Engine, edge_store: EdgeStore) -> World:
    return make(engine, observed(edge_store), queue=QUEUE)


def test_a_change_is_one_trace_from_the_watcher_to_the_store(
    world: World, settings: Settings, exporter: InMemorySpanExporter
) -> None:
    towers = Towers(settings)
    towers.add(ENCODER_ID, HashingEncoder())
    services = SimpleNamespace(engine=world.engine, store=world.store, towers=towers)
    handle = thread.start(settings, services)
    try:
        world.insert(["a", "b"])
        wait_until(world.is_clean, within_s=30, what="clean")
    finally:
        handle.stop()
    spans = {one.context.span_id: one for one in exporter.get_finished_spans() if one.context}

    def path(one: ReadableSpan) -> list[str]:
        """Names from the root down to it."""
        above = path(spans[one.parent.span_id]) if one.parent else []
        return [*above, one.name.removeprefix("twinspan.")]

    [write] = [one for one in spans.values() if one.name == "twinspan.store.write_if_newer"]
    assert path(write) == ["wake", "drain", "batch", "write", "store.write_if_newer"]
    of_trace = [one for one in spans.values() if one.context.trace_id == write.context.trace_id]
    names = {one.name.removeprefix("twinspan.") for one in of_trace}
    assert {"route", "claim", "load", "read", "plan", "encode", "write", "ack"} <= names
    batch = next(
        one for one in of_trace if one.name == "twinspan.batch" and one.attributes["fence"]
    )
    assert batch.attributes["index"] == world.index.id
    assert batch.attributes["alias"] == "items"
    assert batch.attributes["items.encoded"] == 2


def test_without_a_provider_there_is_no_span_and_no_header() -> None:
    with tracing.span("x") as span:
        assert span is None
        assert tracing.carrier() == {}


def test_a_process_in_which_nobody_traces_imports_nothing_of_it() -> None:
    code = (
        "import workers.app, indexer.sync, indexer.stores.observed\n"
        "from indexer import tracing\n"
        "with tracing.span('x'): tracing.carrier()"
    )
    assert not [name for name in imported_by(code) if name.startswith("opentelemetry")]
