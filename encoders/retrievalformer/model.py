"""RetrievalFormer: a feature-only item tower and a causal transformer over item vectors.

The paper: "Transformer-Quality Recommendations with Efficient ANN Retrieval and Cold-Start
Resilience" (ICLR 2026 submission 21558; re-studied by its authors in arXiv 2608.24079).

    item      y_i = unit(AttentionFusion(features of i))
    event     z_t = AttentionFusion({y of its item, what happened, rating, time gap})
    profile   p_u = AttentionFusion(features of u)
    user      x_u = unit(Transformer([z_1 ... z_T, SEP, p_u, CLS]) at CLS)
    score     s(u, i) = x_u . y_i

Departures, and what the paper leaves open:
- The history reaches the user tower as item vectors (at serving those that lie in the index), not
  as item features: one fetch by key instead of features at query time, and the two towers cannot
  disagree on an item. It is what Eq. 6 computes, since the item tower's weights are shared.
- "+" in Eq. 7 is read as the union of a set: tokens {h, context...}, those missing left out.
- Every event of a user is a training target, not one per user: per-position training is what
  strong sequential baselines do. The three tokens SEP, p_u, CLS are appended once per target with
  a mask under which each CLS sees exactly what it will see at serving; nothing is approximated.
- Exact softmax over the whole catalogue while it is small: the authors' re-study found +6.9% and
  +54% Recall@20 over sampled InfoNCE. Beyond `exact_items`, the batch's targets and uniformly drawn
  items stand in for it; each negative is corrected by the log of its chance to be among them. That
  is log-Q for the in-batch part, counts an item that is both only once, and leaves a row's own
  target alone, which is there for certain: the sum then estimates the exact one without bias.
- Vectors have length one and the temperature is learned on the user's side, in training only:
  collections compare by dot product, and a query's length does not change its ranking.
- Positions are not described: each head learns how it forgets with distance (ALiBi's straight
  line and a logarithm), which does not depend on where a window was cut.
- The transformer is pre-norm, since it trains without a long warm-up; AttentionFusion is post-norm
  as in Eqs. 2-4.
- "Feature noising" is not detailed: features are hidden and values taken for unknown at random,
  profiles also whole. In a world where profiles say all, histories were else not learnt at all.
- Titles can be read by a frozen text model besides as words; the paper knows only words.

Shapes: B users, L history events, P targets, T = L + 3P tokens, N items, D width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders import text
from encoders.batches import GAPS, Batch
from encoders.errors import TrainingFailed
from encoders.features import Pipelines, Scale
from encoders.fusion import AttentionFusion, Entities, FeatureTokens, SharedTables
from encoders.options import require

FAMILY = "retrievalformer"
VECTOR = "retrievalformer"
CHUNK = 1_024  # items or users that go through a tower together

_BOUNDS = {
    **dict.fromkeys(("width", "layers", "heads", "expansion", "history"), (1, 4_096)),
    **dict.fromkeys(("vocabulary", "buckets", "uniform_items"), (1, 10_000_000)),
    **dict.fromkeys(("targets", "windows", "validation_users"), (1, 1_000_000)),
    **dict.fromkeys(("epochs", "patience", "exact_items"), (0, 1_000_000_000)),
    **dict.fromkeys(("dropout", "noise", "profile_noise"), (0, 0.9)),
    **dict.fromkeys(("temperature", "learning_rate"), (1e-6, 10)),
    "warm_up": (0, 1),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Defaults for a new data set on two CPU cores. The first group shapes the towers, the second
    is about training only."""

    width: int = 64
    layers: int = 2
    heads: int = 2
    expansion: int = 2  # of the feed-forward layers
    history: int = 50  # newest events read
    text_as: str = "words"  # texts are read as "words", "frozen" (by a text model) or "both"
    text_model: str = text.DEFAULT
    vocabulary: int = 30_000  # values per feature; rarer ones share the buckets
    buckets: int = 256

    dropout: float = 0.1
    noise: float = 0.05  # share of features hidden in training
    profile_noise: float = 0.3  # share of profiles hidden whole in training
    temperature: float = 0.1  # where the learned one begins
    exact_items: int = 20_000  # catalogues up to this size are trained with the exact softmax
    uniform_items: int = 4_096  # drawn per step beyond
    targets: int = 25  # per window; more is faster, with shorter histories
    windows: int = 32  # per step
    learning_rate: float = 5e-3
    warm_up: float = 0.05  # share of all steps
    weight_decay: float = 0.01
    epochs: int = 0  # at most; 0: four, or on little data as many as make 550 steps
    patience: int = 0  # epochs without a better recall; 0: a quarter of all, at least two
    validation_users: int = 2_000  # at most, drawn with the seed

    def __post_init__(self) -> None:
        if self.text_as not in ("words", "frozen", "both"):
            raise TrainingFailed(
                f'text_as must be "words", "frozen" or "both", not {self.text_as!r}'
            )
        require(self, _BOUNDS)
        if self.width % self.heads:
            raise TrainingFailed(f"width {self.width} must be a multiple of heads {self.heads}")


