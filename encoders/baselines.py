"""Sequential recommenders that know items by their identity: what a feature tower is compared with.

SASRec (Kang & McAuley 2018, arXiv 1808.09781) with the softmax over all items in place of one
negative per event, which later studies found to be worth a third of its recall. eSASRec (arXiv
2508.06450): LiGR layers, whose residual branches are gated, and a sampled softmax. A plain
two-tower model: the mean of the history against the item, both through an MLP.

They are measured by the same harness, on the same batches, as the towers that are served. They know
no item that was not there when they were trained, so none of them can keep an index open.

Departures: padding is at the end, and positions are counted from the newest event back; a user
without events is asked with a learned vector; norms come first in SASRec's layers too, since that
trains more evenly; the rate falls by a cosine; eSASRec draws negatives for each window, whose
targets share them, not for each target. Tables begin small, as in SASRec's code: an item that few
have met then says little, and not something at random.

Shapes: B users, L events, P targets, T real targets of a batch, N items, D width, M features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders import features, softmax
from encoders.batches import Batch
from encoders.dataset import Dataset, Split
from encoders.errors import TrainingFailed
from encoders.fusion import Entities, FeatureTokens, SharedTables, entities
from encoders.layers import GatedLayer, Layer, SwiGLU
from encoders.options import require
from encoders.types import FloatArray

_BOUNDS = {
    **dict.fromkeys(("width", "layers", "heads", "history", "targets", "windows"), (1, 4_096)),
    **dict.fromkeys(("epochs", "patience", "negatives", "validation_users"), (0, 1_000_000)),
    "dropout": (0, 0.9),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 64
    layers: int = 2
    heads: int = 1
    gated: bool = False  # LiGR layers instead of plain ones
    negatives: int = 0  # drawn for each window; 0: the softmax goes over all items
    dropout: float = 0.2

    history: int = 200
    targets: int = 200
    windows: int = 128
    learning_rate: float = 1e-3
    warm_up: float = 0.0
    weight_decay: float = 0.0
    epochs: int = 100
    patience: int = 10
    validation_users: int = 10_000

    def __post_init__(self) -> None:
        require(self, _BOUNDS)
        if self.width % self.heads:
            raise TrainingFailed(f"width {self.width} must be a multiple of heads {self.heads}")


NAMES = ("two-tower", "sasrec", "esasrec")


def configure(name: str, config: Config) -> Config:
    """The options that make the named model of these."""
    match name:
        case "esasrec":
            return replace(config, gated=True, negatives=config.negatives or 256)
        case "sasrec" | "two-tower":
            return replace(config, gated=False)
        case _:
            raise TrainingFailed(f"no baseline is called {name!r}; there are {', '.join(NAMES)}")


class SASRec(nn.Module):
    """Items and places are embedded; the last output is asked for items by dot product."""

    def __init__(self, items: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.items = nn.Embedding(items, config.width)
        self.places = nn.Embedding(config.history, config.width)
        self.start = nn.Parameter(torch.zeros(config.width))
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.items, self.places):
            nn.init.xavier_normal_(table.weight)

    def item_vectors(self) -> Tensor:
        """(N, D)"""
        return self.items.weight

    def queries(self, batch: Batch, vectors: Tensor) -> Tensor:
        """(B, P, D): what each target is asked with, given what came before it."""
        device = vectors.device
        items = torch.as_tensor(batch.item, device=device)  # (B, L)
        length = torch.as_tensor(batch.length, device=device)
        L = items.shape[1]
        back = (length[:, None] - 1 - torch.arange(L, device=device)).clamp(min=0)  # (B, L)
        x = F.embedding(items, vectors) * self.config.width**0.5 + self.places(back)
        x = self.dropout(x)  # (B, L, D)
        for layer in self.layers:
            x = layer(x)
        return _before(self.norm(x), torch.as_tensor(batch.seen, device=device), self.start)


class TwoTower(nn.Module):
    """An item is its identity and the mean of its features, a user the mean of the items."""

    def __init__(
        self, tokens: FeatureTokens, tables: SharedTables, items: Entities, config: Config
    ):
        super().__init__()
        self.config = config
        self.tables = tables
        self.tokens = tokens
        self.features = items
        self.items = nn.Embedding(items.rows, config.width)
        self.item_tower, self.user_tower = _mlp(config), _mlp(config)
        self.start = nn.Parameter(torch.zeros(config.width))
        nn.init.xavier_normal_(self.items.weight)

    def item_vectors(self) -> Tensor:
        """(N, D)"""
        tokens, present = self.tokens(self.features)  # (N, M, D), (N, M)
        weights = present.to(tokens.dtype) / present.sum(dim=1, keepdim=True).clamp(min=1)
        pooled = torch.bmm(weights[:, None, :], tokens)[:, 0]  # (N, D)
        return self.item_tower(self.items.weight + pooled)

    def queries(self, batch: Batch, vectors: Tensor) -> Tensor:
        """(B, P, D)"""
        device = vectors.device
        past = F.embedding(torch.as_tensor(batch.item, device=device), vectors)  # (B, L, D)
        counts = torch.arange(1, past.shape[1] + 1, device=device)[None, :, None]
        means = past.cumsum(dim=1) / counts  # (B, L, D): of the first events
        before = _before(means, torch.as_tensor(batch.seen, device=device), self.start)
        return self.user_tower(before)


class Learner:
    """A baseline in training: implements encoders.learning.Learner."""

    def __init__(self, name: str, network: SASRec | TwoTower, split: Split) -> None:
        self.name = name
        self.network = network
        self.schedule = network.config
        self.items = len(split.dataset.items)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the batch's targets among all items, or among as many negatives, which
        are drawn for each window."""
        vectors = self.network.item_vectors()  # (N, D)
        targets = torch.as_tensor(batch.target, device=vectors.device)  # (B, P)
        queries = self.network.queries(batch, vectors)  # (B, P, D)
        real = targets >= 0
        if not self.schedule.negatives:
            return softmax.cross_entropy(queries[real], vectors, targets[real], None)
        own = (queries * F.embedding(targets.clamp(min=0), vectors)).sum(dim=2, keepdim=True)
        shape = len(targets), self.schedule.negatives
        drawn = torch.randint(self.items, shape, device=vectors.device)
        others = queries @ F.embedding(drawn, vectors).transpose(1, 2)  # (B, P, negatives)
        others = others.masked_fill(drawn[:, None] == targets[..., None], -torch.inf)
        scores = torch.cat([own, others], dim=2)[real]  # (T, 1 + negatives)
        return F.cross_entropy(scores, torch.zeros_like(targets[real]))

    @torch.inference_mode()
    def scorer(self) -> Scorer:
        return Scorer(network=self.network, vectors=self.network.item_vectors())


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """Implements encoders.evaluate.Scorer."""

    network: SASRec | TwoTower
    vectors: Tensor  # (N, D)

    @property
    def history(self) -> int:
        return self.network.config.history

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> FloatArray:
        queries = self.network.queries(batch, self.vectors)[:, 0]  # (B, D)
        return (queries @ self.vectors.T).cpu().numpy()


