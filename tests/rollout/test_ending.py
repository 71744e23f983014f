"""Indexes that end: retired, cancelled under a worker, out of time, detached with their catalog."""

from __future__ import annotations

import pytest
from rollout_world import World, meddled

from indexer import catalog, entries, history, indexes, rollout, tidying
from indexer.errors import IndexStateError


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


def test_a_detached_catalog_takes_its_history_along(edge_world: World) -> None:
    world = edge_world
    first = world.build("e1")
    world.promote(first)
    assert rollout.drop_all(world.engine, world.store, "items") == 1
    assert world.store.aliases() == {}
    assert world.store.collections() == []
    catalog.detach(world.engine, "items")
    assert history.of(world.engine) == []
