"""The user tower: events become tokens, a causal transformer reads them, one output is the user.

Two ways to read a user out. `last`: [p_u, z_1 ... z_L], the answer after z_t is the output at z_t,
so that one pass answers for every prefix. `cls`, the paper's: [z_1 ... z_L, SEP, p_u, CLS], the
last three appended once per target.

Shapes: B users, L history events, P targets, T tokens, E events together, D width,
I of an item's vector as it is read, K of contents, V of a scaled value, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.batches import GAPS, Batch
from encoders.features import Scale
from encoders.fusion import AttentionFusion, Entities, FeatureTokens
from encoders.layers import GatedLayer, Layer, SwiGLU, pick
from encoders.retrievalformer.config import Config

# How far back each token looks, the logarithm of that, and -inf where it must not look; each is
# (B or 1, 1, T, T).
Sight = tuple[Tensor, Tensor, Tensor]

HALF_LIFE = 10.0  # events after which what was had counts half, before anything is learnt
QUIET = 0.1  # spread of what context adds to an event before it has learnt anything


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """Events as tensors, padded at the end; what is missing of an event is -1 or NaN."""

    vectors: Tensor  # (B, L, I); whole, as the item tower makes them, until `Towers.queries`
    event: Tensor  # (B, L)
    value: Tensor  # (B, L, V), scaled
    gap: Tensor  # (B, L)
    length: Tensor  # (B,)
    seen: Tensor  # (B, P): how many events come before each target


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What data decide: kinds of event, 0 where one kind is all and says nothing; widths of scaled
    values, of items' vectors, of contents."""

    events: int
    value: int
    item: int  # I
    contents: int  # K


class Context(nn.Module):
    """What can be known of an event, as tokens beside its item's vector."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__()
        self.kinds = sizes.events
        self.item = nn.Linear(sizes.item, config.width)
        self.event = nn.Embedding(max(1, sizes.events), config.width)
        self.value = nn.Linear(sizes.value, config.width)
        self.gap = nn.Embedding(GAPS, config.width)

    def tokens(self, history: History) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Four of (B, L, D), and whether each is there, (B, L)."""
        scale = history.vectors.shape[-1] ** 0.5
        tokens = (
            self.item(history.vectors * scale),
            self.event(history.event.clamp(min=0)),
            self.value(history.value.nan_to_num()),
            self.gap(history.gap.clamp(min=0)),
        )
        known = ~history.value[..., 0].isnan()
        there = torch.ones_like(known)
        kind = (history.event >= 0) & (history.event < self.kinds)
        return tokens, (there, kind, known, history.gap >= 0)


class SumOfContext(Context):
    """z = item + what is known of the event."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        for table in (self.event, self.gap):
            nn.init.normal_(table.weight, std=QUIET)

    def forward(self, history: History) -> Tensor:
        """(B, L, D)"""
        tokens, present = self.tokens(history)
        z = tokens[0]
        for token, there in zip(tokens[1:], present[1:], strict=True):
            if bool(there.any()):
                z = z + token * there[..., None]
        return z


class FusionOfContext(Context):
    """z = AttentionFusion({item, what is known of the event}): Eq. 7 of the paper."""

    def __init__(self, config: Config, sizes: Sizes) -> None:
        super().__init__(config, sizes)
        self.fusion = fusion_of(config)

    def forward(self, history: History) -> Tensor:
        """(B, L, D); padding stays 0 and costs nothing."""
        places = torch.arange(history.gap.shape[1], device=history.gap.device)
        real = places < history.length[:, None]  # (B, L)
        z = history.vectors.new_zeros(*real.shape, self.item.out_features)
        if not bool(real.any()):
            return z
        tokens, present = self.tokens(history)
        used = [i for i, there in enumerate(present) if bool(there[real].any())]
        fused = self.fusion(
            torch.stack([tokens[i][real] for i in used], dim=1),  # (E, M, D)
            torch.stack([present[i][real] for i in used], dim=1),  # (E, M)
        )
        return z.index_put((real,), fused)


class Forgetting(nn.Module):
    """Each head forgets with distance in its own way: a straight line and a logarithm."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        slopes = torch.logspace(-1, -5, heads, base=2)  # quick to slow
        self.slopes = nn.Parameter(torch.stack([slopes, slopes]).expm1().log())  # (2, H)

    def forward(self, sight: Sight) -> Tensor:
        """(B or 1, H, P, T), to be added to the scores of the tokens whose sight it is."""
        line, curve = F.softplus(self.slopes)[..., None, None]  # (H, 1, 1) each
        distance, logarithm, hidden = sight
        return hidden - line * distance - curve * logarithm


