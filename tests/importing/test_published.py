"""Published data sets in every shape that they come in; nothing lost without a count."""

from __future__ import annotations

import os
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from importing.files import UNIX, amazon, ml_100k, ml_csv, ml_dat, ml_ranked, ml_typed, write
from importing.tables import item, query
from indexer import importing, interactions
from indexer.errors import ImportFailed

# MovieLens


def test_movielens_100k_original_files(engine: sa.Engine, tmp_path: Path) -> None:
    report = importing.movielens(engine, ml_100k(tmp_path))
    assert (report.items.added, report.users.added, report.interactions.added) == (2, 2, 3)
    assert item(engine, "1") == (
        "Les Misérables",
        None,
        {"genres": ["Comedy", "Romance"], "year": 1995},
    )
    assert item(engine, "2") == ("unknown", None, {"genres": []})
    history = interactions.history(engine, catalog="items", user_key="7", limit=10)
    assert [(one.item_key, one.event, one.value) for one in history] == [
        ("1", "rating", 3.0),
        ("2", "rating", 1.0),
    ]
    assert history[0].occurred_at == datetime.fromtimestamp(UNIX, UTC)
    assert interactions.features(engine, "8") == {
        "age": 53.0, "gender": "F", "occupation": "other", "zip_code": "T8H1N",
    }  # fmt: skip


def test_movielens_dat_files(engine: sa.Engine, tmp_path: Path) -> None:
    importing.movielens(engine, ml_dat(tmp_path))
    assert item(engine, "1") == ("The Matrix", None, {"genres": ["Action", "Sci-Fi"], "year": 1999})
    assert item(engine, "2")[0] == "Amélie"
    assert interactions.features(engine, "7")["occupation"] == "K-12 student"
    assert "occupation" not in interactions.features(engine, "8")


def test_movielens_dat_files_in_utf8_as_the_10m_edition_has_them(
    engine: sa.Engine, tmp_path: Path
) -> None:
    ml_dat(tmp_path)
    write(tmp_path / "movies.dat", "2::Amélie – 猫 (2001)::Comedy")
    importing.movielens(engine, tmp_path)
    assert item(engine, "2")[0] == "Amélie – 猫"


def test_ranks_become_times_that_rise_up_to_the_last_one(engine: sa.Engine, tmp_path: Path) -> None:
    report = importing.movielens(engine, ml_ranked(tmp_path))
    history = interactions.history(engine, catalog="items", user_key="7", limit=10)
    last = datetime.fromtimestamp(UNIX, UTC)
    assert [(one.item_key, one.occurred_at) for one in history] == [
        ("2", last - timedelta(seconds=1)),
        ("1", last),
    ]
    assert any("ranks instead of times" in note for note in report.notes)


def test_movielens_csv_with_quoted_commas_and_quotes(engine: sa.Engine, tmp_path: Path) -> None:
    report = importing.movielens(engine, ml_csv(tmp_path))
    assert item(engine, "11")[0] == "The American President"
    assert item(engine, "12") == ('Say "Hi", Amélie', None, {"genres": [], "year": 2001})
    assert report.users.read == 0
    assert any("no file of users" in note for note in report.notes)


def test_typed_tsv_from_a_folder(engine: sa.Engine, tmp_path: Path) -> None:
    importing.movielens(engine, ml_typed(tmp_path))
    assert item(engine, "1") == (
        "The Usual Suspects",
        None,
        {"genres": ["Crime", "Thriller"], "year": 1995},
    )
    assert item(engine, "2") == ("unkonwn", None, {"genres": []})
    assert interactions.features(engine, "7")["zip_code"] == "02460"


@pytest.mark.parametrize("make", [ml_100k, ml_dat, ml_ranked, ml_csv, ml_typed])
def test_every_shape_is_found_in_a_zip_and_in_a_subfolder_and_beside_a_file(
    engine: sa.Engine, tmp_path: Path, make: object
) -> None:
    folder = make(tmp_path / "outer" / "inner")  # type: ignore[operator]
    archive = tmp_path / "pack.whl"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as pack:
        for path in sorted(folder.iterdir()):
            pack.write(path, f"package/data/{path.name}")
    first = importing.movielens(engine, archive)
    assert first.items.added == 2 - (first.items.read == 1)
    for path in (tmp_path / "outer", folder, next(iter(sorted(folder.iterdir())))):
        again = importing.movielens(engine, path)
        assert again.items.read == first.items.read
        assert (again.items.added, again.items.changed) == (0, 0)
        assert (again.interactions.added, again.interactions.changed) == (0, 0)


def test_a_folder_that_is_no_movielens_says_what_it_needs_and_what_there_is(
    engine: sa.Engine, tmp_path: Path
) -> None:
    write(tmp_path / "shopping.txt", "milk")
    with pytest.raises(ImportFailed, match=r"u\.data and u\.item.*There is: shopping\.txt"):
        importing.movielens(engine, tmp_path)
    with pytest.raises(ImportFailed, match="no such file"):
        importing.movielens(engine, tmp_path / "absent")


