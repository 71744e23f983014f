"""The whole tour by commands, over a real database: what each says and what it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Twinspan, up

WRONG = [
    ["recommend", "-w", "colour=red"],
    ["recommend", "-w", "year=nineteen"],
    ["recommend", "-w", '{"year": {"gte": 2000, "lt": 1990}}'],
    ["recommend", "-w", '{"genres": []}'],
    ["recommend", "-w", "{"],
    ["recommend", "-k", "0"],
    ["recommend", "-k", "10000"],
    ["recommend", "-f", "age"],
    ["similar", "gone"],
    ["reindex", "--encoder", "ffff"],
    ["reindex", "--alias", "no/slash"],
    ["train", "content", "-o", "no_such_option=1"],
    ["train", "content", "-o", "half_life=soon"],
    ["train", "magic"],
]


def test_recommend_filters_and_explains(shop: Twinspan) -> None:
    said = shop("recommend", "m0", "m3", "gone", "--where", "genres=Comedy", "-k", "4", "--json")
    assert said.code == 0, said.err
    answer = json.loads(said.out)
    assert len(answer["hits"]) == 4
    assert all(hit["payload"]["genres"] == ["Comedy"] for hit in answer["hits"])
    assert answer["unknown"] == ["gone"]
    shown = shop("recommend", "m0", "-w", "year>=1990", "-w", "genres!=Horror", "-k", "5")
    assert shown.code == 0
    assert "encoder" in shown.err
    assert len([line for line in shown.out.splitlines() if re.search(r"\bm\d+\b", line)]) == 5
    similar = json.loads(shop("similar", "m1", "-k", "3", "--json").out)
    assert len(similar["hits"]) == 3


def test_bad_input_is_one_line_and_exit_code_2(shop: Twinspan) -> None:
    for arguments in WRONG:
        said = shop(*arguments)
        assert said.code == 2, (arguments, said.err)
        assert said.error


def test_an_index_is_replaced_by_another_the_same_way(shop: Twinspan) -> None:
    [first] = json.loads(shop("status", "--json").out)["indexes"]
    assert (first["state"], first["items"], first["live"]) == ("live", 30, 0)
    assert shop("train", "content", "-o", "half_life=3.5").code == 0
    second = json.loads(shop("reindex", "--json").out)
    assert second["state"] == "live"
    states = {
        row["index"]: row["state"] for row in json.loads(shop("status", "--json").out)["indexes"]
    }
    assert states == {first["index"]: "standby", second["id"]: "live"}
    assert json.loads(shop("recommend", "m1", "--json").out)["index"] == second["id"]
    back = json.loads(shop("promote", str(first["index"]), "--json").out)
    assert back["state"] == "live"
    refused = shop("retire", str(first["index"]), "--yes")
    assert refused.code == 1
    assert "live" in refused.error
    assert shop("retire", str(second["id"]), "--yes").code == 0
    left = json.loads(shop("status", "--json").out)["indexes"]
    assert [row["index"] for row in left] == [first["index"]]


def test_status_shows_shadow_reads_of_an_index_that_does_not_answer(
    shop: Twinspan, sql: Callable[..., None]
) -> None:
    sql(
        "INSERT INTO indexer.shadow_reads (index_id, live_index_id, k, overlap, live_ms, shadow_ms)"
        " SELECT id, id, k, overlap, 10, 20 FROM indexer.indexes,"
        " (VALUES (20, 1), (20, 0.5), (7, 0.75), (20, 0.75)) AS read (k, overlap)"
    )
    [row] = json.loads(shop("status", "--json").out)["indexes"]
    assert (row["state"], row["shadow"]) == ("live", None)
    sql("UPDATE indexer.indexes SET state = 'standby', standby_at = now()")
    [row] = json.loads(shop("status", "--json").out)["indexes"]
    since = row["shadow"].pop("since")
    assert row["shadow"] == {
        "reads": 4,
        "k": 20,
        "overlap": 0.75,
        "live_p95_ms": 10.0,
        "shadow_p95_ms": 20.0,
    }
    said = shop("status").err
    assert "4 live queries: overlap@20 75%; p95 20.0 ms, live 10.0 ms" in said
    assert f"since {since[:4]}" in said


def test_verify_tells_drift_by_its_exit_code(shop: Twinspan, sql: Callable[..., None]) -> None:
    same = shop("verify", "--vectors", "--json")
    assert same.code == 0, same.err
    [row] = json.loads(same.out)
    assert (row["items"], row["agree"], row["drift"]) == (30, 30, 0)
    sql("INSERT INTO public.items (id, title) VALUES ('m99', 'Late')")
    sql("UPDATE indexer.entries SET present = false WHERE item_key = 'm2'")
    differs = shop("verify", "--patience", "0", "--json")
    assert differs.code == 1
    [row] = json.loads(differs.out)
    assert (row["drift"], row["ledger_wrong"], row["in_flight"]) == (1, 1, 1)
    assert row["examples"] == {"ledger_wrong": ["m2"], "in_flight": ["m99"]}
    repaired = shop("verify", "--repair", "--sample", "0", "--json")
    assert repaired.code == 0, repaired.err
    [row] = json.loads(repaired.out)
    assert (row["agree"], row["drift"], row["repaired"]) == (31, 0, 1)
    assert (row["before"]["drift"], row["before"]["ledger_wrong"]) == (1, 1)
    assert "repairing 1 items" in repaired.err
    nothing = shop("verify", "--resume")
    assert (nothing.code, "leave out --resume" in nothing.err) == (2, True)


def test_failures_are_shown_and_tried_again(shop: Twinspan, sql: Callable[..., None]) -> None:
    assert "no item failed" in shop("failures").out
    sql(
        "UPDATE indexer.entries SET error = 'boom', quarantined = true, wanted = wanted + 1"
        " WHERE item_key = 'm5'"
    )
    [failure] = json.loads(shop("failures", "--json").out)
    assert (failure["key"], failure["error"], failure["quarantined"]) == ("m5", "boom", True)
    assert "boom" in shop("failures").out
    assert shop("retry", "m5").out == "1 items are due again\n"
    assert json.loads(shop("status", "--json").out)["indexes"][0]["quarantined"] == 0


def test_detach_refuses_while_indexes_exist_and_can_drop_them(shop: Twinspan) -> None:
    refused = shop("detach", "items")
    assert refused.code == 2
    assert "--drop-indexes" in refused.error
    assert shop("detach", "items", "--drop-indexes").code == 0
    assert "no catalog" in shop("status").out


def test_encoders_are_listed_and_a_damaged_one_is_refused(shop: Twinspan) -> None:
    [info] = json.loads(shop("encoders", "--json").out)
    assert info["family"] == "content"
    assert info["id"][:12] in shop("encoders").out
    weights = Path(info["uri"]) / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    weights.write_bytes(damaged)
    for command in (("recommend", "m1"), ("reindex",)):
        said = shop(*command)
        assert said.code == 1
        assert info["id"] in said.error


def test_import_says_which_file_is_wrong(connected: Twinspan, tmp_path: Path) -> None:
    wrong = tmp_path / "items.csv"
    wrong.write_text("nothing,useful\n1,2\n")
    said = connected("import", "items", str(wrong))
    assert said.code == 2
    assert "items.csv" in said.error
    assert connected("import", "items", str(tmp_path / "absent.csv")).code == 2
    assert connected("import", "items", str(wrong), "--column", "key").code == 2


def test_what_is_imported_can_be_trained_on_at_once(connected: Twinspan, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("key,title\na,Red chair\nb,Blue table\n")
    events = tmp_path / "events.csv"
    events.write_text("user,item,occurred_at\nu,a,2026-01-01T00:00:00Z\n")
    assert connected("import", "interactions", str(events), "--catalog", "shop").code == 0
    assert connected("status").err.startswith("next: `twinspan attach FILE`")
    said = connected("import", "items", str(items))
    assert "catalog items is attached" in said.err
    assert connected("train", "content").code == 0
    again = connected("import", "items", str(items))
    assert (again.code, "attached" in again.err) == (0, False)


# -- beside `twinspan up` --------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_use_the_running_server(
    connected: Twinspan, sql: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number in range(12):
        sql(
            "INSERT INTO public.items (id, title) VALUES (:id, :title)",
            id=f"m{number}",
            title=f"Film {number}",
        )
    monkeypatch.setenv("TWINSPAN_HTTP_PORT", "0")
    with up(tmp_path):
        assert connected("attach", "items").code == 0
        assert connected("train", "content").code == 0
        built = connected("reindex", "--json")
        assert built.code == 0, built.err
        assert json.loads(built.out)["state"] == "live"
        hits = json.loads(connected("recommend", "m1", "-k", "3", "--json").out)
        assert len(hits["hits"]) == 3
        assert connected("similar", "m1").code == 0
        assert connected("verify", "--vectors").code == 0
        wrong = connected("recommend", "-w", "colour=red")
        assert wrong.code == 2
        assert "colour" in wrong.error
        again = json.loads(connected("reindex", "--json").out)
        assert connected("retire", str(json.loads(built.out)["id"]), "--yes").code == 0
        assert again["state"] == "live"
        refused = connected("detach", "items", "--drop-indexes")
        assert refused.code == 1
        assert "twinspan up" in refused.error
    assert connected("verify").code == 0