class ContentHead(nn.Module):
    """What the user had, and may want next, in terms of contents, which are taken as they are: it
    holds for items that nobody has met. Begins as the mean that `content` makes, which forgets with
    distance; attention learns what else to look at, a map what goes with what, a gate how much all
    that counts, and the transformer adds what it expects by itself."""

    def __init__(self, width: int, contents: int) -> None:
        super().__init__()
        self.width = width
        self.part = slice(width, width + contents)  # of an item's vector
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.map = nn.Linear(contents, contents, bias=False)
        self.gate, self.expected = nn.Linear(width, 1), nn.Linear(width, contents)
        nn.init.eye_(self.map.weight)
        for silent in (self.query, self.gate, self.expected):
            nn.init.zeros_(silent.weight)
            nn.init.zeros_(silent.bias)
        self.slope = nn.Parameter(torch.tensor(math.log(math.expm1(math.log(2) / HALF_LIFE))))

    def forward(self, outputs: Tensor, events: Tensor, history: History) -> Tensor:
        """(B, P, K): what was had, as long as the gate says, and what is expected."""
        contents = F.normalize(history.vectors[..., self.part], dim=-1)  # (B, L, K)
        places = torch.arange(contents.shape[1], device=contents.device)
        back = history.seen[..., None] - 1 - places  # (B, P, L); below 0 for what comes later
        scores = self.query(outputs) @ self.key(events).transpose(1, 2) * self.width**-0.5
        scores = scores - F.softplus(self.slope) * back
        weights = scores.masked_fill(back < 0, torch.finfo(scores.dtype).min).softmax(dim=-1)
        means = (weights * (back >= 0)) @ contents  # of nothing, where nothing came before
        had = F.normalize(self.map(means), dim=-1) * self.gate(outputs).exp()
        return had + self.expected(outputs)


class UserTower(nn.Module):
    """What both ways share."""

    def __init__(self, config: Config, profile: FeatureTokens, sizes: Sizes) -> None:
        super().__init__()
        context = SumOfContext if config.context == "sum" else FusionOfContext
        self.events = context(config, sizes)
        self.profile = profile
        self.profile_fusion = fusion_of(config)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.layers))
        self.forgetting = nn.ModuleList(
            Forgetting(config.heads)
            for _ in range(config.layers if config.positions == "distance" else 0)
        )
        self.norm = nn.LayerNorm(config.width)
        self.contents = ContentHead(config.width, sizes.contents) if sizes.contents else None

    def outputs(self, x: Tensor, sight: Sight, asked: Tensor) -> Tensor:
        """(B, T, D) -> (B, P, D): what comes out at the tokens numbered `asked` (B, P). Where these
        are few, as in serving, the last layer computes them only."""
        few = 2 * asked.shape[1] < x.shape[1]
        for number, layer in enumerate(self.layers):
            if few and number == len(self.layers) - 1:
                whole = (part[:, 0].expand(len(x), -1, -1) for part in sight)  # (B, T, T) each
                distance, logarithm, hidden = (pick(part, asked)[:, None] for part in whole)
                x = layer(x, self._bias(number, (distance, logarithm, hidden)), asked)
            else:
                x = layer(x, self._bias(number, sight))
        return self.norm(x if few else pick(x, asked))

    def _bias(self, number: int, sight: Sight) -> Tensor:
        """(B or 1, H or 1, P, T) of a layer."""
        return self.forgetting[number](sight) if len(self.forgetting) else sight[2]

    def read_out(self, outputs: Tensor, events: Tensor, history: History) -> Tensor:
        """(B, P, D + K), of length one, from outputs (B, P, D) and events (B, L, D)."""
        learned = F.normalize(outputs, dim=-1)
        if self.contents is None:
            return learned
        contents = self.contents(outputs, events, history)
        return F.normalize(torch.cat([learned, contents], dim=-1), dim=-1)

    def profiles(self, profiles: Entities) -> Tensor:
        """(B, 1, D)"""
        return self.profile_fusion(*self.profile(profiles))[:, None]


