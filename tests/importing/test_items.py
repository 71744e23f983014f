"""Items from any file, good and bad; nothing lost without a count, nothing half there."""

from __future__ import annotations

import csv
import gzip
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from importing.files import write
from importing.tables import item, query
from indexer import catalog, changes, database, importing
from indexer.catalog import spec
from indexer.errors import ImportFailed


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
