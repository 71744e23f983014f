"""Rows with hostile values, by plain SQL, and what docs/catalogs.md says becomes of each.

`VERDICTS` is written by hand: JSON text -> the kinds that can hold it. A kind that is not named
makes the item unusable, but for `None`, whose value is missing and harms nothing.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import hostile

TABLE = """
    CREATE TABLE public.things (
        id text PRIMARY KEY, title text, brand varchar(40), tags text[], doc jsonb, raw json,
        price numeric, weight double precision, stock bigint, sold boolean, born date,
        seen timestamptz, lat double precision, lon double precision
    )
"""
KINDS = ("keyword", "integer", "float", "bool", "datetime", "geo")
SPEC: dict[str, Any] = {
    "name": "things",
    "table": "things",
    "key": "id",
    "features": {
        "title": "text",
        "brand": "category",
        "tags": "categories",
        "weight": "number",
        **{
            f"f_{kind}": {"kind": kind, "from": f"doc.f_{kind}"}
            for kind in ("text", "category", "categories", "number")
        },
    },
    "filters": {
        "brand": "keyword",
        "tags": "keyword",
        "price": "float",
        "stock": "integer",
        "sold": "bool",
        "born": "datetime",
        "seen": "datetime",
        "place": {"kind": "geo", "lat": "lat", "lon": "lon"},
        **{kind: {"kind": kind, "from": f"doc.{kind}"} for kind in KINDS},
    },
    "returned": {"any": "doc.any", "raw": "raw"},
}

N, T, B, D, G = "integer float", "keyword", "bool", "datetime", "geo"
VERDICTS: dict[str, str | None] = {
    "null": None, "[]": f"{T} {N} {B} {D} {G}", "[null, null]": f"{T} {N} {B} {D} {G}",
    "0": f"{T} {N} {B}", "1": f"{T} {N} {B}", "-7": f"{T} {N}", "3.0": f"{T} {N}",
    "3.5": f"{T} float", "9223372036854775807": f"{T} {N}", "9223372036854775808": f"{T} float",
    "-9223372036854775808": f"{T} {N}", "1e30": f"{T} float", "1e-300": f"{T} float",
    "1e308": f"{T} float",
    '"3"': f"{T} {N}", '"3.5"': f"{T} float", '" 7 "': f"{T} {N}", '"x"': T, '""': T,
    '"1e400"': T, '"NaN"': f"{T} {N} {D}", '"-Infinity"': f"{T} {N} {D}",
    '"日本 🎬"': T, '"\\u202e\\n"': T, '"true"': f"{T} {B}", '"no"': f"{T} {B}",
    "true": f"{T} {N} {B}", "false": f"{T} {N} {B}",
    '"2020-02-29"': f"{T} {D}", '"2020-02-30"': T, '"2020-01-01T24:00:01"': T,
    '"2020-01-01T12:00:00+02:00"': f"{T} {D}", '"0001-01-01T00:00:00+05:00"': T,
    '"9999-12-31T23:59:59Z"': f"{T} {D}", '"10000-01-01"': T, '"0044-03-15 BC"': T,
    '{"lat": 1, "lon": 2}': G, '{"lat": "1.5", "lon": -180}': G, '{"lat": 90.0001, "lon": 0}': "",
    '{"lat": 0, "lon": 180.5}': "", '{"lat": null, "lon": 1}': G, '{"lat": 1}': G, "{}": G,
    '{"lat": "NaN", "lon": 1}': G, '{"lat": [], "lon": 1}': "", '{"a": {"b": 1}}': G,
    '["a", "b"]': T, '["a", null]': T, "[1, 2]": f"{T} {N}", "[1, 0]": f"{T} {N} {B}",
    '[1, "x"]': T, "[[1]]": "", "[{}]": G, '[{"lat": 1, "lon": 2}, {"lat": 3, "lon": 4}]': G,
    "[true, false]": f"{T} {N} {B}",
}  # fmt: skip
COLUMNS: dict[str, tuple[Any, ...]] = {
    "brand": (None, "", "b", "x" * 40, "Ünï"),
    "tags": (None, "{}", "{a,b}", "{NULL}", '{"a b",NULL,""}', "{{a,b},{c,d}}", "[5:6]={a,b}"),
    "price": (None, "0", "-1.50", "NaN", "Infinity", "1e131071", "1e-16383", "9" * 2_000, "12.5"),
    "weight": (None, "NaN", "Infinity", "-Infinity", "1e-323", "1.7e308", "-0", "5"),
    "stock": (None, "0", "9223372036854775807", "-9223372036854775808"),
    "sold": (None, "true", "false"),
    "born": (None, "infinity", "-infinity", "4714-11-24 BC", "5874897-12-31", "2020-02-29"),
    "seen": (None, "infinity", "4714-11-24 BC", "294276-12-31 23:59:59Z", "1969-07-20 20:17:40Z"),
    "lat": (None, "NaN", "91", "52.5", "-90", "1e300"),
    "lon": (None, "Infinity", "13.4", "180", "-180.0001"),
    "raw": (None, "null", "1e400", '"\\u0000"', '"\\ud800"', '{"a":1,"a":2}', "9" * 5_000, "[[]]"),
}
WRONG = {
    "price": {"1e131071", "9" * 2_000},  # beyond what can be read; beyond a double
    "raw": {"1e400", "9" * 5_000},  # beyond a double; beyond what can be read
    "tags": {"{{a,b},{c,d}}"},
    "born": {"4714-11-24 BC", "5874897-12-31"},
    "seen": {"4714-11-24 BC", "294276-12-31 23:59:59Z"},
}
SANE: dict[str, Any] = {
    "title": "a plain film", "brand": "acme", "tags": "{a,b}", "price": "9.99", "weight": "2",
    "stock": "3", "sold": "true", "born": "2020-01-01", "seen": "2020-01-01Z", "lat": "1",
    "lon": "2", "raw": "[1]", "doc": json.dumps({"keyword": "k", "integer": 5, "any": {"a": 1}}),
}  # fmt: skip


@dataclass(kw_only=True)
class Row:
    """Column values as text, and what must become of the item; None where only PostgreSQL and
    JSON decide, whose readers are not repeated here."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])
    usable: bool | None = True

    def spoil(self) -> None:
        self.usable = False if self.usable is not None else None


