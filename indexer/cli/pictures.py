"""The picture of an evaluation, as SVG. The only module that needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from indexer.errors import UsageError

if TYPE_CHECKING:
    from encoders.breakdown import Part

OURS, POPULAR, LOSS = "#1b6ca8", "#b8b8b8", "#c0562b"
WIDTH_IN, HEIGHT_IN = 5.2, 3.8  # of a panel
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "twinspan", "font.size": 9}

Curve = Sequence[Mapping[str, float | None]]
Panel = Callable[[Any], None]


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Recall by group, of the encoder and of popularity."""

    title: str
    ours: Sequence[Part]
    popular: Sequence[Part]


def require() -> None:
    """Raises UsageError where no picture can be drawn."""
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError as cause:
        raise UsageError(
            "a picture needs matplotlib, which the extra `plots` brings: "
            "pip install 'twinspan[plots]', or leave out --out."
        ) from cause


def draw(path: Path, *, title: str, curve: Curve, breakdowns: Sequence[Breakdown]) -> None:
    """One panel for the learning curve, where something was learnt, and one for each breakdown."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels: list[Panel] = [partial(_learning, curve=curve)] if curve else []
    panels += [partial(_bars, one=one) for one in breakdowns]
    with cast(Any, mpl).rc_context(STYLE):
        figure: Any = Figure(figsize=(WIDTH_IN * len(panels), HEIGHT_IN), layout="constrained")
        figure.suptitle(title)
        for panel, axes in zip(
            panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True
        ):
            panel(axes)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _learning(axes: Any, *, curve: Curve) -> None:
    """Loss falls on the left axis, recall of validation rises on the right one."""
    epochs = [line["epoch"] for line in curve]
    axes.plot(epochs, [line["loss"] for line in curve], color=LOSS, marker=".")
    axes.set_title("learning curve")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss", color=LOSS)
    if any(line["recall@20"] is None for line in curve):
        return
    right = axes.twinx()
    right.plot(epochs, [line["recall@20"] for line in curve], color=OURS, marker=".")
    right.set_ylabel("recall@20 of validation", color=OURS)
    right.set_ylim(bottom=0)


def _bars(axes: Any, *, one: Breakdown) -> None:
    for shift, color, label, parts in (
        (-0.2, OURS, "encoder", one.ours),
        (0.2, POPULAR, "popularity", one.popular),
    ):
        values = [part.value for part in parts]
        axes.bar(
            [place + shift for place in range(len(parts))],
            [value.mean for value in values],
            width=0.4,
            color=color,
            label=label,
            yerr=[
                [value.mean - value.low for value in values],
                [value.high - value.mean for value in values],
            ],
            error_kw={"elinewidth": 0.8},
        )
    axes.set_title(one.title)
    axes.set_ylabel("recall@20")
    axes.set_ylim(bottom=0)
    axes.set_xticks(
        range(len(one.ours)),
        [f"{part.name}\n{part.users:,} users" for part in one.ours],
        fontsize=7,
    )
    axes.legend(frameon=False)
