"""Users and what they did: from any file into tables, and from there to what training reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from importing.files import UNIX, ml_100k, write
from indexer import catalog, database, importing, interactions, training_data
from indexer.catalog import spec
from indexer.errors import ImportFailed
from indexer.importing import values

# Any file of users and of interactions


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


# Training data


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
