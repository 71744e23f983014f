"""Which index answers, and that it can be taken back; whoever dies in the middle, and wherever."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import rollout_world
import sqlalchemy as sa
from rollout_world import Killed, World, die, meddled

from indexer import catalog, collection, database, entries, history, indexes, rollout, tidying
from indexer.errors import GateRefused, IndexStateError, StoreError, StoreUnavailable
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.stores.edge import EdgeStore


@pytest.fixture
def world(engine: sa.Engine, store: VectorStore, settings: Settings) -> World:
    return rollout_world.make(engine, store, settings)


@pytest.fixture
def edge_world(engine: sa.Engine, edge_store: EdgeStore, settings: Settings) -> World:
    """For what has nothing to do with the kind of store."""
    return rollout_world.make(engine, edge_store, settings)


def killed(verb: Callable[[], object], owner: Any, name: str, when: str) -> None:
    """The verb's process dies before or after that function."""
    with meddled(owner, name, **{when: die}), pytest.raises(Killed):
        verb()


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


PROMOTE_STEPS: tuple[tuple[object, str, str], ...] = (
    (rollout.gate, "run", "before"),
    (rollout.gate, "run", "after"),
    ("store", "point_alias", "before"),
    ("store", "point_alias", "after"),
    (indexes, "make_live", "before"),
    (indexes, "make_live", "after"),
    (history, "conclude", "after"),
    (rollout, "_switch", "after"),
)


def test_a_promotion_or_rollback_that_dies_anywhere_is_healed_by_the_next_look(
    world: World,
) -> None:
    first, second = world.build("e1"), world.build("e2")
    world.promote(first)
    retriever = world.retriever()
    for owner, name, when in PROMOTE_STEPS:
        where = (name, when)
        killed(lambda: world.promote(second), _owner(world, owner), name, when)
        _assert_healed(world, first.id, second.id, where)
        world.assert_answers(world.promote(second), retriever)
        if owner is not rollout.gate:
            killed(world.rollback, _owner(world, owner), name, when)
            _assert_healed(world, first.id, second.id, where)
        if indexes.live(world.engine, "items").id == second.id:
            world.rollback()
        world.assert_answers(first, retriever)
    assert all(outcome != "begun" for _, _, outcome in world.steps())


def _owner(world: World, owner: object) -> object:
    return world.store if owner == "store" else owner


def _assert_healed(world: World, first: int, second: int, where: object) -> None:
    """Queries have an answer at once; after one look, alias and ledger agree, and that is all."""
    answering = world.retriever().similar("k1", k=1).index_id
    world.tidy()
    assert list(world.states().values()).count("live") == 1, where
    assert indexes.live(world.engine, "items").id == answering, where
    world.assert_answers(indexes.live(world.engine, "items"))
    assert not [step for step in world.steps() if step[2] == "begun"], where
    assert world.tidy() == tidying.Tidied(), where


def test_a_switch_whose_answer_was_lost_is_found_out(world: World) -> None:
    first, second = world.build("e1"), world.build("e2")
    world.promote(first)

    def lose(*_: object) -> None:
        raise StoreUnavailable("no answer")

    with (
        meddled(world.store, "point_alias", after=lose),
        pytest.raises(StoreUnavailable),
    ):
        world.promote(second)
    assert world.states()[first.id] == "live"
    assert world.tidy().healed == [second.id]
    world.assert_answers(second)
    assert world.steps()[-1] == ("promote", second.id, "done")


def test_the_ledger_follows_an_alias_that_was_moved_by_hand_and_sets_one_that_is_gone(
    world: World,
) -> None:
    first, second = world.build("e1"), world.build("e2")
    world.promote(first)
    world.store.point_alias("items", second.collection)
    healed = rollout.heal(world.engine, world.store, "items")
    assert healed is not None
    assert healed.id == second.id
    world.assert_answers(second)
    assert world.steps()[-1] == ("repair", second.id, "done")
    world.store.drop_alias("items")
    assert world.tidy().healed == [second.id]
    world.assert_answers(second)


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


