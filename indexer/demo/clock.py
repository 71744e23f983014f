"""From a COMMIT to what a recommendation says: measured by asking the real retriever."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import sqlalchemy as sa

from indexer import database
from indexer.errors import TwinspanError
from indexer.query import Query, Retriever

LOOK_S = 0.005  # between two looks: the worker runs in this process and wants its turn
GIVE_UP_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How long after COMMIT an answer showed the change, and how often was asked until then."""

    seconds: float
    looks: int


def commit(engine: sa.Engine, statement: str, values: Mapping[str, object]) -> float:
    """The statement has run and is committed; returns the moment right after."""
    with database.begin(engine) as connection:
        connection.execute(sa.text(statement), dict(values))
    return time.perf_counter()


def until(holds: Callable[[], bool], *, since: float, what: str) -> Seen:
    """Ask until it holds. Raises TwinspanError when it does not within a minute."""
    looks = 0
    while True:
        looks += 1
        found = holds()
        seconds = time.perf_counter() - since
        if found:
            return Seen(seconds=seconds, looks=looks)
        if seconds > GIVE_UP_S:
            raise TwinspanError(f"{what} did not show within {GIVE_UP_S:.0f} s of its COMMIT.")
        time.sleep(LOOK_S)


def middle_rank(
    retriever: Retriever, key: str, *, user_keys: Sequence[str], k: int
) -> float | None:
    """The median rank of the film over these users, 1 is the best; None where one of them does not
    get it among the best `k`."""
    answers = retriever.recommend_many([Query(user_key=user, k=k) for user in user_keys])
    found = [hits.keys.index(key) + 1 if key in hits.keys else None for hits in answers]
    known = [rank for rank in found if rank is not None]
    return median(known) if len(known) == len(found) and known else None
