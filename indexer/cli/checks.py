"""What `twinspan doctor` looks at, one check after the other; a failed one says what to do."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

import sqlalchemy as sa

from encoders.errors import EncoderError
from indexer import database
from indexer.cli import database_checks, parts
from indexer.cli.database_checks import Failed
from indexer.errors import TwinspanError

PACKAGES = ("torch", "sentence-transformers", "qdrant-client", "celery", "sqlalchemy", "psycopg")
BROKER_ANSWERS_S = 2.0
WORKERS_ANSWER_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at, whether it is in order, and what was seen or is to be done."""

    name: str
    ok: bool
    said: str


def run(opened: parts.Parts) -> Iterator[Check]:
    """All checks in order; one that fails keeps only those from being made that build on it."""
    failed: set[str] = set()
    for name, (check, builds_on) in CHECKS.items():
        found = _look(opened, name, check, sorted(failed.intersection(builds_on)))
        if not found.ok:
            failed.add(name)
        yield found


def _look(
    opened: parts.Parts, name: str, check: Callable[[parts.Parts], str], missing: Sequence[str]
) -> Check:
    if missing:
        return Check(name=name, ok=False, said=f"not looked at, because of: {', '.join(missing)}")
    try:
        return Check(name=name, ok=True, said=check(opened))
    except (TwinspanError, EncoderError, Failed) as problem:
        return Check(name=name, ok=False, said=" ".join(str(problem).split()))


def _versions(_: parts.Parts) -> str:
    found = [f"{name} {metadata.version(name)}" for name in PACKAGES]
    return f"Python {platform.python_version()}, {', '.join(found)}"


def _embedded(opened: parts.Parts) -> str:
    from indexer import embedded

    server = opened.server
    running = f"; `twinspan up` answers at {server.address}" if server else ""
    return "; ".join(embedded.said_at_start(opened.settings)) + running


def _database(opened: parts.Parts) -> str:
    with database.begin(opened.engine) as connection:
        version = connection.scalar(sa.text("SHOW server_version"))
    url = opened.engine.url.set(drivername="postgresql", query={})
    return f"PostgreSQL {version} at {url.render_as_string(hide_password=True)}"


def _schema(opened: parts.Parts) -> str:
    from indexer import schema

    schema.check(opened.engine)
    return "of this release"


def _store(opened: parts.Parts) -> str:
    if opened.server is not None:
        return "Qdrant Edge, held by `twinspan up`"
    aliases = opened.store.aliases()
    named = ", ".join(f"{alias} → {name}" for alias, name in sorted(aliases.items()))
    return f"{opened.store.name}: {named or 'no alias'}"


def _indexes(opened: parts.Parts) -> str:
    from indexer import indexes

    active = indexes.active(opened.engine)
    if opened.server is None:
        there = set(opened.store.collections())
        lost = [index for index in active if index.collection not in there]
        if lost:
            raise Failed(
                "; ".join(f"index {one.id}: no collection {one.collection!r}" for one in lost)
                + ". Build a new index with `twinspan reindex`, then drop this one."
            )
    return f"{len(active)} active" if active else "none: build one with `twinspan reindex`"


def _aliases(opened: parts.Parts) -> str:
    """Queries ask the alias; the ledger says which index it should name."""
    from indexer import indexes

    if opened.server is not None:
        return "held by `twinspan up`, which heals them"
    live = {one.alias: one for one in indexes.active(opened.engine) if one.state == "live"}
    named = opened.store.aliases()
    wrong = [
        f"{alias} names {named.get(alias) or 'nothing'}, not {index.collection}"
        for alias, index in live.items()
        if named.get(alias) != index.collection
    ]
    if wrong:
        raise Failed(
            f"{'; '.join(wrong)}. A worker heals this within a minute; if not, promote again."
        )
    return ", ".join(f"{alias} → {index.collection}" for alias, index in live.items()) or "none"


def _fences(opened: parts.Parts) -> str:
    from indexer import entries, fences, indexes

    if opened.server is None:
        for index in indexes.active(opened.engine):
            fences.compare(opened.engine, opened.store, index)
    return f"up to {entries.last_fence(opened.engine)}; the store holds none above"


def _encoders(opened: parts.Parts) -> str:
    from encoders import artifact
    from indexer import indexes

    known = artifact.list_of(opened.encoders_root)
    for index in indexes.active(opened.engine):
        artifact.describe(index.encoder_uri)
    return f"{len(known)} in {opened.encoders_root}"


def _broker(opened: parts.Parts) -> str:
    url = opened.settings.broker_url
    if url is None:
        return "inside `twinspan up`"
    from celery import Celery  # pyright: ignore[reportMissingTypeStubs]  # it ships none
    from kombu.exceptions import OperationalError  # pyright: ignore[reportMissingTypeStubs]

    app = cast(Any, Celery(broker=url.get_secret_value(), set_as_current=False))
    app.conf.broker_use_ssl = opened.settings.broker_tls
    try:
        with app.connection_for_read(connect_timeout=BROKER_ANSWERS_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_ANSWERS_S)
            address = connection.as_uri()  # without its password
            workers = app.control.ping(timeout=WORKERS_ANSWER_S, connection=connection)
    except (OSError, OperationalError) as cause:
        raise Failed(
            f"the broker does not answer: {cause}. Check broker_url, and that it runs."
        ) from cause
    names = ", ".join(sorted(name for answer in workers for name in answer))
    if not names:
        raise Failed(
            f"{address} answers, but no worker does. Start one: `celery -A workers.app worker`."
        )
    return f"{address}: {names}"


# name -> the check, and the checks that it builds on
CHECKS: dict[str, tuple[Callable[[parts.Parts], str], tuple[str, ...]]] = {
    "versions": (_versions, ()),
    "embedded": (_embedded, ()),
    "database": (_database, ()),
    "schema": (_schema, ("database",)),
    "clock": (database_checks.clock, ("database",)),
    "rights": (database_checks.rights, ("database", "schema")),
    "triggers": (database_checks.triggers, ("database", "schema")),
    "leases": (database_checks.leases, ("database", "schema")),
    "transactions": (database_checks.transactions, ("database",)),
    "vacuum": (database_checks.vacuum, ("database", "schema")),
    "vector store": (_store, ()),
    "indexes": (_indexes, ("database", "schema", "vector store")),
    "aliases": (_aliases, ("database", "schema", "vector store")),
    "fences": (_fences, ("database", "schema", "vector store", "indexes")),
    "encoders": (_encoders, ("database", "schema")),
    "broker": (_broker, ()),
}
