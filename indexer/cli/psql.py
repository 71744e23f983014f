"""`psql`: the reader's own client on the database that the settings name."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Annotated
from urllib.parse import unquote, urlsplit, urlunsplit

import typer

from indexer.cli.running import RUN_PANEL
from indexer.errors import UsageError


def add_to(app: typer.Typer) -> None:
    app.command(
        rich_help_panel=RUN_PANEL,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(psql)


def psql(
    context: typer.Context,
    show: Annotated[
        bool, typer.Option("--url", help="Print the database's address, password included.")
    ] = False,
) -> None:
    """Open psql on the catalog's database; arguments are psql's own.

    As in `twinspan psql -c "SELECT 1"`. The wheel's psql serves where none is installed.
    """
    from indexer import embedded
    from indexer import settings as settings_module
    from indexer.embedded import pgdata

    with embedded.database_url(settings_module.load()) as url:
        if show:
            print(url)
            return
        program = shutil.which("psql") or str(pgdata.binaries() / pgdata.program("psql"))
        address, password = _without_password(url)
        environment = os.environ | ({"PGPASSWORD": password} if password else {})
        try:
            done = subprocess.run([program, address, *context.args], env=environment, check=False)
        except OSError as cause:  # the system takes no longer line, say
            raise UsageError(
                f"psql cannot be started: {cause.strerror}. A long script is read from a file: "
                "`twinspan psql -f FILE`."
            ) from cause
    raise typer.Exit(done.returncode)


def _without_password(url: str) -> tuple[str, str]:
    """A command line is seen by every user of the machine."""
    parts = urlsplit(url)
    if not parts.password:
        return url, ""
    place = parts.netloc.rpartition("@")[2]
    bare = urlunsplit(parts._replace(netloc=f"{parts.username}@{place}"))
    return bare, unquote(parts.password)
