"""Which indexes get a wake-up now. Decides only; `bell` asks the broker and sends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from indexer.indexes import Index

# A wake-up that led to no claim is repeated after a pause, doubled each time: its worker may lack
# the encoder, or may still be loading it.
REPEAT_S, REPEAT_MAX_S = 0.2, 5.0


@dataclass(frozen=True, kw_only=True)
class _Rung:
    at: float
    fence: int
    pause_s: float


class Rings:
    """Remembers the wake-ups of indexes that have been due ever since. A wake-up that still waits
    in its queue is not repeated, so a queue that nobody serves holds one per index; one that was
    taken is repeated while work is due, so free workers join a backlog one by one; and messages
    that the broker lost are missed at the next look. Times are `time.monotonic()`."""

    def __init__(self) -> None:
        self._rung: dict[int, _Rung] = {}

    def choose(
        self, due: Sequence[Index], waiting: Collection[int], *, fence: int, now: float
    ) -> list[Index]:
        """The due indexes to ring for, live ones first. `waiting` are the ids whose wake-up nobody
        has taken yet, `fence` is the last one that any claim took: while it stands still nobody
        works, and repeating slows down."""
        self._forget_all_but(due)
        chosen = [
            index
            for index in due
            if index.id not in waiting and self._is_time(index.id, fence, now)
        ]
        return sorted(chosen, key=lambda index: (index.state != "live", index.id))

    def rung(self, index_id: int, *, fence: int, now: float) -> None:
        """A wake-up for the index was sent."""
        last = self._rung.get(index_id)
        pause_s = REPEAT_S
        if last is not None and last.fence == fence:
            pause_s = min(2 * last.pause_s, REPEAT_MAX_S)
        self._rung[index_id] = _Rung(at=now, fence=fence, pause_s=pause_s)

    def _is_time(self, index_id: int, fence: int, now: float) -> bool:
        last = self._rung.get(index_id)
        return last is None or last.fence != fence or now - last.at >= last.pause_s

    def _forget_all_but(self, due: Sequence[Index]) -> None:
        ids = {index.id for index in due}
        self._rung = {id_: rung for id_, rung in self._rung.items() if id_ in ids}
