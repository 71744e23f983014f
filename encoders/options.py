"""Bounds of a family's options, checked when its Config is made."""

from __future__ import annotations

from collections.abc import Mapping

from encoders.errors import TrainingFailed


def require(config: object, bounds: Mapping[str, tuple[float, float]]) -> None:
    """Every named option lies within its bounds, both included. Raises TrainingFailed."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high:  # NaN is not
            raise TrainingFailed(f"option {name!r} must be {low:g} to {high:g}, not {value!r}")
