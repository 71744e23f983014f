"""`reindex`, `promote`, `rollback`, `retire`, `cancel`, `history`: which index answers."""

from __future__ import annotations

import getpass
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from indexer.cli import output, parts, training
from indexer.cli.output import Json
from indexer.errors import IndexStateError, UsageError

if TYPE_CHECKING:
    from indexer.gate import Pause
    from indexer.indexes import Index

ROLLOUT_PANEL = "Indexes"
SLICE_S = 2.0  # of work between two looks, when this process works itself
LOOK_S = 0.25  # between two looks at the progress of workers
LOOKS_PER_COUNT = 40  # the catalog's rows are counted again after so many looks
SILENCE_S = 20.0  # without any progress until we ask whether a worker runs

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Force = Annotated[
    bool, typer.Option("--force", help="Against the advice given; `history` keeps that.")
]
IndexId = Annotated[int, typer.Argument(metavar="INDEX", help="Its id: see `twinspan status`.")]


def add_to(app: typer.Typer) -> None:
    for command in (reindex, promote, rollback, retire, cancel, history):
        app.command(rich_help_panel=ROLLOUT_PANEL)(command)


def reindex(
    *,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="Id (or its beginning) or address; else the newest."),
    ] = None,
    catalog: Annotated[str, typer.Option("--catalog", "-c", help="Name of the catalog.")] = "items",
    alias: Annotated[
        str | None,
        typer.Option("--alias", "-a", help="Alias to answer under; else the catalog's name."),
    ] = None,
    queue: Annotated[
        str, typer.Option("--queue", help="Celery queue of its wake-ups: CPU or GPU workers.")
    ] = "twinspan",
    adopt: Annotated[
        str | None,
        typer.Option("--adopt", metavar="COLLECTION", help="Take vectors from it, if unchanged."),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="This encoder made it, though it does not say so.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Stay until the index is complete.")
    ] = True,
    make_live: Annotated[
        bool, typer.Option("--promote/--no-promote", help="Make it live when it is complete.")
    ] = True,
    here: Annotated[
        bool, typer.Option("--here", help="Do the work in this process, beside any workers.")
    ] = False,
    resume: Annotated[
        int | None, typer.Option("--resume", metavar="INDEX", help="Go on with this index.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a new index of a catalog with an encoder, and make it live when it is complete.

    The index before it becomes standby. Interrupt it as you like: --resume goes on. Vectors that
    this encoder made before are taken over from an index that has them, not made again.
    """
    with parts.opened() as opened:
        if resume is None:
            asked = {"alias": alias, "queue": queue, "adopt": adopt, "trust": trust, "by": who()}
            index = _start(opened, encoder, catalog, asked)
            output.note(
                f"index {index.id}: encoder {index.encoder_id[:12]} ({index.encoder_family}), "
                f"alias {index.alias}"
            )
        else:
            index = _resumed(opened, resume)
        if opened.server is None:  # else it fills the index, whatever becomes of us
            _fill(opened, index)
        if wait:
            _wait(opened, index, here=here)
        if wait and make_live:
            index = _promote(opened, index.id, force=False, here=here)
        _show(index, as_json=as_json)


def promote(index: IndexId, force: Force = False, as_json: Json = False) -> None:
    """Make a complete index the live one of its alias. The one before becomes standby."""
    with parts.opened() as opened:
        _show(_promote(opened, index, force=force), as_json=as_json)


def rollback(
    alias: Annotated[
        str | None, typer.Argument(help="Its alias; not needed where only one has a live index.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Have the index that was live before answer again, with its own encoder, at once.

    It has been receiving every change meanwhile. The one that was live becomes standby.
    """
    from indexer import indexes
    from indexer import rollout as rolling

    with parts.opened() as opened:
        alias = alias or _only_alias(opened)
        if opened.server is not None:
            back = opened.server.rollback(alias, force=force, by=who())
            index = indexes.get(opened.engine, back)
        else:
            index = rolling.rollback(opened.engine, opened.store, alias, force=force, by=who())
        _show(index, as_json=as_json)


def retire(index: IndexId, yes: Yes = False, as_json: Json = False) -> None:
    """Drop an index that nothing names: its collection and its part of the ledger are gone."""
    from indexer import indexes
    from indexer import rollout as rolling

    with parts.opened() as opened:
        _confirm(opened, "Retire", index, yes=yes)
        if opened.server is not None:
            opened.server.retire(index, by=who())
        else:
            rolling.retire(opened.engine, opened.store, index, by=who())
        _show(indexes.get(opened.engine, index), as_json=as_json)


def cancel(index: IndexId, yes: Yes = False, as_json: Json = False) -> None:
    """Give up an index that is being built: its collection and its part of the ledger are gone."""
    from indexer import indexes
    from indexer import rollout as rolling

    with parts.opened() as opened:
        _confirm(opened, "Cancel", index, yes=yes)
        if opened.server is not None:
            opened.server.cancel(index, by=who())
        else:
            rolling.cancel(opened.engine, opened.store, index, by=who())
        _show(indexes.get(opened.engine, index), as_json=as_json)


def history(
    alias: Annotated[str | None, typer.Argument(help="Only this alias.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The most to show.")] = 50,
    as_json: Json = False,
) -> None:
    """What was done to indexes, by whom, and how it ended; newest first."""
    from indexer import history as log

    with parts.opened() as opened:
        steps = log.of(opened.engine, alias, limit=limit)
    if as_json:
        output.json_document(steps)
        return
    output.table(
        ("at", "by", "action", "index", "alias", "outcome", "forced"),
        [
            (one.at, one.by, one.action, one.index_id, one.alias, one.outcome, one.forced)
            for one in steps
        ],
        empty="nothing was done yet",
    )


def _confirm(opened: parts.Parts, verb: str, index_id: int, *, yes: bool) -> None:
    from indexer import indexes

    found = indexes.get(opened.engine, index_id)
    question = f"{verb} index {index_id} ({found.collection}, {found.state})?"
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _only_alias(opened: parts.Parts) -> str:
    from indexer import indexes

    live = [index.alias for index in indexes.active(opened.engine) if index.state == "live"]
    if len(live) != 1:
        named = f"say which: {', '.join(sorted(live))}" if live else "no index is live"
        raise UsageError(f"roll back what? {named}.")
    return live[0]


def who() -> str | None:
    """The person at the keyboard, as far as the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's nameless user
        return None


def _start(
    opened: parts.Parts, encoder: str | None, catalog: str, asked: Mapping[str, Any]
) -> Index:
    from indexer import indexes
    from indexer import reindex as building

    info = training.choose(opened, encoder)
    if opened.server is not None:
        body = {"catalog": catalog, "encoder_uri": info.uri, **asked}
        return indexes.get(opened.engine, opened.server.reindex(body))
    return building.start(
        opened.engine, opened.store, catalog_name=catalog, encoder_uri=info.uri, **asked
    )


def _resumed(opened: parts.Parts, index_id: int) -> Index:
    from indexer import indexes
    from indexer import reindex as building

    if opened.server is None:
        return building.resume(opened.engine, opened.store, index_id)
    return indexes.get(opened.engine, index_id)


def _fill(opened: parts.Parts, index: Index) -> None:
    """Every item of the catalog has its entry; at once where it had them before."""
    from indexer import catalog
    from indexer import reindex as building

    if index.backfill_done:
        return
    attached = catalog.get_by_id(opened.engine, index.catalog_id)
    total = catalog.count(opened.engine, attached)
    with output.progress("listing items", total) as bar:
        for read in building.fill(opened.engine, index):
            bar.at(min(read, total))


def _wait(opened: parts.Parts, index: Index, *, here: bool) -> None:
    """The index is complete. Without a worker that could do it, this process works."""
    from indexer import reindex as building

    alone = here or _is_alone(opened)
    if alone:  # a missing or damaged encoder is told at once
        opened.towers.get(index.encoder_id, index.encoder_uri)
    silence, looks = _Silence(index.id), 0
    total: int | None = None
    with output.progress("indexing") as bar:
        while True:
            _check_active(opened, index.id)
            now = building.progress(opened.engine, index.id, total=total)
            looks += 1
            total = now.total if looks % LOOKS_PER_COUNT else None
            pace = "" if now.rate is None else f" {now.rate:,.0f}/s"
            bar.at(max(0, now.total - now.dirty), now.total, f"indexing{pace}")
            if now.complete:
                break
            outages = _work(opened, index) if alone else []
            silence.check(now.dirty, outages, alone=alone)
    if now.quarantined:
        output.note(f"{now.quarantined:,} items failed: see `twinspan failures`")


def _is_alone(opened: parts.Parts) -> bool:
    """Whether no worker could do the work."""
    return opened.settings.broker_url is None and opened.server is None


def _check_active(opened: parts.Parts, index_id: int) -> None:
    from indexer import indexes

    if not indexes.is_active(opened.engine, index_id):
        raise IndexStateError(f"index {index_id} was cancelled or retired meanwhile.")


def _work(opened: parts.Parts, index: Index) -> list[str]:
    """A slice of the index's work is done here; returns what kept it from being done."""
    from indexer import sync

    report = sync.drain(
        opened.engine,
        opened.store,
        opened.towers,
        opened.settings,
        index_id=index.id,
        slice_s=SLICE_S,
    )
    return report.outages


class _Silence:
    """Notices that nothing moves, and says so instead of waiting in silence."""

    def __init__(self, index_id: int) -> None:
        self._index_id = index_id
        self._dirty = -1
        self._since = time.monotonic()
        self._told: set[str] = set()

    def check(self, dirty: int, outages: list[str], *, alone: bool) -> None:
        """Pauses before the next look where nothing moved. Raises IndexStateError when this process
        works alone and an outage has lasted SILENCE_S."""
        if dirty != self._dirty:
            self._dirty, self._since = dirty, time.monotonic()
            if alone:
                return
        time.sleep(LOOK_S)
        for outage in outages:
            self._tell(outage)
        if time.monotonic() - self._since < SILENCE_S:
            return
        if outages:
            raise IndexStateError(
                f"{outages[0]} Mend it and go on with `twinspan reindex --resume {self._index_id}`."
            )
        if not alone:
            self._tell(
                f"no item was indexed for {SILENCE_S:.0f} s. Does a worker run? "
                "`celery -A workers.app worker`, or add --here to work in this process."
            )

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            output.note(text)


def _promote(opened: parts.Parts, index_id: int, *, force: bool, here: bool = False) -> Index:
    from indexer import indexes
    from indexer import rollout as rolling

    if opened.server is not None:
        opened.server.promote(index_id, force=force, by=who())
        return indexes.get(opened.engine, index_id)

    return rolling.promote(
        opened.engine,
        opened.store,
        opened.towers,
        opened.settings,
        index_id,
        force=force,
        by=who(),
        pause=pause_of(opened, index_id, here=here),
    )


def pause_of(opened: parts.Parts, index_id: int, *, here: bool = False) -> Pause:
    """What is done while the gate waits: the work, where no worker can be there to do it, or where
    it shall be done `here`."""
    from indexer import gate, indexes

    if opened.settings.broker_url is not None and not here:
        return gate.sleep
    index = indexes.get(opened.engine, index_id)

    def work_or_sleep() -> None:
        _work(opened, index)
        gate.sleep()

    return work_or_sleep


def _show(index: Index, *, as_json: bool) -> None:
    if as_json:
        output.json_document(index)
    else:
        print(f"index {index.id} is {index.state} under alias {index.alias}")
