"""Where training may round, because a device multiplies rounded numbers much faster.

Weights, gradients and sums are float32 throughout, and so are all vectors that are stored or asked
with: only factors of matrix products are rounded, to bfloat16, and in training only.

Units for it are no proof of speed: where one processor multiplies them four times as fast as
float32, another that names the same units takes twice as long. So a processor is tried, once.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch

ROUNDED = "medium"  # torch's name for factors of bfloat16
WORTH = 1.2  # how many times as fast rounded products must be
TRIED = (256, 128, 4_096)  # rows, width and columns of the product that is timed, as in a softmax
TRIES = 5


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
    return device.type == "cpu" and bool(_units().get("avx512_bf16")) and _speedup() > WORTH


def _units() -> dict[str, Any]:
    """What the processor has."""
    return cast("dict[str, Any]", cast(Any, torch).cpu.get_capabilities())


@cache
def _speedup() -> float:
    """How many times as fast this processor multiplies bfloat16 as float32."""
    return _seconds(torch.float32) / _seconds(torch.bfloat16)


def _seconds(kind: torch.dtype) -> float:
    """Of processor for one product, the best of a few: a neighbour can only slow it down."""
    rows, width, columns = TRIED
    left, right = torch.ones(rows, width, dtype=kind), torch.ones(columns, width, dtype=kind)
    found: list[float] = []
    for _ in range(TRIES + 1):  # the first one may set something up
        began = time.process_time()
        torch.mm(left, right.T)
        found.append(time.process_time() - began)
    return min(found[1:])
