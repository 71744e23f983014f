"""`permit`, `forbid`: what other roles of the database may do."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from indexer.cli import output, parts

ACCESS_PANEL = "Access"

Role = Annotated[str, typer.Argument(metavar="ROLE", help="A role of the database.")]


class Purpose(StrEnum):
    """What a role is for."""

    worker = "worker"
    query = "query"


def add_to(app: typer.Typer) -> None:
    for command in (permit, forbid):
        app.command(rich_help_panel=ACCESS_PANEL)(command)


def permit(
    purpose: Annotated[
        Purpose, typer.Argument(metavar="worker|query", help="What the role is for.")
    ],
    role: Role,
) -> None:
    """Give a role the rights that its purpose needs, and no others. Safe to repeat.

    A worker's role works on the ledger and reads the columns that catalogs describe; a query role
    reads. A role that does not exist is made, without a login.
    """
    from indexer import catalog

    with parts.opened() as opened:
        created = catalog.permit(opened.engine, role, purpose.value)
    print(f"role {role} may do what a {purpose.value} needs")
    if created:
        output.note(f"the role is new: let a user log in with CREATE USER ... IN ROLE {role}")


def forbid(role: Role) -> None:
    """Take back what `permit` gave to a role."""
    from indexer import catalog

    with parts.opened() as opened:
        catalog.forbid(opened.engine, role)
    print(f"role {role} may do nothing here any more")
