"""`run` does runs, `served` what a user would do, `table` writes docs/results.md."""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

from benchmarks.recommenders import runs, served, tables, worlds
from benchmarks.recommenders.models import MODELS


def main() -> None:
    options = _options()
    if options.command == "table":
        tables.PAGE.write_text(tables.page(), encoding="utf-8")
        return
    if options.command == "served":
        for data in options.data:
            served.do(data, threads=options.threads)
        return
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    named = itertools.product(options.data, options.protocol, options.model, options.seed)
    for data, protocol, model, seed in named:
        asked = runs.Asked(
            data=data,
            model=model,
            protocol=protocol,
            seed=seed,
            ties=options.ties,
            more=dict(map(_option, options.option)),
        )
        runs.do(asked, device=options.device)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.recommenders", description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    run = commands.add_parser("run", help="every combination of what is named")
    through = commands.add_parser("served", help="by the command line, through an index")
    for command in (run, through):
        command.add_argument("--data", nargs="+", required=True, choices=list(worlds.SOURCES))
        command.add_argument("--threads", type=int, help="of torch")
    run.add_argument("--model", nargs="+", required=True, choices=list(MODELS))
    run.add_argument("--protocol", nargs="+", default=["loo"], choices=list(runs.PROTOCOLS))
    run.add_argument("--seed", nargs="+", type=int, default=[0])
    run.add_argument("--ties", default="shuffled", choices=["shuffled", "listed"])
    run.add_argument("--option", "-o", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--device", default="cpu")
    commands.add_parser("table", help="docs/results.md from all runs")
    return parser.parse_args()


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    main()
