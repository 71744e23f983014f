"""What a query answers: hits, and the index, the encoder and the time that they come from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

STAGES = ("resolve", "history", "encode", "search")
SHOWN = 5  # hits that a repr names


@dataclass(frozen=True, slots=True)
class Hit:
    """An item that was found: the dot product with the query, and its returned fields."""

    key: str
    score: float
    payload: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Hits(Sequence[Hit]):
    """The best hits first, all of one index and scored by the one encoder that built it.

    `timings` are milliseconds by stage (resolve, history, encode, search); the hits of one
    `recommend_many` share them, since its stages run once for all. `unknown` are the history's keys
    that the index does not hold, `ignored` the features that the user tower cannot read, both left
    out of the query. `history` counts the events that reached the user tower.
    """

    items: tuple[Hit, ...]
    index_id: int
    collection: str
    encoder_id: str
    timings: Mapping[str, float]
    history: int = 0
    unknown: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        return [hit.key for hit in self.items]

    @property
    def total_ms(self) -> float:
        return sum(self.timings.values())

    def as_dict(self) -> dict[str, object]:
        """Everything, in types that JSON knows."""
        return {
            "hits": [
                {"key": hit.key, "score": hit.score, "payload": dict(hit.payload)}
                for hit in self.items
            ],
            "index": self.index_id,
            "collection": self.collection,
            "encoder": self.encoder_id,
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings.items()},
            "history": self.history,
            "unknown": list(self.unknown),
            "ignored": list(self.ignored),
        }

    @overload
    def __getitem__(self, index: int) -> Hit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...
    def __getitem__(self, index: int | slice) -> Hit | tuple[Hit, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.items)

    def __repr__(self) -> str:
        shown = ", ".join(f"{hit.key} {hit.score:.3f}" for hit in self.items[:SHOWN])
        more = ", …" if len(self.items) > SHOWN else ""
        return (
            f"<{len(self.items)} hits from {self.collection} "
            f"(encoder {self.encoder_id[:12]}, {self.total_ms:.1f} ms): {shown}{more}>"
        )


class Clock:
    """Milliseconds by stage, measured from one lap to the next."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.timings[stage] += 1_000 * (now - self._last)
        self._last = now
