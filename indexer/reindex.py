"""Building an index with an encoder, and making it the one that answers.

A new index is new rows in the ledger, filled by the same drain as every change: there is no second
code path. It is registered before the backfill reads the first key, so that a change made at any
moment either is seen by the backfill or is routed to the index.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from encoders import artifact
from encoders.types import EncoderInfo
from indexer import catalog, collection, database, entries, indexes
from indexer.errors import IndexStateError, SpecError, StoreError
from indexer.indexes import Index
from indexer.stores import VectorStore

FILL_KEYS = 5_000  # keys of one backfill transaction


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`total` items in the catalog, `filled` in the ledger, `done` in the store; `dirty` are still
    to be worked on, `quarantined` are given up until their row changes."""

    total: int
    filled: bool
    done: int
    dirty: int
    quarantined: int

    @property
    def complete(self) -> bool:
        return self.filled and self.dirty == 0


def start(
    engine: sa.Engine,
    store: VectorStore,
    *,
    catalog_name: str,
    encoder_uri: str,
    alias: str | None = None,
    queue: str = "twinspan",
) -> Index:
    """A new index in state `building`: its collection exists with payload indexes, changes reach
    it from now on, and `fill` can begin. `alias` defaults to the catalog's name. Raises SpecError
    when the catalog lacks a feature that the encoder reads."""
    attached = catalog.get(engine, catalog_name)
    encoder = artifact.describe(encoder_uri)
    check_features(attached, encoder)
    index = indexes.register(
        engine,
        catalog_id=attached.id,
        alias=alias or attached.name,
        encoder=encoder,
        queue=queue,
    )
    try:
        store.ensure_collection(collection.spec_of(index, attached, encoder.vectors))
    except StoreError as cause:
        indexes.set_state(engine, index.id, "failed", error=str(cause))
        raise
    return index


def check_features(attached: catalog.Catalog, encoder: EncoderInfo) -> None:
    """Raises SpecError unless the catalog gives all features that the encoder reads."""
    given = {feature.name: feature.kind for feature in attached.spec.item_features}
    wrong = [
        f"{feature.name} ({feature.kind})"
        for feature in encoder.item_features
        if given.get(feature.name) != feature.kind
    ]
    if wrong:
        raise SpecError(
            f"encoder {encoder.id[:12]} reads features that catalog {attached.name!r} does not "
            f"give: {', '.join(wrong)}. Add them under [features] and attach again, "
            "or train an encoder for this catalog."
        )


def fill(engine: sa.Engine, index: Index) -> Iterator[int]:
    """Give every item of the catalog an entry, in chunks behind a stored cursor; yields the number
    of keys read so far in this call. Interrupted anywhere, the next call goes on from the cursor.
    Two at once do the same work twice and no harm."""
    attached = catalog.get_by_id(engine, index.catalog_id)
    cursor, read = indexes.get(engine, index.id).backfill_cursor, 0
    while True:
        keys = catalog.scan_keys(engine, attached, after=cursor, limit=FILL_KEYS)
        with database.begin(engine) as connection:
            entries.fill(connection, index.id, keys)
            cursor = keys[-1] if keys else cursor
            indexes.advance(connection, index.id, cursor, done=len(keys) < FILL_KEYS)
        read += len(keys)
        yield read
        if len(keys) < FILL_KEYS:
            return


def progress(engine: sa.Engine, index_id: int) -> Progress:
    """How far the index is."""
    index = indexes.get(engine, index_id)
    summary = entries.summary(engine, index_id=index_id).get(index_id)
    return Progress(
        total=catalog.count(engine, catalog.get_by_id(engine, index.catalog_id)),
        filled=index.backfill_done,
        done=summary.present if summary else 0,
        dirty=summary.dirty if summary else 0,
        quarantined=summary.quarantined if summary else 0,
    )


def promote(engine: sa.Engine, store: VectorStore, index_id: int) -> Index:
    """The alias names this index's collection; the one before is standby and keeps receiving
    changes. Raises IndexStateError while the backfill or the queue is not finished, or when
    another promotion of the alias is under way. Repeating it after a crash completes it."""
    index = indexes.get(engine, index_id)
    _check_complete(engine, index)
    with _alias_lock(engine, index.alias):
        store.optimize(index.ref)
        store.point_alias(index.alias, index.collection)
        indexes.make_live(engine, index.id, index.alias)
    return indexes.get(engine, index_id)


def drop(engine: sa.Engine, store: VectorStore, index_id: int) -> None:
    """The index is retired: its collection and its part of the ledger are gone. Raises
    IndexStateError for the live index, unless the alias names another collection by now."""
    index = indexes.get(engine, index_id)
    with _alias_lock(engine, index.alias):
        if index.state == "live" or store.aliases().get(index.alias) == index.collection:
            raise IndexStateError(
                f"index {index.id} is live under alias {index.alias!r}. Promote another first, "
                "or detach the catalog."
            )
        indexes.retire(engine, index.id)  # first: no worker writes to it any more
        store.drop_collection(index.collection)


def drop_all(engine: sa.Engine, store: VectorStore, catalog_name: str) -> int:
    """Every index of the catalog is gone, with its alias: before `detach`. Returns how many."""
    attached = catalog.get(engine, catalog_name)
    mine = [one for one in indexes.all_of(engine) if one.catalog_id == attached.id]
    gone = [one for one in mine if one.state != "retired"]
    for index in gone:
        with _alias_lock(engine, index.alias):
            if store.aliases().get(index.alias) == index.collection:
                store.drop_alias(index.alias)
            indexes.retire(engine, index.id)
            store.drop_collection(index.collection)
    return len(gone)


def _check_complete(engine: sa.Engine, index: Index) -> None:
    if index.state not in indexes.ACTIVE:
        raise IndexStateError(f"index {index.id} is {index.state}; it cannot go live.")
    now = progress(engine, index.id)
    if not now.complete:
        raise IndexStateError(
            f"index {index.id} is not finished: {now.dirty:,} items to go"
            f"{'' if now.filled else ', and the backfill has not read the whole catalog'}. "
            "Run a worker, or `twinspan reindex --wait`."
        )


@contextmanager
def _alias_lock(engine: sa.Engine, alias: str) -> Generator[None]:
    """One promotion or drop per alias at a time, over all machines; held by a connection of its
    own, so that no transaction is open while the store works."""
    key = {"a": indexes.ALIAS_LOCK, "b": alias}
    with (
        database.translated(engine),
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        lock = "SELECT pg_try_advisory_lock(:a, hashtext(:b))"
        if not connection.scalar(sa.text(lock), key):
            raise IndexStateError(
                f"somebody else is changing alias {alias!r} right now. Look at `twinspan status`."
            )
        try:
            yield
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:a, hashtext(:b))"), key)
