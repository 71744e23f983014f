"""`recommend` and `similar`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import typer

from indexer.cli import conditions, output, parts
from indexer.cli.conditions import Where
from indexer.cli.output import Json

QUERY_PANEL = "Queries"
COLUMNS_SHOWN = 6  # payload fields of a table

Alias = Annotated[str, typer.Option("--alias", "-a", help="Alias of the live index.")]
K = Annotated[int, typer.Option("--k", "-k", help="How many items.")]
Exact = Annotated[bool, typer.Option("--exact", help="Scan every item instead of the graph.")]

Answer = Mapping[str, object]  # Hits.as_dict(), from here or over HTTP


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=QUERY_PANEL)(recommend)
    app.command(rich_help_panel=QUERY_PANEL)(similar)


def recommend(
    history: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM]...", help="Past items, oldest first.")
    ] = None,
    *,
    user: Annotated[
        str | None,
        typer.Option(
            "--user-key", "--user", "-u", help="A user's key: history and features stored."
        ),
    ] = None,
    feature: Annotated[
        list[str] | None,
        typer.Option("--feature", "-f", metavar="NAME=VALUE", help="A feature of the user."),
    ] = None,
    where: Where = None,
    k: K = 10,
    alias: Alias = "items",
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also items of the history.")
    ] = False,
    exact: Exact = False,
    as_json: Json = False,
) -> None:
    """Recommend items to a user, known by key or described by a history and features."""
    query: dict[str, object] = {
        "history": history or [],
        "features": conditions.features(feature),
        "user_key": user,
        "where": conditions.where(where),
        "k": k,
        "exclude_seen": not include_seen,
        "exact": exact,
    }
    with parts.opened() as opened:
        if opened.server is not None:
            answer = opened.server.recommend(alias, query)
        else:
            answer = _retriever_answer(opened, alias, query)
    _show(answer, as_json=as_json)


def similar(
    key: Annotated[str, typer.Argument(metavar="ITEM", help="The item's key.")],
    *,
    where: Where = None,
    k: K = 10,
    alias: Alias = "items",
    exact: Exact = False,
    as_json: Json = False,
) -> None:
    """Items that are most like one item."""
    condition = conditions.where(where)
    with parts.opened() as opened:
        if opened.server is not None:
            query = {"key": key, "where": condition, "k": k, "exact": exact}
            answer = opened.server.similar(alias, query)
        else:
            from indexer.query import Retriever

            retriever = Retriever(opened.store, alias=alias, settings=opened.settings)
            retriever.load()  # so that the times shown are those of the query
            answer = retriever.similar(key, where=condition, k=k, exact=exact).as_dict()
    _show(answer, as_json=as_json)


def _retriever_answer(opened: parts.Parts, alias: str, query: Mapping[str, object]) -> Answer:
    from indexer.query import Retriever

    engine = opened.engine if query["user_key"] is not None else None
    retriever = Retriever(opened.store, alias=alias, settings=opened.settings, engine=engine)
    retriever.load()
    return retriever.recommend_many([query])[0].as_dict()


def _show(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        output.json_document(answer)
        return
    hits = cast("Sequence[Mapping[str, object]]", answer["hits"])
    fields = _fields([cast("Mapping[str, object]", hit["payload"]) for hit in hits])
    output.table(
        ("", "key", "score", *fields),
        [
            (place, hit["key"], hit["score"], *_values(hit["payload"], fields))
            for place, hit in enumerate(hits, start=1)
        ],
        empty="no item fits",
    )
    _explain(answer)


def _fields(payloads: Sequence[Mapping[str, object]]) -> list[str]:
    """The fields that the hits have, those with short values first."""
    names = dict.fromkeys(name for payload in payloads for name in payload)
    lengths = {
        name: max(len(output.cell(payload.get(name))) for payload in payloads) for name in names
    }
    return sorted(sorted(names, key=lengths.__getitem__)[:COLUMNS_SHOWN], key=list(names).index)


def _values(payload: object, fields: Sequence[str]) -> list[object]:
    """As they are: a year is not a count, so its digits stay together."""
    known = cast("Mapping[str, object]", payload)
    return [_whole(known.get(name)) for name in fields]


def _whole(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _explain(answer: Answer) -> None:
    timings = cast("Mapping[str, float]", answer["timings_ms"])
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in timings.items())
    output.note(
        f"index {answer['index']} ({answer['collection']}), encoder {str(answer['encoder'])[:12]}, "
        f"{sum(timings.values()):.1f} ms: {stages}"
    )
    for name, meaning in (
        ("unknown", "not in the index, left out of the history"),
        ("ignored", "features that this encoder does not read"),
    ):
        found = cast("Sequence[str]", answer.get(name) or ())
        if found:
            output.note(f"{meaning}: {', '.join(found)}")
