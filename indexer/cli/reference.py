"""`docs/cli.md` and `docs/settings.md`, written from the commands and the settings themselves.

python -m indexer.cli.reference            write both
python -m indexer.cli.reference --check    exit 1 when one of them is not current
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import typer

from indexer.cli.app import app
from indexer.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN = "<!-- written by `python -m indexer.cli.reference`: do not edit -->"


def pages() -> dict[str, str]:
    """File name -> text of the page as it should be."""
    return {"cli.md": cli_page(), "settings.md": settings_page()}


def cli_page() -> str:
    root = cast(Any, typer.main.get_command(app))
    parts = [
        "# The command line",
        WRITTEN,
        "Data goes to stdout, progress and remarks to stderr. Every reporting command takes "
        "`--json`. "
        "Exit codes: 0 done, 1 it could not be done (or `verify` and `doctor` found something), "
        "2 the input is wrong, 130 interrupted. An error is one line on stderr; `--debug` anywhere "
        "on the line shows its traceback.",
        *_commands(root, "twinspan"),
    ]
    return "\n\n".join(parts) + "\n"


def settings_page() -> str:
    rows = [
        f"| `{name}` | {_default(field.default)} | {_bounds(field.metadata)} "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return (
        f"# Settings\n\n{WRITTEN}\n\n"
        "Each is read from the environment (`TWINSPAN_` and its name in capitals, for instance "
        "`TWINSPAN_DATABASE_URL`), else from `twinspan.toml` in the working directory, else it has "
        "its default. `twinspan settings` shows what is in force and where it comes from.\n\n"
        "| setting | default | bounds | what it does |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def _commands(group: Any, path: str) -> Iterator[str]:
    for name, command in cast(dict[str, Any], group.commands).items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        else:
            yield _command(command, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    parameters = cast(Sequence[Any], command.params)
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option" and one.name != "help"]
    usage = " ".join([path, *(_placeholder(one) for one in arguments)])
    lines = [f"## `{usage}`", inspect.cleandoc(command.help or "")]
    if arguments or options:
        rows = [f"| `{_spelled(one)}` | {_cell(one)} |" for one in [*arguments, *options]]
        lines.append("\n".join(["| | |", "|---|---|", *rows]))
    return "\n\n".join(lines)


def _placeholder(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _placeholder(parameter).replace("|", "\\|")
    names = [*parameter.opts, *parameter.secondary_opts]
    return ", ".join(names).replace("|", "\\|")


def _cell(parameter: Any) -> str:
    default = parameter.default
    shown = default not in (None, False, True, [], ()) and not callable(default)
    text = str(parameter.help or "").replace("|", "\\|")
    return f"{text} Default: `{default}`." if shown else text


def _default(value: object) -> str:
    return "empty" if value is None else f"`{value}`"


def _bounds(metadata: Sequence[object]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join(
        f"{sign} {getattr(each, name):g}"
        for each in metadata
        for name, sign in signs.items()
        if getattr(each, name, None) is not None
    )


def main(arguments: Sequence[str]) -> int:
    wanted = pages()
    if "--check" in arguments:
        stale = [name for name, text in wanted.items() if _read(DOCS / name) != text]
        for name in stale:
            print(f"docs/{name} is not current: run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    DOCS.mkdir(exist_ok=True)
    for name, text in wanted.items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