class LastEventTower(UserTower):
    """The output at an event is the user after it; users without events are read at their profile,
    which stands first and is never forgotten."""

    def __init__(self, config: Config, profile: FeatureTokens, sizes: Sizes) -> None:
        super().__init__(config, profile, sizes)
        learned = config.positions == "learned"
        self.places = nn.Embedding(config.history, config.width) if learned else None
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=QUIET)

    def forward(self, history: History, profiles: Entities) -> Tensor:
        """B users and P targets of each -> (B, P, D + K), of length one."""
        z = self.events(history)  # (B, L, D)
        L = z.shape[1]
        if self.places is not None:
            places = torch.arange(L, device=z.device)
            z = z + self.places((history.length[:, None] - 1 - places).clamp(min=0))
        x = self.dropout(torch.cat([self.profiles(profiles), z], dim=1))  # (B, T, D)
        outputs = self.outputs(x, _sight(L + 1, z.device), history.seen)
        return self.read_out(outputs, z, history)


class ClsTower(UserTower):
    """The output at CLS is the user, when it has seen the events before the target, SEP and p."""

    def __init__(self, config: Config, profile: FeatureTokens, sizes: Sizes) -> None:
        super().__init__(config, profile, sizes)
        self.separator = nn.Parameter(torch.randn(config.width))
        self.classify = nn.Parameter(torch.randn(config.width))

    def forward(self, history: History, profiles: Entities) -> Tensor:
        """B users and P targets of each -> (B, P, D + K), of length one."""
        P = history.seen.shape[1]
        profile = self.profiles(profiles).expand(-1, P, -1)  # (B, P, D)
        ends = torch.stack([self.separator, self.classify])[:, None, None]  # (2, 1, 1, D)
        separator, classify = ends.expand(2, *history.seen.shape, -1)  # (B, P, D) each
        z = self.events(history)  # (B, L, D)
        x = torch.cat([z, separator, profile, classify], dim=1)  # (B, T, D)
        T = x.shape[1]
        asked = torch.arange(T - P, T, device=x.device).expand(len(x), P)  # every CLS
        outputs = self.outputs(self.dropout(x), _sight_of_targets(history), asked)
        return self.read_out(outputs, z, history)


def build(config: Config, profile: FeatureTokens, sizes: Sizes) -> UserTower:
    """The tower that the options ask for."""
    kind = LastEventTower if config.readout == "last" else ClsTower
    return kind(config, profile, sizes)


def fusion_of(config: Config) -> AttentionFusion:
    return AttentionFusion(width=config.width, heads=config.heads, expansion=config.expansion)


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
        value=torch.as_tensor(value, device=device),  # (B, L, V)
        gap=gap,
        length=length,
        seen=seen,
    )


def _layer(config: Config) -> Layer:
    width, hidden = config.width, config.expansion * config.width
    if config.gated:
        return GatedLayer(
            width=width, heads=config.heads, dropout=config.dropout, feed=SwiGLU(width, hidden)
        )
    feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
    return Layer(width=width, heads=config.heads, dropout=config.dropout, feed=feed)


def _sight(T: int, device: torch.device) -> Sight:
    """Events see themselves and those before them; the first token, the profile, is near to all."""
    places = torch.arange(T, device=device)
    back = places[:, None] - places[None, :]  # (T, T)
    distance = back.clamp(min=0).float()
    distance[:, 0] = 0
    hidden = torch.zeros(T, T, device=device).masked_fill(back < 0, -torch.inf)
    return distance[None, None], distance.log1p()[None, None], hidden[None, None]


def _sight_of_targets(history: History) -> Sight:
    """Events see themselves and those before them. SEP, p and CLS of target p stand after its first
    `seen` events and see those, and what stands before them of their own three."""
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
    visible = torch.cat([events, own], dim=2)
    hidden = torch.zeros(visible.shape, device=device).masked_fill(~visible, -torch.inf)
    return distance[:, None], distance.log1p()[:, None], hidden[:, None]
