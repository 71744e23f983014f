"""Generated filters and settings, valid and broken: nothing crashes, nothing wrong is taken.

TWINSPAN_TEST_FUZZ=20 (`make fuzz`) runs twenty times as many cases. A case that fails is printed
with its seed.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import plain_filters
import pytest
from generated_filters import FIELDS, POOLS, filter_, payload, where
from hypothesis import given
from pydantic import ValidationError
from qdrant_client import models

from encoders.types import VectorSpec
from indexer import filters
from indexer import settings as settings_module
from indexer.errors import FilterError, SettingsError
from indexer.stores import Collection, CollectionSpec, Point, Search, VectorStore
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore

DIMENSION = 2
ITEMS = 12
FILMS = Collection(name="films", catalog="films")
fences = itertools.count(1)


# -- filters ---------------------------------------------------------------------------------------


def filter_value(rng: random.Random) -> Any:
    """What stands in a filter: now and then right for some field, else hostile."""
    if rng.random() < 0.4:
        return copy.deepcopy(rng.choice(POOLS[rng.choice(list(POOLS))]))
    return hostile.anything(rng)


def filter_name(rng: random.Random) -> Any:
    names = [*FIELDS, "all", "any", "none", "gt", "gte", "lt", "lte", "not", "exists", "near"]
    odd = [None, 1, ("a",), "within_m", "lat", "lon"]
    return rng.choice([*names, *odd]) if rng.random() < 0.8 else hostile.text(rng)


def said(rng: random.Random) -> Any:
    """A `where`: as it should be, broken in a few places, or nothing like one."""
    good = where(rng, depth=rng.choice([0, 0, 1, 2, 3]))
    shape = rng.random()
    if shape < 0.25:
        return good
    if shape < 0.95:
        return hostile.mutated(rng, good, value=filter_value, names=filter_name)
    return hostile.anything(rng)


def parsed(asked: Any) -> filters.Filter | None:
    """The filter; FilterError is the only thing that parsing may raise."""
    try:
        return filters.parse(asked, FIELDS)
    except FilterError as error:
        assert "\n" not in hostile.sentence(error)
        raise


@hostile.times(6_000)
@given(rng=hostile.rngs)
def test_a_filter_is_taken_exactly_when_it_makes_sense_and_then_means_that(rng: random.Random):
    asked = said(rng)
    payloads = [payload(rng) for _ in range(5)]
    try:
        understood = parsed(asked)
    except FilterError as error:
        refused_for_size = any(word in str(error) for word in ("1,000 cond", "deeper"))
        if not refused_for_size and asked is not None:
            with pytest.raises(plain_filters.Invalid):
                plain_filters.meaning(asked, FIELDS)
        return
    expected = plain_filters.meaning(asked or {}, FIELDS)
    for each in payloads:
        assert filters.matches(understood, each) == expected(each), (asked, each)


@hostile.times(500)
@given(rng=hostile.rngs)
def test_a_payload_of_any_kind_passes_a_filter_or_not_but_never_fails_it(rng: random.Random):
    row = {field: hostile.plain(rng) for field in FIELDS}
    assert filters.matches(filter_(rng), row) in {True, False}


def condition(rng: random.Random) -> Any:
    """A condition of Qdrant's own, of any kind, with values that are often not its field's."""
    key = rng.choice([*FIELDS, *FIELDS, "nope", ""])
    kind = FIELDS.get(key, "keyword")
    value = rng.choice(POOLS[kind]) if rng.random() < 0.6 else filter_value(rng)
    several = [rng.choice(POOLS[kind]) for _ in range(rng.randint(0, 3))]
    point = {"lat": rng.choice([0, 52.5, 91]), "lon": rng.choice([0, 13.4, 181])}
    bounds = {
        name: rng.choice([value, *several]) for name in rng.sample(["gt", "gte", "lt", "lte"], 2)
    }
    made = [
        lambda: models.FieldCondition(key=key, match=models.MatchValue(value=value)),
        lambda: models.FieldCondition(key=key, match=models.MatchAny(any=several)),
        lambda: models.FieldCondition(key=key, match=models.MatchExcept(**{"except": several})),
        lambda: models.FieldCondition(key=key, match=models.MatchText(text="a")),
        lambda: models.FieldCondition(key=key, range=models.Range(**bounds)),
        lambda: models.FieldCondition(key=key, range=models.DatetimeRange(**bounds)),
        lambda: models.FieldCondition(
            key=key,
            geo_radius=models.GeoRadius(
                center=models.GeoPoint(**point), radius=rng.choice([-1, 0, 500, 1e9, float("nan")])
            ),
        ),
        lambda: models.FieldCondition(key=key, is_empty=rng.random() < 0.5),
        lambda: models.FieldCondition(key=key, is_null=True),
        lambda: models.FieldCondition(key=key, values_count=models.ValuesCount(gt=1)),
        lambda: models.FieldCondition(key=key),
        lambda: models.FieldCondition.model_construct(key=value, match=value, range=value),
        lambda: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
        lambda: models.IsNullCondition(is_null=models.PayloadField(key=key)),
        lambda: models.HasIdCondition(has_id=[1]),
        lambda: models.Filter.model_construct(must=value),
    ]
    while True:
        with contextlib.suppress(ValidationError):
            return rng.choice(made)()


def theirs(rng: random.Random, depth: int) -> Any:
    """A `models.Filter` of conditions as they come."""

    def some() -> list[Any]:
        inner = [condition(rng) for _ in range(rng.choice([0, 1, 1, 2]))]
        return [*inner, theirs(rng, depth - 1)] if depth and rng.random() < 0.5 else inner

    parts = {name: some() for name in rng.sample(["must", "should", "must_not"], rng.randint(0, 2))}
    if rng.random() < 0.2:
        least = {"conditions": some(), "min_count": rng.choice([-1, 0, 1, 2])}
        return models.Filter.model_construct(
            **parts, min_should=models.MinShould.model_construct(**least)
        )
    return models.Filter.model_construct(**parts)


@hostile.times(1_000)
@given(rng=hostile.rngs)
def test_a_qdrant_filter_is_refused_by_name_or_understood(rng: random.Random):
    try:
        understood = parsed(theirs(rng, depth=2))
    except FilterError:
        return
    assert filters.matches(understood, payload(rng)) in {True, False}


@pytest.fixture(scope="module", params=["edge", "qdrant"])
def films(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VectorStore]:
    store: VectorStore = (
        EdgeStore(tmp_path_factory.mktemp("fuzz"))
        if request.param == "edge"
        else QdrantStore.in_memory()
    )
    store.ensure_collection(
        CollectionSpec(
            collection=FILMS,
            vectors=(VectorSpec(name="tower", dimension=DIMENSION),),
            fields=FIELDS,
            metadata={"encoder_id": "e"},
        )
    )
    yield store
    store.close()


@hostile.times(60)
@given(rng=hostile.rngs)
def test_a_filter_that_is_taken_gets_the_same_answer_from_every_store(
    films: VectorStore, rng: random.Random
):
    vector = np.ones(DIMENSION, np.float32)
    rows = [
        Point(key=f"k{n}", vectors={"tower": vector * n}, payload=payload(rng))
        for n in range(ITEMS)
    ]
    films.write_if_newer(FILMS, rows, fence=next(fences), mode="upsert")
    asked = [said(rng) if rng.random() < 0.7 else theirs(rng, depth=2) for _ in range(12)]
    for one in asked:
        try:
            understood = parsed(one)
        except FilterError:
            continue
        expected = {row.key for row in rows if filters.matches(understood, row.payload)}
        search = Search(vector="tower", values=vector, limit=ITEMS, where=understood)
        assert {hit.key for hit in films.search(FILMS, [search])[0]} == expected, one
        assert films.count(FILMS, understood) == len(expected), one


# -- settings --------------------------------------------------------------------------------------

BOUNDS = {"ge": float.__ge__, "gt": float.__gt__, "le": float.__le__, "lt": float.__lt__}
GOOD_SETTINGS = {"batch_items": 7, "lease_s": 60.5, "notify": True, "device": "cuda:1", "k_max": 9}


def settings_text(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(["0", "5", "60", "1e3", "inf", "nan", "-0.0", "true", "on", "cpu"])
    return rng.choice([hostile.text(rng), str(rng.choice(hostile.NUMBERS[:13]))])


def setting_name(rng: random.Random) -> str:
    known = list(settings_module.Settings.model_fields)
    return rng.choice(known) if rng.random() < 0.9 else rng.choice(["poll", "nope", "qdrant"])


def check_settings(load: Callable[[], settings_module.Settings], wrong: set[str]) -> None:
    """Refused with the name of a setting that was given, or within its bounds."""
    try:
        made = load()
    except SettingsError as error:
        said = hostile.sentence(error).lower()
        assert "\n" not in said, said
        known = {*wrong, "lease_s", "twinspan.toml", "is no setting"}
        assert any(name in said for name in known), said
        return
    for name, field in type(made).model_fields.items():
        value = getattr(made, name)
        for rule in field.metadata:
            for bound, holds in BOUNDS.items():
                if hasattr(rule, bound):
                    assert holds(float(value), float(getattr(rule, bound))), (name, value)
        assert "" not in {str(value), getattr(value, "get_secret_value", str)() or "-"}, name


@hostile.times(600)
@given(rng=hostile.rngs)
def test_settings_of_the_environment_are_within_bounds_or_refused_by_name(
    rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    given_here = {setting_name(rng): settings_text(rng) for _ in range(rng.randint(1, 3))}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.getbasetemp())
        for name, value in given_here.items():
            sayable = value.encode("utf-8", "replace").decode().replace("\0", "")
            patch.setenv(f"TWINSPAN_{name.upper()}", sayable)
        check_settings(settings_module.load, set(given_here))


@hostile.times(400)
@given(rng=hostile.rngs)
def test_a_settings_file_is_within_bounds_or_refused_by_name(
    rng: random.Random, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.getbasetemp() / "settings"
    folder.mkdir(exist_ok=True)
    names = {**GOOD_SETTINGS, setting_name(rng): hostile.plain(rng)}
    written = "\n".join(f"{name} = {hostile.toml(value)}" for name, value in names.items())
    raw = hostile.garbled(rng, written.encode("utf-8", "surrogatepass"))
    (folder / "twinspan.toml").write_bytes(raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        check_settings(settings_module.load, set(names))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TWINSPAN_POLL", "5", "'TWINSPAN_POLL' is no setting. Did you mean TWINSPAN_POLL_S"),
        ("twinspan_nonsense", "5", "is no setting"),
        ("TWINSPAN_TOMBSTONE_S", "inf", "tombstone_s"),
        ("TWINSPAN_TOMBSTONE_S", "nan", "tombstone_s"),
        ("TWINSPAN_DEVICE", "GPU 1", "device"),
    ],
)
def test_a_setting_that_would_be_ignored_or_fail_later_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, says: str
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=says):
        settings_module.load()


def test_an_empty_variable_is_as_if_it_were_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Compose files leave such; an empty address must not pass for a server's."""
    monkeypatch.chdir(tmp_path)
    for name in settings_module.Settings.model_fields:
        monkeypatch.setenv(f"TWINSPAN_{name.upper()}", "")
    (tmp_path / "twinspan.toml").write_text('qdrant_url = ""\n')
    assert settings_module.load() == settings_module.Settings.model_construct()
