"""The ledger's statements, set-based, with named parameters; `entries` says what each one means.

The rule for locks: in item key order, or skipped. The rule for joins with arrays: the keys are
given as `= ANY(...)` too, because a plan made while the ledger was empty would otherwise read all
of it for every key.
"""

from __future__ import annotations

import sqlalchemy as sa

from indexer.tables import ACTIVE, DUE

# The queue is read in the order of its index. Left to itself the planner, whose statistics of a
# queue are always of another moment, gathers and sorts all dirty rows for each claim (41 ms
# instead of 14 at 100,000 rows); and the price that it puts on the sorts that remain would wake
# the JIT (0.3 s).
NEXT_FENCE = sa.text("""
    SELECT nextval('indexer.fences') AS fence, clock_timestamp() AS at,
           set_config('enable_sort', 'off', true),
           set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true),
           set_config('jit', 'off', true)
""")

# An entry with an expired lease is a suspect: its holder died or stalled. A claim that meets
# suspects takes only them, the fewer the more often they were lost (32, 2, 1 where a whole batch is
# 512): a bisection over crashes that ends with the culprit alone. Half of the claims (`:fresh`)
# pass suspects by, so that changes of today do not wait behind that. Hashes are taken out, so
# whatever a lost holder did or still does, the next write is a full one.
CLAIM = sa.text(f"""
    WITH urgent AS (
        SELECT item_key, attempts, lease_until, content_hash, payload_hash FROM indexer.entries
        WHERE index_id = :index_id AND lane < 2 AND {DUE} AND (lease_until IS NULL OR NOT :fresh)
        ORDER BY lane, changed_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ), backfill AS (
        SELECT item_key, attempts, lease_until, content_hash, payload_hash FROM indexer.entries
        WHERE index_id = :index_id AND lane = 2 AND {DUE} AND (lease_until IS NULL OR NOT :fresh)
        ORDER BY lane, changed_at
        LIMIT (SELECT greatest(:limit - count(*), :reserve) FROM urgent) FOR UPDATE SKIP LOCKED
    ), due AS (
        SELECT *, lease_until IS NOT NULL AS suspect FROM urgent
        UNION ALL SELECT *, lease_until IS NOT NULL FROM backfill
    ), judged AS (
        SELECT *, bool_or(suspect) OVER () AS any_suspect,
               row_number() OVER (PARTITION BY suspect ORDER BY attempts DESC, item_key) AS nth,
               max(CASE WHEN suspect THEN attempts ELSE 0 END) OVER () AS worst
        FROM due
    ), chosen AS (
        SELECT item_key, suspect, content_hash, payload_hash FROM judged
        WHERE NOT any_suspect
           OR (suspect AND nth <= greatest(1, :whole >> least(4 * worst, 30)))
    )
    UPDATE indexer.entries AS e
    SET fence = :fence, attempts = e.attempts + 1,
        lease_until = CASE WHEN chosen.suspect AND e.attempts >= :deaths
                           THEN NULL ELSE now() + make_interval(secs => :lease_s) END,
        quarantined = chosen.suspect AND e.attempts >= :deaths,
        error = CASE WHEN chosen.suspect AND e.attempts >= :deaths
                     THEN 'its worker died ' || e.attempts || ' times in a row while it held it'
                     ELSE e.error END,
        lost_at = CASE WHEN chosen.suspect THEN now() ELSE e.lost_at END,
        content_hash = NULL, payload_hash = NULL
    FROM chosen
    WHERE e.index_id = :index_id AND e.item_key = chosen.item_key
      AND e.item_key = ANY(ARRAY(SELECT item_key FROM chosen))
    RETURNING e.item_key AS key, e.wanted, e.attempts, e.lane, e.changed_at, e.present,
              chosen.content_hash, chosen.payload_hash, e.quarantined,
              coalesce(e.lost_at > now() - make_interval(secs => :tombstone_s), false) AS doubtful
""")

