"""What the gate found: one check after the other, with its figure, its threshold and its remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, cast


@dataclass(frozen=True, kw_only=True)
class Check:
    """One question and its answer. `passed` is None for a check that could not be asked, or that
    only informs: `measured` then says why. `value` and `threshold` are the figures behind the text
    of `measured`, where there is one figure; `figures` are all of them, in types that JSON knows.
    """

    name: str
    passed: bool | None
    measured: str
    meaning: str
    remedy: str
    value: float | None = None
    threshold: float | None = None
    figures: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True)
class Report:
    """The gate's answer for one index. `seed` repeats the same samples."""

    index_id: int
    encoder_id: str
    live_index_id: int | None
    seed: int
    started_at: datetime  # the watermark: changes committed before it are in the index
    took_s: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.passed is False)

    def refusal(self) -> str:
        """Which checks failed, by how much, and what to do: one line."""
        reasons = "; ".join(
            f"{check.name}: {check.measured}. {check.remedy}" for check in self.failed
        )
        return f"index {self.index_id} does not pass the gate. {reasons}" if reasons else ""

    def as_dict(self) -> dict[str, Any]:
        """Everything, in types that JSON knows."""
        return {
            "index_id": self.index_id,
            "encoder_id": self.encoder_id,
            "live_index_id": self.live_index_id,
            "seed": self.seed,
            "started_at": self.started_at.isoformat(),
            "took_s": round(self.took_s, 3),
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }


def from_dict(stored: Mapping[str, Any]) -> Report:
    """The report that `as_dict` described."""
    checks = cast("Sequence[Mapping[str, Any]]", stored["checks"])
    return Report(
        index_id=stored["index_id"],
        encoder_id=stored["encoder_id"],
        live_index_id=stored["live_index_id"],
        seed=stored["seed"],
        started_at=datetime.fromisoformat(stored["started_at"]),
        took_s=stored["took_s"],
        checks=tuple(Check(**check) for check in checks),
    )
