"""`evaluate`: how good an encoder is, and what its index loses of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from indexer.cli import output, parts, pictures, training
from indexer.cli.output import Json
from indexer.cli.training import CatalogName
from indexer.errors import IndexStateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from encoders.breakdown import Part
    from encoders.evaluate import Interval, Ranks
    from encoders.evaluation import Figures, Question
    from encoders.types import EncoderInfo
    from indexer.indexes import Index
    from indexer.offline import Compared

JSON_FILE, RANKS_FILE, PICTURE_FILE = "evaluation.json", "ranks.npz", "evaluation.svg"


class Ties(StrEnum):
    SHUFFLED = "shuffled"
    LISTED = "listed"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=training.ENCODER_PANEL)(evaluate)


def evaluate(
    encoder: Annotated[
        str | None,
        typer.Argument(help="Id (or its beginning) or address; else ALIAS's, else the newest."),
    ] = None,
    *,
    catalog: CatalogName = "items",
    users: Annotated[int, typer.Option("--users", min=1, help="At most so many.")] = 10_000,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of ties, users and intervals; else training's.")
    ] = None,
    ties: Annotated[
        Ties,
        typer.Option("--ties", help="Events of one moment: shuffled by the seed, or as listed."),
    ] = Ties.SHUFFLED,
    through: Annotated[
        str | None,
        typer.Option("--through", metavar="ALIAS", help="Also ask the index live under ALIAS."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Write figures, ranks and a picture there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank each user's last event among all items, and compare with plain popularity.

    Exact, with 95% intervals; a recommender leaves out what was seen, `unmasked` does not. With
    --through, the index answers the same users, and what it loses is shown. See docs/evaluation.md.
    """
    if out is not None:
        pictures.require()
    with parts.opened() as opened:
        index = _live(opened, through, catalog) if through is not None else None
        info = _chosen(opened, encoder, index)
        found = _evaluated(opened, info, index, catalog=catalog, users=users, seed=seed, ties=ties)
    if out is not None:
        _write(out, found)
    if as_json:
        output.json_document(found.document)
    else:
        _show(found)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """`compared` is what the index made of it, where one was asked."""

    info: EncoderInfo
    question: Question
    figures: Figures
    document: dict[str, Any]
    ranks: dict[str, Ranks]
    compared: Compared | None


def _live(opened: parts.Parts, alias: str, catalog: str) -> Index:
    """The live index, that says what its catalog says. Raises UsageError or IndexStateError."""
    from indexer import indexes, verify

    index = indexes.live(opened.engine, alias)
    if index.catalog != catalog:
        raise UsageError(
            f"alias {alias!r} is of catalog {index.catalog!r}: give --catalog {index.catalog}."
        )
    seen = verify.compare(opened.engine, opened.store, index)
    wrong = {**seen.causes, **({"in_flight": seen.in_flight} if seen.in_flight else {})}
    if wrong:
        said = ", ".join(f"{name} {count:,}" for name, count in wrong.items())
        raise IndexStateError(
            f"index {index.id} does not say what catalog {catalog!r} says ({said}), so its answers "
            "cannot be compared: `twinspan verify --repair` tells more, and mends it."
        )
    if seen.quarantined:
        output.note(f"index {index.id} lacks {seen.quarantined:,} quarantined items")
    return index


def _chosen(opened: parts.Parts, wanted: str | None, index: Index | None) -> EncoderInfo:
    from encoders import artifact

    if index is None:
        return training.choose(opened, wanted)
    info = (
        artifact.describe(index.encoder_uri) if wanted is None else training.choose(opened, wanted)
    )
    if info.id != index.encoder_id:
        raise UsageError(
            f"index {index.id}, live under {index.alias!r}, was built by encoder "
            f"{index.encoder_id[:12]}, not {info.id[:12]}: evaluate that one through it, or leave "
            "out --through."
        )
    return info


def _evaluated(
    opened: parts.Parts,
    info: EncoderInfo,
    index: Index | None,
    *,
    catalog: str,
    users: int,
    seed: int | None,
    ties: Ties,
) -> _Found:
    from encoders import evaluation

    drawn = seed if seed is not None else cast(int, info.facts.get("seed", 0))
    asked = evaluation.question(training.dataset(opened, catalog), info.facts, ties.value, drawn)
    _require_somebody(asked, catalog)
    ranks, compared = _ranked(opened, info, index, asked, users=users, seed=drawn)
    figures = evaluation.figures(ranks["encoder"], ranks["popularity"], asked, seed=drawn)
    document: dict[str, Any] = {
        "id": info.id,
        "family": info.family,
        "catalog": catalog,
        "protocol": evaluation.PROTOCOL,
        "ties": ties.value,
        "seed": drawn,
        "left_out": asked.left_out,
        "as_trained": asked.as_trained,
        **asdict(figures),
        "curve": info.facts.get("curve", []),
        "through": _loss(compared, index, drawn) if compared and index else None,
    }
    return _Found(
        info=info,
        question=asked,
        figures=figures,
        document=document,
        ranks=ranks,
        compared=compared,
    )


def _ranked(
    opened: parts.Parts,
    info: EncoderInfo,
    index: Index | None,
    asked: Question,
    *,
    users: int,
    seed: int,
) -> tuple[dict[str, Ranks], Compared | None]:
    """By the encoder, by popularity, and through the index where one is asked."""
    from encoders import evaluate as ranking

    compared = _compared(opened, index, asked, users, seed) if index is not None else None
    if compared is not None:
        ranks = {"encoder": compared.exact, "index": compared.index}
    else:
        encoder = opened.towers.get(info.id, info.uri).encoder
        ranks = {
            "encoder": ranking.rank_with(
                encoder, asked.split, asked.targets, limit=users, seed=seed
            )
        }
    popularity = ranking.rank_by_popularity(asked.split, asked.targets, limit=users, seed=seed)
    return {**ranks, "popularity": popularity}, compared


