"""Rows that change, and what a worker asks of the ledger: no store, no model."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from encoders.types import EncoderInfo, HistoryNeeds, VectorSpec
from indexer import database, entries
from indexer.entries import Batch, Written
from indexer.indexes import Index

ENCODER = EncoderInfo(
    id="e" * 40,
    family="content",
    uri="/nowhere",
    vectors=(VectorSpec(name="content", dimension=4),),
    item_features=(),
    user_features=(),
    history=HistoryNeeds(vectors=("content",)),
    facts={},
    metrics={},
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def run(engine: sa.Engine, statement: str, **parameters: object) -> None:
    with database.begin(engine) as connection:
        connection.execute(sa.text(statement), parameters)


def insert(engine: sa.Engine, *keys: str) -> None:
    run(
        engine,
        "INSERT INTO public.items (id, title) SELECT k, k FROM unnest(CAST(:keys AS text[])) AS k",
        keys=list(keys),
    )


def row(engine: sa.Engine, index: Index, key: str) -> sa.RowMapping:
    with database.begin(engine) as connection:
        found = "SELECT * FROM indexer.entries WHERE index_id = :i AND item_key = :k"
        return connection.execute(sa.text(found), {"i": index.id, "k": key}).mappings().one()


def claim(engine: sa.Engine, index: Index, *, limit: int = 100, lease_s: float = 60) -> Batch:
    batch = entries.claim(engine, index.id, limit=limit, lease_s=lease_s)
    assert batch is not None
    return batch


def keys_of(batch: Batch | None) -> list[str]:
    return [] if batch is None else [one.key for one in batch.claims]


def ack(engine: sa.Engine, batch: Batch) -> int:
    written = [
        Written(claim=one, present=True, content_hash=b"c", payload_hash=b"p")
        for one in batch.claims
    ]
    return entries.ack_if_held(engine, batch, written, read_at=datetime.now(UTC))


def fail(engine: sa.Engine, batch: Batch, *, max_attempts: int = 2) -> int:
    errors = {one.key: "it hurts\x00" for one in batch.claims}
    return entries.fail_if_held(
        engine, batch, errors, max_attempts=max_attempts, backoff_s=0, backoff_max_s=0
    )


def expire(engine: sa.Engine) -> None:
    run(engine, "UPDATE indexer.entries SET lease_until = now() WHERE lease_until IS NOT NULL")
