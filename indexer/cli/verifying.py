"""`verify`: does the index say what the catalog says?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, cast

import typer

from indexer.cli import output, parts, working
from indexer.cli.health import HEALTH_PANEL, OneIndex
from indexer.cli.output import Json
from indexer.errors import IndexStateError

if TYPE_CHECKING:
    from indexer.indexes import Index
    from indexer.verify.asking import Wish

SILENCE_S = 60.0  # without any repair until we give up waiting
PLACES = 3  # rows, ledger and points are each looked at
COUNTS = ("items", "agree", "drift", "in_flight", "quarantined", "unusable", "repaired")

Found = Mapping[str, object]  # Record.as_dict(), from here or over HTTP

Vectors = Annotated[
    bool, typer.Option("--vectors/--no-vectors", help="Encode every item again and compare.")
]
Sample = Annotated[
    int, typer.Option("--sample", min=0, help="Else encode about so many items; 0: none.")
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Have what drifted written again, and look again.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the verification interrupted last.")
]
Rate = Annotated[
    float | None,
    typer.Option("--rate", min=0.1, help="The most items per second; else as fast as it goes."),
]
Patience = Annotated[
    float, typer.Option("--patience", min=0, help="Seconds to wait for changes on their way.")
]
Here = Annotated[bool, typer.Option("--here", help="Repair in this process, beside any workers.")]


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=HEALTH_PANEL)(verify)


def verify(
    *,
    index: OneIndex = None,
    vectors: Vectors = False,
    sample: Sample = 64,
    repair: Repair = False,
    resume: Resume = False,
    rate: Rate = None,
    patience: Patience = 10.0,
    here: Here = False,
    as_json: Json = False,
) -> None:
    """Compare catalog, ledger and index item by item, and say why they differ.

    Exit code 0: no drift, or a repair after which none was left; 1: drift. A change on its way is
    not drift: it is looked at again at the end, and counted as in flight if it has not arrived.
    """
    from indexer.verify.asking import Wish

    wish = Wish(
        vectors=vectors,
        sample=sample,
        repair=repair,
        resume=resume,
        items_per_s=rate,
        patience_s=patience,
    )
    with parts.opened() as opened:
        chosen = _chosen(opened, index)
        rows = [_verified(opened, each, wish, here=here) for each in chosen]
    if as_json:
        output.json_document(rows)
    else:
        _show(rows)
    if any(row["drift"] for row in rows):
        raise typer.Exit(1)


def _chosen(opened: parts.Parts, index_id: int | None) -> list[Index]:
    """That index; else all that are complete."""
    from indexer import indexes

    if index_id is not None:
        return [indexes.get(opened.engine, index_id)]
    return [each for each in indexes.active(opened.engine) if each.state != "building"]


def _verified(opened: parts.Parts, index: Index, wish: Wish, *, here: bool) -> dict[str, object]:
    """What was seen at last; under `before`, what was seen before the repair."""
    head: dict[str, object] = {"index": index.id, "alias": index.alias}
    first = _look(opened, index, wish)
    if not first["repaired"]:
        return {**head, **first, "before": None}
    output.note(f"index {index.id}: {_causes(first)}; repairing {first['repaired']:,} items")
    _wait_for_repair(opened, index, here=here)
    second = _look(opened, index, replace(wish, repair=False, resume=False))
    return {**head, **second, "repaired": first["repaired"], "before": first}


def _look(opened: parts.Parts, index: Index, wish: Wish) -> Found:
    """One verification, with its progress shown; by the process that holds the store."""
    from indexer import catalog

    total = catalog.count(opened.engine, catalog.get_by_id(opened.engine, index.catalog_id))
    steps = _steps_there(opened, index, wish) if opened.server else _steps(opened, index, wish)
    found: Found = {}
    try:
        with output.progress(f"index {index.id}", PLACES * total) as bar:
            for found in steps:
                label = f"index {index.id}: {found['phase']}"
                bar.at(cast("int", found["looked"]), PLACES * total, label)
    except KeyboardInterrupt:
        output.note("go on with `twinspan verify --resume`")
        raise
    return found


def _steps(opened: parts.Parts, index: Index, wish: Wish) -> Iterator[Found]:
    from indexer.verify import asking

    for record in asking.verified(opened.engine, opened.store, opened.towers, index, wish):
        yield record.as_dict()


def _steps_there(opened: parts.Parts, index: Index, wish: Wish) -> Iterator[Found]:
    """`twinspan up` does it; how far it is stands in the database."""
    from indexer.verify import records

    assert opened.server is not None
    before = records.latest(opened.engine, index.id, mode="once")
    with ThreadPoolExecutor(max_workers=1) as one:
        asked: Future[dict[str, object]] = one.submit(opened.server.verify, index.id, asdict(wish))
        while not _is_done(asked):
            now = records.latest(opened.engine, index.id, mode="once")
            if now is not None and (wish.resume or before is None or now.id != before.id):
                yield now.as_dict()
        yield asked.result()


def _is_done(asked: Future[dict[str, object]]) -> bool:
    """Waits `working.LOOK_S` seconds for it."""
    done = threading.Event()
    asked.add_done_callback(lambda _: done.set())
    return done.wait(working.LOOK_S)


def _wait_for_repair(opened: parts.Parts, index: Index, *, here: bool) -> None:
    """What was wanted again before now is written. Without a worker, this process works."""
    from indexer import changes, ledger

    alone = here or working.is_alone(opened)
    since = changes.watermark(opened.engine).at
    left, moved_at, outages = -1, time.monotonic(), list[str]()
    with output.progress(f"index {index.id}: repair") as bar:
        while overdue := ledger.standing(opened.engine, index.id, since=since).overdue:
            if overdue != left:
                left, moved_at = overdue, time.monotonic()
            elif time.monotonic() - moved_at > SILENCE_S:
                raise IndexStateError(
                    f"index {index.id}: no item was repaired for {SILENCE_S:.0f} s, {overdue:,} to "
                    f"go. {outages[0] if outages else 'Does a worker run? Add --here.'}"
                )
            bar.at(0, None, f"index {index.id}: {overdue:,} items to repair")
            if alone:
                outages = working.work(opened, index)
            if not alone or outages:
                time.sleep(working.LOOK_S)


def _show(rows: list[dict[str, object]]) -> None:
    output.table(
        ("index", "alias", *COUNTS),
        [(row["index"], row["alias"], *(row[name] for name in COUNTS)) for row in rows],
        empty="no index to compare: see `twinspan status`",
    )
    for row in rows:
        for cause, keys in cast("Mapping[str, list[str]]", row["examples"]).items():
            output.note(f"index {row['index']}: {row[cause]:,} {cause}: {', '.join(keys)}")
        if row["wrong_encoder"]:
            output.note(f"index {row['index']}: build a new one: `twinspan reindex`")


def _causes(found: Found) -> str:
    examples = cast("Mapping[str, list[str]]", found["examples"])
    return ", ".join(f"{found[cause]:,} {cause}" for cause in examples)
