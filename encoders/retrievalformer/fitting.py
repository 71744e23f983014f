"""What is fitted to the data before anything is learnt, and stored beside the weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from encoders import content, features, text
from encoders.errors import TrainingFailed
from encoders.features import Pipeline, Pipelines, Scale
from encoders.retrievalformer import contents
from encoders.retrievalformer.config import Config
from encoders.retrievalformer.contents import Contents
from encoders.retrievalformer.present import Present
from encoders.text import FrozenText
from encoders.types import Feature, FloatArray, ItemRecord

FILE = "vocabularies.json"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """Features of both sides, what an event can say, and what items are."""

    pipelines: Pipelines
    keys: tuple[str, ...]  # of items with a vector of their own, the most frequent first
    present: Present | None  # all items that training knew of; None without vectors of their own
    event_names: tuple[str, ...]  # () when all events are of one kind
    values: Scale | None  # None when events carry no value
    frozen: FrozenText | None  # None where no token is a text's frozen vector
    contents: Contents | None  # None without a part of vectors for it

    def write(self, folder: Path) -> None:
        """All that `read` needs, in the folder."""
        stored = {
            "features": features.to_json(self.pipelines),
            "keys": list(self.keys),
            "event_names": list(self.event_names),
            "values": self.values.to_json() if self.values else None,
            "text_width": self.frozen.dimension if self.frozen else None,
        }
        (folder / FILE).write_text(json.dumps(stored), encoding="ascii")
        if self.frozen is not None:
            (folder / "text").mkdir()
            self.frozen.write(folder / "text")
        if self.contents is not None:
            self.contents.write(folder / "contents")
        if self.present is not None:
            self.present.write(folder)


def fit(
    config: Config,
    *,
    items: Sequence[ItemRecord],
    counts: Sequence[int],
    later: Collection[str],
    item_features: Sequence[Feature],
    users: Sequence[Mapping[str, object]],
    user_features: Sequence[Feature],
    event_names: Sequence[str],
    values: FloatArray,
    device: str,
) -> Fitted:
    """To items that have events, so many each, since what only others say is never trained, and
    better taken for unknown. Keys in `later` are of items that come after training. `values` are
    the events'."""
    if not item_features:
        raise TrainingFailed("retrievalformer needs at least one item feature; name some")
    met = [(item, count) for item, count in zip(items, counts, strict=True) if count > 0]
    records = [(f"item {item.key!r}", item.features) for item, _ in met]
    user_records = [(f"user number {row}", record) for row, record in enumerate(users)]
    item_features = features.said(item_features, records) or item_features
    user_features = features.said(user_features, user_records)
    known = values[np.isfinite(values)]
    pipelines = features.fit(
        item_features,
        records,
        user_features,
        user_records,
        known=config.vocabulary,
        buckets=config.buckets,
        words=config.words,
    )
    return Fitted(
        pipelines=pipelines,
        keys=_own(config, met, pipelines.items) if config.own_rows else (),
        present=_present(items, later) if config.own_rows else None,
        event_names=tuple(event_names) if len(event_names) > 1 else (),
        values=features.fit_scale(known) if len(known) else None,
        frozen=_frozen(config, (*item_features, *user_features), device),
        contents=_contents(config, [item for item, _ in met], item_features, device),
    )


def read(
    folder: Path,
    *,
    config: Config,
    item_features: tuple[Feature, ...],
    user_features: tuple[Feature, ...],
    device: str,
) -> Fitted:
    """What `write` put there."""
    stored = json.loads((folder / FILE).read_text(encoding="ascii"))
    width = stored["text_width"]
    return Fitted(
        pipelines=features.from_json(stored["features"], item_features, user_features),
        keys=tuple(stored["keys"]),
        present=Present.read(folder) if config.own_rows else None,
        event_names=tuple(stored["event_names"]),
        values=Scale.from_json(stored["values"]) if stored["values"] else None,
        frozen=text.read(folder / "text", dimension=width, device=device) if width else None,
        contents=contents.read(folder / "contents", features=item_features, device=device)
        if config.content_width
        else None,
    )


def _own(config: Config, met: Sequence[tuple[ItemRecord, int]], items: Pipeline) -> tuple[str, ...]:
    """Keys of items with a vector of their own, by falling count, then by key: the order of the
    items must not show."""
    least = config.own_events if config.counts_events and items.reads_words else 1
    ordered = sorted((-count, item.key) for item, count in met if count >= least)
    return tuple(key for _, key in ordered[: config.vocabulary])


def _present(items: Sequence[ItemRecord], later: Collection[str]) -> Present:
    return Present.of(item.key for item in items if item.key not in later)


def _frozen(config: Config, said: Sequence[Feature], device: str) -> FrozenText | None:
    if not config.reads_frozen or all(feature.kind != "text" for feature in said):
        return None
    return text.load(config.text_model, device=device)


def _contents(
    config: Config, met: Sequence[ItemRecord], item_features: Sequence[Feature], device: str
) -> Contents | None:
    if not config.content_width:
        return None
    options = content.Config(text_model=config.text_model)
    return contents.fit(options, met, item_features, axes=config.content_width, device=device)