def build(name: str, config: Config, split: Split, *, device: str = "cpu") -> Learner:
    """An untrained baseline by name. Weights come from torch's generator: seed it before."""
    config = configure(name, config)
    data = split.dataset
    network = (
        _two_tower(config, data, torch.device(device))
        if name == "two-tower"
        else SASRec(len(data.items), config)
    )
    return Learner(name, network.to(device), split)


def _two_tower(config: Config, data: Dataset, device: torch.device) -> TwoTower:
    records = [(f"item {item.key!r}", item.features) for item in data.items]
    pipelines = features.fit(data.item_features, records, (), [], known=30_000, buckets=256)
    tables = SharedTables(pipelines.vocabularies, config.width)
    tokens = FeatureTokens(
        pipelines.items,
        tables,
        width=config.width,
        noise=0.0,
        hidden=0.0,
        text_width=None,
    )
    items = entities(pipelines.items.read(records), pipelines.items, None, device)
    return TwoTower(tokens, tables, items, config)


def _layer(config: Config) -> Layer:
    width, heads, dropout = config.width, config.heads, config.dropout
    if config.gated:
        feed = SwiGLU(width, 4 * width)
        return GatedLayer(width=width, heads=heads, dropout=dropout, feed=feed)
    feed = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    return Layer(width=width, heads=heads, dropout=dropout, feed=feed)


def _mlp(config: Config) -> nn.Sequential:
    width = config.width
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(2 * width, width),
    )


def _before(outputs: Tensor, seen: Tensor, start: Tensor) -> Tensor:
    """(B, P, D): of (B, L, D) the output of the last event before each target (B, P)."""
    rows = (seen - 1).clamp(min=0)[..., None].expand(-1, -1, outputs.shape[-1])
    chosen = outputs.gather(1, rows)  # (B, P, D)
    return cast(Any, torch).where((seen > 0)[..., None], chosen, start)
