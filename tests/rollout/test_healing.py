"""Whoever dies in the middle, and wherever: the next look heals it, by what the alias names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
from rollout_world import Killed, World, die, meddled

from indexer import collection, history, indexes, rollout, tidying
from indexer.errors import StoreError, StoreUnavailable

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


def killed(verb: Callable[[], object], owner: Any, name: str, when: str) -> None:
    """The verb's process dies before or after that function."""
    with meddled(owner, name, **{when: die}), pytest.raises(Killed):
        verb()
