"""Database and store agree again after one of them was restored from a backup, or lost.

What each belief rests on: fences on the highest that the store holds; index numbers on the
collections that are there; the ledger on nothing, so every item is written in full. Catalog and
ledger lie in one database and were restored to one moment: between them nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from indexer import catalog, collection, entries, indexes
from indexer.errors import CollectionMismatch
from indexer.indexes import Index
from indexer.stores import Collection, VectorStore

# Fences are also raised above those of claims whose writes have not arrived: far more than a
# cluster of workers can have claimed and not written.
MARGIN = 1_000_000

OnProgress = Callable[[Index, int], None]


@dataclass(frozen=True, kw_only=True)
class Reconciled:
    """One index. `made`: its collection was gone, and is there again, empty. `surplus`: points that
    the ledger did not know. `doubted`: entries whose points are in doubt now."""

    index: Index
    made: bool
    surplus: int
    doubted: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """`fence` is the lowest that a write will have from now on. `unknown` are collections of ours
    that no index of this database names, with the aliases that name them."""

    fence: int
    indexes: tuple[Reconciled, ...]
    unknown: Mapping[str, tuple[str, ...]]


def reconcile(
    engine: sa.Engine,
    store: VectorStore,
    *,
    again: bool = True,
    on_progress: OnProgress = lambda _index, _done: None,
) -> Report:
    """Every active index has its collection, no write will be refused as old, and nothing that the
    ledger believes about the store is relied on. With `again` every item is due to be written,
    behind all live changes; without, `verify` has to find what differs. Safe to repeat, and to
    interrupt; workers may run meanwhile."""
    there = dict(_ours(store))
    fence = max((store.last_fence(one) for one, _ in there.values()), default=0)
    fence = entries.raise_fences(engine, fence + MARGIN if fence else 0)
    indexes.raise_ids(engine, above=max((number for _, number in there.values()), default=0))
    done: list[Reconciled] = []
    for index in indexes.active(engine):
        _ensure_there(engine, store, index)
        doubted = _doubt_all(engine, index, again, on_progress)
        surplus = _mark_unknown(engine, store, index)
        made = index.collection not in there
        done.append(Reconciled(index=index, made=made, surplus=surplus, doubted=doubted))
    return Report(fence=fence, indexes=tuple(done), unknown=_unknown(engine, store, there))


def _ensure_there(engine: sa.Engine, store: VectorStore, index: Index) -> None:
    """The collection is there, and the alias of a live index names something."""
    attached = catalog.get_by_id(engine, index.catalog_id)
    vectors = indexes.vectors_of(engine, index)
    store.ensure_collection(collection.spec_of(index, attached, vectors))
    if index.state == "live" and index.alias not in store.aliases():
        store.point_alias(index.alias, index.collection)


def _doubt_all(engine: sa.Engine, index: Index, again: bool, on_progress: OnProgress) -> int:
    done, after = 0, ""
    while keys := entries.doubt(engine, index.id, after=after, again=again):
        done, after = done + len(keys), keys[-1]
        on_progress(index, done)
    return done


def _mark_unknown(engine: sa.Engine, store: VectorStore, index: Index) -> int:
    """Points without an entry are looked at by the next drain: their rows are gone."""
    count = 0
    for batch in store.scroll(index.ref, payload=False):
        unknown = entries.unknown(engine, index.id, [point.key for point in batch])
        if unknown:
            entries.mark(engine, index.id, unknown, lane=0)
            count += len(unknown)
    return count


def _ours(store: VectorStore) -> Iterator[tuple[str, tuple[Collection, int]]]:
    """The collections that Twinspan made, with the number of the index that each was made for."""
    for name in store.collections():
        try:
            spec = store.status(name).spec
        except CollectionMismatch:
            continue
        number = spec.metadata.get("index_id")
        yield name, (spec.collection, number if isinstance(number, int) else 0)


def _unknown(
    engine: sa.Engine, store: VectorStore, there: Mapping[str, tuple[Collection, int]]
) -> dict[str, tuple[str, ...]]:
    known = {one.collection for one in indexes.all_of(engine)}
    named = store.aliases()
    return {
        name: tuple(sorted(alias for alias, target in named.items() if target == name))
        for name in sorted(there)
        if name not in known
    }
