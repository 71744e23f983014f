"""Where training may round, because a device multiplies rounded numbers much faster.

Weights, gradients and sums are float32 throughout, and so are all vectors that are stored or asked
with: only factors of matrix products are rounded, to bfloat16, and in training only.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch

ROUNDED = "medium"  # torch's name for factors of bfloat16


@contextmanager
def rounded(device: torch.device) -> Generator[None]:
    """Inside, products of float32 matrices round their factors, where the device gains by it."""
    before = torch.get_float32_matmul_precision()
    if _multiplies_bfloat16(device):
        torch.set_float32_matmul_precision(ROUNDED)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def factors() -> torch.dtype:
    """What factors are rounded to, here and now: for products that do it by hand."""
    rounds = torch.get_float32_matmul_precision() == ROUNDED
    return torch.bfloat16 if rounds else torch.float32


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and bool(_units().get("avx512_bf16"))


def _units() -> dict[str, Any]:
    """What the processor has."""
    return cast("dict[str, Any]", cast(Any, torch).cpu.get_capabilities())
