"""Rounding in training: where, and that it ends there."""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest
import torch

from encoders import precision


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[bool, float], None]]:
    """Sets whether it has units, and how many seconds a rounded product takes where another takes
    one; what was found out about it is forgotten."""

    def be(units: bool, rounded_s: float) -> None:
        seconds = {torch.float32: 1.0, torch.bfloat16: rounded_s}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units})
        monkeypatch.setattr(precision, "_seconds", seconds.__getitem__)
        precision._speedup.cache_clear()

    yield be
    precision._speedup.cache_clear()


@pytest.mark.parametrize(
    ("units", "rounded_s", "rounds"),
    [(True, 0.25, True), (True, 1.8, False), (True, 0.95, False), (False, 0.25, False)],
)
def test_a_processor_rounds_where_it_has_units_that_are_faster(
    units: bool, rounded_s: float, rounds: bool, processor: Callable[[bool, float], None]
) -> None:
    processor(units, rounded_s)
    with precision.rounded(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == ("medium" if rounds else "highest")
        assert precision.factors() is (torch.bfloat16 if rounds else torch.float32)
    assert torch.get_float32_matmul_precision() == "highest"
    assert precision.factors() is torch.float32
    with precision.rounded(torch.device("meta")):
        assert precision.factors() is torch.float32


def test_a_processor_is_tried_once(
    processor: Callable[[bool, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(True, 0.25)
    device = torch.device("cpu")
    with precision.rounded(device):
        pass
    monkeypatch.setattr(precision, "_seconds", {torch.float32: 1.0, torch.bfloat16: 9.0}.get)
    with precision.rounded(device):
        assert precision.factors() is torch.bfloat16


def test_the_time_of_a_product_is_about_what_its_size_says(monkeypatch: pytest.MonkeyPatch) -> None:
    small = precision._seconds(torch.float32)
    rows, width, columns = precision.TRIED
    monkeypatch.setattr(precision, "TRIED", (8 * rows, width, columns))
    assert 3 * small < precision._seconds(torch.float32) < 30 * small


def test_other_processors_say_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"neon": True})
    with precision.rounded(torch.device("cpu")):
        assert precision.factors() is torch.float32


def test_rounding_ends_with_an_error(processor: Callable[[bool, float], None]) -> None:
    processor(True, 0.25)
    with pytest.raises(ValueError, match="lost"), precision.rounded(torch.device("cpu")):
        raise ValueError("lost")
    assert torch.get_float32_matmul_precision() == "highest"
