"""Hostile input, drawn evenly from a seed: what tired people, broken exporters and scanners send.

`mutated` takes any plain document (mappings, lists, scalars) and breaks it in up to three places.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from hypothesis import HealthCheck, Phase
from hypothesis import settings as examples
from hypothesis import strategies as st

MORE = int(os.environ.get("TWINSPAN_TEST_FUZZ", "1"))  # times as many cases: `make fuzz`

TEXTS = (
    "", " ", "a", "title", "1", "-1", "1e400", "NaN", "null", "true", "Ünï", "日本語", "🎬", "é",
    "e\u0301", "\u202eevil", "\ufeff", "\ud800", "a\udfff", "\0", "a\0b", "a\nb", "\r", "\t",
    "'; DROP TABLE items; --", '"', '""', "'", "\\", "%s", "%", "{}", "{0}", ":key", "$1",
    "$twinspan$", "../../etc/passwd", "a.b", "a..b", ".", "_key", "_fence", "__class__", "%(x)s",
    "${jndi:x}", "<script>", "2020-13-45", "9" * 400, "x" * 64, "x" * 101, "x" * 5_000,
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 255, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1),
    *(2**64, 10**30, 10**400, -(10**400), 10**5_000, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308),
    *(math.nan, math.inf, -math.inf, True, False),
)
OBJECTS: tuple[Any, ...] = (
    *(None, [], {}, [[]], [{}], {"": {}}, [None], [None, None], {"a": None}, (), b"bytes"),
    *(object, set(), {1}, 1j, range(3), date(2020, 1, 1), datetime.max, datetime.min),
    *(datetime(2020, 1, 1, tzinfo=UTC), timedelta(1)),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
)  # fmt: skip
DEPTHS = (5, 17, 70, 2_000)
LEVELS = 8  # in which `mutated` breaks something

generated = examples(
    deadline=None,
    print_blob=True,
    derandomize=MORE == 1,  # a commit is judged by its own cases; `make fuzz` looks for new ones
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a seed has no simpler form
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def times(count: int) -> examples:
    """That many generated cases; a failing one is printed with its seed."""
    return examples(generated, max_examples=count * MORE)


class Seeded(random.Random):
    """A generator that says its seed: hypothesis prints it for a case that fails."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.said = seed

    def __repr__(self) -> str:
        return f"Seeded({self.said})"


rngs = st.integers(0, 2**64 - 1).map(Seeded)


def text(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(TEXTS)
    return "".join(chr(rng.randrange(0x300)) for _ in range(rng.randint(0, 12)))


def plain(rng: random.Random, *, depth: int = 2) -> Any:
    """A value that JSON or TOML can bring, deep and odd ones among them."""
    shape = rng.random()
    if shape < 0.35:
        return text(rng)
    if shape < 0.65 or depth == 0:
        return rng.choice(NUMBERS)
    if shape < 0.72:
        return nested(rng, rng.choice(DEPTHS))
    if shape < 0.86:
        return [plain(rng, depth=depth - 1) for _ in range(rng.randint(0, 4))]
    return {text(rng): plain(rng, depth=depth - 1) for _ in range(rng.randint(0, 3))}


def anything(rng: random.Random) -> Any:
    """Also values that only Python can bring."""
    return copy.deepcopy(rng.choice(OBJECTS)) if rng.random() < 0.3 else plain(rng)


def nested(rng: random.Random, depth: int) -> Any:
    name = rng.choice(["all", "any", "not", "a", "kind"])
    found: Any = rng.choice([1, "a", None])
    for _ in range(depth):
        found = rng.choice([[found], {name: found}, {name: [found]}])
    return found


def mutated(
    rng: random.Random,
    document: Any,
    *,
    value: Callable[[random.Random], Any] = plain,
    names: Callable[[random.Random], Any] = text,
) -> Any:
    """The document, broken in one to three places: values replaced, removed, doubled, renamed,
    wrapped. `value` and `names` bring what is put in."""
    broken = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2, 3])):
        broken = _broken_once(rng, broken, value, names)
    return broken


def _broken_once(
    rng: random.Random,
    document: Any,
    value: Callable[[random.Random], Any],
    names: Callable[[random.Random], Any],
) -> Any:
    places = list(_places(document))
    if not places or rng.random() < 0.03:
        return value(rng)
    inside, at = rng.choice(places)
    deed = rng.choice(["replace", "replace", "replace", "remove", "rename", "add", "wrap", "swap"])
    if deed == "replace":
        inside[at] = value(rng)
    elif deed == "remove":
        del inside[at]
    elif deed == "wrap":
        inside[at] = rng.choice([[inside[at]], {"all": inside[at]}, {names(rng): inside[at]}])
    elif deed == "swap":
        other, there = rng.choice(places)
        with contextlib.suppress(RecursionError):
            inside[at] = copy.deepcopy(other[there])
    elif isinstance(inside, dict):
        inside[names(rng)] = inside.pop(at) if deed == "rename" else value(rng)
    else:
        inside.insert(at, value(rng))
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of the document, some levels down."""
    waiting = [(document, 0)]
    while waiting:
        inside, depth = waiting.pop()
        if depth > LEVELS or not isinstance(inside, dict | list):
            continue
        for at in list(inside) if isinstance(inside, dict) else range(len(inside)):
            yield inside, at
            waiting.append((inside[at], depth + 1))


def sentence(error: Exception) -> str:
    """What a person would read; checks that it is something to read, and no more than that."""
    said = str(error)
    assert said.strip(), repr(error)
    assert "Traceback" not in said, said
    assert len(said) < 4_000, (len(said), said[:300])
    return said


def garbled(rng: random.Random, data: bytes) -> bytes:
    """The bytes as they are, or with some cut out, doubled, replaced or put in."""
    broken = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        at = rng.randrange(len(broken) + 1)
        some = rng.choice([b"", b"\0", b"\xff", b"\n", b"[", b'"', b"=", b"\xef\xbb\xbf", b"1e999"])
        broken[at : at + rng.choice([0, 1, 1, 20])] = some or broken[:20]
    return bytes(broken)


def toml(value: Any) -> str:
    """A value as TOML has it, near enough: numbers and texts as they are, the rest nested."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        try:
            return repr(value)
        except ValueError:
            return "9" * 5_000
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list) and not _too_deep(value):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict) and not _too_deep(value):
        inner = (f"{json.dumps(name)} = {toml(each)}" for name, each in value.items())
        return f"{{ {', '.join(inner)} }}"
    return "[" * 3_000 if isinstance(value, list | dict) else '""'


def _too_deep(value: Any) -> bool:
    return max(_depths(value)) > LEVELS


def _depths(value: Any) -> Iterator[int]:
    waiting = [(value, 0)]
    while waiting:
        inside, depth = waiting.pop()
        yield depth
        if isinstance(inside, dict | list):
            inner = inside.values() if isinstance(inside, dict) else inside
            waiting += [(each, depth + 1) for each in inner]
