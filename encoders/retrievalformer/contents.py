"""What items are, before anything is learned: content vectors, turned to the catalogue's main axes.

The family `content` compares items without training, and does so for an item that nobody has met as
well as for any other. Its vectors are wide; their principal axes keep most of each dot product.

Shapes: N items, W width of a content vector, K axes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.numpy

from encoders import content
from encoders.content import ContentEncoder
from encoders.types import Feature, FloatArray, ItemRecord

_CHUNK = 4_096  # items whose content vectors are held at once while axes are sought


class Contents:
    """`axes` (W, K) are orthonormal."""

    def __init__(self, encoder: ContentEncoder, axes: FloatArray) -> None:
        self.encoder = encoder
        self.axes = axes

    @property
    def dimension(self) -> int:
        return self.axes.shape[1]

    def encode(self, records: Sequence[ItemRecord]) -> FloatArray:
        """(N, K), rows of length one; 0 for an item that says nothing."""
        return content.unit(_blocks(self.encoder, records) @ self.axes)

    def write(self, folder: Path) -> None:
        """The folder holds all that `read` needs; it must not exist yet."""
        folder.mkdir()
        self.encoder.write(folder)
        (folder / "content.json").write_text(json.dumps(asdict(self.encoder.config)), "ascii")
        cast(Any, safetensors.numpy).save_file({"axes": self.axes}, folder / "axes.safetensors")


def fit(
    config: content.Config,
    items: Sequence[ItemRecord],
    features: Sequence[Feature],
    *,
    axes: int,
    device: str = "cpu",
) -> Contents:
    """The main axes of these items' content vectors, at most so many."""
    unknown = np.ones(len(items), dtype=np.float32)  # popularity matters to users only
    encoder = content.fit(config, items, features, popularity=unknown, device=device)
    gram = sum(part.T @ part for part in _parts(encoder, items))  # (W, W)
    _, vectors = np.linalg.eigh(gram)  # ascending
    return Contents(encoder, np.ascontiguousarray(vectors[:, ::-1][:, :axes]))


def read(folder: Path, *, features: tuple[Feature, ...], device: str) -> Contents:
    """What `write` put there. Raises ValueError when its parts are not of one fit."""
    stored = json.loads((folder / "content.json").read_text("ascii"))
    encoder = content.read(
        folder,
        config=content.Config(**stored),
        item_features=features,
        user_features=(),
        device=device,
    )
    axes = cast(Any, safetensors.numpy).load_file(folder / "axes.safetensors")["axes"]
    (vector,) = encoder.vectors
    width = (vector.dimension or 0) - 1  # without the last entry, as in `_blocks`
    if axes.ndim != 2 or axes.shape[0] != width:
        raise ValueError(f"axes of shape {axes.shape} for content of width {width}")
    return Contents(encoder, axes)


def _parts(encoder: ContentEncoder, items: Sequence[ItemRecord]) -> Iterator[FloatArray]:
    for start in range(0, len(items), _CHUNK):
        yield _blocks(encoder, items[start : start + _CHUNK])


def _blocks(encoder: ContentEncoder, records: Sequence[ItemRecord]) -> FloatArray:
    """(N, W): without the last entry, which marks an item that says nothing."""
    vectors = encoder.encode_items(records).vectors[content.VECTOR]
    return cast(FloatArray, vectors)[:, :-1]
