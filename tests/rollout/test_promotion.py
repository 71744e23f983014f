"""Which index answers: promoted through the gate, taken back, under queries and by two admins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from rollout_world import World, meddled

from indexer import database, history, rollout
from indexer.errors import GateRefused, IndexStateError


def test_a_rollback_brings_back_the_index_before_with_all_that_changed_since(world: World) -> None:
    first, second = world.build("e1"), world.build("e2")
    world.promote(first, by="anna")
    retriever = world.retriever()
    world.assert_answers(first, retriever)
    world.promote(second, by="anna")
    world.assert_answers(second, retriever)
    world.run("UPDATE public.items SET title = 'changed since' WHERE id = 'k1'")
    world.run("DELETE FROM public.items WHERE id = 'k2'")
    world.insert("new")
    world.drain()

    started = time.monotonic()
    back = world.rollback(by="berta")
    hits = retriever.similar("new", k=30)
    assert time.monotonic() - started < 5, "a rollback takes milliseconds"

    assert (back.id, back.state) == (first.id, "live")
    assert (hits.index_id, hits.encoder_id) == (first.id, "e1")
    assert {hit.key: hit.payload["title"] for hit in hits}["k1"] == "changed since"
    assert "k2" not in hits.keys
    world.assert_agrees(first, 30)
    assert world.states() == {first.id: "live", second.id: "standby"}
    assert [(step.action, step.by) for step in history.of(world.engine, "items", limit=1)] == [
        ("rollback", "berta")
    ]

    with pytest.raises(IndexStateError, match=f"twinspan promote {second.id}"):
        world.rollback()  # a second admin in the same panic must not undo the first one's
    world.assert_answers(first)
    world.insert("later")
    world.drain()
    world.promote(second)
    world.assert_answers(second, retriever)
    world.assert_agrees(second, 31)
    assert world.rollback().id == first.id


def test_a_rollback_to_an_index_that_lacks_changes_is_refused_and_says_how_many(
    world: World,
) -> None:
    first, second = world.build("e1"), world.build("e2")
    world.promote(first)
    world.promote(second)
    world.run("UPDATE public.items SET title = 'unseen by the standby' WHERE id < 'k15'")
    world.drain(index_id=second.id)
    assert world.rollback().id == first.id, "what is just on its way does not count"
    world.drain()
    world.promote(second)
    world.run("UPDATE public.items SET title = 'unseen again' WHERE id IN ('k3', 'k4')")
    world.drain(index_id=second.id)
    world.run("UPDATE indexer.entries SET changed_at = now() - interval '1 minute'")
    with pytest.raises(IndexStateError, match="lacks 2 changes"):
        world.rollback()
    world.assert_answers(second)
    world.rollback(force=True)
    world.assert_answers(first)
    [step] = history.of(world.engine, limit=1)
    assert step.forced
    assert step.report is not None
    assert step.report["behind"] == 2


def test_the_gate_keeps_an_index_out_unless_it_is_forced_which_is_recorded(world: World) -> None:
    first = world.build("e1")
    world.promote(first)
    second = world.start("e2")
    world.fill(second)  # nothing is encoded yet
    with pytest.raises(GateRefused, match=f"index {second.id} does not pass the gate"):
        world.promote(second)
    world.assert_answers(first)
    assert world.states() == {first.id: "live", second.id: "building"}
    assert [step.action for step in history.of(world.engine, limit=1)] == ["gate"]
    world.promote(second, force=True, by="anna")
    [step] = history.of(world.engine, limit=1)
    assert (step.action, step.forced, step.by, step.before) == ("promote", True, "anna", first.id)
    assert step.report is not None
    assert "does not pass the gate" in step.report["gate"]
    world.drain()
    world.assert_answers(second)
    assert world.promote(second).state == "live", "promoting the live index changes nothing"
    assert history.of(world.engine, limit=1) == [step]


def test_of_two_admins_one_wins_and_the_other_is_told(edge_world: World, database_url: str) -> None:
    world = edge_world
    first, second, third = world.build("e1"), world.build("e2"), world.build("e3")
    world.promote(first)
    other = database.engine(database_url)  # the other admin has a connection of his own
    held: list[str] = []

    def meanwhile(*_: object) -> None:
        verbs: list[Callable[[], object]] = [
            lambda: rollout.promote(other, world.store, world.towers, world.settings, third.id),
            lambda: rollout.rollback(other, world.store, "items"),
            lambda: rollout.cancel(other, world.store, third.id),
            lambda: rollout.retire(other, world.store, first.id),
        ]
        for verb in verbs:
            with pytest.raises(IndexStateError, match="somebody else is changing") as said:
                verb()
            held.append(str(said.value))

    try:
        with meddled(world.store, "point_alias", before=meanwhile):
            world.promote(second)
        assert len(held) == 4
        world.assert_answers(second)

        def while_the_gate_looks(*_: object, **__: object) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rollout.gate, "run", real)
                rollout.promote(
                    other, world.store, world.towers, world.settings, first.id, by="berta"
                )

        real = rollout.gate.run
        with (
            meddled(rollout.gate, "run", after=while_the_gate_looks),
            pytest.raises(IndexStateError, match=f"berta.*index {first.id} is live now"),
        ):
            world.promote(third)
        world.assert_answers(first)
        assert world.states()[third.id] == "building"
    finally:
        other.dispose()


def test_queries_go_on_through_promotions_and_rollbacks_and_never_mix_encoders(
    world: World,
) -> None:
    first, second = world.build("e1"), world.build("e2")
    world.promote(first)
    stop, problems, answered = threading.Event(), list[str](), set[int]()

    def ask() -> None:
        retriever = world.retriever()
        encoder_of = {first.id: "e1", second.id: "e2"}
        while not stop.is_set():
            try:
                hits = retriever.recommend(["k1"], k=1, exclude_seen=False)
            except Exception as cause:  # noqa: BLE001 - whatever it is, the test fails of it
                problems.append(repr(cause))
                return
            answered.add(hits.index_id)
            # a query made of one encoder's vectors finds its item only among the same encoder's
            right = hits.keys == ["k1"] and np.isclose(hits[0].score, 1.0, atol=1e-4)
            if not right or hits.encoder_id != encoder_of[hits.index_id]:
                problems.append(repr(hits))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for _ in range(4):
            world.promote(second)
            world.rollback()
    finally:
        stop.set()
        for thread in asking:
            thread.join(30)
    assert problems == []
    assert first.id in answered
