"""The towers of this process: each encoder loaded once, by digest, one thread at a time.

Importing this imports no torch; loading an encoder does.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from encoders import artifact
from encoders.types import EncodedItems, Encoder, ItemRecord
from indexer.settings import Settings


class Tower:
    """An encoder with the lock that lets several threads share it."""

    def __init__(self, encoder_id: str, encoder: Encoder) -> None:
        self.id = encoder_id
        self.encoder = encoder
        self.lock = threading.Lock()

    def encode_items(self, records: Sequence[ItemRecord]) -> EncodedItems:
        with self.lock:
            return self.encoder.encode_items(records)


class Towers:
    """Encoders by id. An index names its encoder by digest, and gets exactly that one or an
    EncoderError: never "the latest"."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: dict[str, Tower] = {}
        self._lock = threading.Lock()

    def get(self, encoder_id: str, uri: str) -> Tower:
        """Loaded on first use. Raises EncoderError when it is missing, damaged or unknown."""
        with self._lock:
            tower = self._loaded.get(encoder_id)
            if tower is None:
                tower = self._load(encoder_id, uri)
                self._loaded[encoder_id] = tower
            return tower

    def add(self, encoder_id: str, encoder: Encoder) -> Tower:
        """Use an encoder that is loaded already, under that id."""
        with self._lock:
            tower = self._loaded[encoder_id] = Tower(encoder_id, encoder)
            return tower

    def keep_only(self, encoder_ids: Sequence[str]) -> None:
        """Forget the encoders that no index names any more."""
        with self._lock:
            self._loaded = {id_: self._loaded[id_] for id_ in encoder_ids if id_ in self._loaded}

    def _load(self, encoder_id: str, uri: str) -> Tower:
        import torch

        torch.set_num_threads(self._settings.torch_threads)
        encoder = artifact.load(
            uri,
            expected_id=encoder_id,
            device=self._settings.device,
            cache_dir=self._settings.data_dir / "cache" / "encoders",
        )
        return Tower(encoder_id, encoder)