def row(rng: random.Random) -> Row:
    made = Row(values=dict(SANE))
    if rng.random() < 0.5:
        for name in rng.sample(list(COLUMNS), rng.choice([1, 2, 11])):
            made.values[name] = rng.choice(COLUMNS[name])
            if made.values[name] in WRONG.get(name, set()):
                made.spoil()
    lat, lon = made.values["lat"], made.values["lon"]
    wrong_place = lat in ("91", "1e300") or lon == "-180.0001"
    if wrong_place and None not in (lat, lon) and lat != "NaN" and lon != "Infinity":
        made.spoil()
    made.values["title"] = title(rng)
    made.values["doc"] = document(rng, made)
    return made


def title(rng: random.Random) -> str | None:
    shape = rng.random()
    if shape < 0.1:
        return rng.choice([None, "", "x" * 1_000_000, "🎬" * 3_000, "ß\u0301" * 500])
    return hostile.text(rng).encode("utf-8", "replace").decode().replace("\0", "")


def document(rng: random.Random, made: Row) -> str | None:
    """JSON text. Hostile JSON goes where anything may stand; what becomes of it is checked
    against the catalog's own reader, not foretold."""
    shape = rng.random()
    if shape < 0.05:
        return None
    if shape < 0.12:
        made.usable = None
        return json_text(hostile.plain(rng))
    parts = {kind: said(rng, kind) for kind in rng.sample(KINDS, rng.randint(0, 4))}
    for kind, text in parts.items():
        verdict = VERDICTS[text]
        if verdict is not None and kind not in verdict.split():
            made.spoil()
    texts = [f'"{kind}": {text}' for kind, text in parts.items()]
    if rng.random() < 0.3:
        name = rng.choice(["any", "f_text", "f_category", "f_categories", "f_number"])
        made.usable = None
        texts.append(f'"{name}": {json_text(hostile.plain(rng))}')
    return "{" + ", ".join(texts) + "}"


def said(rng: random.Random, kind: str) -> str:
    """JSON text for a field of that kind: mostly one that fits."""
    fitting = [text for text, verdict in VERDICTS.items() if kind in (verdict or "").split()]
    return rng.choice(fitting if rng.random() < 0.85 else list(VERDICTS))


def json_text(value: Any) -> str:
    """As JSON, as far as it can be said; what cannot is refused by PostgreSQL or not at all."""
    try:
        return json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        return "[" * 1_000 + "]" * 1_000
