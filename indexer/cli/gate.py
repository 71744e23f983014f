"""`gate`: what an index must show before it answers users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from indexer.cli import output, parts, working
from indexer.cli.output import Json
from indexer.cli.rollout import ROLLOUT_PANEL, IndexId, who
from indexer.errors import IndexStateError

if TYPE_CHECKING:
    from collections.abc import Mapping

SAID = {True: "pass", False: "FAIL", None: "–"}


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=ROLLOUT_PANEL)(gate)


def gate(
    index: IndexId,
    last: Annotated[
        bool, typer.Option("--last", help="Show the report that is kept; ask nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask whether an index is fit to go live. Exits 1 when it is not; changes nothing.

    Compares catalog, ledger and store, sampled vectors, searches with and without filters, and what
    users did next, with the live index beside it. The report is kept.
    """
    with parts.opened() as opened:
        report = _kept(opened, index) if last else _judged(opened, index)
    if as_json:
        output.json_document(report)
    else:
        _show(report)
    if not report["passed"]:
        raise typer.Exit(1)


def _judged(opened: parts.Parts, index_id: int) -> Mapping[str, Any]:
    from indexer import rollout

    if opened.server is not None:
        return opened.server.judge(index_id, by=who())
    report = rollout.judge(
        opened.engine,
        opened.store,
        opened.towers,
        opened.settings,
        index_id,
        by=who(),
        pause=working.pause_of(opened, index_id),
    )
    return report.as_dict()


def _kept(opened: parts.Parts, index_id: int) -> Mapping[str, Any]:
    from indexer import indexes

    found = indexes.gate(opened.engine, indexes.get(opened.engine, index_id).id)
    if found is None:
        raise IndexStateError(
            f"the gate has not looked at index {index_id} yet: `twinspan gate {index_id}`."
        )
    return found


def _show(report: Mapping[str, Any]) -> None:
    checks = cast("list[Mapping[str, Any]]", report["checks"])
    rows = [(one["name"], SAID[one["passed"]], one["measured"]) for one in checks]
    verdict = "passes" if report["passed"] else "does not pass"
    output.table(("check", "", "measured"), rows)
    print(
        f"index {report['index_id']} {verdict} the gate "
        f"({report['took_s']:.1f} s, seed {report['seed']})"
    )
    for one in checks:
        if one["passed"] is False:
            print(f"{one['name']}: {one['meaning']} {one['remedy']}")
