"""RetrievalFormer in training: its data as tensors, its loss, and its scores for validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from encoders.batches import Batch
from encoders.dataset import Split
from encoders.evaluate import popularity
from encoders.fusion import Entities
from encoders.retrievalformer import CHUNK, FAMILY, RetrievalFormer, fitting
from encoders.retrievalformer.config import Config
from encoders.retrievalformer.users import history_of
from encoders.types import FloatArray


class Learner:
    """The towers in training: implements encoders.learning.Learner."""

    name = FAMILY

    def __init__(self, encoder: RetrievalFormer, split: Split) -> None:
        data = split.dataset
        self.encoder = encoder
        self.schedule = encoder.config
        self.network = encoder.towers
        self._catalogue = encoder.item_entities(data.items)
        self._profiles = encoder.user_entities(data.user_records)
        share = popularity(split) / split.train.sum()
        self._share = torch.as_tensor(share.astype(np.float32), device=encoder.device)

    @classmethod
    def untrained(cls, config: Config, split: Split, device: str) -> Learner:
        """Weights come from torch's generator: seed it before."""
        data = split.dataset
        fitted = fitting.fit(
            config,
            items=data.items,
            counts=popularity(split).astype(np.int64).tolist(),
            later={data.items[int(row)].key for row in split.later},
            item_features=data.item_features,
            users=data.user_records,
            user_features=data.user_features,
            event_names=data.event_names,
            values=data.value[split.train],
            device=device,
        )
        return cls(RetrievalFormer(config, fitted, device), split)

    def loss(self, batch: Batch) -> Tensor:
        return self.network.loss(batch, self._catalogue, self.profiles_of(batch), self._share)

    @torch.inference_mode()
    def scorer(self) -> Scorer:
        """Scores of the whole catalogue by vectors that are computed here, once."""
        rows = torch.arange(self._catalogue.rows, device=self.encoder.device)
        parts = [
            self.network.items(self._catalogue.take(rows[start : start + CHUNK]))
            for start in range(0, len(rows), CHUNK)
        ]
        newcomers = self.schedule.newcomers
        return Scorer(learner=self, vectors=torch.cat(parts), newcomers=newcomers)

    def profiles_of(self, batch: Batch) -> Entities:
        """Those of the batch's users."""
        return self._profiles.take(torch.as_tensor(batch.user, device=self.encoder.device))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """Implements encoders.evaluate.Scorer: what serving computes, on arrays of event numbers."""

    learner: Learner
    vectors: Tensor  # (N, I)
    newcomers: float  # as the option of this name, which can be another at each query

    @property
    def history(self) -> int:
        return self.learner.schedule.history

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> FloatArray:
        encoder = self.learner.encoder
        past = self.vectors[torch.as_tensor(batch.item, device=encoder.device)]  # (B, L, I)
        profiles = self.learner.profiles_of(batch)
        history = history_of(batch, past, encoder.fitted.values)
        queries = encoder.towers.queries(history, profiles, newcomers=self.newcomers)  # (B, 1, I)
        return (queries[:, 0] @ self.vectors.T).cpu().numpy()
