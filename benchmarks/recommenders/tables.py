"""docs/results.md from the files of all runs: one table per data set and protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.recommenders import served
from benchmarks.recommenders.models import MODELS
from benchmarks.recommenders.runs import RESULTS, read_ranks
from encoders import evaluate
from encoders.evaluate import Ranks

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
REFERENCE = "sasrec"  # differences are against it, paired by user
COMPARED = "recall@20_unmasked"
COLUMNS = ("recall@5", "recall@10", "recall@20", "ndcg@10", "recall@10_unmasked",
           "recall@20_unmasked", "ndcg@20_unmasked")  # fmt: skip
HEADINGS = ("R@5", "R@10", "R@20", "N@10", "R@10 unmasked", "R@20 unmasked", "N@20 unmasked")
PROTOCOLS: Mapping[str, str] = {
    "loo": "Leave-one-out: each user's last event among all items.",
    "looc": "Leave-one-out, cold: the last items of 500 users drawn by the seed are cold, no event "
    "of them is trained on, and every user whose last item is cold is asked for it, among all "
    "items. Not comparable with leave-one-out.",
    "cold20": "A fifth of all items, drawn by the seed, is cold, no event of them is trained on, "
    "and every user whose last item is cold is asked for it, among all items. Comparable with "
    "neither of the other two.",
}
HEAD = """# Recommenders compared

Written by `python -m benchmarks.recommenders table` from the files of the runs, which lie in
`benchmarks/recommenders/results/`: options, learning curve, metrics, and the rank of every user's
target. Every model sees the same events, split and evaluator: the full catalogue is ranked, ties
count half, items of the user's history are taken out (*unmasked*: left in). Events of one user at
one time are in an order drawn by the seed. Options are the same for all data sets.

Several seeds: mean ± standard deviation. One seed: the mean, and its 95% interval by bootstrap over
users. *Against* is the difference to SASRec of the same seed in recall@20 unmasked, paired by user,
with its 95% interval; in bold where that excludes zero. Where items are cold, *others* are the
users whose last item is not, by the same model: what is won on these can be lost on those, and
`newcomers` says by how much logits of new items are raised.

Where texts name and do not describe, as in both MovieLens sets, `text_as` "shared" is "none", and
nothing asks for `own_events`: rows made before there were these are what they would be today.

MovieLens-1M's ablations are of six epochs instead of 24, a quarter of an hour instead of one and a
half: each is to be compared with `full,epochs=6`, not with `full`. Minutes are by the clock: a run
that was stopped for something else has that in them.

To reproduce a row: `python -m benchmarks.recommenders run --data SET --protocol PROTOCOL
--model MODEL --seed 0 1 2`, with the data sets' folders in `TWINSPAN_DATA`; what is *served*, by
`python -m benchmarks.recommenders served --data SET`, whose loss is exact less index.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """All seeds of one model, as they were found."""

    name: str
    runs: Sequence[Mapping[str, Any]]  # by seed
    paths: Sequence[Path]

    @property
    def seeds(self) -> set[int]:
        return {one["seed"] for one in self.runs}


def page() -> str:
    parts = [HEAD, _legend()]
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        parts.append(f"## {folder.name}\n")
        for protocol, said in PROTOCOLS.items():
            rows = _rows(folder / protocol)
            if rows:
                parts.append(f"{_size(rows[0])} {said}\n")
                parts.append(_table(rows))
                parts.append(_favoured(rows))
                parts.append(_outdated(rows))
        parts.append(served.section(folder))
    return "\n".join(part for part in parts if part)


def _legend() -> str:
    return "\n".join(["", *(f"- `{name}`: {model.about}" for name, model in MODELS.items()), ""])