# Hashes are put back only where nothing asked for another write meanwhile: a late writer's ack
# raises `wanted` to have its damage repaired, and a kept hash would make that repair a no-op.
ACK = sa.text("""
    WITH locked AS (
        SELECT item_key FROM indexer.entries
        WHERE index_id = :index_id AND item_key = ANY(CAST(:keys AS text[]))
        ORDER BY item_key FOR UPDATE
    ), acked AS (
        SELECT * FROM unnest(
            CAST(:keys AS text[]), CAST(:wanted AS bigint[]), CAST(:present AS boolean[]),
            CAST(:content AS bytea[]), CAST(:payload AS bytea[])
        ) AS r (item_key, wanted, present, content_hash, payload_hash)
    )
    UPDATE indexer.entries AS e
    SET written = CASE WHEN e.fence = :fence THEN acked.wanted ELSE e.written END,
        wanted = CASE WHEN e.fence = :fence THEN e.wanted ELSE e.wanted + 1 END,
        lease_until = CASE WHEN e.fence = :fence THEN NULL ELSE e.lease_until END,
        attempts = CASE WHEN e.fence = :fence THEN 0 ELSE e.attempts END,
        error = CASE WHEN e.fence = :fence THEN NULL ELSE e.error END,
        present = CASE WHEN e.fence = :fence THEN acked.present ELSE e.present END,
        content_hash = CASE WHEN e.fence = :fence AND e.wanted = acked.wanted
                            THEN acked.content_hash END,
        payload_hash = CASE WHEN e.fence = :fence AND e.wanted = acked.wanted
                            THEN acked.payload_hash END,
        quarantined = e.quarantined AND e.fence = :fence,
        due_at = CASE WHEN e.fence = :fence THEN e.due_at ELSE now() END,
        changed_at = CASE WHEN e.fence = :fence AND e.wanted > acked.wanted
                          THEN greatest(e.changed_at, :read_at) ELSE e.changed_at END
    FROM acked, locked
    WHERE e.index_id = :index_id AND e.item_key = acked.item_key
      AND e.item_key = locked.item_key AND e.item_key = ANY(CAST(:keys AS text[]))
    RETURNING e.item_key, e.fence = :fence
""")

# A late writer's items that the ledger has forgotten meanwhile are wanted again.
RECALL = sa.text(f"""
    INSERT INTO indexer.entries AS e (index_id, item_key, lane, changed_at, lost_at)
    SELECT i.id, item_key, 0, now(), now()
    FROM indexer.indexes AS i, unnest(CAST(:keys AS text[])) AS item_key
    WHERE i.id = :index_id AND i.state IN {ACTIVE}
    ORDER BY item_key COLLATE "C"
    ON CONFLICT (index_id, item_key) DO UPDATE SET
        wanted = e.wanted + 1, due_at = now(), content_hash = NULL, payload_hash = NULL
""")

RELEASE = sa.text("""
    WITH locked AS (
        SELECT item_key FROM indexer.entries
        WHERE index_id = :index_id AND item_key = ANY(CAST(:keys AS text[])) AND fence = :fence
          AND lease_until IS NOT NULL
        ORDER BY item_key FOR UPDATE
    )
    UPDATE indexer.entries AS e
    SET lease_until = NULL, attempts = greatest(e.attempts - 1, 0),
        lost_at = CASE WHEN :doubtful THEN now() ELSE e.lost_at END,
        due_at = now() + make_interval(secs => :pause_s)
    FROM locked
    WHERE e.index_id = :index_id AND e.item_key = locked.item_key
      AND e.item_key = ANY(CAST(:keys AS text[]))
""")

FAIL = sa.text("""
    WITH locked AS (
        SELECT item_key FROM indexer.entries
        WHERE index_id = :index_id AND item_key = ANY(CAST(:keys AS text[])) AND fence = :fence
          AND lease_until IS NOT NULL
        ORDER BY item_key FOR UPDATE
    ), failed AS (
        SELECT * FROM unnest(
            CAST(:keys AS text[]), CAST(:errors AS text[]), CAST(:wanted AS bigint[])
        ) AS r (item_key, error, wanted)
    )
    UPDATE indexer.entries AS e
    SET lease_until = NULL,
        error = CASE WHEN e.wanted = failed.wanted THEN failed.error END,
        quarantined = e.wanted = failed.wanted AND e.attempts >= :max_attempts,
        attempts = CASE WHEN e.wanted = failed.wanted THEN e.attempts ELSE 0 END,
        due_at = CASE WHEN e.wanted <> failed.wanted THEN now() ELSE now() + make_interval(secs =>
            least(:backoff_s * 2 ^ least(e.attempts - 1, 30), :backoff_max_s)
            * (0.75 + 0.5 * random())) END
    FROM failed, locked
    WHERE e.index_id = :index_id AND e.item_key = failed.item_key
      AND e.item_key = locked.item_key AND e.item_key = ANY(CAST(:keys AS text[]))
    RETURNING e.quarantined
""")

FILL = sa.text("""
    INSERT INTO indexer.entries (index_id, item_key, lane, changed_at)
    SELECT :index_id, item_key, 2, now() FROM unnest(CAST(:keys AS text[])) AS item_key
    ORDER BY item_key COLLATE "C"
    ON CONFLICT (index_id, item_key) DO NOTHING
""")

# Marked entries are written in full, whatever the ledger believes: their hashes are forgotten, and
# whether their points exist is in doubt.
MARK = sa.text("""
    INSERT INTO indexer.entries AS e (index_id, item_key, lane, changed_at, lost_at)
    SELECT :index_id, item_key, :lane, now(), now() FROM unnest(CAST(:keys AS text[])) AS item_key
    ORDER BY item_key COLLATE "C"
    ON CONFLICT (index_id, item_key) DO UPDATE SET
        wanted = e.wanted + 1, attempts = 0, error = NULL, quarantined = false, due_at = now(),
        content_hash = NULL, payload_hash = NULL, lost_at = now(),
        lane = CASE WHEN e.wanted > e.written THEN least(e.lane, excluded.lane)
                    ELSE excluded.lane END,
        changed_at = CASE WHEN e.wanted > e.written THEN e.changed_at ELSE now() END
""")

