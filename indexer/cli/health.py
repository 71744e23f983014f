"""`verify`, `failures`, `retry`, `doctor`: how it is going, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli import output, parts
from indexer.cli.output import Json

if TYPE_CHECKING:
    from indexer.indexes import Index

HEALTH_PANEL = "Health"
ERROR_SHOWN = 120  # characters of an error in a table

OneIndex = Annotated[
    int | None, typer.Option("--index", "-i", help="Only this index: see `twinspan status`.")
]


def add_to(app: typer.Typer) -> None:
    for command in (verify, failures, retry, doctor):
        app.command(rich_help_panel=HEALTH_PANEL)(command)


def verify(
    index: OneIndex = None,
    vectors: Annotated[
        bool, typer.Option("--vectors/--no-vectors", help="Encode every item again and compare.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare catalog and index item by item. Exit code 1 when they differ.

    A change on its way counts as a difference: look again when `twinspan status` shows none.
    """
    from indexer import indexes

    with parts.opened() as opened:
        chosen = (
            [indexes.get(opened.engine, index)]
            if index is not None
            else [each for each in indexes.active(opened.engine) if each.state != "building"]
        )
        compared = [(each, _compare(opened, each, vectors=vectors)) for each in chosen]
    rows = [{"index": each.id, "alias": each.alias, **seen} for each, seen in compared]
    if as_json:
        output.json_document(rows)
    else:
        _show_comparisons(rows)
    if any(row["drift"] for row in rows):
        raise typer.Exit(1)


def failures(
    index: OneIndex = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The most to show.")] = 100,
    as_json: Json = False,
) -> None:
    """Items that could not be indexed, and why; the quarantined first."""
    from indexer import entries

    with parts.opened() as opened:
        found = entries.failures(opened.engine, index_id=index, limit=limit)
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


def _compare(opened: parts.Parts, index: Index, *, vectors: bool) -> dict[str, object]:
    """What a comparison saw, from the process that holds the store."""
    if opened.server is not None:
        return opened.server.verify(index.id, vectors=vectors)
    from indexer import verify as comparing

    tower = opened.towers.get(index.encoder_id, index.encoder_uri) if vectors else None
    seen = comparing.Comparison()
    with output.progress(f"index {index.id}") as bar:
        for looked in comparing.compare_steps(
            opened.engine, opened.store, index, seen, tower=tower
        ):
            bar.at(looked)
    return seen.as_dict()


def _show_comparisons(rows: Sequence[dict[str, object]]) -> None:
    names = ("items", "agree", "drift", "in_flight", "quarantined", "unusable")
    output.table(
        ("index", "alias", *names),
        [(row["index"], row["alias"], *(row[name] for name in names)) for row in rows],
        empty="no index to compare: see `twinspan status`",
    )
    for row in rows:
        examples = row["examples"]
        if isinstance(examples, dict):
            for kind, keys in examples.items():  # pyright: ignore[reportUnknownVariableType]
                output.note(f"index {row['index']}: {kind}: {', '.join(map(str, keys))}")  # pyright: ignore[reportUnknownArgumentType]
