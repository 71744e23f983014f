"""Single values: titles, times, and whatever JSON holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.importing import values
from indexer.importing.report import Job


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Matrix, The (1999)", ("The Matrix", 1999)),
        ("Avventura, L' (1960)", ("L'Avventura", 1960)),
        ("City, The (Cité, La) (1995)", ("The City (La Cité)", 1995)),
        ("Land Before Time III (1995) (V)", ("Land Before Time III", 1995)),
        ("Marlene Dietrich (1996) ", ("Marlene Dietrich", 1996)),
        ("(500) Days of Summer (2009)", ("(500) Days of Summer", 2009)),
        ("2001: A Space Odyssey (1968)", ("2001: A Space Odyssey", 1968)),
        ("Fullmetal Alchemist (2003–)", ("Fullmetal Alchemist", 2003)),
        ("unknown", ("unknown", None)),
    ],
)
def test_titles_give_up_their_year_and_get_their_article_back(
    title: str, expected: tuple[str, int | None]
) -> None:
    assert values.film(title) == expected


@pytest.mark.parametrize(
    "same",
    ["881250949", 881250949, "881250949.0", 881250949.0, "881250949000", 881250949000000,
     "881250949000000000", "1997-12-04T15:55:49Z", "1997-12-04 16:55:49+01:00",
     "1997-12-04T15:55:49", datetime(1997, 12, 4, 15, 55, 49)],
)  # fmt: skip
def test_a_time_is_read_in_every_usual_writing(same: object) -> None:
    assert values.moment(same) == datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC)


@pytest.mark.parametrize(
    "bad", ["", None, "soon", True, float("nan"), "1e999999999", 1e300, "9" * 30, [1]]
)
def test_what_is_no_time_is_refused(bad: object) -> None:
    with pytest.raises(values.BadValue):
        values.moment(bad)


@given(st.integers(min_value=0, max_value=4_000_000_000), st.integers(0, 999_999))
def test_seconds_with_a_fraction_are_exact(seconds: int, fraction: int) -> None:
    expected = values.EPOCH + timedelta(seconds=seconds, microseconds=fraction)
    assert values.moment(f"{seconds}.{fraction:06d}") == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_whatever_json_holds_can_be_stored_afterwards(value: object) -> None:
    stored = json.dumps(values.storable(value, Job()), ensure_ascii=False, allow_nan=False)
    stored.encode("utf-8")
    assert "\\u0000" not in stored
