"""Building an index with an encoder.

A new index is new rows in the ledger, filled by the same drain as every change: there is no second
code path. It is registered before the backfill reads the first key, so that a change made at any
moment either is seen by the backfill or is routed to the index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from encoders import artifact
from encoders.types import EncoderInfo, VectorSpec
from indexer import adoption, catalog, collection, database, entries, history, indexes, ledger, pace
from indexer.errors import CatalogError, IndexStateError, SpecError, StoreError, TwinspanError
from indexer.indexes import Index
from indexer.stores import VectorStore

log = logging.getLogger(__name__)

IN_FLIGHT_SHARE = 10  # at most a tenth of a complete index may be on its way
FILL_KEYS = 5_000  # keys of one backfill transaction


@dataclass(frozen=True, kw_only=True)
class Progress:
    """`total` items in the catalog, `filled` in the ledger, `done` in the store; `dirty` are still
    to be worked on, `quarantined` are given up until their row changes. `rate` is what the workers
    did within the last minute, in items a second (None: nothing), `left_s` what the rest takes at
    that rate. `complete` when all is there but changes that have just been made."""

    total: int
    filled: bool
    done: int
    dirty: int
    quarantined: int
    complete: bool
    rate: float | None
    left_s: float | None

    def __str__(self) -> str:
        if self.complete:
            return f"{self.done:,} of {self.total:,} items, complete"
        pace = "nobody works on it" if self.rate is None else f"{self.rate:,.0f}/s"
        left = (
            "" if self.left_s is None else f", about {timedelta(seconds=round(self.left_s))} left"
        )
        return f"{self.done:,} of {self.total:,} items, {pace}{left}"


def start(
    engine: sa.Engine,
    store: VectorStore,
    *,
    catalog_name: str,
    encoder_uri: str,
    alias: str | None = None,
    queue: str = "twinspan",
    adopt: str | None = None,
    trust: bool = False,
    by: str | None = None,
) -> Index:
    """As `start_with`, with the encoder that lies at that address."""
    encoder = artifact.describe(encoder_uri)
    return start_with(
        engine,
        store,
        catalog_name=catalog_name,
        encoder=encoder,
        alias=alias,
        queue=queue,
        adopt=adopt,
        trust=trust,
        by=by,
    )


def start_with(
    engine: sa.Engine,
    store: VectorStore,
    *,
    catalog_name: str,
    encoder: EncoderInfo,
    alias: str | None = None,
    queue: str = "twinspan",
    adopt: str | None = None,
    trust: bool = False,
    by: str | None = None,
) -> Index:
    """A new index in state `building`: its collection exists with payload indexes, changes reach
    it from now on, and `fill` can begin. `alias` defaults to the catalog's name, `by` (who asked)
    to the database's user. Vectors that this encoder made of the same content are taken over from
    collection `adopt`, by default from an index of this catalog and encoder; `trust` vouches for a
    collection that does not name its encoder. Raises SpecError when the catalog lacks a feature
    that the encoder reads, CollectionMismatch when the collection cannot be adopted. Killed in the
    middle, it leaves an index that `resume` completes or `cancel` gives up."""
    attached = catalog.get(engine, catalog_name)
    check_features(attached, encoder)
    alias = attached.name if alias is None else alias
    adopts = adoption.choose(engine, store, attached, encoder, adopt=adopt, trust=trust)
    with database.begin(engine) as connection:
        index_id = indexes.add(
            connection,
            catalog_id=attached.id,
            alias=alias,
            encoder=encoder,
            queue=queue,
            adopts=adopts,
        )
        history.record(
            connection,
            index_id=index_id,
            alias=alias,
            action="start",
            by=by,
            report={"encoder": encoder.id, "adopts": adopts},
        )
    index = indexes.get(engine, index_id)
    try:
        return _prepare(engine, store, index, attached, encoder.vectors)
    except StoreError as cause:
        indexes.set_state(engine, index.id, "failed", error=str(cause))
        _remove_if_possible(engine, store, index)
        raise


def resume(engine: sa.Engine, store: VectorStore, index_id: int) -> Index:
    """The index is still being built, or is built, and its collection is there: `fill` can go on.
    Raises IndexStateError for one that has ended."""
    index = check_not_ended(indexes.get(engine, index_id))
    if index.spec_version:
        return index
    attached = catalog.get_by_id(engine, index.catalog_id)
    return _prepare(engine, store, index, attached, indexes.vectors_of(engine, index))


def check_not_ended(index: Index) -> Index:
    """The same index. Raises IndexStateError for one that has ended."""
    if index.state not in indexes.ACTIVE:
        said = f" ({index.error})" if index.error else ""
        raise IndexStateError(f"index {index.id} is {index.state}{said}: start a new one instead.")
    return index


def _prepare(
    engine: sa.Engine,
    store: VectorStore,
    index: Index,
    attached: catalog.Catalog,
    vectors: Sequence[VectorSpec],
) -> Index:
    """The collection is there with its payload indexes; only then do workers get the index."""
    store.ensure_collection(collection.spec_of(index, attached, vectors))
    if not indexes.is_active(engine, index.id):  # whoever cancelled it may have come too early
        collection.remove(engine, store, index)
        raise IndexStateError(f"index {index.id} was cancelled meanwhile.")
    indexes.set_spec_version(engine, index.id, attached.spec_version)
    return indexes.get(engine, index.id)


def _remove_if_possible(engine: sa.Engine, store: VectorStore, index: Index) -> None:
    try:
        collection.remove(engine, store, index)
    except TwinspanError as cause:
        log.warning("what is left of index %d goes later: %s", index.id, cause)


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
    Two at once do the same work twice and no harm. Raises IndexStateError when the index was
    cancelled or retired."""
    attached = catalog.get_by_id(engine, index.catalog_id)
    cursor, read = indexes.get(engine, index.id).backfill_cursor, 0
    while True:
        keys = catalog.scan_keys(engine, attached, after=cursor, limit=FILL_KEYS)
        with database.begin(engine) as connection:
            if not indexes.hold_active(connection, index.id):
                raise IndexStateError(f"index {index.id} was cancelled or retired meanwhile.")
            entries.fill(connection, index.id, keys)
            cursor = keys[-1] if keys else cursor
            indexes.advance(connection, index.id, cursor, done=len(keys) < FILL_KEYS)
        read += len(keys)
        yield read
        if len(keys) < FILL_KEYS:
            return


