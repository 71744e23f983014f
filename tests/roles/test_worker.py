"""A worker's whole life needs no more rights than its role has."""

from __future__ import annotations

from collections.abc import Callable

import live_world
import pytest
import sqlalchemy as sa
from live_world import ENCODER_ID, HashingTowers, World

from indexer import catalog, changes, database, entries, indexes, ledger, schema, sync, verify
from indexer.catalog import spec
from indexer.errors import DatabaseError
from indexer.settings import Settings
from roles.world import spec_like
from workers import leading, watch


def test_a_workers_whole_life_needs_no_more_rights_than_it_has(
    each_engine: sa.Engine, world: World, role: str, login: Callable[[str], sa.Engine]
) -> None:
    assert catalog.permit(each_engine, role, "worker") is True
    worker = login(role)
    settings = Settings(data_dir="/nonexistent")
    world.insert([f"m{n}" for n in range(40)])
    world.run("DELETE FROM public.items WHERE id IN ('m1', 'm2')")

    def drain() -> sync.Report:
        return sync.drain(worker, world.store, HashingTowers(), settings)  # type: ignore[arg-type]

    assert schema.check(worker) == schema.HEAD
    with leading.Lock(worker, key=watch.LEADER_LOCK, silent_s=60) as lock:  # as the watcher does
        assert lock.take()
        assert lock.look().work
        assert drain().outages == []
        assert changes.pending(worker) == 0
        lock.listen()
    assert world.assert_agrees() == 38

    # an index that is registered later, by its owner, is the worker's work at once
    later = indexes.register(
        each_engine,
        catalog_id=world.index.catalog_id,
        alias="later",
        encoder=live_world.info(ENCODER_ID),
        queue="roles",
    )
    world.store.ensure_collection(spec_like(world, later))
    world.run("UPDATE public.items SET title = title || ' again'")
    drain()
    world.assert_agrees()
    assert world.store.count(later.ref) == 38

    # which it can retire, and whose part of the ledger it can drop, but of no other
    with pytest.raises(DatabaseError, match="has not ended"), database.begin(worker) as one:
        one.execute(sa.text("SELECT indexer.drop_entries(:id)"), {"id": later.id})
    indexes.set_state(worker, later.id, "retired")
    indexes.drop_partition(worker, later.id)
    assert later.id not in ledger.summary(worker)

    # a description that changed, an item that fails, a truncated catalog, what is purged
    described = spec.BUILTIN.model_dump(mode="json")
    del described["returned"]["price"]
    catalog.attach(each_engine, spec.parse(described, name="test"))
    drain()
    assert indexes.get(worker, world.index.id).spec_version == 2
    batch = _claim_one(worker, world)
    entries.fail_if_held(
        worker, batch, {"m3": "boom"}, max_attempts=1, backoff_s=0, backoff_max_s=0
    )
    assert [one.key for one in ledger.failures(worker)] == ["m3"]
    assert entries.retry(worker) == 1
    batch = entries.claim(worker, world.index.id, limit=1, lease_s=60)
    assert batch is not None
    assert entries.release_if_held(worker, batch, ["m3"]) == 1
    world.run("TRUNCATE public.items")
    drain()
    assert world.store.count(world.index.ref) == 0
    assert ledger.summary(worker)[world.index.id].present == 0
    world.run("UPDATE indexer.entries SET changed_at = now() - interval '9 days'")
    assert entries.purge(worker, tombstone_s=60) > 0
    seen = verify.compare(worker, world.store, indexes.get(worker, world.index.id), tower=None)
    assert seen.drift == 0


def _claim_one(worker: sa.Engine, world: World) -> entries.Batch:
    world.run("UPDATE public.items SET title = 'x' WHERE id = 'm3'")
    changes.route(worker, limit=100)
    batch = entries.claim(worker, world.index.id, limit=1, lease_s=60)
    assert batch is not None
    return batch
