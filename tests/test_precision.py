"""Rounding in training: where, and that it ends there."""

from __future__ import annotations

import pytest
import torch

from encoders import precision


@pytest.mark.parametrize("units", [True, False])
def test_a_processor_rounds_what_it_has_units_for(
    units: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units})
    with precision.rounded(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == ("medium" if units else "highest")
        assert precision.factors() is (torch.bfloat16 if units else torch.float32)
    assert torch.get_float32_matmul_precision() == "highest"
    assert precision.factors() is torch.float32
    with precision.rounded(torch.device("meta")):
        assert precision.factors() is torch.float32


def test_other_processors_say_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"neon": True})
    with precision.rounded(torch.device("cpu")):
        assert precision.factors() is torch.float32


def test_rounding_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    with pytest.raises(ValueError, match="lost"), precision.rounded(torch.device("cpu")):
        raise ValueError("lost")
    assert torch.get_float32_matmul_precision() == "highest"
