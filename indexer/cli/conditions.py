"""`--where` and `--feature` as they are typed, turned into what a query takes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import typer

from indexer.errors import FilterError, QueryError

Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        "-w",
        metavar="FILTER",
        help="A condition: field=value, field!=value, field>=value, … or a JSON filter "
        '(\'{"genres": "Comedy", "year": {"gte": 1990}}\'). May be repeated; all must hold.',
    ),
]

_PAIR = re.compile(r"(?P<field>[^=<>!\s]+)\s*(?P<operator>!=|>=|<=|=|>|<)\s*(?P<value>.*)", re.S)
_BOUNDS = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def where(conditions: Sequence[str] | None) -> object:
    """The filter that all conditions together mean; None without any. Values are read as JSON where
    they are JSON (1990, true, "1990"), else as text. Raises FilterError for one that is neither
    JSON nor a pair."""
    parsed = [_condition(condition) for condition in conditions or ()]
    if not parsed:
        return None
    return parsed[0] if len(parsed) == 1 else {"all": parsed}


def features(pairs: Sequence[str] | None) -> dict[str, object]:
    """name=value pairs. Raises QueryError for anything else, and for a name given twice."""
    found: dict[str, object] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise QueryError(f"--feature {pair!r}: write name=value, for instance age=25.")
        if name.strip() in found:
            raise QueryError(f"--feature {name.strip()!r} is given twice.")
        found[name.strip()] = value_of(value.strip())
    return found


def value_of(text: str) -> object:
    """JSON where it is JSON, else the text itself."""
    try:
        return cast("object", json.loads(text, parse_constant=_refuse_constant))
    except ValueError:
        return text
    except RecursionError as cause:
        raise FilterError("a value is nested too deeply.") from cause


def _condition(text: str) -> Mapping[str, object]:
    if text.lstrip().startswith(("{", "[", '"')):
        return _json(text)
    pair = _PAIR.fullmatch(text.strip())
    if pair is None:
        raise FilterError(
            f"--where {text[:80]!r} is no condition: write field=value, field>=value, "
            'or JSON such as \'{"year": {"gte": 1990}}\'.'
        )
    field, operator, value = pair["field"], pair["operator"], value_of(pair["value"])
    if operator == "=":
        return {field: value}
    return {field: {"not": value} if operator == "!=" else {_BOUNDS[operator]: value}}


def _json(text: str) -> Mapping[str, object]:
    try:
        parsed = cast("object", json.loads(text, parse_constant=_refuse_constant))
    except RecursionError as cause:
        raise FilterError("--where is nested too deeply.") from cause
    except ValueError as cause:
        raise FilterError(f"--where {text[:80]!r} is not valid JSON: {cause}.") from cause
    if not isinstance(parsed, dict):
        raise FilterError(f"--where must be a JSON object of fields, not {text[:80]!r}.")
    return cast("Mapping[str, object]", parsed)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON value")
