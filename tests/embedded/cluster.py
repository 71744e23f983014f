"""A process that owns an embedded PostgreSQL, and a look into the server."""

from __future__ import annotations

import os

import psycopg

AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
OWNER = """
import sys
from pathlib import Path
from indexer.embedded import postgres
server = postgres.start(Path(sys.argv[1]), fsync=False)
print(server.url)
sys.stdin.readline()
server.stop()
print("stopped")
"""


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []
