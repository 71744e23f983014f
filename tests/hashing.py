"""A small deterministic encoder for tests of the protocol: no torch, no training, exact answers.

It is a real encoder by the seam's terms: a title's words become a normalised vector. Titles
can ask it to fail, which a trained tower does only by accident: POISON raises, NAN gives a vector
that is not finite, SLOW takes its time.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np

from encoders.errors import EncodeFailed
from encoders.types import (
    EncodedItems,
    EncoderInfo,
    Feature,
    FloatArray,
    HistoryNeeds,
    ItemRecord,
    UserQuery,
    UserState,
    VectorSpec,
)

DIMENSION = 16


class HashingEncoder:
    """`before` is called with the records of every batch: a place to look, wait or die."""

    family = "hashing"
    vectors = (VectorSpec(name="hashing", dimension=DIMENSION),)
    item_features = (Feature(name="title", kind="text"),)
    user_features: tuple[Feature, ...] = ()
    history = HistoryNeeds(vectors=("hashing",))
    similar_vector = "hashing"
    payload_fields: tuple[str, ...] = ()

    def __init__(
        self, *, salt: str = "", before: Callable[[Sequence[ItemRecord]], None] | None = None
    ):
        self.salt = salt
        self.before = before
        self.broken = False
        self.encoded = 0
        self.passes = 0

    def encode_items(self, records: Sequence[ItemRecord]) -> EncodedItems:
        self.passes += 1
        if self.before:
            self.before(records)
        if self.broken:
            raise RuntimeError("the tower is broken")
        rows = [self._vector(record) for record in records]
        self.encoded += len(rows)
        return EncodedItems(vectors={"hashing": np.stack(rows)} if rows else {"hashing": _empty()})

    def encode_users(self, states: Sequence[UserState]) -> list[UserQuery]:
        return [UserQuery(vector="hashing", values=_mean(state)) for state in states]

    def _vector(self, record: ItemRecord) -> FloatArray:
        title = str(record.features.get("title") or "")
        if "POISON" in title:
            raise EncodeFailed(f"item {record.key!r} is poison")
        if "SLOW" in title:
            time.sleep(0.01)
        if "NAN" in title:
            return np.full(DIMENSION, np.nan, dtype=np.float32)
        return _normalised(
            sum((_word(self.salt + word) for word in title.split()), _word(self.salt))
        )


def info(encoder_id: str, uri: str = "memory://hashing") -> EncoderInfo:
    """The facts under which a test registers the encoder."""
    return EncoderInfo(
        id=encoder_id,
        family="hashing",
        uri=uri,
        vectors=HashingEncoder.vectors,
        item_features=HashingEncoder.item_features,
        user_features=(),
        history=HashingEncoder.history,
        facts={},
        metrics={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _word(word: str) -> FloatArray:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    return np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)


def _mean(state: UserState) -> FloatArray:
    vectors = [item.vectors["hashing"] for item in state.history]
    return _normalised(np.mean(vectors, axis=0) if vectors else np.ones(DIMENSION, np.float32))


def _normalised(vector: FloatArray) -> FloatArray:
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def _empty() -> FloatArray:
    return np.empty((0, DIMENSION), dtype=np.float32)
