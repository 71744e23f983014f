"""What the demo tells once the index is live: who is recommended what, and how a film that is
inserted, changed and deleted by plain SQL shows in it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from indexer import interactions
from indexer.demo import clock
from indexer.demo.clock import Seen
from indexer.demo.people import Audience, Film, Rivals
from indexer.demo.screen import Screen
from indexer.embedded import Services
from indexer.query import Hits, Retriever

SHOWN = 5

INSERT = "INSERT INTO public.items (id, title, attributes) VALUES (:id, :title, :attributes)"
UPDATE = (
    "UPDATE public.items SET attributes = jsonb_set(attributes, '{genres}', :genres) WHERE id = :id"
)
DELETE = "DELETE FROM public.items WHERE id = :id"

NEW_ID = "brand-new"
NEW_TITLE = "A Film Nobody Has Seen"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that the story needs."""

    services: Services
    screen: Screen
    retriever: Retriever
    films: Mapping[str, Film]
    audience: Audience
    rivals: Rivals

    @property
    def year(self) -> int:
        """Of the new film."""
        return self.audience.year_most_watched() or 2000

    @property
    def k_all(self) -> int:
        """A k that holds the whole catalog and the new film, where one may ask for so many."""
        return min(len(self.films) + 1, self.services.settings.k_max)


def tell(scene: Scene) -> None:
    """The whole story on the screen. Raises TwinspanError when a change never shows."""
    _recommendations(scene)
    _filtered(scene)
    _a_film_comes_changes_and_goes(scene)


# -- recommendations -------------------------------------------------------------------------------


def _recommendations(scene: Scene) -> None:
    rivals = scene.rivals
    scene.screen.chapter("Three users, what they watched last and what they are recommended")
    people = (rivals.first_fans[0], rivals.second_fans[0], scene.audience.in_between(rivals))
    for user in people:
        hits = scene.retriever.recommend(user_key=user, k=SHOWN)
        scene.screen.table(
            ("watched last", "rated", "recommended", "year", "genres"),
            _side_by_side(_watched(scene, user), hits),
            title=f"{_described(scene, user)}, answered in {hits.total_ms:.1f} ms",
        )
        _explain_twins(scene, hits)


def _explain_twins(scene: Scene, hits: Hits) -> None:
    """MovieLens has some films twice; nobody should take that for a mistake of ours."""
    titles = Counter(str(hit.payload.get("title")) for hit in hits)
    for title, count in titles.items():
        if count > 1:
            keys = [hit.key for hit in hits if hit.payload.get("title") == title]
            scene.screen.note(f"The data has {title} {count} times, as {', '.join(keys)}.")


def _described(scene: Scene, user: str) -> str:
    said = interactions.features(scene.services.engine, user)
    facts = [str(said[name]) for name in ("occupation", "gender") if said.get(name)]
    age = said.get("age")
    if isinstance(age, int | float):
        facts.append(f"{age:.0f}")
    liked = ", ".join(
        f"{genre} {share:.0%}" for genre, share in scene.audience.favourites(user)[:3]
    )
    return f"User {user} ({', '.join(facts) or 'nothing known'}; watches {liked})"


def _watched(scene: Scene, user: str) -> list[tuple[str, str]]:
    events = interactions.history(
        scene.services.engine, catalog="items", user_key=user, limit=SHOWN
    )
    return [
        (
            scene.films[event.item_key].title if event.item_key in scene.films else event.item_key,
            "" if event.value is None else f"{event.value:g}",
        )
        for event in reversed(events)
    ]


def _side_by_side(watched: Sequence[tuple[str, str]], hits: Hits) -> list[tuple[str, ...]]:
    recommended = [_row(hit.key, hit.payload) for hit in hits]
    return [
        (
            *(watched[row] if row < len(watched) else ("", "")),
            *(recommended[row] if row < len(recommended) else ("", "", "")),
        )
        for row in range(max(len(watched), len(recommended)))
    ]


def _row(key: str, payload: Mapping[str, object]) -> tuple[str, str, str]:
    genres, year = payload.get("genres"), payload.get("year")
    return (
        str(payload.get("title") or key),
        "" if year is None else str(year),
        ", ".join(cast("list[str]", genres)) if isinstance(genres, list) else "",
    )


