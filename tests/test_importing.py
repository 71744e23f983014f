"""Importers: every format, good and bad; nothing lost without a count, nothing half there."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zipfile
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from indexer import catalog, changes, database, importing, interactions, training_data
from indexer.catalog import spec
from indexer.errors import ImportFailed
from indexer.importing import values
from indexer.importing.report import Job

UNIX = 881_250_949


def query(engine: sa.Engine, statement: str) -> list[tuple[object, ...]]:
    with database.begin(engine) as connection:
        return [tuple(row) for row in connection.execute(sa.text(statement))]


def item(engine: sa.Engine, key: str) -> tuple[object, ...]:
    (found,) = query(
        engine, f"SELECT title, description, attributes FROM public.items WHERE id = '{key}'"
    )
    return found


def write(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding, newline="")
    return path


# -- MovieLens -------------------------------------------------------------------------------------


def ml_100k(folder: Path) -> Path:
    flags = "|".join("1" if number in {5, 14} else "0" for number in range(19))
    write(
        folder / "u.item",
        f"1|Misérables, Les (1995)|01-Jan-1995||http://x|{flags}",
        f"2|unknown||||1{'|0' * 18}",
        encoding="latin-1",
    )
    write(folder / "u.user", "7|24|M|technician|85711", "8|53|F|other|T8H1N")
    write(folder / "u.data", f"7\t1\t3\t{UNIX}", f"8\t1\t5\t{UNIX + 1}", f"7\t2\t1\t{UNIX + 2}")
    return folder


def ml_dat(folder: Path) -> Path:
    write(
        folder / "movies.dat", "1::Matrix, The (1999)::Action|Sci-Fi", "2::Amélie (2001)::Comedy",
        encoding="latin-1",
    )  # fmt: skip
    write(folder / "users.dat", "7::F::1::10::48067", "8::M::56::99::70072")
    write(folder / "ratings.dat", f"7::1::5::{UNIX}", f"8::2::3.5::{UNIX + 9}")
    return folder


def ml_ranked(folder: Path) -> Path:
    ml_dat(folder)
    (folder / "ratings.dat").unlink()
    write(folder / "ratings_rank.dat", "7::1::5::1", "7::2::4::0", "8::2::3::0")
    write(
        folder / "last_timestamps.csv", "user_id,last_timestamp,second_last_timestamp",
        f"7,{UNIX},", f"8,{UNIX + 5},",
    )  # fmt: skip
    return folder


def ml_csv(folder: Path) -> Path:
    write(
        folder / "movies.csv", "movieId,title,genres",
        '11,"American President, The (1995)",Comedy|Drama|Romance',
        '12,"Say ""Hi"", Amélie (2001)",(no genres listed)',
    )  # fmt: skip
    write(
        folder / "ratings.csv",
        "userId,movieId,rating,timestamp",
        f"7,11,4.0,{UNIX}",
        f"7,12,0.5,{UNIX + 3}",
    )
    return folder


def ml_typed(folder: Path, stem: str = "tiny") -> Path:
    write(
        folder / f"{stem}.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "1\tUsual Suspects, The\t1995\tCrime Thriller",
        "2\tunkonwn\tV\tunknown",
    )
    write(
        folder / f"{stem}.user",
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token",
        "7\t24\tM\twriter\t02460",
    )
    write(
        folder / f"{stem}.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        f"7\t1\t3\t{UNIX}",
    )
    return folder


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


# -- Amazon ----------------------------------------------------------------------------------------


def amazon(folder: Path, *, packed: bool = False) -> Path:
    rows = [
        {"id": 1, "asin": "B1", "title": "Soap", "brand": "Dove", "categories": [["Bath", "Soap"]]},
        {"id": 2, "asin": "B2", "title": "Brush", "price": "$1,200.50", "category_text": "Hair"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    folder.mkdir(exist_ok=True)
    if packed:
        (folder / "items.jsonl.gz").write_bytes(gzip.compress(lines))
    else:
        (folder / "items.jsonl").write_bytes(lines)
    write(folder / "sequences.txt", "7 1 2 1", "8 2")
    return folder


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


# -- any file of items -----------------------------------------------------------------------------


def test_csv_items_take_types_from_the_whole_column(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(
        tmp_path / "products.csv",
        "SKU;Name;Price;in_stock;code;pages;categories;weight;specs",
        'a;Ring;"$1,299.00";true;007;12;Gold|Rings;1.5;{"ct": 18}',
        "b;Chain;19.5;false;12;;;2;",
        encoding="utf-8-sig",
    )
    report = importing.items(engine, path)
    assert item(engine, "a") == (
        "Ring",
        None,
        {
            "price": 1299.0, "in_stock": True, "code": "007", "pages": 12,
            "categories": ["Gold", "Rings"], "weight": 1.5, "specs": {"ct": 18},
        },
    )  # fmt: skip
    assert item(engine, "b")[2] == {
        "price": 19.5, "in_stock": False, "code": "12", "categories": [], "weight": 2.0,
    }  # fmt: skip
    assert any("split at '|'" in note for note in report.notes)


def test_what_a_file_is_silent_about_is_left_alone_and_null_takes_away(
    engine: sa.Engine, tmp_path: Path
) -> None:
    write(tmp_path / "items.jsonl", '{"id": "a", "title": "Ring", "brand": "B", "price": 5}')
    importing.items(engine, tmp_path / "items.jsonl")
    write(tmp_path / "prices.jsonl", '{"id": "a", "price": 6, "brand": null}')
    report = importing.items(engine, tmp_path / "prices.jsonl")
    assert report.items.changed == 1
    assert item(engine, "a") == ("Ring", None, {"price": 6})


def test_a_second_import_queues_nothing_and_a_changed_row_queues_itself(
    engine: sa.Engine, tmp_path: Path
) -> None:
    catalog.attach(engine, spec.BUILTIN)
    path = tmp_path / "items.csv"
    write(path, "id,title,year", *(f"{number},Film {number},1999" for number in range(50)))
    importing.items(engine, path)
    with database.begin(engine) as connection:
        connection.execute(sa.text("DELETE FROM indexer.changes"))
    again = importing.items(engine, path)
    assert again.items.unchanged == 50
    assert not changes.pending(engine)
    text = path.read_text().replace("Film 7,", "Movie 7,")
    path.write_text(text)
    assert importing.items(engine, path).items.changed == 1
    assert query(engine, "SELECT item_keys FROM indexer.changes") == [(["7"],)]


def test_attributes_that_are_no_object_give_way(engine: sa.Engine, tmp_path: Path) -> None:
    with database.begin(engine) as connection:
        insert = "INSERT INTO public.items (id, attributes) VALUES ('a', '[1]'), ('b', '\"x\"')"
        connection.execute(sa.text(insert))
    importing.items(engine, write(tmp_path / "i.csv", "id,year", "a,1999", "b,"))
    assert item(engine, "a")[2] == {"year": 1999}
    assert item(engine, "b")[2] == {}


def test_the_last_of_repeated_keys_counts(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "id,title", "a,First", "b,Other", "a,Last")
    report = importing.items(engine, path)
    assert (report.items.read, report.items.added, report.items.repeated) == (3, 2, 1)
    assert item(engine, "a")[0] == "Last"


def test_no_column_for_the_key_names_columns_and_remedy(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "reference,title", "a,Ring")
    with pytest.raises(
        ImportFailed, match=r"It has reference, title\. Say which: --column key=NAME"
    ):
        importing.items(engine, path)
    importing.items(engine, path, columns={"key": "reference"})
    assert item(engine, "a")[0] == "Ring"


def test_a_mapping_to_what_is_not_there_is_refused(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "id,title", "a,Ring")
    with pytest.raises(ImportFailed, match=r"no column 'sku'\. It has id, title"):
        importing.items(engine, path, columns={"key": "sku"})
    with pytest.raises(ImportFailed, match=r"no field 'colour'\. They have key, title"):
        importing.items(engine, path, columns={"colour": "title"})


def test_a_wrong_encoding_names_line_byte_and_remedy(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "id,title", "a,Ring", "b,Café", encoding="latin-1")
    with pytest.raises(ImportFailed, match=r"items\.csv, line 3: byte 6 is not utf-8.*--encoding"):
        importing.items(engine, path)
    importing.items(engine, path, encoding="latin-1")
    assert item(engine, "b")[0] == "Café"
    with pytest.raises(ImportFailed, match="no encoding 'klingon'"):
        importing.items(engine, path, encoding="klingon")


def test_utf16_is_known_by_its_mark(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "items.csv", "id,title", "a,Café 猫", encoding="utf-16")
    importing.items(engine, path)
    assert item(engine, "a")[0] == "Café 猫"


def test_csv_lines_with_too_few_fields_or_bad_quotes_are_refused_alone(
    engine: sa.Engine, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "i.csv", "id,title", "a,Ring", "b", 'c,"quo"ted', "d,x,y", '"e","""Q"""'
    )
    report = importing.items(engine, path)
    assert report.items.added == 2
    assert item(engine, "e")[0] == '"Q"'
    assert report.skipped["wrong number of fields"] == 2
    assert any(example.startswith("i.csv, line 4: not CSV") for example in report.examples)


def test_an_open_quote_at_the_end_is_refused_and_not_swallowed(
    engine: sa.Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "i.csv", "id,title", "a,Ring", 'b,"never closed', "c,Chain")
    report = importing.items(engine, path)
    assert report.items.added == 1
    assert sum(report.skipped.values()) == 1
    assert report.examples[0].startswith("i.csv, line 3: not CSV")


def test_lines_within_quotes_stay_in_one_field(engine: sa.Engine, tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "title"], ["a", "two\r\nlines"], ["b", "one"]])
    importing.items(engine, path)
    assert item(engine, "a")[0] == "two\r\nlines"


def test_a_megabyte_of_text_arrives_whole(engine: sa.Engine, tmp_path: Path) -> None:
    text = "word " * 200_000 + "end"
    importing.items(engine, write(tmp_path / "i.csv", "id,description", f"a,{text}"))
    assert item(engine, "a")[1] == text


def test_nuls_and_half_surrogates_are_mended_with_a_count_and_refused_in_keys(
    engine: sa.Engine, tmp_path: Path
) -> None:
    path = write(
        tmp_path / "i.jsonl",
        r'{"id": "a", "title": "n\u0000ul", "tags": ["\ud800x"], "deep": {"\u0000": NaN}}',
        r'{"id": "b\u0000", "title": "T"}',
        r'{"id": "c\udfff", "title": "T"}',
        r'{"id": "d", "title": "pair \ud83d\ude00"}',
    )
    report = importing.items(engine, path)
    assert item(engine, "a") == ("nul", None, {"tags": ["�x"], "deep": {"": None}})
    assert item(engine, "d")[0] == "pair 😀"
    assert report.skipped == {"the key holds a NUL or half a surrogate pair": 2}
    assert report.mended == {
        "NUL characters were taken out of a text": 2,
        "half a surrogate pair in a text became U+FFFD": 1,
        "a number that is not finite became null": 1,
    }


def test_bad_json_lines_are_refused_alone(engine: sa.Engine, tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    path.write_bytes(
        b'{"id": 1}\n{"id": \n[1]\n\n{"title": "no key"}\n{"id": "\xff"}\n'
        + b"[" * 100_000
        + b'\n{"id": '
        + b"9" * 5_000
        + b'}\n{"id": true}\n{"id": 2}'
    )
    report = importing.items(engine, path)
    assert report.items.added == 2
    assert sum(report.skipped.values()) == 7
    assert report.skipped["not UTF-8"] == 1
    assert report.skipped["JSON nested too deeply"] == 1
    assert report.skipped["not JSON (a number is too long)"] == 1


def test_a_json_array_says_how_to_make_lines(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "items.json", '[{"id": 1},', '{"id": 2}]')
    with pytest.raises(ImportFailed, match=r"one JSON array.*jq"):
        importing.items(engine, path)


def test_a_file_without_one_usable_row_is_an_error(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "i.csv", "id,title", ",Ring", ",Chain")
    with pytest.raises(
        ImportFailed, match=r"not one row.*2 refused.*i\.csv, line 2: the key is miss"
    ):
        importing.items(engine, path)
    with pytest.raises(ImportFailed, match="there is no row"):
        importing.items(engine, write(tmp_path / "j.csv", "id,title"))
    with pytest.raises(ImportFailed, match="is empty"):
        importing.items(engine, write(tmp_path / "k.csv"))


def test_keys_beyond_what_an_index_can_hold_are_refused(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "i.csv", "id,title", f"{'k' * 3000},Ring", "a,Chain")
    assert importing.items(engine, path).skipped == {"the key is longer than 1000 bytes": 1}


def test_parquet_items_keep_their_types(engine: sa.Engine, tmp_path: Path) -> None:
    table = pa.table(
        {
            "item_id": [1.0, 2.0, None],
            "title": ["Ring", None, "lost"],
            "genres": [["a", "b"], [], None],
            "made": pa.array([date(2020, 1, 2), None, None]),
            "seen": pa.array([1_000_000_001, None, None], type=pa.timestamp("ns", tz="UTC")),
            "raw": pa.array([b"x", None, None]),
            "score": [float("nan"), 1.5, 2.5],
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    report = importing.items(engine, tmp_path / "items.parquet")
    assert item(engine, "1") == (
        "Ring",
        None,
        {
            "genres": ["a", "b"], "made": "2020-01-02", "raw": "x",
            "seen": "1970-01-01T00:00:01+00:00",
        },
    )  # fmt: skip
    assert item(engine, "2") == (None, None, {"genres": [], "score": 1.5})
    assert report.examples == ("items.parquet, row 3: the key is missing: None",)


def test_a_damaged_parquet_file_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    (tmp_path / "i.parquet").write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(ImportFailed, match=r"i\.parquet cannot be read as Parquet"):
        importing.items(engine, tmp_path / "i.parquet")


def test_a_damaged_gzip_file_is_named(engine: sa.Engine, tmp_path: Path) -> None:
    whole = gzip.compress(b'{"id": 1}\n' * 10_000)
    (tmp_path / "i.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(ImportFailed, match=r"i\.jsonl\.gz is damaged"):
        importing.items(engine, tmp_path / "i.jsonl.gz")


def test_an_unknown_ending_asks_for_the_format(engine: sa.Engine, tmp_path: Path) -> None:
    path = write(tmp_path / "items.dump", "id,title", "a,Ring")
    with pytest.raises(ImportFailed, match="--format csv, tsv, jsonl or parquet"):
        importing.items(engine, path)
    assert importing.items(engine, path, format="csv").items.added == 1
    with pytest.raises(ImportFailed, match="is a folder"):
        importing.items(engine, tmp_path)


# -- any file of users and of interactions ---------------------------------------------------------


def test_users_from_csv_have_every_other_column_as_a_feature(
    engine: sa.Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "u.csv", "userId,age,zip", "7,24,02460", "8,,123")
    importing.users(engine, path)
    assert interactions.features(engine, "7") == {"age": 24, "zip": "02460"}
    assert interactions.features(engine, "8") == {"zip": "123"}


def test_interactions_from_csv_jsonl_and_parquet_are_the_same(
    engine: sa.Engine, tmp_path: Path
) -> None:
    at = datetime(2024, 5, 6, 7, 8, 9, 123_456, tzinfo=UTC)
    micro = int(at.timestamp()) * 1_000_000 + 123_456
    csv_file = write(
        tmp_path / "e.csv",
        "user_id\titem_id\ttimestamp\tevent_type\trating",
        f"7\ta\t{at.isoformat()}\tview\t",
    )
    json_file = write(
        tmp_path / "e.jsonl",
        json.dumps({"user": 7, "asin": "a", "ts": micro, "event": "view"}),
    )
    table = pa.table(
        {"reviewerID": ["7"], "sku": ["a"], "time": pa.array([at]), "action": ["view"], "n": [1]}
    )
    pq.write_table(table, tmp_path / "e.parquet")
    first = importing.interactions(engine, csv_file)
    assert first.interactions.added == 1
    for path in (json_file, tmp_path / "e.parquet"):
        report = importing.interactions(engine, path)
        assert (report.interactions.added, report.interactions.unchanged) == (0, 1)
    assert report.notes == ("columns that interactions have no place for: n",)
    (event,) = interactions.history(engine, catalog="items", user_key="7", limit=10)
    assert (event.occurred_at, event.event, event.value) == (at, "view", None)


def test_interactions_without_times_are_refused_with_the_remedy(
    engine: sa.Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "e.csv", "user,item", "7,a")
    with pytest.raises(ImportFailed, match=r"no column for the occurred_at.*--column occurred_at="):
        importing.interactions(engine, path)


def test_progress_is_told_in_rows_and_bytes_up_to_the_end(
    engine: sa.Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "i.csv", "id,title", *(f"{n},Film {n}" for n in range(12_000)))
    seen: list[importing.Progress] = []
    importing.items(engine, path, on_progress=seen.append)
    steps = [one for one in seen if one.step == "items"]
    assert [one.rows for one in steps] == [5_000, 10_000, 12_000]
    assert steps[0].bytes_read < steps[1].bytes_read < steps[2].bytes_read == path.stat().st_size
    assert all(one.bytes_total == path.stat().st_size for one in steps)


# -- values ----------------------------------------------------------------------------------------


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


# -- training data ---------------------------------------------------------------------------------


def test_a_dataset_holds_items_users_and_events_in_order(engine: sa.Engine, tmp_path: Path) -> None:
    attached = catalog.attach(engine, spec.BUILTIN)
    importing.movielens(engine, ml_100k(tmp_path))
    dataset = training_data.read_dataset(engine, attached)
    assert [one.key for one in dataset.items] == ["1", "2"]
    assert dataset.user_keys == ("7", "8")
    assert dataset.user.tolist() == [0, 0, 1]
    assert dataset.item.tolist() == [0, 1, 0]
    assert dataset.occurred_at.tolist() == [n * 1_000_000 for n in (UNIX, UNIX + 2, UNIX + 1)]
    assert dataset.value.tolist() == [3.0, 1.0, 5.0]
    assert (dataset.event.tolist(), dataset.event_names) == ([0, 0, 0], ("rating",))
    kinds = {feature.name: feature.kind for feature in dataset.user_features}
    assert kinds == {
        "age": "number", "gender": "category", "occupation": "category", "zip_code": "category",
    }  # fmt: skip
    assert dataset.user_records[0] == {
        "age": 24.0, "gender": "M", "occupation": "technician", "zip_code": "85711",
    }  # fmt: skip


def test_times_in_a_dataset_are_exact_to_the_microsecond(engine: sa.Engine) -> None:
    attached = catalog.attach(engine, spec.BUILTIN)
    with database.begin(engine) as connection:
        connection.execute(sa.text("INSERT INTO public.items (id) VALUES ('a')"))
    start = datetime(2200, 1, 1, tzinfo=UTC)
    rows = [
        interactions.Interaction("u", "a", start + timedelta(microseconds=offset))
        for offset in (3, 1, 2)
    ]
    interactions.add(engine, rows)
    dataset = training_data.read_dataset(engine, attached)
    base = (start - values.EPOCH) // timedelta(microseconds=1)
    assert dataset.occurred_at.tolist() == [base + 1, base + 2, base + 3]


def test_events_of_items_that_are_not_there_are_dropped_and_counted(
    engine: sa.Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attached = catalog.attach(engine, spec.BUILTIN)
    importing.movielens(engine, ml_100k(tmp_path))
    with database.begin(engine) as connection:
        connection.execute(sa.text("DELETE FROM public.items WHERE id = '1'"))
    reading = training_data.read(engine, attached)
    assert reading.dropped_events == 2
    assert reading.dataset.user_keys == ("7",)
    assert len(reading.dataset.user) == 1
    training_data.read_dataset(engine, attached)
    assert "2 of 3 interactions name an item" in caplog.text


def test_an_empty_catalog_gives_an_empty_dataset(engine: sa.Engine) -> None:
    dataset = training_data.read_dataset(engine, catalog.attach(engine, spec.BUILTIN))
    assert (dataset.items, dataset.user_keys, len(dataset.user)) == ((), (), 0)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ([1, 2.5], "number"),
        ([True, False], "category"),
        ([1, "x"], "category"),
        (["x", "x"], "category"),
        ([["a"], ["b", 3]], "categories"),
        ([["a"], "b"], "categories"),
        (["a long story about a cat", "another story of a dog now"], "text"),
        ([{"a": 1}], None),
        ([[{"a": 1}]], None),
    ],
)
def test_the_kind_of_a_user_feature_is_told_from_its_values(
    found: Iterable[object], kind: str | None
) -> None:
    records = [{"f": value} for value in found]
    assert [one.kind for one in training_data.user_features(records)] == ([kind] if kind else [])


# -- real data -------------------------------------------------------------------------------------

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
