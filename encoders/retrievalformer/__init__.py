"""RetrievalFormer as an encoder: what it reads, writes and answers. The towers are in `model`.

Shapes: B users, L history events, N items, I of an item's vector.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from encoders.batches import Batch, gap_buckets
from encoders.errors import ArtifactDamaged, EncodeFailed
from encoders.fusion import Entities, entities
from encoders.retrievalformer import fitting
from encoders.retrievalformer.config import CONFIGS, Config
from encoders.retrievalformer.fitting import Fitted
from encoders.retrievalformer.items import NEWCOMER, ROWLESS
from encoders.retrievalformer.model import Towers
from encoders.retrievalformer.users import History, history_of
from encoders.types import (
    EncodedItems,
    Feature,
    FloatArray,
    HistoryItem,
    HistoryNeeds,
    ItemRecord,
    UserQuery,
    UserState,
    VectorSpec,
)

__all__ = ["CONFIGS", "FAMILY", "VECTOR", "Config", "RetrievalFormer", "read"]

FAMILY = "retrievalformer"
VECTOR = "retrievalformer"
WEIGHTS = "model.safetensors"
CHUNK = 1_024  # items or users that go through a tower together


class RetrievalFormer:
    """Implements encoders.types.Encoder. Not thread-safe."""

    family = FAMILY
    similar_vector = VECTOR
    payload_fields: tuple[str, ...] = ()

    def __init__(self, config: Config, fitted: Fitted, device: str = "cpu") -> None:
        """Untrained: weights come from torch's generator, which is to be seeded before."""
        self.config = config
        self.fitted = fitted
        self.device = torch.device(device)
        self.towers = Towers(config, fitted)
        self.towers.to(self.device).eval()
        self.vectors = (VectorSpec(name=VECTOR, dimension=self.dimension),)
        self.item_features = fitted.pipelines.items.features
        self.user_features = fitted.pipelines.users.features
        self.history = HistoryNeeds(vectors=(VECTOR,), limit=config.history)
        self._own = {key: row for row, key in enumerate(fitted.keys)}

    @property
    def dimension(self) -> int:
        """Of its vectors."""
        return self.towers.items.dimension

    @torch.inference_mode()
    def encode_items(self, records: Sequence[ItemRecord]) -> EncodedItems:
        vectors = np.zeros((len(records), self.dimension), dtype=np.float32)
        for start in range(0, len(records), CHUNK):
            chunk = records[start : start + CHUNK]
            encoded = self.towers.items(self.item_entities(chunk)).cpu().numpy()
            vectors[start : start + CHUNK] = encoded
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            raise EncodeFailed(f"item {records[int(bad.argmax())].key!r}: no finite vector")
        return EncodedItems(vectors={VECTOR: vectors})

    @torch.inference_mode()
    def encode_users(self, states: Sequence[UserState]) -> list[UserQuery]:
        queries: list[UserQuery] = []
        for start in range(0, len(states), CHUNK):
            chunk = states[start : start + CHUNK]
            profiles = self.user_entities([state.features for state in chunk])
            encoded = self.towers.queries(
                self._histories(chunk), profiles, newcomers=self.config.newcomers
            )[:, 0]  # (B, I)
            encoded = F.normalize(encoded, dim=-1)
            queries.extend(
                UserQuery(vector=VECTOR, values=values) for values in encoded.cpu().numpy()
            )
        return queries

    def item_entities(self, records: Sequence[ItemRecord]) -> Entities:
        pipeline = self.fitted.pipelines.items
        columns = pipeline.read([(f"item {one.key!r}", one.features) for one in records])
        own = self._identity([one.key for one in records])
        contents = self.fitted.contents.encode(records) if self.fitted.contents else None
        return entities(
            columns, pipeline, self.fitted.frozen, self.device, identity=own, contents=contents
        )

    def _identity(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """(N,): the row of an item's own, or why there is none."""
        rows = np.asarray([self._own.get(key, ROWLESS) for key in keys], dtype=np.int64)
        if self.fitted.present is not None:
            without = np.flatnonzero(rows == ROWLESS)
            there = self.fitted.present.has([keys[int(row)] for row in without])
            rows[without[~there]] = NEWCOMER
        return rows

    def user_entities(self, records: Sequence[Mapping[str, object]]) -> Entities:
        pipeline = self.fitted.pipelines.users
        columns = pipeline.read([("the user", record) for record in records])
        return entities(columns, pipeline, self.fitted.frozen, self.device)

    def write(self, folder: Path) -> None:
        self.fitted.write(folder)
        state = {name: weight.cpu() for name, weight in self.towers.state_dict().items()}
        cast(Any, safetensors.torch).save_file(state, folder / WEIGHTS)

    def _histories(self, states: Sequence[UserState]) -> History:
        """The newest events whose item has a usable vector, padded to the longest."""
        kept = [self._usable(state.history) for state in states]
        shape = (len(kept), max(1, *(len(events) for events, _ in kept)))
        vectors = np.zeros((*shape, self.dimension), dtype=np.float32)
        event = np.full(shape, -1, dtype=np.int64)
        value = np.full(shape, np.nan, dtype=np.float32)
        times = np.full(shape, "NaT", dtype="datetime64[us]")
        names = {name: row for row, name in enumerate(self.fitted.event_names)}
        for row, (events, found) in enumerate(kept):
            part = (row, slice(len(events)))
            vectors[part] = found
            event[part] = [names.get(one.event or "", -1) for one in events]
            value[part] = [math.nan if one.value is None else one.value for one in events]
            times[part] = [_utc(one.occurred_at) for one in events]
        length = np.asarray([len(events) for events, _ in kept], dtype=np.int64)
        batch = Batch(
            user=np.zeros(len(kept), dtype=np.int64),
            item=np.zeros(shape, dtype=np.int64),
            event=event,
            value=value,
            gap=gap_buckets(times),
            length=length,
            seen=length[:, None],
            target=np.full((len(kept), 1), -1),
        )
        return history_of(batch, torch.as_tensor(vectors, device=self.device), self.fitted.values)

    def _usable(self, history: Sequence[HistoryItem]) -> tuple[Sequence[HistoryItem], FloatArray]:
        """The newest events whose item has a vector that can be read, and these (L, I)."""
        shape = (self.dimension,)
        found = [(one, one.vectors.get(VECTOR)) for one in history]
        fitting = [(one, it) for one, it in found if it is not None and it.shape == shape]
        vectors = np.array([it for _, it in fitting], np.float32).reshape(-1, *shape)
        finite = np.isfinite(vectors).all(axis=1)
        newest = np.flatnonzero(finite)[-self.config.history :]  # (L,)
        rows: list[int] = newest.tolist()
        return [fitting[row][0] for row in rows], vectors[newest]


def read(
    folder: Path,
    *,
    config: Config,
    item_features: tuple[Feature, ...],
    user_features: tuple[Feature, ...],
    device: str,
) -> RetrievalFormer:
    """The encoder that `write` put there. Raises ArtifactDamaged when the weights do not fit."""
    fitted = fitting.read(
        folder,
        config=config,
        item_features=item_features,
        user_features=user_features,
        device=device,
    )
    encoder = RetrievalFormer(config, fitted, device)
    state = cast(Any, safetensors.torch).load_file(folder / WEIGHTS, device=device)
    try:
        encoder.towers.load_state_dict(state, strict=True)
    except RuntimeError as cause:
        raise ArtifactDamaged(f"{folder}: its weights are of another shape: {cause}") from cause
    return encoder


def _utc(moment: datetime | None) -> datetime | None:
    """As numpy takes it; a time without a zone is one of UTC."""
    if moment is None or moment.tzinfo is None:
        return moment
    return moment.astimezone(UTC).replace(tzinfo=None)
