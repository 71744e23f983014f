"""`reindex`: an index is built and made live, watched by the person who asked for it."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli import output, parts, rollout, training, working
from indexer.cli.output import Json
from indexer.errors import IndexStateError, UsageError
from indexer.sayable import INTEGER_MAX

if TYPE_CHECKING:
    from indexer.indexes import Index

LOOKS_PER_COUNT = 40  # the catalog's rows are counted again after so many looks
SILENCE_S = 20.0  # without any progress until we ask whether a worker runs
QUEUE = "twinspan"

Wanted = Annotated[
    str | None,
    typer.Option("--encoder", "-e", help="Id (or its beginning) or address; else the newest."),
]
NewAlias = Annotated[
    str | None,
    typer.Option("--alias", "-a", help="Alias to answer under; else the catalog's name."),
]
Queue = Annotated[
    str, typer.Option("--queue", help="Celery queue of its wake-ups: CPU or GPU workers.")
]
Adopt = Annotated[
    str | None,
    typer.Option("--adopt", metavar="COLLECTION", help="Take vectors from it, if unchanged."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="This encoder made it, though it does not say so.")
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until the index is complete.")]
MakeLive = Annotated[
    bool, typer.Option("--promote/--no-promote", help="Make it live when it is complete.")
]
Here = Annotated[
    bool, typer.Option("--here", help="Do the work in this process, beside any workers.")
]
Resume = Annotated[
    int | None,
    typer.Option(
        "--resume", metavar="INDEX", min=1, max=INTEGER_MAX, help="Go on with this index."
    ),
]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What a new index shall be, by the names of the options."""

    encoder: str | None = None
    catalog: str = "items"
    alias: str | None = None
    queue: str = QUEUE
    adopt: str | None = None
    trust: bool = False


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=rollout.ROLLOUT_PANEL)(reindex)


def reindex(
    *,
    encoder: Wanted = None,
    catalog: training.CatalogName = "items",
    alias: NewAlias = None,
    queue: Queue = QUEUE,
    adopt: Adopt = None,
    trust: Trust = False,
    wait: Wait = True,
    make_live: MakeLive = True,
    here: Here = False,
    resume: Resume = None,
    as_json: Json = False,
) -> None:
    """Build a new index of a catalog with an encoder, and make it live when it is complete.

    The index before it becomes standby. Interrupt it as you like: --resume goes on. Vectors that
    this encoder made before are taken over from an index that has them, not made again.
    """
    asked = _Asked(
        encoder=encoder, catalog=catalog, alias=alias, queue=queue, adopt=adopt, trust=trust
    )
    with parts.opened() as opened:
        index = _start(opened, asked) if resume is None else _resumed(opened, resume, asked)
        if opened.server is None:  # else it fills the index, whatever becomes of us
            _fill(opened, index)
        if wait:
            _wait(opened, index, here=here)
        if wait and make_live:
            index = rollout.promoted(opened, index.id, force=False, here=here)
        rollout.show(index, as_json=as_json)
        if index.state == "building":
            then = f"promote {index.id}" if wait else f"reindex --resume {index.id}"
            output.note(f"next: `twinspan {then}`")


def _start(opened: parts.Parts, asked: _Asked) -> Index:
    from indexer import indexes
    from indexer import reindex as building

    info = training.choose(opened, asked.encoder)
    said = {"alias": asked.alias, "queue": asked.queue, "adopt": asked.adopt, "trust": asked.trust}
    if opened.server is not None:
        body = {"catalog": asked.catalog, "encoder_uri": info.uri, "by": rollout.who(), **said}
        index = indexes.get(opened.engine, opened.server.reindex(body))
    else:
        index = building.start(
            opened.engine,
            opened.store,
            catalog_name=asked.catalog,
            encoder_uri=info.uri,
            alias=asked.alias,
            queue=asked.queue,
            adopt=asked.adopt,
            trust=asked.trust,
            by=rollout.who(),
        )
    output.note(
        f"index {index.id}: encoder {index.encoder_id[:12]} ({index.encoder_family}), "
        f"alias {index.alias}"
        + (f", unchanged vectors from {index.adopts}" if index.adopts else "")
    )
    return index


def _resumed(opened: parts.Parts, index_id: int, asked: _Asked) -> Index:
    """Raises UsageError for options that only a new index can have, IndexStateError for an index
    that was built."""
    from indexer import indexes
    from indexer import reindex as building

    _refuse_beside_resume(asked)
    index = building.check_not_ended(indexes.get(opened.engine, index_id))
    if index.state == "standby":
        raise IndexStateError(
            f"index {index_id} is standby, it has been built: `twinspan promote {index_id}` makes "
            "it live again."
        )
    if opened.server is not None:
        return index
    return building.resume(opened.engine, opened.store, index_id)


def _refuse_beside_resume(asked: _Asked) -> None:
    given, usual = asdict(asked), asdict(_Asked())
    for field in fields(asked):
        if given[field.name] != usual[field.name]:
            raise UsageError(
                f"--resume goes on with an index as it was begun: leave out --{field.name}."
            )


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

    alone = here or working.is_alone(opened)
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
            outages = working.work(opened, index) if alone else []
            silence.check(now.dirty, outages, alone=alone)
    if now.quarantined:
        output.note(f"{now.quarantined:,} items failed: see `twinspan failures`")


def _check_active(opened: parts.Parts, index_id: int) -> None:
    from indexer import indexes

    if not indexes.is_active(opened.engine, index_id):
        raise IndexStateError(f"index {index_id} was cancelled or retired meanwhile.")


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
        time.sleep(working.LOOK_S)
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
