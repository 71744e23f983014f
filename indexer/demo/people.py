"""Who watches what: the users and films that the demo shows, chosen by data and not by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import sqlalchemy as sa

from encoders.dataset import Dataset, IntArray
from encoders.types import FloatArray
from indexer import database
from indexer.errors import ImportFailed

COMMON = 0.05  # a genre that the demo talks about has this share of the films
EVENTS = 20  # a user whose taste can be told has watched that many, or as many as the median
GROUP = 10  # users who like a genre most, compared with those who like another most


@dataclass(frozen=True, kw_only=True)
class Film:
    key: str
    title: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Rivals:
    """Two genres whose audiences overlap least, and the users who lean most to either."""

    first: str
    second: str
    first_fans: tuple[str, ...]
    second_fans: tuple[str, ...]


def films(engine: sa.Engine) -> dict[str, Film]:
    """Every film of the catalog by key."""
    statement = sa.text("SELECT id, title, attributes FROM public.items ORDER BY id")
    with database.begin(engine) as connection:
        return {key: _film(key, title, said) for key, title, said in connection.execute(statement)}


def _film(key: str, title: str | None, attributes: Mapping[str, object]) -> Film:
    year = attributes.get("year")
    genres = cast("Sequence[object]", attributes.get("genres") or ())
    return Film(
        key=key,
        title=title or key,
        year=year if isinstance(year, int) else None,
        genres=tuple(str(genre) for genre in genres),
    )


class Audience:
    """What share of each user's history each genre has."""

    def __init__(self, dataset: Dataset, known: Mapping[str, Film]) -> None:
        self._keys = dataset.user_keys
        self._films = known
        self.genres = sorted({genre for film in known.values() for genre in film.genres})
        self._of_rows = [known.get(item.key) for item in dataset.items]
        self._views: list[int] = np.bincount(dataset.item, minlength=len(dataset.items)).tolist()
        of_item = np.zeros((len(dataset.items), len(self.genres)), dtype=np.float32)  # (N, G)
        for row, film in enumerate(self._of_rows):
            for genre in film.genres if film is not None else ():
                of_item[row, self.genres.index(genre)] = 1.0
        watched = np.zeros((len(self._keys), len(self.genres)), dtype=np.float32)  # (U, G)
        np.add.at(watched, dataset.user, of_item[dataset.item])
        self.events = np.bincount(dataset.user, minlength=len(self._keys))  # (U,)
        self.shares = watched / np.maximum(self.events, 1)[:, None]  # (U, G)
        self._common = of_item.mean(axis=0) if len(of_item) else np.zeros(len(self.genres))

    def rivals(self) -> Rivals:
        """Of the genres that are common enough, the two whose audiences differ most. Raises
        ImportFailed when the data has no two genres or no users."""
        common = [number for number, share in enumerate(self._common) if share >= COMMON]
        pairs = [(a, b) for a in common for b in common if a < b]
        able = self._with_taste()
        if not pairs or len(able) < 4:
            raise ImportFailed(
                "the demo needs films of two genres or more, and at least four users. "
                "Give it MovieLens: `twinspan demo --data PATH`."
            )
        first, second = max(pairs, key=lambda pair: self._distance(able, *pair))
        group = min(GROUP, len(able) // 2)
        order = self._by(able, self._lean(able, first, second))
        return Rivals(
            first=self.genres[first],
            second=self.genres[second],
            first_fans=tuple(order[::-1][:group]),
            second_fans=tuple(order[:group]),
        )

    def in_between(self, rivals: Rivals) -> str:
        """A user who leans to neither."""
        pair = (self.genres.index(rivals.first), self.genres.index(rivals.second))
        chosen = {*rivals.first_fans[:1], *rivals.second_fans[:1]}
        able = self._with_taste()
        order = self._by(able, np.abs(self._lean(able, *pair)))
        return next(key for key in order if key not in chosen)

    def favourites(self, user_key: str) -> list[tuple[str, float]]:
        """The user's genres and their shares of the history, the largest first."""
        shares = self.shares[self._keys.index(user_key)]
        return [(self.genres[number], float(shares[number])) for number in np.argsort(-shares)]

    def typical_genres(self, genre: str, other: str) -> tuple[str, ...]:
        """The genres that films of the one genre, and not of the other, have most often."""
        sets = Counter(
            film.genres
            for film in self._films.values()
            if genre in film.genres and other not in film.genres
        )
        return sets.most_common(1)[0][0] if sets else (genre,)

    def year_most_watched(self) -> int | None:
        """The year that the most events are of: a film of that year is one among its like."""
        years = Counter[int]()
        for film, events in zip(self._of_rows, self._views, strict=True):
            if film is not None and film.year is not None:
                years[film.year] += events
        return years.most_common(1)[0][0] if years else None

    def year_of_old_films(self) -> int:
        """A quarter of the films is of that year or older."""
        years = [film.year for film in self._films.values() if film.year is not None]
        return int(np.quantile(years, 0.25)) if years else 2000

    def _with_taste(self) -> IntArray:
        """Rows of the users whose history is long enough to tell."""
        if not len(self.events):
            return np.array([], dtype=np.int64)
        return np.flatnonzero(self.events >= min(EVENTS, float(np.median(self.events))))

    def _by(self, rows: IntArray, measure: FloatArray) -> list[str]:
        """Keys of those users, the smallest measure first."""
        order: list[int] = rows[np.argsort(measure, kind="stable")].tolist()
        return [self._keys[row] for row in order]

    def _lean(self, rows: IntArray, first: int, second: int) -> FloatArray:
        lean: FloatArray = np.subtract(
            self.shares[rows, first], self.shares[rows, second], dtype=np.float32
        )
        return lean

    def _distance(self, rows: IntArray, first: int, second: int) -> float:
        lean = np.sort(self._lean(rows, first, second))
        group = min(GROUP, len(lean) // 2)
        return float(min(lean[-group:].mean(), -lean[:group].mean()))
