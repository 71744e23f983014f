"""The item tower: what is learned of an item, beside what it is.

Shapes: N items, M tokens of one, D width of what is learned, K of contents,
I = D + K, or one more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.fusion import AttentionFusion, Entities, FeatureTokens

NEW = 0.1  # last entry of an item without a row of its own; 0 for others


class ItemTower(nn.Module):
    """y = unit(AttentionFusion(features)): the paper's; beside contents c unit([y, g * c]), and a
    last entry that marks new items, if others have a row of their own.

    g is learned, for items with and without such a row."""

    marks_new = False

    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion, *, contents: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.fusion = fusion
        self.dimension = tokens.width + contents + self.marks_new
        self.weights = nn.Parameter(torch.zeros(2)) if contents else None

    def forward(self, items: Entities) -> Tensor:
        """N records -> (N, I), of length one."""
        known = items.identity >= 0
        vectors = F.normalize(self.learned(items), dim=-1)
        if self.weights is not None:
            weight = F.embedding(known.long(), self.weights.exp()[:, None])  # (N, 1)
            vectors = F.normalize(torch.cat([vectors, weight * items.contents], dim=1), dim=-1)
        if self.marks_new:
            mark = NEW * ~known[:, None]  # (N, 1)
            vectors = torch.cat([vectors * (1 - mark**2).sqrt(), mark], dim=1)
        return vectors

    def learned(self, items: Entities) -> Tensor:
        """(N, D)"""
        return self.fusion(*self.tokens(items))


class SumTower(ItemTower):
    """y = unit(AttentionFusion(features) + own): begins as the features say, and learns by how
    much each item differs from them."""

    marks_new = True

    def __init__(
        self, tokens: FeatureTokens, fusion: AttentionFusion, *, contents: int, known: int
    ) -> None:
        super().__init__(tokens, fusion, contents=contents)
        self.own = nn.Embedding(max(1, known), tokens.width)
        nn.init.zeros_(self.own.weight)

    def learned(self, items: Entities) -> Tensor:
        own = self.own(items.identity.clamp(min=0)) * (items.identity >= 0)[:, None]
        return super().learned(items) + own


class TokenTower(ItemTower):
    """The item's own row is one more token of the fusion."""

    marks_new = True

    def __init__(
        self, tokens: FeatureTokens, fusion: AttentionFusion, *, contents: int, known: int
    ) -> None:
        super().__init__(tokens, fusion, contents=contents)
        self.own = nn.Embedding(max(1, known), tokens.width)
        self.map = nn.Linear(tokens.width, tokens.width)

    def learned(self, items: Entities) -> Tensor:
        tokens, present = self.tokens(items)  # (N, M, D), (N, M)
        own = self.map(self.own(items.identity.clamp(min=0)))
        tokens = torch.cat([tokens, own[:, None]], dim=1)  # (N, M + 1, D)
        present = torch.cat([present, (items.identity >= 0)[:, None]], dim=1)
        return self.fusion(tokens, present)


def build(
    identity: str, tokens: FeatureTokens, fusion: AttentionFusion, *, contents: int, known: int
) -> ItemTower:
    """The tower that the options ask for; `known` items have a row of their own."""
    match identity:
        case "sum":
            return SumTower(tokens, fusion, contents=contents, known=known)
        case "token":
            return TokenTower(tokens, fusion, contents=contents, known=known)
        case _:
            return ItemTower(tokens, fusion, contents=contents)
