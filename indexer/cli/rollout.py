"""`promote`, `rollback`, `retire`, `cancel`, `history`: which index answers."""

from __future__ import annotations

import getpass
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli import output, parts, working
from indexer.cli.output import Json
from indexer.errors import UsageError
from indexer.sayable import INTEGER_MAX

if TYPE_CHECKING:
    from indexer.indexes import Index

ROLLOUT_PANEL = "Indexes"

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Force = Annotated[
    bool, typer.Option("--force", help="Against the advice given; `history` keeps that.")
]
IndexId = Annotated[
    int,
    typer.Argument(metavar="INDEX", min=1, max=INTEGER_MAX, help="Its id: see `twinspan status`."),
]


def add_to(app: typer.Typer) -> None:
    for command in (promote, rollback, retire, cancel, history):
        app.command(rich_help_panel=ROLLOUT_PANEL)(command)


def promote(index: IndexId, force: Force = False, as_json: Json = False) -> None:
    """Make a complete index the live one of its alias. The one before becomes standby."""
    with parts.opened() as opened:
        show(promoted(opened, index, force=force), as_json=as_json)


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
        show(index, as_json=as_json)


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
        show(indexes.get(opened.engine, index), as_json=as_json)


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
        show(indexes.get(opened.engine, index), as_json=as_json)


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
        output.json_document([{**asdict(one), "outcome": one.outcome} for one in steps])
        return
    output.table(
        ("at", "by", "action", "index", "alias", "outcome", "forced"),
        [
            (one.at, one.by, one.action, one.index_id, one.alias, one.outcome, one.forced)
            for one in steps
        ],
        empty="nothing was done yet" if alias is None else f"nothing was done to alias {alias!r}",
    )


def promoted(opened: parts.Parts, index_id: int, *, force: bool, here: bool = False) -> Index:
    """The index, live; by the process that holds the store."""
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
        pause=working.pause_of(opened, index_id, here=here),
    )


def who() -> str | None:
    """The person at the keyboard, as far as the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's nameless user
        return None


def show(index: Index, *, as_json: bool) -> None:
    if as_json:
        output.json_document(index)
    elif index.error:
        print(f"index {index.id} is {index.state} ({index.error})")
    elif index.state == "retired":
        print(f"index {index.id} is retired")
    else:
        print(f"index {index.id} is {index.state} under alias {index.alias}")


def _confirm(opened: parts.Parts, verb: str, index_id: int, *, yes: bool) -> None:
    from indexer import indexes

    found = indexes.get(opened.engine, index_id)
    if yes or output.confirmed(f"{verb} index {index_id} ({found.collection}, {found.state})?"):
        return
    output.note("left as it is")
    raise typer.Exit(1)


def _only_alias(opened: parts.Parts) -> str:
    from indexer import indexes

    live = [index.alias for index in indexes.active(opened.engine) if index.state == "live"]
    if len(live) != 1:
        named = f"say which: {', '.join(sorted(live))}" if live else "no index is live"
        raise UsageError(f"roll back what? {named}.")
    return live[0]
