"""Softmax cross-entropy over many columns, without ever holding all of its scores.

What is slow about a softmax over a catalogue on a processor is not arithmetic but memory: 6,400
targets times 3,700 items are 95 MB, which the usual way writes and reads a dozen times. Here rows
go through in parts that stay in the cache, and the gradient is computed while the scores are there.

Shapes: T rows, C columns, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

SCORES = 2**20  # held at once: 4 MB


def cross_entropy(rows: Tensor, columns: Tensor, own: Tensor, offset: Tensor | None) -> Tensor:
    """The mean over rows (T, D) of -log softmax(row @ columns.T + offset)[own]; own (T,) int64.

    `offset` (C,) is a constant that is added to every score but a row's own, None is nothing.
    """
    return cast(Any, _CrossEntropy).apply(rows, columns, own, offset)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        rows, columns, own, offset = cast("tuple[Tensor, Tensor, Tensor, Tensor | None]", arguments)
        total = rows.new_zeros(())
        row_gradient = torch.empty_like(rows)  # (T, D)
        column_gradient = torch.zeros_like(columns)  # (C, D)
        step = max(64, SCORES // len(columns))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            target = own[part, None]  # (t, 1)
            scores = rows[part] @ columns.T  # (t, C)
            if offset is not None:
                scores.add_(offset).scatter_add_(1, target, -offset[target])
            scores = F.log_softmax(scores, dim=1)
            total -= scores.gather(1, target).sum()
            scores.exp_().scatter_add_(1, target, scores.new_full(target.shape, -1.0))
            row_gradient[part] = scores @ columns
            column_gradient.addmm_(scores.T, rows[part])
        ctx.save_for_backward(row_gradient, column_gradient)
        ctx.rows = len(rows)
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        row_gradient, column_gradient = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        scale = cast(Tensor, gradients[0]) / ctx.rows
        return row_gradient * scale, column_gradient * scale, None, None
