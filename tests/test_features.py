"""Records to columns: vocabularies, hashing, scaling, texts, and everything that can be missing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders import features, text, values
from encoders.errors import EncodeFailed, TrainingFailed
from encoders.features import Pipelines, Vocabulary, fit_scale
from encoders.types import Feature

FEATURES = (
    Feature(name="brand", kind="category"),
    Feature(name="tags", kind="categories"),
    Feature(name="price", kind="number"),
    Feature(name="title", kind="text"),
)
ODD_TEXT = st.text(st.characters(), max_size=40)  # lone surrogates and NULs among them


def records(*rows: Mapping[str, object]) -> list[values.Record]:
    return [(f"item {n}", row) for n, row in enumerate(rows)]


def fitted(*rows: Mapping[str, object], known: int = 100, buckets: int = 8) -> Pipelines:
    return features.fit(FEATURES, records(*rows), (), (), known=known, buckets=buckets)


def rows_of(pipelines: Pipelines, name: str, row: Mapping[str, object]) -> list[int]:
    return pipelines.items.read(records(row)).bags[name].ids.tolist()


def test_known_values_come_first_the_most_frequent_before_the_others() -> None:
    pipelines = fitted({"tags": ["b", "a"]}, {"tags": ["b"]}, {"tags": ["c", "b", "a"]})
    assert pipelines.vocabularies["values:tags"].values == ("b", "a", "c")


def test_the_vocabulary_does_not_depend_on_the_order_of_records() -> None:
    rows = [{"tags": [f"t{n % 7}", f"u{n % 3}"], "title": f"word{n % 5} same"} for n in range(50)]
    one, other = fitted(*rows), fitted(*reversed(rows))
    assert features.to_json(one) == features.to_json(other)


def test_unknown_values_fall_into_reserved_buckets_the_same_each_time() -> None:
    pipelines = fitted({"brand": "acme"}, buckets=8)
    (row,) = rows_of(pipelines, "brand", {"brand": "never seen"})
    assert 1 <= row < 9
    assert rows_of(pipelines, "brand", {"brand": "never seen"}) == [row]
    assert len({rows_of(pipelines, "brand", {"brand": f"x{n}"})[0] for n in range(200)}) == 8


def test_values_beyond_the_limit_share_the_buckets() -> None:
    pipelines = fitted(*({"brand": f"b{n}"} for n in range(20)), known=5, buckets=3)
    assert len(pipelines.vocabularies["values:brand"]) == 8


def test_buckets_do_not_depend_on_the_process() -> None:
    code = "from encoders.features import stable_hash; print(stable_hash('\\ud800 ü'))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{features.stable_hash(chr(0xD800) + ' ü')}\n"}


def test_every_known_value_has_the_bucket_it_would_have_if_it_were_unknown() -> None:
    alias = Vocabulary(["a", "b"], 4).alias_rows()
    strange = Vocabulary([], 4)
    assert alias.tolist() == [2 + strange.row("a"), 2 + strange.row("b"), 2, 3, 4, 5]


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("x", ("x",)),
        (" x ", ("x",)),
        (1, ("1",)),
        (1.0, ("1",)),
        (Decimal("1.00"), ("1",)),
        (np.int64(1), ("1",)),
        (2.5, ("2.5",)),
        (True, ("true",)),
        (False, ("false",)),
        (Colour.RED, ("red",)),
        (date(2024, 1, 2), ("2024-01-02",)),
        (UUID(int=1), ("00000000-0000-0000-0000-000000000001",)),
        (None, ()),
        ("", ()),
        ("  ", ()),
        (math.nan, ()),
    ],
)
def test_a_category_is_taken_by_its_text(value: object, read: tuple[str, ...]) -> None:
    assert values.column(Feature(name="f", kind="category"), records({"f": value})) == [read]
    assert values.column(Feature(name="f", kind="categories"), records({"f": [value]})) == [read]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (3, 3.0),
        ("3.5", 3.5),
        (Decimal("3.5"), 3.5),
        (True, 1.0),
        (np.float32(2), 2.0),
        (date(1970, 1, 3), 2.0),
        (datetime(1970, 1, 2, 12, tzinfo=UTC), 1.5),
        (datetime(1970, 1, 2, 12), 1.5),  # without a zone on purpose
        (math.inf, values.LARGEST),
        (-1e308, -values.LARGEST),
    ],
)
def test_a_number_is_taken_from_what_means_one(value: object, read: float) -> None:
    assert values.column(Feature(name="f", kind="number"), records({"f": value})) == [read]


@pytest.mark.parametrize("value", [None, "", math.nan, np.float32("nan")])
def test_a_missing_number_is_nan(value: object) -> None:
    (cell,) = values.column(Feature(name="f", kind="number"), records({"f": value}))
    assert math.isnan(cell)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("number", "many"),
        ("number", [1]),
        ("number", 10**400),
        ("category", 1 << 20_000),
        ("category", ["a"]),
        ("category", {"a": 1}),
        ("categories", {"a": 1}),
        ("categories", [["a"]]),
        ("text", {"en": "a"}),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_what_means_nothing_is_refused_by_name(kind: str, value: object) -> None:
    feature = Feature(name="field", kind=kind)  # type: ignore[arg-type]
    with pytest.raises(EncodeFailed, match=r"item 1: .* 'field' cannot be"):
        values.column(feature, records({}, {"field": value}))


def test_missing_features_are_empty_not_zero() -> None:
    columns = fitted({"brand": "a", "price": 1}).items.read(records({}))
    assert columns.bags["brand"].ids.size == columns.bags["title"].ids.size == 0
    assert np.isnan(columns.numbers["price"]).all()
    assert columns.texts["title"] == [""]


def test_a_bag_ascends_and_holds_each_value_once() -> None:
    pipelines = fitted({"tags": ["a", "b", "c"]})
    assert rows_of(pipelines, "tags", {"tags": ["c", "a", "c"]}) == [0, 2]
    many = rows_of(pipelines, "tags", {"tags": [f"t{n}" for n in range(500)] + ["a"]})
    assert len(many) <= features.VALUES
    assert many[0] == 0


def test_bags_can_be_taken_by_row() -> None:
    rows = [{"tags": [f"t{m}" for m in range(n)]} for n in (0, 3, 1, 0, 2)]
    pipelines = fitted(*rows)
    order = np.asarray([4, 0, 1, 1, 3])
    taken = pipelines.items.read(records(*rows)).bags["tags"].take(order)
    again = pipelines.items.read(records(*(rows[n] for n in order))).bags["tags"]
    assert taken.ids.tolist() == again.ids.tolist()
    assert taken.starts.tolist() == again.starts.tolist()


def test_words_are_folded_and_counted_once() -> None:
    assert values.words("The CAT, the ﬁsh & naïve_Straße: 東京!") == [
        "the",
        "cat",
        "fish",
        "naïve_strasse",
        "東京",
    ]
    assert len(values.words(" ".join(f"w{n}" for n in range(1_000)))) == values.WORDS


NOUNS = [f"noun{n}" for n in range(30)]
DRILLS = [f"steel {noun} drill {size} mm v{n}" for n, noun in enumerate(NOUNS) for size in (4, 6)]
FILMS = [f"The {noun} of {other}" for noun in NOUNS for other in (f"a{noun}", f"b{noun}")]


def test_texts_that_describe_are_read_by_the_words_they_share_and_those_that_name_are_not() -> None:
    both = (Feature(name="title", kind="text"), Feature(name="text", kind="text"))
    rows = [
        {"title": film, "text": drill} for film, drill in zip(FILMS, reversed(DRILLS), strict=True)
    ]
    pipelines = features.fit(both, records(*rows), (), (), known=100, buckets=8, words="shared")
    assert list(pipelines.vocabularies) == ["words:text"]
    assert set(pipelines.vocabularies["words:text"].values) == {"steel", "drill", "mm", "4", "6"}
    columns = pipelines.items.read(records({"title": "Jaws", "text": "jaws of steel"}, {}))
    known = pipelines.vocabularies["words:text"].row("steel")
    assert columns.bags["text"].ids.tolist() == [known, 5]  # all that few say is one row
    assert columns.bags["text"].starts.tolist() == [0, 2, 2]
    assert columns.texts["title"] == ["Jaws", ""]


def test_in_a_large_catalogue_a_word_is_shared_that_one_record_in_a_thousand_has() -> None:
    title = (Feature(name="title", kind="text"),)
    rows = [{"title": f"cream n{number // 7} m{number // 6}"} for number in range(6_300)]
    pipelines = features.fit(title, records(*rows), (), (), known=9_999, buckets=8, words="shared")
    assert len(pipelines.vocabularies["words:title"].values) == 1 + 900
    more = [*rows, *rows[:701]]  # each word of these has twice as many, and eight are needed
    pipelines = features.fit(title, records(*more), (), (), known=9_999, buckets=8, words="shared")
    assert not pipelines.vocabularies


def test_users_and_items_share_the_table_of_a_feature_of_the_same_name_and_kind() -> None:
    pipelines = features.fit(
        (Feature(name="genres", kind="categories"), Feature(name="name", kind="text")),
        records({"genres": ["a"], "name": "x"}),
        (Feature(name="genres", kind="category"), Feature(name="name", kind="category")),
        records({"genres": "b", "name": "y"}),
        known=10,
        buckets=2,
    )
    assert (
        pipelines.items.vocabularies["values:genres"]
        is pipelines.users.vocabularies["values:genres"]
    )
    assert set(pipelines.vocabularies["values:genres"].values) == {"a", "b"}
    assert set(pipelines.vocabularies) == {"values:genres", "words:name", "values:name"}


def test_a_scale_spreads_values_and_survives_absurd_ones() -> None:
    scale = fit_scale(np.asarray([*range(100), 1e30], dtype=np.float32))
    encoded = scale.encode(np.asarray([0, 25, 50, 75, 99, 1e30, -1e30], dtype=np.float32))
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 4
    assert (np.diff(encoded[:5, 0]) > 0.1).all()


@pytest.mark.parametrize("known", [[], [7.0], [7.0] * 5, [0.0, 1e30], [math.nan], [math.inf]])
def test_a_scale_of_too_little_is_still_a_scale(known: list[float]) -> None:
    scale = fit_scale(np.asarray(known, dtype=np.float32))
    encoded = scale.encode(np.asarray([7.0, 8.0, math.nan], dtype=np.float32))
    assert encoded.shape == (3, scale.width)
    assert np.isfinite(encoded[:2]).all()
    assert np.isnan(encoded[2]).all()
    if 7.0 in known:
        assert not np.array_equal(encoded[0], encoded[1])


@given(st.lists(st.floats(-1e30, 1e30), max_size=30))
def test_a_scale_is_finite_and_rises(known: list[float]) -> None:
    scale = fit_scale(np.asarray(known, dtype=np.float32))
    probe = np.sort(np.asarray([*known, -1e30, 0, 1e30], dtype=np.float32))
    encoded = scale.encode(probe)
    assert np.isfinite(encoded).all()
    assert (np.diff(encoded, axis=0) >= -1e-6).all()


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "brand": st.none() | ODD_TEXT | st.integers() | st.floats() | st.booleans(),
                "tags": st.none() | ODD_TEXT | st.lists(st.none() | ODD_TEXT | st.integers()),
                "price": st.none() | st.floats() | st.integers(-(2**63), 2**63),
                "title": st.none() | ODD_TEXT,
            },
        ),
        max_size=8,
    )
)
def test_what_was_fitted_survives_ascii_json(rows: list[dict[str, object]]) -> None:
    pipelines = fitted(*rows)
    stored = json.dumps(features.to_json(pipelines)).encode("ascii")
    again = features.from_json(json.loads(stored), FEATURES, ())
    one, other = (p.items.read(records(*rows)) for p in (pipelines, again))
    for name, bag in one.bags.items():
        assert bag.ids.tolist() == other.bags[name].ids.tolist()
    np.testing.assert_array_equal(one.numbers["price"], other.numbers["price"])
    assert one.texts == other.texts
    for text_ in one.texts["title"]:
        text_.encode("utf-8")


def test_text_is_cut_and_cleaned() -> None:
    assert text.clean("a\0b\ud800c🎬") == "a b c🎬"
    assert len(text.clean("x" * 1_000_000)) == text.CHARACTERS


def test_a_frozen_text_says_the_same_in_any_company() -> None:
    model = text.load(text.DEFAULT)
    texts = ["The haunted house", "", "x" * 100_000, "\ud800", "A galaxy far away"]
    together = model.encode(texts)
    assert together.shape == (5, model.dimension)
    np.testing.assert_array_equal(together, np.concatenate([model.encode([t]) for t in texts]))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 0, 1, 0, 1], atol=1e-5)
    assert model.encode([]).shape == (0, model.dimension)


def test_a_frozen_text_model_knows_what_is_alike() -> None:
    ghost, spook, ship = text.load(text.DEFAULT).encode(
        [
            "a ghost haunts the old house",
            "the haunted mansion of spirits",
            "container shipping rates",
        ]
    )
    assert ghost @ spook > ghost @ ship + 0.2


@pytest.mark.parametrize("name", ["wheel:no_such_package", "wheel:json"])
def test_a_text_model_that_is_not_there_is_a_clear_error(name: str) -> None:
    with pytest.raises(TrainingFailed, match=r"wheel:.*cannot be loaded.*wheel:wordllama"):
        text.load(name)
