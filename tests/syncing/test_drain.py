"""What is committed is in the store after a drain, and nothing is done twice."""

from __future__ import annotations

import numpy as np

from encoders.types import ItemRecord
from indexer import catalog, entries, filters, indexes
from indexer.catalog import spec
from syncing.world import World


def test_what_is_committed_is_in_the_store_after_a_drain(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(1_500)))
    report = world.drain()
    assert (report.encoded, report.failed, report.lost) == (1_500, 0, 0)
    world.assert_agrees(1_500)
    world.run("UPDATE public.items SET title = 'changed ' || id WHERE id < 'k2'")
    world.run("DELETE FROM public.items WHERE id >= 'k8'")
    world.insert("new")
    world.drain()
    left = world.store.count(world.index.ref)
    world.assert_agrees(left)
    assert left < 1_500


def test_a_drain_with_nothing_to_do_touches_nothing(world: World) -> None:
    world.insert("a")
    world.drain()
    report = world.drain()
    assert (report.items, report.batches, report.routed) == (0, 0, 0)


def test_unchanged_content_is_not_encoded_again_and_a_changed_payload_alone_is_written(
    world: World,
) -> None:
    world.insert("a", "b")
    world.drain()
    before = world.encoder.encoded
    world.run("UPDATE public.items SET title = title || ' '")
    world.run("UPDATE public.items SET title = rtrim(title)")
    report = world.drain()
    assert (report.skipped, report.encoded) == (2, 0)
    world.run(
        "UPDATE public.items SET attributes = attributes || '{\"year\": 1999}' WHERE id = 'a'"
    )
    report = world.drain()
    assert report.encoded + report.payload_only == 1
    assert world.encoder.encoded <= before + 1
    world.assert_agrees(2)


def test_truncate_empties_the_index(world: World) -> None:
    world.insert(*(f"k{n}" for n in range(100)))
    world.drain()
    world.run("TRUNCATE public.items")
    assert world.drain().deleted == 100
    world.assert_agrees(0)
    world.insert("k1")
    world.drain()
    world.assert_agrees(1)


def test_a_point_that_vanished_is_written_again_when_marked(world: World) -> None:
    world.insert("a")
    world.drain()
    world.store.delete_if_newer(world.index.ref, ["a"], fence=2**40)
    entries.mark(world.engine, world.index.id, ["a"], lane=1)
    world.drain()
    world.assert_agrees(1)


def test_stored_vectors_are_what_the_tower_gives(world: World) -> None:
    world.insert("a")
    world.drain()
    stored = world.store.fetch(world.index.ref, ["a"], vectors=["hashing"])["a"]
    fresh = world.encoder.encode_items([_record(world, "a")]).vectors["hashing"][0]
    assert np.array_equal(stored.vectors["hashing"], fresh)


def test_a_changed_description_reaches_collections_that_exist(world: World) -> None:
    world.insert("a", "b")
    world.drain()
    described = spec.BUILTIN.model_dump(mode="json")
    described["filters"]["subtitle"] = {"kind": "keyword", "column": "attributes", "path": ["sub"]}
    described["returned"]["subtitle"] = {"column": "attributes", "path": ["sub"]}
    world.run(
        "UPDATE public.items SET attributes = attributes || '{\"sub\": \"x\"}' WHERE id = 'a'"
    )
    world.drain()
    catalog.attach(world.engine, spec.parse(described, name="described anew"))
    report = world.drain()
    assert report.payload_only == 1, "only what differs is written, and nothing is encoded"
    assert report.encoded == 0
    status = world.store.status(world.index.collection)
    assert status.spec.fields["subtitle"] == "keyword"
    assert "subtitle" in status.spec.metadata["returned"]
    where = filters.parse({"subtitle": "x"}, status.spec.fields)
    assert world.store.count(world.index.ref, where) == 1
    world.assert_agrees(2)
    assert indexes.get(world.engine, world.index.id).spec_version == 2


def _record(world: World, key: str) -> ItemRecord:
    item = catalog.read(world.engine, catalog.get(world.engine, "items"), [key])[key]
    return ItemRecord(key=key, features=item.features)
