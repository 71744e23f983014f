"""What `twinspan doctor` asks PostgreSQL: capture, rights, leases, and what keeps vacuum away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from indexer import database
from indexer.cli import parts

SKEW_S = 2.0  # between this machine's clock and the database's
LATE_LEASE_S = 60.0  # that expired and that nobody took up
LONG_TRANSACTION_S = 600  # keeps vacuum from its work: the ledger bloats
DEAD_SHARE = 0.5  # of a table's rows, beyond DEAD_ROWS: vacuum does not keep up
DEAD_ROWS = 50_000

_TRANSACTIONS = sa.text("""
    SELECT 'backend ' || pid || ' of ' || coalesce(usename, '?') || ' (' || state || ')' AS who,
           extract(epoch FROM clock_timestamp() - xact_start)::float AS age_s
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
    UNION ALL
    SELECT 'prepared transaction ' || quote_literal(gid),
           extract(epoch FROM clock_timestamp() - prepared)::float
    FROM pg_prepared_xacts WHERE database = current_database()
    ORDER BY age_s DESC
""")
_LEASES = sa.text("""
    SELECT count(*) AS expired,
           coalesce(extract(epoch FROM clock_timestamp() - min(lease_until)), 0)::float AS age_s
    FROM indexer.entries
    WHERE wanted > written AND NOT quarantined AND lease_until < now()
""")
_BLOATED = sa.text("""
    SELECT s.relname, s.n_dead_tup AS dead, s.n_live_tup AS live
    FROM pg_stat_user_tables AS s WHERE s.schemaname = 'indexer'
      AND s.n_dead_tup > :rows AND s.n_dead_tup > :share * s.n_live_tup
    ORDER BY s.n_dead_tup DESC
""")
_NOT_VACUUMED = sa.text("""
    SELECT c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'indexer' AND c.relkind = 'r'
      AND array_to_string(c.reloptions, ',') ~ 'autovacuum_enabled=(false|off|no|0)'
    ORDER BY 1
""")
_WORK = {  # what every worker does to which tables
    "SELECT": ("catalogs", "encoders", "indexes", "changes", "entries", "verifications"),
    "DELETE": ("changes", "entries"),
    "INSERT": ("entries", "verifications"),
    "UPDATE": ("entries", "verifications"),
}
_MAY = sa.text("SELECT has_table_privilege(:table, :what)")
_MAY_FENCE = sa.text("SELECT has_sequence_privilege('indexer.fences', 'USAGE')")


class Failed(Exception):
    """The check found something; the message says what to do."""


def clock(opened: parts.Parts) -> str:
    """Ages and leases are told by the database's clock, deadlines by ours."""
    with database.begin(opened.engine) as connection:
        began = time.monotonic()
        theirs = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        took_s = time.monotonic() - began
    skew_s = abs((datetime.now(UTC) - theirs).total_seconds()) - took_s
    if skew_s > SKEW_S:
        raise Failed(
            f"this machine's clock and the database's differ by {skew_s:.1f} s: ages in `status` "
            "and in metrics are wrong by that much. Have both follow NTP."
        )
    return f"within {SKEW_S:g} s of the database's"


def rights(opened: parts.Parts) -> str:
    """The connected role may do what a worker does; one that only queries is told from it."""
    from indexer import catalog, roles

    with database.begin(opened.engine) as connection:
        role = str(connection.scalar(sa.text("SELECT current_user")))
        purpose = roles.all_of(connection).get(role)
        work = {"SELECT": _WORK["SELECT"]} if purpose == "query" else _WORK
        lacking = [
            f"{what} on {table}"
            for what, tables in work.items()
            for table in tables
            if not connection.scalar(_MAY, {"table": f"indexer.{table}", "what": what})
        ]
        if purpose != "query" and not connection.scalar(_MAY_FENCE):
            lacking.append("USAGE on sequence fences")
    if lacking:
        raise Failed(
            f"role {role!r} lacks {', '.join(lacking)}. As the schema's owner: "
            f"`twinspan permit worker {role}`."
        )
    for attached in catalog.all_of(opened.engine):
        catalog.scan_items(opened.engine, attached, after=None, limit=1)
    return f"{role} may do what a {purpose or 'worker'} needs, and reads every catalog"


def triggers(opened: parts.Parts) -> str:
    """Every watched table has its triggers, enabled always, with this release's functions."""
    from indexer import catalog

    attached = catalog.all_of(opened.engine)
    faults = [
        f"{one.name}: {fault}"
        for one in attached
        for fault in catalog.trigger_faults(opened.engine, one)
    ]
    if faults:
        raise Failed(
            f"{'; '.join(faults)}. Changes may be missed: attach the catalog again, "
            "then `twinspan verify --repair`."
        )
    return f"catalogs: {', '.join(one.name for one in attached) or 'none attached'}"


def leases(opened: parts.Parts) -> str:
    """What a vanished worker held is taken up by another."""
    with database.begin(opened.engine) as connection:
        found = connection.execute(_LEASES).one()
    if found.expired and found.age_s > LATE_LEASE_S:
        raise Failed(
            f"{found.expired:,} items are held by workers that are gone, the first for "
            f"{found.age_s:.0f} s, and nobody takes them up: does a worker run that has the "
            "index's encoder?"
        )
    return f"{found.expired:,} expired, none older than {LATE_LEASE_S:.0f} s"


def transactions(opened: parts.Parts) -> str:
    """No transaction, prepared ones included, is open for so long that it keeps vacuum away."""
    with database.begin(opened.engine) as connection:
        found = connection.execute(_TRANSACTIONS).all()
    old = [f"{row.who}, for {row.age_s:.0f} s" for row in found if row.age_s > LONG_TRANSACTION_S]
    if old:
        raise Failed(
            f"open for more than {LONG_TRANSACTION_S // 60} minutes: {'; '.join(old)}. They keep "
            "vacuum from its work: end them (pg_terminate_backend, ROLLBACK PREPARED)."
        )
    return f"the oldest is {max(found[0].age_s, 0):.0f} s old" if found else "none open"


def vacuum(opened: parts.Parts) -> str:
    """Dead rows of our tables are cleared away."""
    with database.begin(opened.engine) as connection:
        is_on = connection.scalar(sa.text("SHOW autovacuum")) == "on"
        off: Sequence[str] = connection.scalars(_NOT_VACUUMED).all()
        limits = {"rows": DEAD_ROWS, "share": DEAD_SHARE}
        bloated = connection.execute(_BLOATED, limits).all()
    if not is_on:
        raise Failed("autovacuum is off for the whole server: set autovacuum = on.")
    if off:
        raise Failed(
            f"autovacuum is off for {', '.join(off)}: "
            "ALTER TABLE indexer.NAME RESET (autovacuum_enabled)."
        )
    if bloated:
        named = ", ".join(
            f"{row.relname} ({row.dead:,} dead, {row.live:,} live)" for row in bloated
        )
        raise Failed(
            f"vacuum does not keep up: {named}. Look for old transactions and replication slots, "
            "then VACUUM them."
        )
    return "dead rows are cleared away"
