"""Softmax cross-entropy over many columns, without ever holding all of its scores.

What is slow about a softmax over a catalogue is memory first: 6,400 targets times 3,700 items are
95 MB, which the usual way writes and reads a dozen times. Here rows go through in parts that stay
in a processor's cache, and the gradient is computed while the scores are there. What is left is
three matrix products, whose factors and scores may be rounded to bfloat16; sums are float32.

Shapes: T rows, C columns, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from encoders import precision

ROWS = 256  # whose scores are held at once: of 3,700 columns 4 MB, or half of that
LEAST = 1e-38  # chance of a row's own column, so that its logarithm is finite


def cross_entropy(rows: Tensor, columns: Tensor, own: Tensor, offset: Tensor | None) -> Tensor:
    """The mean over rows (T, D) of -log softmax(row @ columns.T + offset)[own]; own (T,) int64.

    `offset` (C,) is a constant that is added to every score but a row's own, None is nothing.
    What is multiplied is rounded before, inside `precision.rounded`.
    """
    return cast(Any, _CrossEntropy).apply(rows, columns, own, offset)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        rows, columns, own, offset = cast("tuple[Tensor, Tensor, Tensor, Tensor | None]", arguments)
        factors = precision.factors()
        rough_rows, rough_columns = rows.to(factors), columns.to(factors)
        total = rows.new_zeros(())
        row_gradient = torch.empty_like(rows)  # (T, D)
        column_gradient = torch.zeros_like(columns)  # (C, D)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            target = own[part, None]  # (t, 1)
            scores = rough_rows[part] @ rough_columns.T  # (t, C)
            if offset is not None:
                scores = scores.to(rows.dtype).add_(offset)
                scores.scatter_add_(1, target, -offset[target])
            errors = F.softmax(scores, dim=1).to(factors)
            chance = errors.gather(1, target).to(rows.dtype)
            total -= chance.clamp(min=LEAST).log().sum()
            errors.scatter_(1, target, (chance - 1).to(factors))
            row_gradient[part] = errors @ rough_columns
            column_gradient += errors.T @ rough_rows[part]
        ctx.save_for_backward(row_gradient, column_gradient)
        ctx.rows = len(rows)
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        row_gradient, column_gradient = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        scale = cast(Tensor, gradients[0]) / ctx.rows
        return row_gradient * scale, column_gradient * scale, None, None
