"""Several indexes of one catalog, brought forward by the same drain."""

from __future__ import annotations

import pytest
from hashing import HashingEncoder, info

from indexer import catalog, collection, indexes, reindex, rollout
from indexer.errors import IndexStateError
from syncing.world import World, build


def test_an_index_whose_encoder_is_missing_is_left_alone_and_others_go_on(world: World) -> None:
    attached = catalog.get(world.engine, "items")
    orphan = indexes.register(
        world.engine,
        catalog_id=attached.id,
        alias="orphan",
        encoder=info("f" * 40, uri=str(world.settings.data_dir / "nowhere")),
        queue="twinspan",
    )
    world.insert("a")
    report = world.drain()
    assert f"index {orphan.id}" in report.outages[0]
    world.assert_agrees(1)


def test_a_second_index_is_built_by_the_same_drain_and_promoted(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(200)))
    world.drain()
    first = rollout.promote(world.engine, world.store, world.towers, world.settings, world.index.id)
    assert (first.state, world.store.aliases()) == ("live", {"items": first.collection})
    second = build(world, HashingEncoder(salt="other"), "e2")
    with pytest.raises(IndexStateError, match="200 items"):
        rollout.promote(world.engine, world.store, world.towers, world.settings, second.id)
    world.run("UPDATE public.items SET title = 'during the build' WHERE id = 'k7'")
    world.run("DELETE FROM public.items WHERE id = 'k8'")
    world.drain()
    world.assert_agrees(199)
    world.assert_agrees(199, second)
    live = rollout.promote(world.engine, world.store, world.towers, world.settings, second.id)
    assert world.store.aliases() == {"items": live.collection}
    assert indexes.get(world.engine, first.id).state == "standby"
    world.insert("later")
    world.drain()
    world.assert_agrees(200)
    world.assert_agrees(200, second)
    with pytest.raises(IndexStateError, match="is live"):
        rollout.retire(world.engine, world.store, second.id)
    rollout.retire(world.engine, world.store, first.id)
    assert world.store.collections() == [live.collection]
    world.insert("last")
    world.drain()
    world.assert_agrees(201, second)


def test_a_fresh_change_of_the_live_index_waits_for_one_batch_of_a_backfill(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(700)))
    world.drain()
    rollout.promote(world.engine, world.store, world.towers, world.settings, world.index.id)
    fresh_at: list[bool] = []

    def before(_: object) -> None:
        if not fresh_at:
            world.insert("fresh")
        fresh_at.append("fresh" in world.store.fetch(world.index.ref, ["fresh"]))

    second = build(world, HashingEncoder(salt="2", before=before), "e2")
    world.drain(index_id=second.id)
    assert fresh_at[:2] == [False, True]
    world.assert_agrees(701)
    world.assert_agrees(701, second)


def test_a_backfill_goes_on_where_it_was_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reindex, "FILL_KEYS", 100)
    world.insert(*(f"k{n:04d}" for n in range(450)))
    attached = catalog.get(world.engine, "items")
    world.towers.add("e2", HashingEncoder(salt="2"))
    second = indexes.register(
        world.engine, catalog_id=attached.id, alias="items", encoder=info("e2"), queue="twinspan"
    )
    world.store.ensure_collection(collection.spec_of(second, attached, info("e2").vectors))
    world.drain()
    interrupted = reindex.fill(world.engine, second)
    assert [next(interrupted), next(interrupted)] == [100, 200]
    interrupted.close()
    assert not reindex.progress(world.engine, second.id).filled
    assert list(reindex.fill(world.engine, second)) == [100, 200, 250]
    assert reindex.progress(world.engine, second.id).filled
    world.drain()
    assert reindex.progress(world.engine, second.id).complete
    world.assert_agrees(450, second)
