"""The item tower: what is learned of an item, beside what it is and what it is known again by.

Shapes: N items, M tokens of one, D width of what is learned, K of contents, R of codes,
I = D + K, or D + K + 1 + R + 1 with rows of items' own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.fusion import AttentionFusion, Entities, FeatureTokens

NEW = 0.1  # the mark of a new item; 0 for others
NEWCOMER, ROWLESS = -1, -2  # instead of a row: came after training, or was there without
CODE = 0.5  # the length of a code, beside a vector of length one


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Of an item's vector beside what features say: widths of contents (K) and codes (R), either 0
    for without; `known` items have a row of their own."""

    contents: int
    codes: int
    known: int


class ItemTower(nn.Module):
    """y = unit(AttentionFusion(features)): the paper's; beside contents c unit([y, g * c]), where g
    is learned, for items with and without a row of their own. The first `read` of `dimension`
    entries are what a transformer reads."""

    own_rows = False
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


class Codes(nn.Module):
    """What an item that training met is known again by; other items have none."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.rows = nn.Embedding(max(1, parts.known), parts.codes)

    def forward(self, identity: Tensor) -> Tensor:
        """(N,) -> (N, R), of length CODE, or 0."""
        rows = F.normalize(self.rows(identity.clamp(min=0)), dim=-1)
        return CODE * rows * (identity >= 0)[:, None]


class OwnRows(ItemTower):
    """Items that training met have a vector of their own, and a code; a mark is on those that came
    later. unit([y, mark, code, rest]): what tells items apart is of one length for all, by a rest
    that no query asks for, so that nobody's y is shorter for it."""

    own_rows = True

    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion, parts: Parts) -> None:
        super().__init__(tokens, fusion, parts)
        self.read = self.dimension + 1
        self.dimension += 1 + parts.codes + 1
        self.own = nn.Embedding(max(1, parts.known), tokens.width)
        self.codes = Codes(parts) if parts.codes else None
        self.told = CODE if parts.codes else NEW  # the length of mark, code and rest
        self.scale = 1 / math.hypot(1, self.told)

    def forward(self, items: Entities) -> Tensor:
        parts = [super().forward(items), self._mark(items.identity)]
        if self.codes is not None:
            parts.append(self.codes(items.identity))
        parts.append(self._rest(items.identity))
        return self.scale * torch.cat(parts, dim=1)

    def _mark(self, identity: Tensor) -> Tensor:
        """(N, 1)"""
        return NEW * (identity == NEWCOMER)[:, None]

    def _rest(self, identity: Tensor) -> Tensor:
        """(N, 1)"""
        rest = torch.full_like(identity, self.told, dtype=torch.float32)
        if self.codes is not None:
            rest.masked_fill_(identity >= 0, 0.0)
        rest.masked_fill_(identity == NEWCOMER, (self.told**2 - NEW**2) ** 0.5)
        return rest[:, None]


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
