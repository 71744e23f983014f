"""Spans of OpenTelemetry, in processes that have it configured: else nothing is imported, and a
span costs a look into a dictionary.

A process is configured by whoever starts it (`opentelemetry-instrument celery ...`, or code that
sets a tracer provider). The wake-up of a worker carries the context in its headers: a message's
arguments stay what they were, an index id.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

NAME = "twinspan"

Value = str | int | float | bool


@contextmanager
def span(
    name: str, headers: Mapping[str, str] | None = None, **attributes: Value
) -> Generator[Span | None]:
    """What happens inside is a span below the current one, or below that of whoever sent the
    `headers`. None where nothing traces."""
    tracer = _tracer()
    if tracer is None:
        yield None
        return
    context = None
    if headers:
        from opentelemetry import propagate

        context = propagate.extract(headers)
    with tracer.start_as_current_span(f"{NAME}.{name}", context, attributes=attributes) as made:
        yield made


def carrier() -> dict[str, str]:
    """Headers that let another process continue the current span; none where nothing traces."""
    headers: dict[str, str] = {}
    if _tracer() is not None:
        from opentelemetry import propagate

        propagate.inject(headers)
    return headers


def _tracer() -> Tracer | None:
    trace = sys.modules.get("opentelemetry.trace")  # nobody can have configured it otherwise
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace.get_tracer(NAME)
