"""The item tower: features, and the item's own vector where it has one.

Shapes: N items, M tokens of one, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.fusion import AttentionFusion, Entities, FeatureTokens
from encoders.retrievalformer.config import Config


class ItemTower(nn.Module):
    """y = unit(AttentionFusion(features)): the paper's."""

    def __init__(self, tokens: FeatureTokens, fusion: AttentionFusion) -> None:
        super().__init__()
        self.tokens = tokens
        self.fusion = fusion

    def forward(self, items: Entities) -> Tensor:
        """N records -> (N, D), of length one."""
        return F.normalize(self.fusion(*self.tokens(items)), dim=-1)


class _IdentityTower(ItemTower):
    """Items that were trained on have a row of their own. In training a share `noise` of them,
    drawn anew each time, is taken for new ones, so that features alone must do, too."""

    def __init__(
        self, tokens: FeatureTokens, fusion: AttentionFusion, *, known: int, noise: float
    ) -> None:
        super().__init__(tokens, fusion)
        self.noise = noise
        self.own = nn.Embedding(max(1, known), tokens.width)

    def has_own(self, items: Entities) -> Tensor:
        """(N,) bool"""
        known = items.identity >= 0
        if self.training and self.noise > 0:
            known = known & (torch.rand(known.shape, device=known.device) >= self.noise)
        return known


class SumTower(_IdentityTower):
    """y = unit(AttentionFusion(features) + own): begins as the features say, and learns by how
    much each item differs from them."""

    def __init__(
        self, tokens: FeatureTokens, fusion: AttentionFusion, *, known: int, noise: float
    ) -> None:
        super().__init__(tokens, fusion, known=known, noise=noise)
        nn.init.zeros_(self.own.weight)

    def forward(self, items: Entities) -> Tensor:
        own = self.own(items.identity.clamp(min=0)) * self.has_own(items)[:, None]
        return F.normalize(self.fusion(*self.tokens(items)) + own, dim=-1)


class TokenTower(_IdentityTower):
    """The item's own row is one more token of the fusion."""

    def __init__(
        self, tokens: FeatureTokens, fusion: AttentionFusion, *, known: int, noise: float
    ) -> None:
        super().__init__(tokens, fusion, known=known, noise=noise)
        self.map = nn.Linear(tokens.width, tokens.width)

    def forward(self, items: Entities) -> Tensor:
        tokens, present = self.tokens(items)  # (N, M, D), (N, M)
        own = self.map(self.own(items.identity.clamp(min=0)))
        tokens = torch.cat([tokens, own[:, None]], dim=1)  # (N, M + 1, D)
        present = torch.cat([present, self.has_own(items)[:, None]], dim=1)
        return F.normalize(self.fusion(tokens, present), dim=-1)


def build(
    config: Config, tokens: FeatureTokens, fusion: AttentionFusion, *, known: int
) -> ItemTower:
    """The tower that the options ask for; `known` items have a row of their own."""
    match config.identity:
        case "sum":
            return SumTower(tokens, fusion, known=known, noise=config.identity_noise)
        case "token":
            return TokenTower(tokens, fusion, known=known, noise=config.identity_noise)
        case _:
            return ItemTower(tokens, fusion)