def test_retire_never_drops_what_something_names(world: World) -> None:
    first, second = world.build("e1"), world.build("e2")
    with pytest.raises(IndexStateError, match=f"twinspan cancel {first.id}"):
        world.retire(first)
    world.promote(first)
    with pytest.raises(IndexStateError, match="is live under alias"):
        world.retire(first)
    world.promote(second)
    world.store.point_alias("theirs", first.collection)
    with pytest.raises(IndexStateError, match="alias 'theirs' names"):
        world.retire(first)
    world.store.drop_alias("theirs")
    third = world.start("e1")  # the same encoder: it takes over the vectors of the first
    with pytest.raises(IndexStateError, match=f"index {third.id} takes its vectors"):
        world.retire(first)
    with pytest.raises(IndexStateError, match="is standby, not being built"):
        world.cancel(first)
    assert world.store.count(first.ref) == 30
    world.cancel(third)
    assert world.retire(first).state == "retired"
    assert world.store.collections() == [second.collection]
    assert world.partitions() == {second.id}
    assert world.retire(first).state == "retired", "repeating it is no error"
    with pytest.raises(IndexStateError, match="is retired; it cannot go live"):
        world.promote(first)
    with pytest.raises(IndexStateError, match="no standby index"):
        world.rollback()


def test_a_removal_that_dies_anywhere_is_finished_by_the_next_look(world: World) -> None:
    live = world.build("e1")
    world.promote(live)
    steps: tuple[tuple[object, str, str], ...] = (
        (indexes, "set_state_if", "after"),  # nothing is committed
        (collection, "remove", "before"),
        (world.store, "drop_collection", "after"),
        (indexes, "drop_partition", "after"),
    )
    for owner, name, when in steps:
        for verb in (world.cancel, world.retire):
            index = world.start(f"{name}-{verb.__name__}")
            if verb == world.retire:
                indexes.set_state(world.engine, index.id, "standby")
            killed(functools.partial(verb, index), owner, name, when)
            world.insert(f"{index.id}")
            assert world.drain().outages == []
            if name == "set_state_if":
                verb(index)
            world.tidy()
            assert world.states()[index.id] == ("failed" if verb == world.cancel else "retired")
            assert world.store.collections() == [live.collection]
            assert world.partitions() == {live.id}
            assert verb(index).id == index.id, "repeating it is no error"
    assert world.tidy() == tidying.Tidied()
    world.assert_answers(live)


@pytest.mark.parametrize("described_anew", [False, True])
def test_a_worker_in_the_middle_of_a_cancelled_index_leaves_off_quietly(
    world: World, described_anew: bool
) -> None:
    first = world.build("e1")
    world.promote(first)
    second = world.start("e2")
    world.fill(second)
    if described_anew:  # the worker is about to adapt the collection when it vanishes
        anew = catalog.spec.BUILTIN.model_dump(mode="json")
        del anew["returned"]["price"]
        catalog.attach(world.engine, catalog.spec.parse(anew, name="anew"))

    def cancel(*_: object, **__: object) -> None:
        if world.states()[second.id] == "building":
            world.cancel(second)

    with meddled(entries, "claim", after=cancel):
        report = world.drain()
    assert report.outages == []
    assert world.states()[second.id] == "failed"
    assert indexes.get(world.engine, second.id).error == "cancelled"
    assert world.store.collections() == [first.collection]
    assert world.partitions() == {first.id}
    world.insert("after")
    assert world.drain().outages == []
    world.assert_agrees(first, 31)


def test_standbys_are_retired_when_their_time_is_over(world: World) -> None:
    first, second = world.build("e1"), world.build("e2")
    world.promote(first)
    world.promote(second)
    assert world.tidy() == tidying.Tidied()
    world.run("UPDATE indexer.indexes SET standby_at = now() - interval '8 days'")
    assert world.tidy() == tidying.Tidied(retired=[first.id])
    assert world.steps()[-1] == ("retire", first.id, "done")
    world.assert_answers(second)
    indexes.set_state(world.engine, second.id, "standby")
    world.run("UPDATE indexer.indexes SET standby_at = now() - interval '8 days'")
    world.tidy()
    world.assert_answers(second)  # the alias names it: it is live, whatever the ledger believed


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


def test_an_alias_that_names_an_index_that_has_ended_is_set_right_and_never_robbed(
    edge_world: World,
) -> None:
    world = edge_world
    first, second = world.build("e1"), world.build("e2")
    world.promote(first)
    world.promote(second)
    indexes.set_state(world.engine, first.id, "failed", error="by hand")
    world.store.point_alias("items", first.collection)
    with pytest.raises(StoreError, match="alias 'items' names it"):
        collection.remove(world.engine, world.store, first)
    assert world.tidy().healed == [second.id]
    world.assert_answers(second)


def test_a_detached_catalog_takes_its_history_along(edge_world: World) -> None:
    world = edge_world
    first = world.build("e1")
    world.promote(first)
    assert rollout.drop_all(world.engine, world.store, "items") == 1
    assert world.store.aliases() == {}
    assert world.store.collections() == []
    catalog.detach(world.engine, "items")
    assert history.of(world.engine) == []
