"""`up`, `demo`, `settings`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer import environment
from indexer import settings as settings_module
from indexer.cli import output
from indexer.cli.output import Json

if TYPE_CHECKING:
    from indexer.settings import Settings

RUN_PANEL = "Run"
WORKER = "workers.thread:start"  # by name: that package builds on this one
MASK = "********"


def add_to(app: typer.Typer) -> None:
    for command in (demo, up, settings):
        app.command(rich_help_panel=RUN_PANEL)(command)


def demo(
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="MovieLens, any edition; else it is fetched."),
    ] = None,
) -> None:
    """MovieLens-100K from an empty folder to living recommendations, in a few minutes.

    Import, train, index, recommend, filter; then a new film by plain SQL, and the clock.
    """
    import pkgutil

    from indexer import demo as story

    code = story.run(settings_module.load(), start_worker=pkgutil.resolve_name(WORKER), data=data)
    raise typer.Exit(code)


def up(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log what the worker does.")
    ] = False,
) -> None:
    """Run everything that has no address of its own in one process, until Ctrl-C.

    PostgreSQL, worker, vector store and an HTTP API; the other commands find and use it.
    """
    import logging

    from indexer import logs
    from indexer import up as running

    known = settings_module.load()
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logs.formatter(known))
    running.up(known, say=output.note)


def settings(as_json: Json = False) -> None:
    """Every setting: its value, where that comes from, unit and bounds. Secrets are masked."""
    rows = list(described(settings_module.load()))
    if as_json:
        output.json_document(rows)
        return
    output.table(
        ("setting", "value", "from", "what"),
        [(row["name"], _shown(row["value"]), row["source"], row["help"]) for row in rows],
    )


def described(values: Settings) -> Iterator[dict[str, object]]:
    """Name, value, source, default and help of each setting."""
    from pydantic import SecretStr

    for name, field in type(values).model_fields.items():
        value: object = getattr(values, name)
        yield {
            "name": name,
            "value": MASK if isinstance(value, SecretStr) else _without_password(value),
            "source": _source(values, name),
            "default": field.default,
            "environment": f"TWINSPAN_{name.upper()}",
            "help": field.description,
        }


def _without_password(value: object) -> object:
    """An address that is no secret may still have a user and a password in it."""
    if not isinstance(value, str) or "@" not in value:
        return value
    scheme, separator, rest = value.rpartition("://")
    return f"{scheme}{separator}{MASK}@{rest.rpartition('@')[2]}"


def _shown(value: object) -> str:
    return "" if value is None else str(value)


def _source(values: Settings, name: str) -> str:
    if name not in values.model_fields_set:
        return "default"
    if path := os.environ.get(environment.file_variable(name)):
        return f"file {path}"
    set_here = {variable.upper() for variable in os.environ}
    return (
        "environment"
        if environment.own_variable(name) in set_here
        else settings_module.SETTINGS_FILE
    )
