"""Which items were there when the towers learnt: 64 bits of each key, in order.

With ten million items, one of ten million new ones is taken for an old one in one of 200,000
catalogues.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from encoders.features import stable_hash

FILE = "present.safetensors"


class Present:
    """A set of item keys that can be asked and stored, not listed."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self._hashes = hashes  # ascending

    @classmethod
    def of(cls, keys: Iterable[str]) -> Present:
        return cls(np.unique(_hashes(keys)))

    @classmethod
    def read(cls, folder: Path) -> Present:
        return cls(cast(Any, safetensors.numpy).load_file(folder / FILE)["hashes"])

    def write(self, folder: Path) -> None:
        cast(Any, safetensors.numpy).save_file({"hashes": self._hashes}, folder / FILE)

    def has(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """(N,)"""
        wanted = _hashes(keys)
        places = np.searchsorted(self._hashes, wanted)
        there = places < len(self._hashes)
        there[there] = self._hashes[places[there]] == wanted[there]
        return there


def _hashes(keys: Iterable[str]) -> NDArray[np.uint64]:
    return np.fromiter((stable_hash(key) for key in keys), dtype=np.uint64)
