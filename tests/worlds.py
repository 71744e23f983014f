"""Synthetic worlds with known answers: who likes what is decided here, so a tower can be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from encoders import dataset
from encoders.dataset import Dataset
from encoders.types import Feature, ItemRecord

GENRES = ("Comedy", "Horror", "Space", "Western")
_WORDS = {
    "Comedy": ("laughing", "wedding", "holiday", "clumsy"),
    "Horror": ("haunted", "scream", "blood", "midnight"),
    "Space": ("galaxy", "orbit", "alien", "rocket"),
    "Western": ("sheriff", "saloon", "desert", "outlaw"),
}
DAY_US = 86_400_000_000


def checkerboard(*, users: int = 60, items: int = 40, events: int = 12, seed: int = 0) -> Dataset:
    """Even users meet even items only, odd users odd ones; an item says which it is."""
    rng = np.random.default_rng(seed)
    pairs = [
        (user, item * 2 + user % 2)
        for user in range(users)
        for item in rng.choice(items // 2, events, replace=False).tolist()
    ]
    return dataset.arrange(
        items=[
            ItemRecord(key=f"i{n}", features={"side": ("even", "odd")[n % 2], "number": n})
            for n in range(items)
        ],
        item_features=[
            Feature(name="side", kind="category"),
            Feature(name="number", kind="number"),
        ],
        user_keys=[f"u{n}" for n in range(users)],
        user=[user for user, _ in pairs],
        item=[item for _, item in pairs],
        occurred_at=[n * DAY_US for n in range(len(pairs))],
    )


@dataclass(frozen=True, kw_only=True)
class GenreWorld:
    """Every user watches films of one genre. Nobody has ever watched a `cold` film."""

    data: Dataset
    cold: Sequence[ItemRecord]
    fans: dict[str, str]  # user key -> genre

    def genre(self, key: str) -> str:
        return key.split("-", maxsplit=1)[0]


def genre_world(
    *, fans: int = 24, films: int = 30, cold: int = 4, events: int = 10, seed: int = 0
) -> GenreWorld:
    """`fans` users and `films` films per genre, of which `cold` films have no events. A film says
    its genre, its title in the genre's words, its year and its studio; a user says a favourite."""
    rng = np.random.default_rng(seed)
    items = [_film(genre, n, rng) for genre in GENRES for n in range(films)]
    users = [(f"{genre}-fan-{n}", genre) for genre in GENRES for n in range(fans)]
    warm = films - cold
    events_of = [
        (user, GENRES.index(genre) * films + film)
        for user, (_, genre) in enumerate(users)
        for film in rng.choice(warm, events, replace=False).tolist()
    ]
    count = len(events_of)
    return GenreWorld(
        data=dataset.arrange(
            items=items,
            item_features=[
                Feature(name="genres", kind="categories"),
                Feature(name="title", kind="text"),
                Feature(name="year", kind="number"),
                Feature(name="studio", kind="category"),
            ],
            user_keys=[key for key, _ in users],
            user_records=[
                {"favourite": genre, "age": int(rng.integers(18, 80))} for _, genre in users
            ],
            user_features=[
                Feature(name="favourite", kind="category"),
                Feature(name="age", kind="number"),
            ],
            user=[user for user, _ in events_of],
            item=[item for _, item in events_of],
            occurred_at=rng.permutation(count) * DAY_US,
            value=rng.integers(1, 6, count).astype(np.float32),
            event=rng.integers(-1, 2, count),
            event_names=("view", "purchase"),
        ),
        cold=[item for item in items if int(item.key.split("-")[1]) >= warm],
        fans=dict(users),
    )


def _film(genre: str, number: int, rng: np.random.Generator) -> ItemRecord:
    words = rng.choice(_WORDS[genre], 2, replace=False).tolist()
    return ItemRecord(
        key=f"{genre}-{number}",
        features={
            "genres": [genre, "Film"],
            "title": f"The {words[0]} {words[1]} {number}",
            "year": int(rng.integers(1950, 2020)),
            "studio": f"studio {int(rng.integers(6))}",
        },
    )


def series_world(*, series: int, films: int, fans: int, events: int = 6, seed: int = 0) -> Dataset:
    """Every user watches films of one series; a film says which it belongs to. So what is next is
    among `films` films, whether anybody has watched it before or not."""
    rng = np.random.default_rng(seed)
    watched = [
        (user, (user % series) * films + film)
        for user in range(series * fans)
        for film in rng.choice(films, events, replace=False).tolist()
    ]
    return dataset.arrange(
        items=[
            ItemRecord(
                key=f"s{n // films}-{n % films}",
                features={
                    "title": f"part {n % films}",
                    "genres": [f"series {n // films}"],
                    "year": 1950 + n % 70,
                },
            )
            for n in range(series * films)
        ],
        item_features=[
            Feature(name="genres", kind="categories"),
            Feature(name="year", kind="number"),
        ],
        user_keys=[f"u{n}" for n in range(series * fans)],
        user=[user for user, _ in watched],
        item=[item for _, item in watched],
        occurred_at=[n * DAY_US for n in range(len(watched))],
    )
