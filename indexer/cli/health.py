"""`failures`, `retry`, `doctor`: how it is going, and what is wrong."""

from __future__ import annotations

from typing import Annotated

import typer

from indexer.cli import output, parts
from indexer.cli.output import Json
from indexer.sayable import INTEGER_MAX

HEALTH_PANEL = "Health"
ERROR_SHOWN = 120  # characters of an error in a table

OneIndex = Annotated[
    int | None,
    typer.Option(
        "--index", "-i", min=1, max=INTEGER_MAX, help="Only this index: see `twinspan status`."
    ),
]


def add_to(app: typer.Typer) -> None:
    for command in (failures, retry, doctor):
        app.command(rich_help_panel=HEALTH_PANEL)(command)


def failures(
    index: OneIndex = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The most to show.")] = 100,
    as_json: Json = False,
) -> None:
    """Items that could not be indexed, and why; the quarantined first."""
    from indexer import ledger

    with parts.opened() as opened:
        found = ledger.failures(opened.engine, index_id=index, limit=limit)
    if as_json:
        output.json_document(found)
        return
    output.table(
        ("index", "item", "attempts", "quarantined", "next try", "error"),
        [
            (
                each.index_id,
                each.key,
                each.attempts,
                each.quarantined,
                None if each.quarantined else each.due_at,
                each.error[:ERROR_SHOWN],
            )
            for each in found
        ],
        empty="no item failed",
    )


def retry(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM]...", help="These items; else all.")
    ] = None,
    index: OneIndex = None,
) -> None:
    """Try failed and quarantined items again now, with all their attempts."""
    from indexer import entries

    with parts.opened() as opened:
        count = entries.retry(opened.engine, index_id=index, keys=keys or None)
    print(f"{count:,} items are due again")


def doctor(as_json: Json = False) -> None:
    """Check connections, schema, triggers, versions and limits. Exit code 1 when one fails."""
    from indexer.cli import checks

    with parts.opened(check_schema=False) as opened:
        found = list(checks.run(opened))
    if as_json:
        output.json_document(found)
    else:
        output.table(
            ("check", "", "what"),
            [(each.name, "ok" if each.ok else "FAIL", each.said) for each in found],
        )
    if not all(each.ok for each in found):
        raise typer.Exit(1)
