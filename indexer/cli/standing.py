"""`status` and `ready`: how it is going, for a person, a machine and a supervisor."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from indexer.cli import output, parts
from indexer.cli.output import Json

if TYPE_CHECKING:
    from indexer.indexes import Index
    from indexer.ledger import Summary
    from indexer.reindex import Progress
    from indexer.settings import Settings
    from indexer.standing import Picture, Standing, Waiting

HEALTH_PANEL = "Health"
SEEN = "workers.seen:seen"  # by name: that package builds on this one

Row = dict[str, Any]


def add_to(app: typer.Typer) -> None:
    for command in (status, ready):
        app.command(rich_help_panel=HEALTH_PANEL)(command)


def status(
    all_indexes: Annotated[bool, typer.Option("--all", help="Retired indexes, too.")] = False,
    as_json: Json = False,
) -> None:
    """Catalogs, indexes, what is waiting in which lane and since when, and who is at work."""
    from indexer import catalog, indexes, ledger, reindex, schema, shadow_reads, standing

    with parts.opened() as opened:
        engine, settings = opened.engine, opened.settings
        catalogs = catalog.all_of(engine)
        known = [one for one in indexes.all_of(engine) if all_indexes or one.state != "retired"]
        summaries, picture = ledger.summary(engine), standing.look(engine)
        gates = {one.id: indexes.gate(engine, one.id) for one in known}
        at_work = schema.at_work(engine)
        builds = {
            one.id: reindex.progress(engine, one.id) for one in known if one.state == "building"
        }
        shadows = {
            one.id: shadow_reads.summary(engine, one.id)
            for one in known
            if one.state in {"building", "standby"}
        }
    stood = {one.index_id: one for one in picture.indexes}
    rows = [
        _row(one, summaries.get(one.id), stood.get(one.id), gates[one.id], settings)
        for one in known
    ]
    for row in rows:
        row["progress"] = builds.get(row["index"])
        row["shadow"] = shadows.get(row["index"])
        if row["progress"] and not as_json:
            output.note(_building(row["index"], row["progress"]))
    document = {
        "catalogs": [{"name": each.name, "spec_version": each.spec_version} for each in catalogs],
        "changes_pending": picture.unrouted,
        "changes_oldest_s": picture.unrouted_oldest_s or None,
        "leader": picture.leaders > 0,
        "at_work": at_work,
        "workers": _workers(settings),
        "indexes": rows,
    }
    if as_json:
        output.json_document(document)
    else:
        _show([each.name for each in catalogs], rows, document, picture)


def _building(index_id: int, progress: Progress) -> str:
    if progress.complete:
        return f"index {index_id} is built and answers nobody yet: `twinspan promote {index_id}`"
    return f"index {index_id} is being built: {progress}"


def ready(
    max_age: Annotated[
        float | None,
        typer.Option(
            "--max-age", min=0.1, metavar="S", help="Seconds a change may wait; else the setting."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Whether changes arrive: for a container's health check. Exit code 1 when they do not.

    Database and store answer, a worker leads, and no change waits for longer than it may.
    """
    from indexer import readiness

    with parts.opened() as opened:
        settings = opened.settings
        if settings.database_url is None or settings.qdrant_url is None:
            problems = _of_up(opened, max_age)
        else:
            problems, _ = readiness.problems(
                opened.engine,
                opened.store,
                max_age_s=max_age or settings.ready_max_age_s,
                leader_s=readiness.LEADER_S,
            )
    if as_json:
        output.json_document({"ready": not problems, "problems": problems})
    else:
        print("\n".join(problems) if problems else "ready")
    if problems:
        raise typer.Exit(1)


def _of_up(opened: parts.Parts, max_age: float | None) -> list[str]:
    """What the `twinspan up` of this data directory says of itself."""
    from indexer.cli import remote

    server = remote.find(opened.settings)
    if server is None:
        return ["`twinspan up` does not run on this data directory, or does not answer"]
    try:
        return server.problems(max_age_s=max_age)
    finally:
        server.close()