def test_two_typed_data_sets_in_one_folder_are_ambiguous(engine: sa.Engine, tmp_path: Path) -> None:
    ml_typed(tmp_path, "one")
    ml_typed(tmp_path, "two")
    with pytest.raises(ImportFailed, match="several data sets: one, two"):
        importing.movielens(engine, tmp_path)


@pytest.mark.parametrize("content", [b"not a zip", b"PK\x03\x04 truncated"])
def test_a_damaged_archive_is_named(engine: sa.Engine, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ml.zip").write_bytes(content)
    with pytest.raises(ImportFailed, match=r"ml\.zip.*damaged"):
        importing.movielens(engine, tmp_path / "ml.zip")


def test_bad_rows_are_counted_by_reason_and_quoted_with_their_line(
    engine: sa.Engine, tmp_path: Path
) -> None:
    ml_100k(tmp_path)
    with (tmp_path / "u.data").open("a") as ratings:
        ratings.write("7\t1\t3\n\n7\t1\tgood\t881250950\n7\t1\t3\tyesterday\n\t1\t3\t881250950\n")
    report = importing.movielens(engine, tmp_path)
    assert report.interactions.added == 3
    assert report.skipped == {
        "wrong number of fields": 1,
        "the value is not a number": 1,
        "the time is neither Unix time nor ISO 8601": 1,
        "the key is missing": 1,
    }
    assert report.examples[0].startswith("u.data, line 4: wrong number of fields")


def test_strict_stops_at_the_first_bad_row_and_leaves_nothing(
    engine: sa.Engine, tmp_path: Path
) -> None:
    ml_100k(tmp_path)
    with (tmp_path / "u.data").open("a") as ratings:
        ratings.write("7\t1\tgood\t881250950\n")
    with pytest.raises(ImportFailed, match=r"u\.data, line 4.*not a number.*Nothing was imported"):
        importing.movielens(engine, tmp_path, strict=True)
    assert query(engine, "SELECT count(*) FROM public.items") == [(0,)]
    assert interactions.counts(engine).interactions == 0


def test_a_missing_column_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    ml_csv(tmp_path)
    write(tmp_path / "ratings.csv", "userId,movieId,stars", "7,11,4.0")
    with pytest.raises(ImportFailed, match=r"ratings\.csv, line 1: there is no column 'rating'"):
        importing.movielens(engine, tmp_path)


# Amazon


@pytest.mark.parametrize("packed", [False, True])
def test_amazon_style_data(engine: sa.Engine, tmp_path: Path, packed: bool) -> None:
    report = importing.amazon(engine, amazon(tmp_path, packed=packed))
    assert (report.items.added, report.interactions.added) == (2, 4)
    title, _, attributes = item(engine, "1")
    assert (title, attributes) == (
        "Soap",
        {"asin": "B1", "brand": "Dove", "categories": ["Bath", "Soap"]},
    )
    assert item(engine, "2") == ("Brush", "Hair", {"asin": "B2", "price": 1200.5})
    history = interactions.history(engine, catalog="items", user_key="7", limit=10)
    assert [one.item_key for one in history] == ["1", "2", "1"]
    assert history[0].occurred_at < history[1].occurred_at < history[2].occurred_at
    assert any("no times" in note for note in report.notes)


def test_gaps_in_days_make_the_times(engine: sa.Engine, tmp_path: Path) -> None:
    amazon(tmp_path)
    write(tmp_path / "time_gaps.txt", "7 0 0 107", "8 0 1")
    report = importing.amazon(engine, tmp_path)
    first, second, third = interactions.history(engine, catalog="items", user_key="7", limit=10)
    assert [one.item_key for one in (first, second, third)] == ["1", "2", "1"]
    assert second.occurred_at == first.occurred_at, "of one day, in no order that anybody knows"
    assert third.occurred_at - second.occurred_at == timedelta(days=107)
    assert report.mended == {"gaps that do not fit their sequence were left out": 1}


def test_amazon_without_items_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    write(tmp_path / "sequences.txt", "7 1")
    with pytest.raises(ImportFailed, match=r"no items\.jsonl"):
        importing.amazon(engine, tmp_path)


# Real data


DATA = os.environ.get("TWINSPAN_DATA")


@pytest.mark.skipif(DATA is None, reason="TWINSPAN_DATA does not name a folder of real data sets")
@pytest.mark.parametrize(
    ("name", "items", "users", "events"),
    [("ml-100k", 1_682, 943, 100_000), ("ml-1m", 3_883, 6_040, 1_000_209)],
)
@pytest.mark.slow
def test_real_movielens_arrives_whole(
    engine: sa.Engine, name: str, items: int, users: int, events: int
) -> None:
    report = importing.movielens(engine, Path(str(DATA)) / name)
    assert (report.items.added, report.users.added, report.interactions.added) == (
        items, users, events,
    )  # fmt: skip
    assert report.skipped == {}
