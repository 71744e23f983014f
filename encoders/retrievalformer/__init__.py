"""RetrievalFormer as an encoder: what it reads, writes and answers. The towers are in `model`.

Shapes: B users, L history events, N items, I of an item's vector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from encoders import content, features, text
from encoders.batches import Batch, gap_buckets
from encoders.errors import ArtifactDamaged, EncodeFailed, TrainingFailed
from encoders.features import Scale
from encoders.fusion import Entities, entities
from encoders.retrievalformer import contents
from encoders.retrievalformer.config import CONFIGS, Config
from encoders.retrievalformer.items import NEWCOMER, ROWLESS
from encoders.retrievalformer.model import Fitted, Towers
from encoders.retrievalformer.present import Present
from encoders.retrievalformer.users import History, history_of
from encoders.text import FrozenText
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

__all__ = ["CONFIGS", "FAMILY", "VECTOR", "Config", "RetrievalFormer", "build", "read"]

FAMILY = "retrievalformer"
VECTOR = "retrievalformer"
CHUNK = 1_024  # items or users that go through a tower together


class RetrievalFormer:
    """Implements encoders.types.Encoder. Not thread-safe."""

    family = FAMILY
    similar_vector = VECTOR
    payload_fields: tuple[str, ...] = ()

    def __init__(
        self, *, config: Config, fitted: Fitted, frozen: FrozenText | None, device: str
    ) -> None:
        self.config = config
        self.fitted = fitted
        self.frozen = frozen
        self.device = torch.device(device)
        self.towers = Towers(config, fitted, frozen.dimension if frozen else None)
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
            columns, pipeline, self.frozen, self.device, identity=own, contents=contents
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
        return entities(columns, pipeline, self.frozen, self.device)

    def write(self, folder: Path) -> None:
        values = self.fitted.values
        stored = {
            "features": features.to_json(self.fitted.pipelines),
            "keys": list(self.fitted.keys),
            "event_names": list(self.fitted.event_names),
            "values": values.to_json() if values else None,
            "text_width": self.frozen.dimension if self.frozen else None,
        }
        (folder / "vocabularies.json").write_text(json.dumps(stored), encoding="ascii")
        state = {name: weight.cpu() for name, weight in self.towers.state_dict().items()}
        cast(Any, safetensors.torch).save_file(state, folder / "model.safetensors")
        if self.frozen is not None:
            (folder / "text").mkdir()
            self.frozen.write(folder / "text")
        if self.fitted.contents is not None:
            self.fitted.contents.write(folder / "contents")
        if self.fitted.present is not None:
            self.fitted.present.write(folder)

    def _histories(self, states: Sequence[UserState]) -> History:
        """The newest events whose item has a usable vector, padded to the longest."""
        kept = [
            [e for e in state.history if _usable(e, self.dimension)][-self.config.history :]
            for state in states
        ]
        shape = (len(kept), max(1, *map(len, kept)))
        vectors = np.zeros((*shape, self.dimension), dtype=np.float32)
        event = np.full(shape, -1, dtype=np.int64)
        value = np.full(shape, np.nan, dtype=np.float32)
        times = np.full(shape, "NaT", dtype="datetime64[us]")
        names = {name: row for row, name in enumerate(self.fitted.event_names)}
        for row, events in enumerate(kept):
            if events:
                part = (row, slice(len(events)))
                vectors[part] = [one.vectors[VECTOR] for one in events]
                event[part] = [names.get(one.event or "", -1) for one in events]
                value[part] = [math.nan if one.value is None else one.value for one in events]
                times[part] = [_utc(one.occurred_at) for one in events]
        length = np.asarray([len(events) for events in kept], dtype=np.int64)
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


def build(
    config: Config,
    *,
    items: Sequence[ItemRecord],
    counts: Sequence[int],
    later: Collection[str] = (),
    item_features: Sequence[Feature],
    users: Sequence[Mapping[str, object]],
    user_features: Sequence[Feature],
    event_names: Sequence[str],
    values: FloatArray,
    device: str = "cpu",
) -> RetrievalFormer:
    """Untrained towers with everything fitted that is not learnt: to items that have events, so
    many each, since what only others say is never trained, and better taken for unknown. Keys in
    `later` are of items that come after training. `values` are the events'. Weights come from
    torch's generator: seed it before."""
    if not item_features:
        raise TrainingFailed("retrievalformer needs at least one item feature; name some")
    met = [(item, count) for item, count in zip(items, counts, strict=True) if count > 0]
    records = [(f"item {item.key!r}", item.features) for item, _ in met]
    user_records = [(f"user number {row}", record) for row, record in enumerate(users)]
    item_features = features.said(item_features, records) or item_features
    user_features = features.said(user_features, user_records)
    pipelines = features.fit(
        item_features,
        records,
        user_features,
        user_records,
        known=config.vocabulary,
        buckets=config.buckets,
        words=config.reads_words,
    )
    texts = any(f.kind == "text" for f in (*item_features, *user_features))
    frozen = text.load(config.text_model, device=device) if texts and config.reads_frozen else None
    known = values[np.isfinite(values)]
    own_rows = config.identity != "none"
    fitted = Fitted(
        pipelines=pipelines,
        keys=_most_frequent(met, config.vocabulary) if own_rows else (),
        present=Present.of(item.key for item in items if item.key not in later)
        if own_rows
        else None,
        event_names=tuple(event_names) if len(event_names) > 1 else (),
        values=features.fit_scale(known) if len(known) else None,
        contents=contents.fit(
            content.Config(text_model=config.text_model),
            [item for item, _ in met],
            item_features,
            axes=config.content_width,
            device=device,
        )
        if config.content_width
        else None,
    )
    return RetrievalFormer(config=config, fitted=fitted, frozen=frozen, device=device)