def _rows(folder: Path) -> list[Row]:
    """In the order of the models, an ablation after its model."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.json")):
        found.setdefault(path.stem.rpartition("-")[0], []).append(path)
    order = list(MODELS)
    names = sorted(found, key=lambda name: (order.index(name.partition(",")[0]), name))
    return [
        Row(name=name, runs=[_read(path) for path in found[name]], paths=found[name])
        for name in names
    ]


@cache
def _read(path: Path) -> Mapping[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@cache
def _ranks(path: Path) -> Ranks:
    return read_ranks(path.with_suffix(".npz"))


def _size(row: Row) -> str:
    one = row.runs[0]
    cold = f", {one['cold']:,} of them cold" if one["cold"] else ""
    return (
        f"{one['users']:,} users, {one['items']:,} items{cold}, {one['events']:,} events; "
        f"{one['asked']:,} users asked."
    )


def _table(rows: Sequence[Row]) -> str:
    reference = next((row for row in rows if row.name == REFERENCE), None)
    cold = any(one["cold"] for row in rows for one in row.runs)
    headings = [*HEADINGS, "R@20 of others" if cold else "against", "seeds", "minutes"]
    lines = [f"| model | {' | '.join(headings)} |", "|---" * (len(headings) + 1) + "|"]
    for row in rows:
        cells = [_cell(row, column) for column in COLUMNS]
        cells.append(_others(row) if cold else _against(row, reference))
        cells.append(", ".join(str(seed) for seed in sorted(row.seeds)))
        cells.append(f"{mean(one['seconds'] for one in row.runs) / 60:.0f}")
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Row, column: str) -> str:
    values = [one["metrics"][column] for one in row.runs]
    if len(values) > 1:
        return f"{mean(values):.4f} ± {stdev(values):.4f}"
    interval = evaluate.mean_interval(_per_user(row.paths[0], column))
    return f"{interval.mean:.4f} ({interval.low:.4f}–{interval.high:.4f})"


def _others(row: Row) -> str:
    values = [one["others"]["recall@20"] for one in row.runs if one["others"]]
    return f"{mean(values):.4f}" if values else "–"


def _favoured(rows: Sequence[Row]) -> str:
    """What is won and lost by favouring new items, from one training; "" where none was run."""
    lines = [
        f"| {row.name} | {newcomers} | {_mean(row, newcomers, 'asked')} "
        f"| {_mean(row, newcomers, 'others')} |"
        for row in rows
        for newcomers in row.runs[0].get("newcomers", {})
    ]
    if not lines:
        return ""
    head = "| model | newcomers | R@20 of cold items | R@20 of others |\n|---|---|---|---|\n"
    return head + "\n".join(lines) + "\n"


def _outdated(rows: Sequence[Row]) -> str:
    """Which rows would be made otherwise today; "" where none would."""
    named: dict[str, list[str]] = {}
    for row in rows:
        one = row.runs[0]
        config = MODELS[one["model"]].configure(one["more"])
        today = asdict(config)
        then = one["options"]
        other = [name for name in (*today, *then) if today.get(name) != then.get(name)]
        if not getattr(config, "counts_events", True):
            other = [name for name in other if name != "own_events"]
        if other:
            said = ", ".join(_then(name, today, then) for name in dict.fromkeys(other))
            named.setdefault(said, []).append(f"`{row.name}`")
    lines = [f"- Made with other defaults ({s}): {', '.join(n)}." for s, n in named.items()]
    return "\n".join([*lines, ""]) if lines else ""


def _then(name: str, today: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    if name not in then:
        return f"without `{name}`"
    return f"{name} {then[name]}" + ("" if name in today else ", an option that is gone")


def _mean(row: Row, newcomers: str, who: str) -> str:
    return f"{mean(one['newcomers'][newcomers][who]['recall@20'] for one in row.runs):.4f}"


def _per_user(path: Path, column: str) -> np.ndarray:
    metric, _, rest = column.partition("@")
    depth, _, suffix = rest.partition("_")
    ranks = _ranks(path)
    value = evaluate.hits if metric == "recall" else evaluate.gains
    return value(ranks.unmasked if suffix else ranks.masked, int(depth))


def _against(row: Row, reference: Row | None) -> str:
    """A user who was asked in several seeds is one user, with the mean of the differences."""
    pairs = list(_pairs(row, reference)) if reference else []
    if not pairs or row is reference:
        return "–"
    users = np.concatenate([_ranks(ours).users for ours, _ in pairs])
    ours, theirs = (
        np.concatenate([_per_user(pair[side], COMPARED) for pair in pairs]) for side in (0, 1)
    )
    count = np.bincount(users)
    total = np.bincount(users, weights=ours - theirs)
    interval = evaluate.mean_interval(total[count > 0] / count[count > 0])
    text = f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
    return f"**{text}**" if interval.low > 0 or interval.high < 0 else text


def _pairs(row: Row, reference: Row) -> Iterator[tuple[Path, Path]]:
    by_seed = {one["seed"]: path for one, path in zip(reference.runs, reference.paths, strict=True)}
    for one, path in zip(row.runs, row.paths, strict=True):
        other = by_seed.get(one["seed"])
        if other and np.array_equal(_ranks(path).users, _ranks(other).users):
            yield path, other
