"""The item tower: what is learned of an item, beside what it is.

Shapes: N items, M tokens of one, D width of what is learned, K of contents,
I = D + K, or D + K + 2 with rows of items' own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.fusion import AttentionFusion, Entities, FeatureTokens

NEW = 0.1  # the mark of a new item; 0 for others, whose rest it is
NEWCOMER, ROWLESS = -1, -2  # instead of a row: came after training, or was there without


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Of an item's vector beside what features say: the width of contents (K), 0 for without;
    `known` items have a row of their own."""

    contents: int
    known: int


class ItemTower(nn.Module):
    """y = unit(AttentionFusion(features)): the paper's; beside contents c unit([y, g * c]), where g
    is learned, for items with and without a row of their own. The first `read` of `dimension`
    entries are what a transformer reads."""

    scale = 1.0

    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion, parts: Parts) -> None:
        super().__init__()
        self.tokens = tokens
        self.fusion = fusion
        self.dimension = self.read = tokens.width + parts.contents
        self.weights = nn.Parameter(torch.zeros(2)) if parts.contents else None

    def forward(self, items: Entities) -> Tensor:
        """N records -> (N, I), of length one."""
        vectors = F.normalize(self.learned(items), dim=-1)
        if self.weights is None:
            return vectors
        known = (items.identity >= 0).long()
        weight = F.embedding(known, self.weights.exp()[:, None])  # (N, 1)
        return F.normalize(torch.cat([vectors, weight * items.contents], dim=1), dim=-1)

    def learned(self, items: Entities) -> Tensor:
        """(N, D)"""
        return self.fusion(*self.tokens(items))


class OwnRows(ItemTower):
    """Items that training met have a vector of their own; a mark is on those that came later.
    unit([y, mark, rest]): vectors are of one length by a rest that no query asks for, so that
    nobody's y is shorter for its mark."""

    scale = 1 / math.hypot(1, NEW)

    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion, parts: Parts) -> None:
        super().__init__(tokens, fusion, parts)
        self.read = self.dimension + 1
        self.dimension += 2
        self.own = nn.Embedding(max(1, parts.known), tokens.width)

    def forward(self, items: Entities) -> Tensor:
        new = (items.identity == NEWCOMER)[:, None]  # (N, 1)
        return self.scale * torch.cat([super().forward(items), NEW * new, NEW * ~new], dim=1)


class SumTower(OwnRows):
    """y = unit(AttentionFusion(features) + own): begins as the features say, and learns by how
    much each item differs from them."""

    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion, parts: Parts) -> None:
        super().__init__(tokens, fusion, parts)
        nn.init.zeros_(self.own.weight)

    def learned(self, items: Entities) -> Tensor:
        own = self.own(items.identity.clamp(min=0)) * (items.identity >= 0)[:, None]
        return super().learned(items) + own


class TokenTower(OwnRows):
    """The item's own row is one more token of the fusion."""

    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion, parts: Parts) -> None:
        super().__init__(tokens, fusion, parts)
        self.map = nn.Linear(tokens.width, tokens.width)

    def learned(self, items: Entities) -> Tensor:
        tokens, present = self.tokens(items)  # (N, M, D), (N, M)
        own = self.map(self.own(items.identity.clamp(min=0)))
        tokens = torch.cat([tokens, own[:, None]], dim=1)  # (N, M + 1, D)
        present = torch.cat([present, (items.identity >= 0)[:, None]], dim=1)
        return self.fusion(tokens, present)


def build(identity: str, tokens: FeatureTokens, fusion: AttentionFusion, parts: Parts) -> ItemTower:
    """The tower that the options ask for."""
    kinds = {"none": ItemTower, "sum": SumTower, "token": TokenTower}
    return kinds[identity](tokens, fusion, parts)