@dataclass(frozen=True, kw_only=True)
class Vocabularies:
    """All that is fitted before training: features of both sides, and what an event can say."""

    pipelines: Pipelines
    event_names: tuple[str, ...]  # () when all events are of one kind
    values: Scale | None  # None when events carry no value


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """Events as tensors, padded at the end; what is missing of an event is -1 or NaN."""

    vectors: Tensor  # (B, L, D)
    event: Tensor  # (B, L)
    value: Tensor  # (B, L, K), scaled
    gap: Tensor  # (B, L)
    length: Tensor  # (B,)
    seen: Tensor  # (B, P): how many events come before each target


class ItemTower(nn.Module):
    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion) -> None:
        super().__init__()
        self.tokens = tokens
        self.fusion = fusion

    def forward(self, items: Entities) -> Tensor:
        """N records -> (N, D), of length one."""
        return F.normalize(self.fusion(*self.tokens(items)), dim=-1)


class EventTower(nn.Module):
    """z: an item's vector fused with what is known of the event."""

    def __init__(self, config: Config, fitted: Vocabularies) -> None:
        super().__init__()
        self.item = nn.Linear(config.width, config.width)
        self.event = nn.Embedding(max(1, len(fitted.event_names)), config.width)
        self.value = nn.Linear(fitted.values.width if fitted.values else 1, config.width)
        self.gap = nn.Embedding(GAPS, config.width)
        self.fusion = fusion_of(config)

    def forward(self, vectors: Tensor, event: Tensor, value: Tensor, gap: Tensor) -> Tensor:
        """E events, (E, D), (E,), (E, K), (E,) -> (E, D)."""
        tokens = (
            self.item(vectors * vectors.shape[-1] ** 0.5),
            self.event(event.clamp(min=0)),
            self.value(value.nan_to_num()),
            self.gap(gap.clamp(min=0)),
        )
        there = torch.ones_like(event, dtype=torch.bool)
        present = (there, event >= 0, ~value[:, 0].isnan(), gap >= 0)
        used = [i for i, mask in enumerate(present) if bool(mask.any())]  # E may have no context
        return self.fusion(
            torch.stack([tokens[i] for i in used], dim=1),  # (E, M, D)
            torch.stack([present[i] for i in used], dim=1),  # (E, M)
        )


