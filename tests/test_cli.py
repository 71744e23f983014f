"""The command line: what is printed where, exit codes, and the whole tour over a real database."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import DEADLINE_S, Twinspan, up

from encoders.breakdown import Part
from encoders.evaluate import Interval
from indexer.cli import conditions, pictures, reference
from indexer.errors import FilterError, QueryError

# -- what is printed where -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["status", "--nope"], "No such option: --nope"),
        (["similar"], "Missing argument"),
        (["recommend", "-k", "many"], "valid integer"),
        (["import", "movielens"], "Missing argument"),
    ],
    ids=str,
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    twinspan: Twinspan, arguments: list[str], message: str
) -> None:
    said = twinspan(*arguments)
    assert said.code == 2
    assert message in said.error
    assert "--help`" in said.error
    assert said.out == ""


def test_help_and_version_go_to_stdout(twinspan: Twinspan) -> None:
    assert twinspan("--help").code == 0
    assert "reindex" in twinspan("--help").out
    assert twinspan("reindex", "-h").code == 0
    assert twinspan("--version").code == 0


def test_settings_are_shown_with_their_source_and_secrets_are_not(
    twinspan: Twinspan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "twinspan.toml").write_text("batch_items = 7\npoll_s = 0.5\n")
    monkeypatch.setenv("TWINSPAN_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1/none")
    monkeypatch.setenv("TWINSPAN_POLL_S", "0.25")
    for said in (twinspan("settings", "--json"), twinspan("settings")):
        assert said.code == 0
        assert "hunter2" not in said.out + said.err
    rows = {row["name"]: row for row in json.loads(twinspan("settings", "--json").out)}
    assert (rows["batch_items"]["value"], rows["batch_items"]["source"]) == (7, "twinspan.toml")
    assert (rows["poll_s"]["value"], rows["poll_s"]["source"]) == (0.25, "environment")
    assert rows["lease_s"]["source"] == "default"
    assert rows["database_url"]["value"] == "********"


def test_a_wrong_setting_is_named(twinspan: Twinspan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINSPAN_POLL_S", "-1")
    said = twinspan("status")
    assert said.code == 2
    assert "poll_s" in said.error


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "attach", "no.toml"], ["attach", "no.toml", "--debug"]):
        done = subprocess.run(
            [sys.executable, "-m", "indexer.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "Traceback" in done.stderr


def test_a_closed_pipe_ends_in_silence() -> None:
    done = subprocess.run(
        f"{sys.executable} -m indexer.cli settings --json | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_an_interrupted_command_ends_quietly_with_130(shop: Twinspan) -> None:
    """At the question that it asks: the one place where a test can be sure that it waits."""
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.cli", "retire", "1"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that runs the tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    assert b"Retire index 1" in process.stderr.read(20)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert b"Traceback" not in rest
    assert b"error" not in rest
    assert len(json.loads(shop("status", "--json").out)["indexes"]) == 1


# -- conditions as typed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([], None),
        (["genres=Comedy"], {"genres": "Comedy"}),
        (["year=1990"], {"year": 1990}),
        (['code="1990"'], {"code": "1990"}),
        (["in_stock=true"], {"in_stock": True}),
        (["title=a=b"], {"title": "a=b"}),
        (["title="], {"title": ""}),
        (["year>=1990"], {"year": {"gte": 1990}}),
        (["year < 2000"], {"year": {"lt": 2000}}),
        (["price>9.5"], {"price": {"gt": 9.5}}),
        (["released<=2020-01-01"], {"released": {"lte": "2020-01-01"}}),
        (["genres!=Horror"], {"genres": {"not": "Horror"}}),
        (['genres=["Comedy", "Drama"]'], {"genres": ["Comedy", "Drama"]}),
        (['{"year": {"gte": 1990}}'], {"year": {"gte": 1990}}),
        (["a=1", '{"b": 2}'], {"all": [{"a": 1}, {"b": 2}]}),
    ],
    ids=str,
)
def test_conditions_mean_what_they_look_like(typed: list[str], meant: object) -> None:
    assert conditions.where(typed) == meant


@pytest.mark.parametrize(
    "typed", ["genres", "=Comedy", "{", "[1]", '"a"', '{"a": NaN}', "[" * 9_999]
)
def test_conditions_that_are_none_are_refused(typed: str) -> None:
    with pytest.raises(FilterError, match="--where"):
        conditions.where([typed])


def test_features_are_read_as_json_or_text() -> None:
    assert conditions.features(["age=25", "city=Rome", "vip=true", "note=a=b"]) == {
        "age": 25,
        "city": "Rome",
        "vip": True,
        "note": "a=b",
    }
    for wrong in (["age"], ["=1"], ["age=1", "age=2"]):
        with pytest.raises(QueryError):
            conditions.features(wrong)


# -- connections that fail -------------------------------------------------------------------------


def test_an_unreachable_database_is_one_line(
    twinspan: Twinspan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPAN_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/none")
    said = twinspan("status")
    assert said.code == 1
    assert "127.0.0.1:1" in said.error
    assert "hunter2" not in said.err


def test_an_unmigrated_database_says_what_to_run(
    connected: Twinspan, sql: Callable[..., None]
) -> None:
    sql("DROP SCHEMA indexer CASCADE")
    sql("DROP TABLE public.items")
    said = connected("status")
    assert said.code == 1
    assert "twinspan migrate" in said.error
    assert connected("migrate").code == 0
    assert connected("status").code == 0


def test_an_unreachable_vector_store_is_one_line(
    connected: Twinspan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPAN_QDRANT_URL", "http://127.0.0.1:1")
    said = connected("recommend", "m1")
    assert said.code == 1
    assert "127.0.0.1:1" in said.error


def test_without_an_index_recommend_says_what_to_run(connected: Twinspan) -> None:
    said = connected("recommend", "m1")
    assert said.code == 1
    assert "twinspan reindex" in said.error


def test_without_a_catalog_the_commands_say_so(connected: Twinspan) -> None:
    assert "no catalog" in connected("status").out
    for command in (("train", "content"), ("detach", "items"), ("reindex",)):
        said = connected(*command)
        assert said.code in {1, 2}
        assert said.error


def test_doctor_finds_what_is_wrong(
    connected: Twinspan, monkeypatch: pytest.MonkeyPatch, sql: Callable[..., None]
) -> None:
    connected("attach", "items")
    fine = connected("doctor", "--json")
    assert fine.code == 0, fine.out
    assert {"database", "schema", "triggers", "vector store"} <= {c["name"] for c in fine.json}  # type: ignore[attr-defined]
    sql("ALTER TABLE public.items DISABLE TRIGGER ALL")
    monkeypatch.setenv("TWINSPAN_QDRANT_URL", "http://127.0.0.1:1")
    found = {c["name"]: c for c in connected("doctor", "--json").json}  # type: ignore[attr-defined]
    assert connected("doctor").code == 1
    assert not found["triggers"]["ok"]
    assert not found["vector store"]["ok"]
    assert found["database"]["ok"]


# -- the tour --------------------------------------------------------------------------------------


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


def test_evaluate_needs_users_and_compares_with_popularity(shop: Twinspan, tmp_path: Path) -> None:
    said = shop("evaluate")
    assert said.code == 2
    assert "import interactions" in said.error
    import_events(shop, tmp_path)
    found = json.loads(shop("evaluate", "--json").out)
    assert (found["users"], found["left_out"], found["as_trained"]) == (12, 0, False)
    assert found["protocol"] == "leave-one-out"
    assert set(found["encoder"]) == set(found["popularity"]) == set(found["difference"])
    assert len(found["encoder"]) == 12
    for name, one in found["encoder"].items():
        assert one["low"] <= one["mean"] <= one["high"]
        other = found["popularity"][name]["mean"]
        assert found["difference"][name]["mean"] == pytest.approx(one["mean"] - other)
    said = shop("evaluate", "--users", "5")
    assert "5 users, last event of each" in said.out
    assert "age of the item" in said.out
    assert "may have been trained on what was asked" in said.err
    assert shop("recommend", "--user-key", "u1", "-k", "3").code == 0


def import_events(shop: Twinspan, folder: Path) -> None:
    """Five events each of twelve users."""
    rows = ["user,item,occurred_at,event"]
    rows += [
        f"u{user},m{(user + 3 * turn) % 30},2026-01-0{1 + turn}T00:00:00Z,view"
        for user in range(12)
        for turn in range(5)
    ]
    events = folder / "events.csv"
    events.write_text("\n".join(rows))
    imported = shop("import", "interactions", str(events), "--json")
    assert imported.code == 0, imported.err
    assert json.loads(imported.out)["interactions"]["added"] == 60


def test_evaluate_through_the_index_is_as_good_as_exact(shop: Twinspan, tmp_path: Path) -> None:
    import_events(shop, tmp_path)
    out = tmp_path / "found"
    said = shop("evaluate", "--through", "items", "--out", str(out), "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    through = found["through"]
    assert through["overlap@20"]["mean"] == through["overlap@20_unmasked"]["mean"] == 1
    for name, one in found["encoder"].items():
        assert through["index"][name]["mean"] == pytest.approx(one["mean"]), name
        assert through["loss"][name]["mean"] == pytest.approx(0)
    assert json.loads((out / "evaluation.json").read_text()) == found
    with np.load(out / "ranks.npz", allow_pickle=False) as ranks:
        hits = (ranks["encoder_masked"] <= 2 * 20).mean()
        assert hits == pytest.approx(found["encoder"]["recall@20"]["mean"])
        assert set(ranks) >= {"users", "index_masked", "popularity_unmasked"}
    picture = (out / "evaluation.svg").read_text()
    assert "recall by training events of the item" in picture
    assert "recall by age of the item" in picture
    assert "learning curve" not in picture, "nothing was learnt"
    shown = shop("evaluate", "--through", "items").out
    assert "through index" in shown
    assert "overlap@20 1.0000" in shown


def test_evaluate_refuses_an_index_that_cannot_be_compared(
    shop: Twinspan, sql: Callable[..., None], tmp_path: Path
) -> None:
    import_events(shop, tmp_path)
    assert shop("train", "content", "-o", "category_weight=0.9").code == 0
    *_, other = json.loads(shop("encoders", "--json").out)
    said = shop("evaluate", other["id"], "--through", "items")
    assert (said.code, "was built by encoder" in said.error) == (2, True)
    assert shop("evaluate", "--through", "items").code == 0, "the index's own encoder is meant"
    said = shop("evaluate", "--through", "nothing")
    assert (said.code, "no index is live under alias 'nothing'" in said.error) == (1, True)
    sql("ALTER TABLE public.items DISABLE TRIGGER ALL")
    sql("UPDATE public.items SET title = 'unseen' WHERE id = 'm3'")
    said = shop("evaluate", "--through", "items")
    assert said.code == 1
    assert "missed_change 1" in said.error
    assert "twinspan verify --repair" in said.error


def test_a_picture_without_matplotlib_names_the_extra(
    shop: Twinspan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = shop("evaluate", "--out", str(tmp_path / "found"))
    assert said.code == 2
    assert "pip install 'twinspan[plots]'" in said.error


def test_the_picture_of_a_learnt_encoder_has_its_curve(tmp_path: Path) -> None:
    part = Part(name="1–3", users=10, value=Interval(mean=0.5, low=0.4, high=0.6))
    lines = [
        {"epoch": n, "loss": 5.0 / n, "recall@20": 0.1 * n, "examples_per_s": 9} for n in (1, 2)
    ]
    for curve, recall in ((lines, 1), ([{**line, "recall@20": None} for line in lines], 0)):
        pictures.draw(
            tmp_path / "one.svg",
            title="an encoder",
            curve=curve,
            breakdowns=[pictures.Breakdown(title="by something", ours=[part], popular=[part])],
        )
        drawn = (tmp_path / "one.svg").read_text()
        assert drawn.count("recall@20 of validation") == recall
        assert all(text in drawn for text in ("learning curve", "an encoder", "by something"))


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


# -- generated pages -------------------------------------------------------------------------------


def test_the_reference_names_every_command_and_setting() -> None:
    pages = reference.pages()
    for command in ("demo", "up", "attach", "import movielens", "reindex", "verify", "similar"):
        assert f"`twinspan {command}" in pages["cli.md"]
    assert "`poll_s`" in pages["settings.md"]


def test_the_reference_is_current() -> None:
    assert reference.main(["--check"]) == 0
