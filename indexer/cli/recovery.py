"""`reconcile`: after a restore or a loss."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli import output, parts
from indexer.cli.health import HEALTH_PANEL
from indexer.cli.output import Json

if TYPE_CHECKING:
    from indexer.reconcile import Report


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=HEALTH_PANEL)(reconcile)


def reconcile(
    encode: Annotated[
        bool,
        typer.Option(
            "--encode/--no-encode",
            help="Write every item again; else `verify --repair` finds what differs.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Make database and store agree after one of them was restored from a backup, or lost.

    Fences are raised above the store's, lost collections made again, and nothing that the ledger
    believes is relied on. Live changes keep going first.
    """
    from indexer import reconcile as reconciling

    with parts.opened() as opened, output.progress("ledger") as bar:
        report = reconciling.reconcile(
            opened.engine, opened.store, again=encode, on_progress=lambda _, done: bar.at(done)
        )
    if as_json:
        output.json_document(_plain(report))
        return
    output.table(
        ("index", "alias", "state", "collection", "entries in doubt", "points unknown"),
        [
            (
                one.index.id,
                one.index.alias,
                one.index.state,
                "made again" if one.made else "there",
                one.doubted,
                one.surplus,
            )
            for one in report.indexes
        ],
        title=f"fences from {report.fence:,} on",
        empty=f"fences from {report.fence:,} on; no active index",
    )
    _tell_what_is_left(report, encode=encode)


def _tell_what_is_left(report: Report, *, encode: bool) -> None:
    for name, aliases in report.unknown.items():
        if aliases:
            output.note(
                f"{name} is unknown to this database, and answers as {', '.join(aliases)}: promote "
                "an index of that alias, or build one"
            )
        else:
            output.note(f"{name} is unknown to this database: remove it if no other one owns it")
    if encode:
        output.note("workers write everything again: see `twinspan status`")
    else:
        output.note("next: `twinspan verify --repair`")


def _plain(report: Report) -> dict[str, object]:
    return {
        "fence": report.fence,
        "indexes": [
            {**asdict(one), "index": one.index.id, "alias": one.index.alias}
            for one in report.indexes
        ],
        "unknown": report.unknown,
    }