class Block(nn.Module):
    """A pre-norm transformer layer whose heads each forget with distance in their own way."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, config.width * config.expansion
        self.heads = config.heads
        self.norm_attend = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.join = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(config.dropout)
        slopes = torch.logspace(-1, -5, config.heads, base=2)  # quick to slow
        self.forget = nn.Parameter(torch.stack([slopes, slopes]).expm1().log())  # (2, H)

    def forward(self, x: Tensor, distance: Tensor, visible: Tensor, last: int) -> Tensor:
        """(B, T, D), (B, T, T) and (B, T, T) -> (B, last, D): only these tokens are computed."""
        B, T, D = x.shape
        normed = self.norm_attend(x)
        q = self.query(normed[:, -last:]).view(B, last, self.heads, -1).transpose(1, 2)
        k, v = self.key_value(normed).view(B, T, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(D // self.heads)  # (B, H, last, T)
        far = distance[:, None, -last:]  # (B, 1, last, T)
        line, curve = F.softplus(self.forget)[..., None, None]  # (H, 1, 1) each
        scores = scores - line * far - curve * far.log1p()
        scores = scores.masked_fill(~visible[:, None, -last:], -1e9)
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, last, D)
        x = x[:, -last:] + self.dropout(self.join(mixed))
        return x + self.dropout(self.feed(self.norm_feed(x)))


class UserTower(nn.Module):
    def __init__(self, config: Config, fitted: Vocabularies, profile: FeatureTokens) -> None:
        super().__init__()
        self.events = EventTower(config, fitted)
        self.profile = profile
        self.profile_fusion = fusion_of(config)
        self.separator = nn.Parameter(torch.randn(config.width))
        self.classify = nn.Parameter(torch.randn(config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, history: History, profiles: Entities) -> Tensor:
        """B users and P targets of each -> (B, P, D), of length one: what CLS says when it has
        seen the first `seen` events, SEP and the profile."""
        P = history.seen.shape[1]
        profile = self.profile_fusion(*self.profile(profiles))[:, None]  # (B, 1, D)
        ends = torch.stack([self.separator, self.classify])[:, None, None]  # (2, 1, 1, D)
        separator, classify = ends.expand(2, *history.seen.shape, -1)  # (B, P, D) each
        x = torch.cat(
            [self._events(history), separator, profile.expand(-1, P, -1), classify], dim=1
        )  # (B, T, D)
        x = self.dropout(x)
        distance, visible = _sight(history)
        for block in self.blocks[:-1]:
            x = block(x, distance, visible, x.shape[1])
        x = self.blocks[-1](x, distance, visible, P)  # (B, P, D): CLS only
        return F.normalize(self.norm(x), dim=-1)

    def _events(self, history: History) -> Tensor:
        """(B, L, D); padding stays 0 and costs nothing."""
        places = torch.arange(history.gap.shape[1], device=history.gap.device)
        real = places < history.length[:, None]  # (B, L)
        z = torch.zeros_like(history.vectors)
        if not bool(real.any()):
            return z
        fused = self.events(
            history.vectors[real], history.event[real], history.value[real], history.gap[real]
        )
        return z.index_put((real,), fused)


class Towers(nn.Module):
    """Both towers on shared tables. Computes its own loss."""

    def __init__(self, config: Config, fitted: Vocabularies, text_width: int | None) -> None:
        super().__init__()
        self.config = config
        self.fitted = fitted
        self.tables = SharedTables(fitted.pipelines.vocabularies, config.width)
        items, profile = (
            FeatureTokens(
                side,
                self.tables,
                width=config.width,
                noise=config.noise,
                hidden=hidden,
                words=config.text_as != "frozen",
                text_width=text_width,
            )
            for side, hidden in (
                (fitted.pipelines.items, 0.0),
                (fitted.pipelines.users, config.profile_noise),
            )
        )
        self.items = ItemTower(items, fusion_of(config))
        self.users = UserTower(config, fitted, profile)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    def loss(self, batch: Batch, catalogue: Entities, profiles: Entities, share: Tensor) -> Tensor:
        """Mean cross-entropy of the batch's targets among the whole catalogue, or among a sample
        of it when it is large. `profiles` are of the batch's users; `share` (N,) says which part
        of all targets each item is."""
        device = share.device
        targets = torch.as_tensor(batch.target, device=device)  # (B, P)
        wanted = targets >= 0
        history = torch.as_tensor(batch.item, device=device)  # (B, L)
        encoded, ranked, chance = self._candidates(targets[wanted], history, share)
        vectors = self.items(catalogue.take(encoded))  # (R, D)
        past = F.embedding(torch.searchsorted(encoded, history), vectors)  # (B, L, D)
        queries = self.users(history_of(batch, past, self.fitted.values), profiles)[wanted]
        columns = F.embedding(torch.searchsorted(encoded, ranked), vectors)  # (C, D)
        logits = self.sharpness.exp().clamp(max=100) * queries @ columns.T - chance.log()
        own = torch.searchsorted(ranked, targets[wanted])[:, None]  # (T, 1)
        logits = logits.scatter_add(1, own, chance.log()[own])  # a row's own target is there anyhow
        return F.cross_entropy(logits, own[:, 0])

    def _candidates(
        self, targets: Tensor, history: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Item numbers to encode (R,) and, of these, to rank (C,), both ascending, and each ranked
        item's chance to be among them: all, or the targets with uniformly drawn items."""
        N, drawn = len(share), self.config.uniform_items
        if self.config.exact_items >= N:
            everything = torch.arange(N, device=share.device)
            return everything, everything, torch.ones(N, device=share.device)
        uniform = torch.randint(N, (drawn,), device=share.device)
        ranked = _unique(torch.cat([targets, uniform]))
        absent = len(targets) * torch.log1p(-share[ranked]) + drawn * math.log1p(-1 / N)
        return _unique(torch.cat([ranked, history.flatten()])), ranked, -torch.expm1(absent)


