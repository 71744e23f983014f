"""What a comparison counts, and how it is to be made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from indexer.verify.judging import DRIFT, Cause

EXAMPLES = 10  # keys kept per cause
ENCODER_ITEMS = 8  # fewer vectors than this say nothing about the encoder
ENCODER_SHARE = 0.9  # of the compared vectors that differ: then it is the encoder, not the items


@dataclass(kw_only=True)
class Comparison:
    """What a pass saw: `items` rows, of which `agree` are in the index as they should be; the
    causes of the others, by key; of `vectors` items the vectors were encoded again."""

    items: int = 0
    agree: int = 0
    missed_change: int = 0  # the ledger was never told that the row changed
    missing: int = 0  # a point that the ledger believes in is not there
    stale_payload: int = 0
    stale_vector: int = 0
    ghost: int = 0  # a point that neither catalog nor ledger knows
    wrong_encoder: int = 0  # another encoder's vectors, or its mark on the collection
    ledger_wrong: int = 0  # the ledger contradicts a store that is right
    in_flight: int = 0  # a change was on its way: not judged
    quarantined: int = 0  # given up, with an error
    unusable: int = 0  # a row that cannot be indexed, and rightly is not
    repaired: int = 0  # items that were asked for again
    vectors: int = 0
    vectors_differ: int = 0
    examples: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def drift(self) -> int:
        """What should not be: the sum of the first seven causes."""
        return sum(getattr(self, cause) for cause in DRIFT)

    @property
    def causes(self) -> dict[str, int]:
        """Every cause of drift that was seen, with its count."""
        return {cause.value: n for cause in DRIFT if (n := getattr(self, cause))}

    def add(self, cause: Cause, key: str) -> None:
        setattr(self, cause, getattr(self, cause) + 1)
        if cause is not Cause.AGREE:
            examples = self.examples.setdefault(cause.value, [])
            if len(examples) < EXAMPLES:
                examples.append(key)

    def blame_the_encoder(self) -> None:
        """Vectors that differ nearly everywhere are another encoder's: they count as such."""
        if self.vectors < ENCODER_ITEMS or self.vectors_differ < ENCODER_SHARE * self.vectors:
            return
        self.wrong_encoder += self.vectors_differ
        self.stale_vector -= self.vectors_differ
        self.vectors_differ = 0
        moved = self.examples.pop(Cause.STALE_VECTOR.value, [])
        self.examples.setdefault(Cause.WRONG_ENCODER.value, []).extend(moved)

    def as_dict(self) -> dict[str, object]:
        """All counts, their sum `drift`, and the examples; in types that JSON knows."""
        return {**asdict(self), "drift": self.drift}


def restored(stored: Mapping[str, Any]) -> Comparison:
    """The comparison of which `as_dict` was stored."""
    names = {one.name for one in fields(Comparison)}
    return Comparison(**{name: value for name, value in stored.items() if name in names})


@dataclass(frozen=True, kw_only=True)
class Options:
    """`share` is that of the items whose vectors are encoded again, where there is a tower;
    `items_per_s` None is as fast as it goes; `patience_s` is how long changes that are under way
    are waited for at the end."""

    share: float = 1.0
    repair: bool = False
    items_per_s: float | None = None
    patience_s: float = 0.0
    chunk_items: int = 1_000