# Two at once raise it to the higher of the two: nobody takes a fence back.
RAISE_FENCES = sa.text("SELECT indexer.raise_fences(:above)")

# As if every holder had vanished. A holder that lives acks an entry that was wanted again.
DOUBT = sa.text("""
    WITH chunk AS (
        SELECT item_key FROM indexer.entries
        WHERE index_id = :index_id AND item_key > :after
        ORDER BY item_key LIMIT :limit FOR UPDATE
    )
    UPDATE indexer.entries AS e
    SET wanted = e.wanted + CASE WHEN :again OR e.lease_until IS NOT NULL THEN 1 ELSE 0 END,
        lane = CASE WHEN e.wanted > e.written OR NOT :again THEN e.lane ELSE 2 END,
        content_hash = NULL, payload_hash = NULL, lost_at = now(), lease_until = NULL,
        attempts = 0, error = NULL, quarantined = false, due_at = now()
    FROM chunk
    WHERE e.index_id = :index_id AND e.item_key = chunk.item_key
      AND e.item_key = ANY(ARRAY(SELECT item_key FROM chunk))
    RETURNING e.item_key
""")

UNKNOWN = sa.text("""
    SELECT key FROM unnest(CAST(:keys AS text[])) AS key
    WHERE NOT EXISTS (
        SELECT FROM indexer.entries WHERE index_id = :index_id AND item_key = key
    )
""")

RETRY = sa.text("""
    WITH locked AS (
        SELECT index_id, item_key FROM indexer.entries
        WHERE (error IS NOT NULL OR quarantined) AND wanted > written
          AND (CAST(:index_id AS integer) IS NULL OR index_id = :index_id)
          AND (CAST(:keys AS text[]) IS NULL OR item_key = ANY(CAST(:keys AS text[])))
        ORDER BY index_id, item_key FOR UPDATE
    )
    UPDATE indexer.entries AS e
    SET attempts = 0, error = NULL, quarantined = false, due_at = now()
    FROM locked WHERE e.index_id = locked.index_id AND e.item_key = locked.item_key
""")

UNBURY = sa.text("""
    WITH buried AS (
        SELECT index_id, item_key FROM indexer.entries
        WHERE NOT present AND wanted = written AND lease_until IS NULL
          AND changed_at < now() - make_interval(secs => :tombstone_s)
          AND lost_at < now() - make_interval(secs => :tombstone_s)
        ORDER BY index_id, item_key FOR UPDATE
    )
    UPDATE indexer.entries AS e
    SET wanted = e.wanted + 1, lane = 2, due_at = now(), attempts = 0, lost_at = NULL
    FROM buried WHERE e.index_id = buried.index_id AND e.item_key = buried.item_key
""")

PURGE = sa.text("""
    DELETE FROM indexer.entries
    WHERE NOT present AND wanted = written AND lease_until IS NULL AND lost_at IS NULL
      AND changed_at < now() - make_interval(secs => :tombstone_s)
""")

# What `verify` reads: the ledger's word on some items.
LOOK = sa.text("""
    SELECT item_key AS key, wanted, written, fence, quarantined, present,
           content_hash, payload_hash
    FROM indexer.entries
    WHERE index_id = :index_id AND item_key = ANY(CAST(:keys AS text[]))
""")

SCAN_PRESENT = sa.text("""
    SELECT item_key FROM indexer.entries
    WHERE index_id = :index_id AND item_key > :after AND (present OR written > wanted)
    ORDER BY item_key LIMIT :limit
""")

# As MARK, and `present` as it was found in the store: a point that the ledger believes in is only
# updated, so one that is gone would never come back. An entry that moved on is left alone. For an
# item without an entry the values are those of a new one.
REPAIR = sa.text("""
    INSERT INTO indexer.entries AS e
        (index_id, item_key, wanted, written, fence, present, lane, changed_at)
    SELECT :index_id, item_key, wanted, written, fence, present, :lane, now()
    FROM unnest(
        CAST(:keys AS text[]), CAST(:wanted AS bigint[]), CAST(:written AS bigint[]),
        CAST(:fence AS bigint[]), CAST(:present AS boolean[])
    ) AS r (item_key, wanted, written, fence, present)
    ORDER BY item_key COLLATE "C"
    ON CONFLICT (index_id, item_key) DO UPDATE SET
        wanted = greatest(e.wanted, e.written) + 1, present = excluded.present,
        attempts = 0, error = NULL, quarantined = false, due_at = now(),
        content_hash = NULL, payload_hash = NULL,
        lane = CASE WHEN e.wanted > e.written THEN least(e.lane, excluded.lane)
                    ELSE excluded.lane END
    WHERE e.wanted = excluded.wanted AND e.written = excluded.written AND e.fence = excluded.fence
""")

LAST_FENCE = sa.text("SELECT last_value FROM indexer.fences")