def read(
    folder: Path,
    *,
    config: Config,
    item_features: tuple[Feature, ...],
    user_features: tuple[Feature, ...],
    device: str,
) -> RetrievalFormer:
    """The encoder that `write` put there. Raises ArtifactDamaged when the weights do not fit."""
    stored = json.loads((folder / "vocabularies.json").read_text(encoding="ascii"))
    fitted = Fitted(
        pipelines=features.from_json(stored["features"], item_features, user_features),
        keys=tuple(stored["keys"]),
        present=Present.read(folder) if config.identity != "none" else None,
        event_names=tuple(stored["event_names"]),
        values=Scale.from_json(stored["values"]) if stored["values"] else None,
        contents=contents.read(folder / "contents", features=item_features, device=device)
        if config.content_width
        else None,
    )
    width = stored["text_width"]
    frozen = text.read(folder / "text", dimension=width, device=device) if width else None
    encoder = RetrievalFormer(config=config, fitted=fitted, frozen=frozen, device=device)
    state = cast(Any, safetensors.torch).load_file(folder / "model.safetensors", device=device)
    try:
        encoder.towers.load_state_dict(state, strict=True)
    except RuntimeError as cause:
        raise ArtifactDamaged(f"{folder}: its weights are of another shape: {cause}") from cause
    return encoder


def _most_frequent(met: Sequence[tuple[ItemRecord, int]], limit: int) -> tuple[str, ...]:
    """By falling count, then by key: the order of the items must not show."""
    ordered = sorted((-count, item.key) for item, count in met)
    return tuple(key for _, key in ordered[:limit])


def _usable(event: HistoryItem, width: int) -> bool:
    vector = event.vectors.get(VECTOR)
    return vector is not None and vector.shape == (width,) and bool(np.isfinite(vector).all())


def _utc(moment: datetime | None) -> np.datetime64:
    """NaT for None; a time without a zone is taken as UTC."""
    if moment is None:
        return np.datetime64("NaT", "us")
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(moment, "us")
