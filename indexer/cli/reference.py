"""`docs/cli.md`, `docs/settings.md` and `docs/metrics.md`, written from the code itself.

python -m indexer.cli.reference            write them
python -m indexer.cli.reference --check    exit 1 when one of them is not current
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import typer

from indexer import metrics
from indexer.cli.app import app
from indexer.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
WRITTEN = "<!-- written by `python -m indexer.cli.reference`: do not edit -->"


def pages() -> dict[str, str]:
    """File name -> text of the page as it should be."""
    return {"cli.md": cli_page(), "settings.md": settings_page(), "metrics.md": metrics_page()}


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
        "its default. A secret may lie in a file that `TWINSPAN_<NAME>_FILE` names, for instance "
        "`TWINSPAN_DATABASE_URL_FILE`. `twinspan settings` shows what is in force and where it "
        "comes from.\n\n"
        "| setting | default | bounds | what it does |\n|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


METRICS_INTRO = """Prometheus metrics of every process that works or answers.

- A worker serves them at `/metrics` on `metrics_host`:`metrics_port` (0, the default: not at all),
  the main process for all of its pool, whichever pool. `twinspan up` has them on its HTTP API.
- An application that embeds a `Retriever` has the recorded ones in `prometheus_client`'s default
  registry.
- An index is named by its alias and state, so there are never more series than aliases times
  states; gauges of the ledger name it by id, too, and end with it.
- Gauges of the ledger are read from the database at the scrape, kept for two seconds or ten times
  as long as the look took, and are the same from every worker: take their `max`, never their `sum`.

`deploy/grafana/twinspan.json` shows them, `deploy/prometheus/alerts.yml` alerts on them."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What one recorded metric is called and says."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def recorded() -> list[Recorded]:
    """All that processes record."""
    found: list[Recorded] = []
    for metric in metrics.RECORDED:
        [said] = metric.describe()
        labels = tuple(cast("Sequence[str]", cast(Any, metric)._labelnames))
        name = f"{said.name}_total" if said.type == "counter" else said.name
        found.append(Recorded(name=name, kind=said.type, labels=labels, help=said.documentation))
    return found


def metrics_page() -> str:
    counted = [
        f"| `{one.name}` | {one.kind} | {', '.join(one.labels)} | {one.help} |"
        for one in recorded()
    ]
    gauges = [f"| `{one.name}` | {', '.join(one.labels)} | {one.help} |" for one in metrics.LEDGER]
    return "\n".join(
        [
            f"# Metrics\n\n{WRITTEN}\n\n{METRICS_INTRO}\n\n## Recorded by processes\n",
            "| metric | type | labels | what it says |\n|---|---|---|---|",
            *counted,
            "\n## Read from the ledger at the scrape\n",
            "| gauge | labels | what it says |\n|---|---|---|",
            *gauges,
            "",
        ]
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
