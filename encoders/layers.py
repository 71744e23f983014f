"""Transformer layers of sequence models: norms first, what comes in is added to what goes out.

Shapes: B sequences, T tokens, P of them asked for, D width, H heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    """Attention, then the dense part `feed`, (.., D) -> (.., D)."""

    def __init__(self, *, width: int, heads: int, dropout: float, feed: nn.Module) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attend, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.join = nn.Linear(width, width)
        self.feed = feed
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None = None, asked: Tensor | None = None) -> Tensor:
        """(B, T, D) -> (B, P, D), the tokens numbered `asked` (B, P) only, or all. `bias` (.., H or
        1, P, T) is added to the scores and hides by -inf; without one, tokens see themselves and
        those before them, and all are computed."""
        kept = x if asked is None else pick(x, asked)  # (B, P, D)
        kept = kept + self._attended(x, kept, bias)
        return kept + self._fed(kept)

    def _attended(self, x: Tensor, kept: Tensor, bias: Tensor | None) -> Tensor:
        B, T, D = x.shape
        normed = self.norm_attend(x)
        asking = normed if kept is x else self.norm_attend(kept)
        q = self.query(asking).view(B, -1, self.heads, D // self.heads)
        k, v = self.key_value(normed).view(B, T, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), k, v, attn_mask=bias, is_causal=bias is None
        )  # (B, H, P, D / H)
        return self.dropout(self.join(mixed.transpose(1, 2).reshape(B, -1, D)))

    def _fed(self, x: Tensor) -> Tensor:
        return self.dropout(self.feed(self.norm_feed(x)))


class GatedLayer(Layer):
    """LiGR: each branch is weighted by a gate that reads what came in."""

    def __init__(self, *, width: int, heads: int, dropout: float, feed: nn.Module) -> None:
        super().__init__(width=width, heads=heads, dropout=dropout, feed=feed)
        self.gate_attend, self.gate_feed = nn.Linear(width, width), nn.Linear(width, width)

    def _attended(self, x: Tensor, kept: Tensor, bias: Tensor | None) -> Tensor:
        return self.gate_attend(kept).sigmoid() * super()._attended(x, kept, bias)

    def _fed(self, x: Tensor) -> Tensor:
        return self.gate_feed(x).sigmoid() * super()._fed(x)


def pick(tokens: Tensor, numbers: Tensor) -> Tensor:
    """(B, T, D) and (B, P) -> (B, P, D): those of these numbers."""
    return tokens.gather(1, numbers[..., None].expand(-1, -1, tokens.shape[2]))


class SwiGLU(nn.Module):
    """A dense part that multiplies two maps of what came in."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.swish, self.linear = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.silu(self.swish(x)) * self.linear(x))