def fusion_of(config: Config) -> AttentionFusion:
    return AttentionFusion(width=config.width, heads=config.heads, expansion=config.expansion)


def _sight(history: History) -> tuple[Tensor, Tensor]:
    """How far back each token looks and what it may see: (B, T, T) float and bool.

    Events see themselves and those before them. SEP, p and CLS of target p stand after its first
    `seen` events and see those, and what stands before them of their own three.
    """
    seen, device = history.seen, history.seen.device
    (B, P), L = seen.shape, history.gap.shape[1]
    places = torch.arange(L, device=device).expand(B, L)
    position = torch.cat([places, seen, seen, seen], dim=1)  # (B, T)
    distance = (position[:, :, None] - position[:, None, :]).clamp(min=0).float()
    reach = torch.cat([places + 1, seen, seen, seen], dim=1)  # (B, T)
    events = places[:, None, :] < reach[:, :, None]  # (B, T, L)
    three = torch.arange(3 * P, device=device)
    same = three[:, None] % P == three[None, :] % P
    own = same & (three[:, None] >= three[None, :])  # (3P, 3P)
    own = F.pad(own, (0, 0, L, 0)).expand(B, -1, -1)  # (B, T, 3P): events see none of them
    return distance, torch.cat([events, own], dim=2)


def history_of(batch: Batch, vectors: Tensor, values: Scale | None) -> History:
    """The batch as tensors beside the vectors (B, L, D) of its items."""
    device = vectors.device
    shape = batch.value.shape
    if values is None:
        value = np.full((*shape, 1), np.nan, dtype=np.float32)
    else:
        value = values.encode(batch.value.reshape(-1)).reshape(*shape, -1)
    event, gap, length, seen = (
        torch.as_tensor(array, device=device)
        for array in (batch.event, batch.gap, batch.length, batch.seen)
    )
    return History(
        vectors=vectors,
        event=event,
        value=torch.as_tensor(value, device=device),  # (B, L, K)
        gap=gap,
        length=length,
        seen=seen,
    )


def _unique(values: Tensor) -> Tensor:
    """Ascending, each once."""
    return cast(Tensor, cast(Any, torch).unique(values))
