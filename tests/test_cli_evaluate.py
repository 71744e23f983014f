"""`twinspan evaluate`: what it compares, through which index, and the pictures it draws."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import Twinspan

from encoders.breakdown import Part
from encoders.evaluate import Interval
from indexer.cli import pictures


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


def test_training_tells_each_epoch_and_leaves_its_curve(shop: Twinspan, tmp_path: Path) -> None:
    import_events(shop, tmp_path)
    small = [f"-o{one}" for one in ("epochs=2", "patience=2", "width=16", "layers=1")]
    said = shop("train", "retrievalformer", *small, "--threads", "1")
    assert said.code == 0, said.err
    told = r"^epoch (\d) of 2: loss \d+\.\d{3}, [\d,]+ events/s, recall@20 [01]\.\d{4}$"
    assert re.findall(told, said.err, re.MULTILINE) == ["1", "2"]
    found = json.loads(shop("evaluate", "--json").out)
    assert found["family"] == "retrievalformer"
    assert [line["epoch"] for line in found["curve"]] == [1, 2]


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