def _workers(settings: Settings) -> list[str] | None:
    """Names of the workers that answer over the broker; None where the broker is in `up`."""
    if settings.broker_url is None:
        return None
    seen: Callable[[Settings], list[str]] = pkgutil.resolve_name(SEEN)
    return seen(settings)


def _row(
    index: Index,
    summary: Summary | None,
    stood: Standing | None,
    gate: Mapping[str, Any] | None,
    settings: Settings,
) -> Row:
    lanes: Mapping[int, Waiting] = stood.lanes if stood else {}
    until = (index.standby_at or index.created_at) + timedelta(seconds=settings.standby_s)
    return {
        "index": index.id,
        "catalog": index.catalog,
        "alias": index.alias,
        "state": index.state,
        "encoder": index.encoder_id,
        "family": index.encoder_family,
        "filled": index.backfill_done,
        "items": summary.present if summary else 0,
        **{
            name: lanes[lane].items if lane in lanes else 0
            for lane, name in enumerate(("deletes", "live", "backfill"))
        },
        "oldest_s": (stood.oldest_s(0, 1) or None) if stood else None,
        "oldest_backfill_s": (stood.oldest_s(2) or None) if stood else None,
        "failing": stood.failing if stood else 0,
        "quarantined": stood.quarantined if stood else 0,
        "written_at": index.written_at,
        "verified_at": stood.verified_at if stood else None,
        "verified": stood.verified if stood else None,
        "gate": _gate(gate),
        "standby_until": until if index.state == "standby" else None,
        "error": index.error,
        "created_at": index.created_at,
        "live_at": index.live_at,
    }


def _gate(report: Mapping[str, Any] | None) -> Row | None:
    """Whether it passed, and the checks that did not."""
    if report is None:
        return None
    checks = cast("Sequence[Mapping[str, Any]]", report.get("checks", ()))
    return {
        "passed": report.get("passed"),
        "failed": [check.get("name") for check in checks if check.get("passed") is False],
        "at": report.get("started_at"),
    }


def _show(catalogs: Sequence[str], rows: Sequence[Row], said: Row, picture: Picture) -> None:
    if not catalogs:
        print("no catalog is attached")
        output.note("next: `twinspan attach FILE`, or `twinspan attach items`")
        return
    columns = ("index", "catalog", "alias", "state", "family", "encoder", "items")
    waiting = ("deletes", "live", "backfill", "failing", "quarantined", "oldest_s")
    times = ("written_at", "verified_at")
    shown = (*columns, *waiting, *times)
    output.table(
        shown,
        [tuple(_short(name, row[name]) for name in shown) for row in rows],
        title=f"catalogs: {', '.join(catalogs)}",
        empty=f"catalogs: {', '.join(catalogs)}; no index",
    )
    for row in rows:
        for remark in _remarks(row):
            output.note(f"index {row['index']}: {remark}")
    if said["workers"] is not None:
        output.note(f"workers: {', '.join(said['workers']) or 'none answers over the broker'}")
    if picture.unrouted:
        output.note(
            f"{picture.unrouted:,} statements wait to be routed, the oldest for "
            f"{picture.unrouted_oldest_s:.0f} s: is a worker or `twinspan up` running?"
        )


def _remarks(row: Row) -> list[str]:
    found: list[str] = []
    if row["error"]:
        found.append(str(row["error"]))
    if row["gate"] is not None:
        failed = ", ".join(row["gate"]["failed"])
        found.append("the gate passed it" if row["gate"]["passed"] else f"gate failed: {failed}")
    if row["shadow"] is not None:
        found.append(f"shadow reads since {output.cell(row['shadow'].since)}: {row['shadow']}")
    if row["standby_until"] is not None:
        found.append(f"standby until {output.cell(row['standby_until'])}")
    return found


def _short(name: str, value: object) -> object:
    return str(value)[:12] if name == "encoder" else value
