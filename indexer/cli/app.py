"""The Typer application, and the one place where an error becomes a line and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from encoders.errors import EncoderError
from indexer.cli import (
    access,
    asking,
    building,
    data,
    evaluating,
    gate,
    health,
    psql,
    recovery,
    rollout,
    running,
    standing,
    training,
    verifying,
)
from indexer.errors import TwinspanError, UsageError

DONE, FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
CHATTY = ("httpx", "httpcore", "amqp", "celery", "asyncio", "urllib3")
ALARMIST = ("kombu",)  # warns of a host name that the broker inside this process lacks

app = typer.Typer(
    name="twinspan",
    help="Keep a vector index exactly in step with a PostgreSQL catalog.",
    epilog="Settings come from TWINSPAN_* and twinspan.toml: see `twinspan settings`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for group in (
    running,
    psql,
    data,
    training,
    evaluating,
    building,
    rollout,
    gate,
    standing,
    health,
    verifying,
    recovery,
    access,
    asking,
):
    group.add_to(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            print(metadata.version("twinspan"))
        except metadata.PackageNotFoundError:
            print("unknown: run from a source tree that is not installed")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Keep a vector index exactly in step with a PostgreSQL catalog."""


def main() -> None:
    """Run the command that the process was called with, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Prints at most one line of error, unless --debug."""
    arguments, debug = _without_debug(arguments)
    _print_anything()
    _log_to_stderr(debug=debug)
    try:
        code = typer.main.get_command(app).main(
            args=arguments, prog_name="twinspan", standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:  # the outermost place: every error ends here
        if debug:
            raise
        if said := _said(error):
            print(f"error: {said}", file=sys.stderr)
        return _code(error)


def _without_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """Users add --debug at the end of the line that has just failed: take it from anywhere."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != "--debug"]
    return [*kept, *arguments[end:]], len(kept) < end


def _print_anything() -> None:
    """A lone surrogate in somebody's data is printed escaped, never an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")


def _log_to_stderr(*, debug: bool) -> None:
    """Warnings are shown like remarks: a line on stderr."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(message)s"
    )
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ALARMIST:
        logging.getLogger(name).setLevel(logging.ERROR)


def _silence_stdout() -> None:
    """The reader of our output went away: nothing more is written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said(error: Exception) -> str:
    """One line that says what happened and what to do next; nothing where help was just shown."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "twinspan"
        message = _line(error.format_message()).rstrip(".")
        return f"{message}. See `{command} --help`." if message else ""
    if isinstance(error, TwinspanError | EncoderError):
        return _line(str(error) or error.__doc__ or type(error).__name__)
    return (
        f"{type(error).__name__}: {_line(str(error))} "
        "(not expected: run again with --debug for the traceback, and report it)"
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _code(error: Exception) -> int:
    return USAGE if isinstance(error, typer.TyperException | UsageError) else FAILED
