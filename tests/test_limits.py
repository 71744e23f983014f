"""docs/limits.md against the code, and each limit at its edge and one beyond."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from indexer import filters, sayable
from indexer.catalog import rows, spec
from indexer.errors import FilterError, QueryError, SpecError, StoreRejected
from indexer.filters import mapping
from indexer.http.models import DEPTH_MAX, FILTER_PARTS_MAX, RecommendIn
from indexer.query import asked
from indexer.settings import Settings
from indexer.stores import points

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"
ROW = re.compile(r"^\| .* \| (?P<limit>.*?) \| `(?P<name>[\w.]+)` \| .* \|$", re.M)
NO_LIMITS_OF_INPUT = {
    "indexer.embedded.pgprogram.LOG_BYTES_MAX",
    "indexer.demo.stage.K_MAX",
    "indexer.gate.sieves.SIEVES_MAX",
    "indexer.gate.quality.POPULAR_MAX",
    "indexer.gate.people.EVENTS_MAX",
}


def test_the_page_says_what_the_code_holds() -> None:
    said = {found["name"]: found["limit"] for found in ROW.finditer(PAGE.read_text("utf-8"))}
    assert len(said) > 20
    for name, limit in said.items():
        module, _, constant = name.rpartition(".")
        value = getattr(importlib.import_module(module), constant)
        assert f"{int(value):,}" in limit, name
    for setting in re.findall(r"settings? `(\w+)`", PAGE.read_text("utf-8")):
        assert setting in Settings.model_fields


def test_every_limit_of_the_code_is_on_the_page() -> None:
    page = PAGE.read_text("utf-8")
    root = PAGE.parents[1]
    for path in (*root.glob("indexer/**/*.py"), *root.glob("encoders/**/*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        for constant in re.findall(r"^(MAX_\w+|[A-Z_]+_MAX) =", path.read_text("utf-8"), re.M):
            name = f"{module}.{constant}"
            assert name in NO_LIMITS_OF_INPUT or f"`{name}`" in page, name


GOOD: dict[str, Any] = {"name": "a", "table": "t", "key": "k", "features": {"f": "text"}}


def deep(levels: int) -> Any:
    made: Any = {"year": 1}
    for _ in range(levels - 1):
        made = {"all": [made]}
    return made


def nested(levels: int) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = [made]
    return made


def query(**parts: object) -> Callable[[], object]:
    return lambda: asked.check(parts, k_max=50)


def where(value: object) -> Callable[[], object]:
    return lambda: filters.parse(value, {"year": "integer", "place": "geo"})


def described(**parts: object) -> Callable[[], object]:
    return lambda: spec.parse({**GOOD, **parts}, name="f")


def around(metres: float) -> Any:
    return {"place": {"near": {"lat": 0, "lon": 0}, "within_m": metres}}


def fields(count: int) -> dict[str, str]:
    return {f"f{n}": "text" for n in range(count)}


def watches(count: int) -> list[dict[str, str]]:
    return [{"table": f"t{n}", "key": "k"} for n in range(count)]


def path(steps: int) -> Any:
    return {"f": {"kind": "text", "from": ["doc", *["a"] * steps]}}


CASES: list[tuple[Callable[[], object], Callable[[], object], type[Exception]]] = [
    (where(deep(16)), where(deep(17)), FilterError),
    (
        where({"any": [{"year": n} for n in range(1_000)]}),
        where({"any": [{"year": n} for n in range(1_001)]}),
        FilterError,
    ),
    (where({"year": list(range(10_000))}), where({"year": list(range(10_001))}), FilterError),
    (where(around(mapping.MAX_RADIUS_M)), where(around(mapping.MAX_RADIUS_M + 1)), FilterError),
    (query(k=50), query(k=51), QueryError),
    (query(history=["a"] * 10_000), query(history=["a"] * 10_001), QueryError),
    (query(history=["a" * 2_000]), query(history=["a" * 2_001]), QueryError),
    (query(features=fields(1_000)), query(features=fields(1_001)), QueryError),
    (
        lambda: asked.check_many([{}] * 1_000, k_max=50),
        lambda: asked.check_many([{}] * 1_001, k_max=50),
        QueryError,
    ),
    (described(features=fields(1_000)), described(features=fields(1_001)), SpecError),
    (described(watch=watches(100)), described(watch=watches(101)), SpecError),
    (described(features=path(32)), described(features=path(33)), SpecError),
    (described(table="t" * 300), described(table="t" * 301), SpecError),
    (described(name="n" * 100), described(name="n" * 101), SpecError),
    (described(features={"f" * 63: "text"}), described(features={"f" * 64: "text"}), SpecError),
    (
        lambda: sayable.check(nested(DEPTH_MAX), depth_max=DEPTH_MAX),
        lambda: sayable.check(nested(DEPTH_MAX + 1), depth_max=DEPTH_MAX),
        ValueError,
    ),
    (
        lambda: RecommendIn(where={"year": list(range(FILTER_PARTS_MAX - 2))}),
        lambda: RecommendIn(where={"year": list(range(FILTER_PARTS_MAX - 1))}),
        ValidationError,
    ),
    (
        lambda: points.check_payload("k", {"a": nested(points.MAX_DEPTH - 1)}),
        lambda: points.check_payload("k", {"a": nested(points.MAX_DEPTH)}),
        StoreRejected,
    ),
    (
        lambda: rows._digits("1" * rows.DIGITS_MAX),
        lambda: rows._digits("1" * (rows.DIGITS_MAX + 1)),
        rows.WrongValue,
    ),
]


@pytest.mark.parametrize(("at", "beyond", "error"), CASES)
def test_a_limit_can_be_reached_and_not_passed(
    at: Callable[[], object], beyond: Callable[[], object], error: type[Exception]
) -> None:
    at()
    with pytest.raises(error) as caught:
        beyond()
    assert len(str(caught.value)) < 600


def test_a_text_feature_is_cut_and_says_the_same_every_time() -> None:
    assert rows._text("x" * 1_000_000) == "x" * rows.TEXT_MAX
    assert rows._text(["x" * 1_000_000, "y"]) == "x" * rows.TEXT_MAX


def test_a_file_larger_than_a_description_is_not_read(tmp_path: Path) -> None:
    text = 'name = "a"\ntable = "t"\nkey = "k"\n[features]\nf = "text"\n#'
    (tmp_path / "c.toml").write_text(text.ljust(spec.SPEC_BYTES, "x"))
    assert spec.load(tmp_path / "c.toml").name == "a"
    (tmp_path / "c.toml").write_text(text.ljust(spec.SPEC_BYTES + 1, "x"))
    with pytest.raises(SpecError, match="larger than 1,000,000 bytes"):
        spec.load(tmp_path / "c.toml")