def progress(engine: sa.Engine, index_id: int, *, total: int | None = None) -> Progress:
    """How far the index is. `total` saves counting the catalog, for those who look often; where it
    cannot be counted (its table is gone), the ledger's items are all there is to say."""
    index = indexes.get(engine, index_id)
    summary = ledger.summary(engine, index_id=index_id).get(index_id)
    rate = pace.rate(engine, index_id) if index.state == "building" else None
    done, quarantined = (summary.present, summary.quarantined) if summary else (0, 0)
    dirty = summary.dirty if summary else 0
    complete = index.backfill_done and (summary is None or _only_in_flight(summary))
    if total is None:
        total = _count(engine, index) or done + quarantined + dirty
    left = dirty if index.backfill_done else max(dirty, total - done - quarantined)
    return Progress(
        total=total,
        filled=index.backfill_done,
        done=done,
        dirty=dirty,
        quarantined=quarantined,
        complete=complete,
        rate=rate,
        left_s=0.0 if complete else left / rate if rate else None,
    )


def _count(engine: sa.Engine, index: Index) -> int | None:
    try:
        return catalog.count(engine, catalog.get_by_id(engine, index.catalog_id))
    except CatalogError:
        return None


def _only_in_flight(summary: ledger.Summary) -> bool:
    """Nothing is dirty, or little is, and that only for a moment: catalogs that change all the time
    are never clean."""
    if summary.dirty == 0:
        return True
    young = summary.oldest_s is None or summary.oldest_s < ledger.IN_FLIGHT_S
    return summary.backfill == 0 and young and summary.dirty * IN_FLIGHT_SHARE <= summary.present
