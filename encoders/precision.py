"""Where training may round, because a device multiplies rounded numbers much faster.

Weights, gradients and sums are float32 throughout, and so are all vectors that are stored or asked
with: only factors of matrix products are rounded, to bfloat16, and in training only.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch


def factors(device: torch.device) -> torch.dtype:
    """What this device multiplies the fastest."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and _units().get("avx512_bf16"):
        return torch.bfloat16
    return torch.float32


@contextmanager
def rounded(device: torch.device) -> Generator[None]:
    """Inside, products of float32 matrices round their factors to what `factors` says."""
    before = torch.get_float32_matmul_precision()
    if factors(device) is torch.bfloat16:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _units() -> dict[str, Any]:
    """What the processor has."""
    return cast("dict[str, Any]", cast(Any, torch).cpu.get_capabilities())