def _filtered(scene: Scene) -> None:
    user = scene.rivals.first_fans[0]
    genre = scene.audience.favourites(user)[1][0]
    where = {"genres": genre, "year": {"lte": scene.audience.year_of_old_films()}}
    scene.screen.chapter("The same question under a filter")
    scene.screen.say(f"[bold]recommend[/](user_key={user!r}, where={json.dumps(where)})")
    hits = scene.retriever.recommend(user_key=user, where=where, k=SHOWN)
    scene.screen.table(
        ("recommended", "year", "genres", "#score"),
        [(*_row(hit.key, hit.payload), f"{hit.score:.3f}") for hit in hits],
        title=f"User {user}, answered in {hits.total_ms:.1f} ms",
    )


# -- a film that was never there before ------------------------------------------------------------


def _a_film_comes_changes_and_goes(scene: Scene) -> None:
    rivals, audience = scene.rivals, scene.audience
    before = list(audience.typical_genres(rivals.first, rivals.second))
    after = list(audience.typical_genres(rivals.second, rivals.first))
    scene.screen.chapter("A brand-new film, by plain SQL; no training, no restart")
    seen = [_insert(scene, before)]
    ranks = [_ranks(scene)]
    seen.append(_update(scene, after))
    ranks.append(_ranks(scene))
    seen.append(_delete(scene, after))
    scene.screen.table(
        ("what was committed", "#seen after", "#asked"),
        [
            (what, f"{one.seconds * 1000:.0f} ms", str(one.looks))
            for what, one in zip(("INSERT", "UPDATE", "DELETE"), seen, strict=True)
        ],
        title="From COMMIT to a recommendation that knows of it",
    )
    _show_ranks(scene, ranks, (before, after))


def _insert(scene: Scene, genres: Sequence[str]) -> Seen:
    attributes = json.dumps({"year": scene.year, "genres": genres})
    values = {"id": NEW_ID, "title": NEW_TITLE, "attributes": attributes}
    return _commit_and_wait(scene, INSERT, values, genre=genres[0], there=True)


def _update(scene: Scene, genres: Sequence[str]) -> Seen:
    values = {"id": NEW_ID, "genres": json.dumps(genres)}
    return _commit_and_wait(scene, UPDATE, values, genre=genres[0], there=True)


def _delete(scene: Scene, genres: Sequence[str]) -> Seen:
    return _commit_and_wait(scene, DELETE, {"id": NEW_ID}, genre=genres[0], there=False)


def _commit_and_wait(
    scene: Scene, statement: str, values: Mapping[str, object], *, genre: str, there: bool
) -> Seen:
    """How long until the first fan's recommendation of that genre and year has the film, or has it
    no more. Few films fit, so that asking costs the worker, which runs beside, little."""
    user = scene.rivals.first_fans[0]
    where = {"genres": genre, "year": scene.year}

    def holds() -> bool:
        hits = scene.retriever.recommend(user_key=user, where=where, k=scene.k_all)
        return (NEW_ID in hits.keys) == there

    scene.screen.sql(_as_typed(statement, values))
    since = clock.commit(scene.services.engine, statement, values)
    return clock.until(holds, since=since, what=statement.split(maxsplit=1)[0])


def _as_typed(statement: str, values: Mapping[str, object]) -> str:
    """The statement with its values, for reading."""
    for name, value in values.items():
        quoted = str(value).replace("'", "''")
        statement = statement.replace(f":{name}", f"'{quoted}'")
    return f"{statement};"


Ranks = tuple[float | None, float | None]  # for those who lean to the first genre, and the second


def _ranks(scene: Scene) -> Ranks:
    def middle(users: Sequence[str]) -> float | None:
        return clock.middle_rank(scene.retriever, NEW_ID, user_keys=users, k=scene.k_all)

    return middle(scene.rivals.first_fans), middle(scene.rivals.second_fans)


def _show_ranks(scene: Scene, ranks: Sequence[Ranks], genres: Sequence[Sequence[str]]) -> None:
    rivals, total = scene.rivals, len(scene.films) + 1
    scene.screen.table(
        (
            "the new film is",
            f"#for the {len(rivals.first_fans)} who lean most to {rivals.first}",
            f"#for the {len(rivals.second_fans)} who lean most to {rivals.second}",
        ),
        [
            (", ".join(one), *(_rank(rank, total) for rank in pair))
            for one, pair in zip(genres, ranks, strict=True)
        ],
        title=f"Its median rank among {total:,} films, seen ones left out",
    )


def _rank(rank: float | None, total: int) -> str:
    return "not found" if rank is None else f"{rank:,.0f} (top {rank / total:.0%})"