def _require_somebody(asked: Question, catalog: str) -> None:
    if (asked.targets >= 0).any():
        return
    if asked.left_out:
        raise UsageError(
            f"the encoder was trained on what all {asked.left_out:,} users of catalog {catalog!r} "
            "did last: give its own --seed, and no --ties."
        )
    raise UsageError(
        f"catalog {catalog!r} has no user with three events or more: nothing to ask about. "
        "Import interactions first: `twinspan import interactions FILE`."
    )


def _compared(
    opened: parts.Parts, index: Index, asked: Question, users: int, seed: int
) -> Compared:
    """Asks the index itself, whatever its alias will name meanwhile."""
    from indexer import offline
    from indexer.query import Retriever
    from indexer.query.asked import HISTORY_MAX

    tower = opened.towers.get(index.encoder_id, index.encoder_uri)
    update = {"shadow_share": 0.0, "k_max": offline.DEPTH + HISTORY_MAX}
    settings = opened.settings.model_copy(update=update)
    total = min(users, int((asked.targets >= 0).sum()))
    with (
        Retriever(opened.store, alias=index.collection, settings=settings, encoder=tower) as asker,
        output.progress(f"asking index {index.id}", total) as bar,
    ):
        return offline.compare(
            asker, tower.encoder, asked.split, asked.targets, limit=users, seed=seed, told=bar.at
        )


def _loss(compared: Compared, index: Index, seed: int) -> dict[str, Any]:
    """`loss` is exact less index, paired by user: above 0 where the index is worse."""
    from encoders import evaluation

    exact, through = compared.exact.values(), compared.index.values()
    overlap = {"overlap@20": compared.overlap, "overlap@20_unmasked": compared.overlap_unmasked}
    return {
        "alias": index.alias,
        "index_id": index.id,
        "index": evaluation.intervals(through, seed=seed),
        "loss": evaluation.intervals(evaluation.differences(exact, through), seed=seed),
        **evaluation.intervals(overlap, seed=seed),
    }


# -- what is shown and written ---------------------------------------------------------------------


def _show(found: _Found) -> None:
    figures, info = found.figures, found.info
    output.table(
        ("metric", info.id[:12], "95%", "popularity", "difference", "95%"),
        [
            (
                name,
                _number(one),
                _span(one),
                _number(figures.popularity[name]),
                _signed(figures.difference[name]),
                _span(figures.difference[name]),
            )
            for name, one in figures.encoder.items()
        ],
        title=f"{info.family}, {figures.users:,} users, last event of each among all items",
    )
    for heading, ours, popular in (
        ("training events of the item", figures.by_popularity, figures.popularity_by_popularity),
        ("age of the item", figures.by_age, figures.popularity_by_age),
    ):
        _show_parts(heading, ours, popular)
    if found.document["through"]:
        _show_through(found.document["through"], figures)
    _remark(found)


def _show_parts(heading: str, ours: Sequence[Part], popular: Sequence[Part]) -> None:
    output.table(
        (heading, "users", "recall@20", "95%", "popularity"),
        [
            (part.name, part.users, _number(part.value), _span(part.value), _number(other.value))
            for part, other in zip(ours, popular, strict=True)
        ],
    )


def _show_through(said: dict[str, Any], figures: Figures) -> None:
    output.table(
        ("metric", "exact", "index", "loss", "95%"),
        [
            (
                name,
                _number(one),
                _number(said["index"][name]),
                _signed(said["loss"][name]),
                _span(said["loss"][name]),
            )
            for name, one in figures.encoder.items()
        ],
        title=f"through index {said['index_id']}, live under {said['alias']}",
    )
    for name in ("overlap@20", "overlap@20_unmasked"):
        print(f"{name} {_number(said[name])} ({_span(said[name])})")


def _remark(found: _Found) -> None:
    asked = found.question
    if not asked.as_trained:
        output.note(
            "the catalog or its interactions have changed since this encoder was trained, or it "
            "was trained on others: it may have been trained on what was asked"
        )
    if asked.left_out:
        output.note(
            f"{asked.left_out:,} users were not asked: in this order of ties, the encoder was "
            "trained on what they did last"
        )


def _number(one: Interval) -> str:
    return f"{one.mean:.4f}"


def _signed(one: Interval) -> str:
    return f"{one.mean:+.4f}"


def _span(one: Interval) -> str:
    return f"{one.low:.4f} to {one.high:.4f}"


def _write(folder: Path, found: _Found) -> None:
    from encoders import evaluation

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.document, default=output.plain, indent=1)
    (folder / JSON_FILE).write_text(text + "\n", encoding="utf-8")
    evaluation.write_ranks(folder / RANKS_FILE, **found.ranks)
    figures = found.figures
    pictures.draw(
        folder / PICTURE_FILE,
        title=f"{found.info.family} {found.info.id[:12]}, {figures.users:,} users",
        curve=found.document["curve"],
        breakdowns=[
            pictures.Breakdown(
                title="recall by training events of the item",
                ours=figures.by_popularity,
                popular=figures.popularity_by_popularity,
            ),
            pictures.Breakdown(
                title="recall by age of the item",
                ours=figures.by_age,
                popular=figures.popularity_by_age,
            ),
        ],
    )
    output.note(f"{JSON_FILE}, {RANKS_FILE} and {PICTURE_FILE} are in {folder}")
