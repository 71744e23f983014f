"""Short commands share one embedded database, which ends with the last of them."""

from __future__ import annotations

import os
import threading

import processes
import pytest
import sqlalchemy as sa

from embedded.home import SHORT_COMMAND, Home
from indexer import catalog, database, embedded
from indexer.embedded import postgres
from indexer.errors import DatabaseUnavailable


def test_a_short_command_starts_the_database_and_stops_it(home: Home) -> None:
    with embedded.database_url(home.settings) as url, database.opened(url) as engine:
        with database.begin(engine) as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        assert postgres.holder(home.postgres) == f"process {os.getpid()}"
    assert postgres.holder(home.postgres) is None


def test_a_short_command_joins_a_database_that_runs(home: Home) -> None:
    with processes.python(SHORT_COMMAND, env=home.environment()) as first:
        running = processes.line(first)
        with embedded.database_url(home.settings) as url:
            assert url == running
        assert postgres.find(home.postgres) == running  # it is not ours to stop
        first.communicate("\n", timeout=30)


def test_a_short_command_keeps_its_database_until_those_who_joined_have_left(home: Home) -> None:
    with (
        processes.python(SHORT_COMMAND, env=home.environment()) as first,
        processes.python(SHORT_COMMAND, env=home.environment()) as second,
    ):
        assert processes.line(first) == processes.line(second)
        owner, guest = first, second
        if postgres.holder(home.postgres) == f"process {second.pid}":
            owner, guest = second, first
        assert owner.stdin is not None
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert owner.stderr is not None
        assert "other commands still use this database" in owner.stderr.readline()
        assert postgres.find(home.postgres) is not None
        guest.communicate("\n", timeout=30)
        owner.communicate(timeout=30)
    assert (owner.returncode, guest.returncode) == (0, 0)


def test_short_commands_that_start_together_share_one_database(home: Home) -> None:
    urls: list[str] = []
    everybody = threading.Barrier(3, timeout=60)

    def command() -> None:
        with embedded.database_url(home.settings) as url, database.opened(url) as engine:
            urls.append(url)
            everybody.wait()
            with database.begin(engine) as connection:
                assert connection.scalar(sa.text("SELECT 1")) == 1
            everybody.wait()

    threads = [threading.Thread(target=command) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 3
    assert len(set(urls)) == 1


def test_opening_all_parts_brings_the_schema_up_to_date_and_closes_in_order(home: Home) -> None:
    with embedded.opened(home.settings) as services:
        assert catalog.all_of(services.engine) == []
        assert services.store.collections() == []
    with pytest.raises(DatabaseUnavailable), database.begin(services.engine):
        pass
    services.engine.dispose()
    assert not processes.below(home.folder)
