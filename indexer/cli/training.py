"""`train`, `encoders`: making towers, and those that there are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli import conditions, output, parts
from indexer.cli.output import Json
from indexer.errors import UsageError

if TYPE_CHECKING:
    from encoders.dataset import Dataset
    from encoders.train import Progress
    from encoders.types import EncoderInfo

ENCODER_PANEL = "Encoders"

CatalogName = Annotated[str, typer.Option("--catalog", "-c", help="Name of the catalog.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same result.")]


def add_to(app: typer.Typer) -> None:
    for command in (train, encoders):
        app.command(rich_help_panel=ENCODER_PANEL)(command)


def train(
    family: Annotated[str, typer.Argument(help="content (nothing is learnt) or retrievalformer.")],
    *,
    catalog: CatalogName = "items",
    config: Annotated[
        str, typer.Option("--config", help="Options to begin with; retrievalformer has paper, too.")
    ] = "full",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the family."),
    ] = None,
    seed: Seed = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Of torch; else torch decides.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, …; else the setting `device`.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the checkpoint of an interrupted run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train an encoder on a catalog and its interactions, and keep it by the digest of its files.

    `full` is the strongest of what is known to be good on new data; `paper` is RetrievalFormer as
    it was published, to compare with. Interrupted, the same command goes on from the last epoch.
    """
    from encoders import train as training

    options = _checked(family, {"config": config, **_options(option)})
    with parts.opened() as opened:
        data = dataset(opened, catalog)
        checkpoint = _checkpoint(opened, family, catalog, {**options, "seed": seed})
        if fresh:
            shutil.rmtree(checkpoint, ignore_errors=True)
        with output.progress(f"training {family}") as bar:
            info = training.train(
                family,
                data,
                opened.encoders_root,
                config=options,
                seed=seed,
                progress=_teller(bar),
                checkpoint=checkpoint,
                threads=threads,
                device=device or opened.settings.device,
            )
    shutil.rmtree(checkpoint, ignore_errors=True)
    _show(info, as_json=as_json)


def encoders(as_json: Json = False) -> None:
    """The encoders that there are, newest last."""
    from encoders import artifact

    with parts.opened() as opened:
        root = opened.encoders_root
        known = artifact.list_of(root)
    if as_json:
        output.json_document(known)
        return
    output.table(
        ("encoder", "family", "made", "vectors", "recall@20", "popularity"),
        [
            (
                info.id[:12],
                info.family,
                info.created_at,
                [f"{spec.name}[{spec.dimension or 'sparse'}]" for spec in info.vectors],
                info.metrics.get("recall@20"),
                info.metrics.get("popularity_recall@20"),
            )
            for info in known
        ],
        title=root,
        empty=f"no encoder in {root}: make one with `twinspan train content`",
    )


def choose(opened: parts.Parts, wanted: str | None) -> EncoderInfo:
    """The encoder meant by an address, by an id or the unique beginning of one; the newest for
    None. Raises UsageError when that is none or several."""
    from encoders import artifact

    if wanted is not None and ("/" in wanted or "\\" in wanted):
        return artifact.describe(wanted)
    root = opened.encoders_root
    known = artifact.list_of(root)
    if not known:
        raise UsageError(
            f"there is no encoder in {root}. Make one: `twinspan train content` needs no "
            "interactions, `twinspan train retrievalformer` learns from them."
        )
    if wanted is None:
        return known[-1]
    fitting = [info for info in known if info.id.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    problem = "no encoder begins" if not fitting else f"{len(fitting)} encoders begin"
    raise UsageError(f"{problem} with {wanted!r} in {root}. See `twinspan encoders`.")


def _options(pairs: Sequence[str] | None) -> dict[str, object]:
    found: dict[str, object] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--option {pair!r}: write NAME=VALUE, for instance epochs=5.")
        found[name.strip()] = conditions.value_of(value.strip())
    return found


def _checked(family: str, options: dict[str, object]) -> dict[str, object]:
    """The same options. Raises UsageError for a family or an option that there is not."""
    from encoders import families
    from encoders.errors import TrainingFailed, UnknownFamily

    try:
        families.configure(family, options)
    except (UnknownFamily, TrainingFailed) as cause:
        raise UsageError(str(cause)) from cause
    return options


def dataset(opened: parts.Parts, catalog: str) -> Dataset:
    from indexer import catalog as catalogs
    from indexer import training_data

    return training_data.read_dataset(opened.engine, catalogs.get(opened.engine, catalog))


def _teller(bar: output.Bar) -> Callable[[Progress], None]:
    """Moves the bar, and leaves a line for each epoch."""

    def tell(now: Progress) -> None:
        said = f"loss {now.loss:.3f}, {now.examples_per_s:,.0f} events/s"
        best = f", recall@20 {now.best:.4f}" if now.best is not None else ""
        done = round(now.epoch - 1 + now.done, 2)
        bar.at(done, now.epochs, f"epoch {now.epoch}/{now.epochs}, {said}{best}")
        if now.done == 1:
            recall = f", recall@20 {now.recall:.4f}" if now.recall is not None else ""
            bar.say(f"epoch {now.epoch} of {now.epochs}: {said}{recall}")

    return tell


def _checkpoint(
    opened: parts.Parts, family: str, catalog: str, options: Mapping[str, object]
) -> Path:
    """A folder per what is being trained, so that only the same command goes on from it."""
    said = json.dumps([family, catalog, options], sort_keys=True)
    name = f"{family}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    return opened.settings.data_dir / "checkpoints" / name


def _show(info: EncoderInfo, *, as_json: bool) -> None:
    if as_json:
        output.json_document(info)
        return
    print(info.id)
    quality = ", ".join(
        f"{name} {info.metrics[name]:.4f}"
        for name in ("recall@20", "ndcg@20", "popularity_recall@20")
        if name in info.metrics
    )
    output.note(f"{info.family} in {info.uri}" + (f": {quality}" if quality else ""))
    output.note(f"next: `twinspan reindex --encoder {info.id[:12]}`")
