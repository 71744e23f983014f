"""Log lines: what a real worker writes can be read by a machine, and holds no secret."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from live import Worker, forget_queue, unique, wait_until
from live_world import make
from qdrant_rest import QdrantRest

from indexer import logs
from indexer.settings import Settings
from indexer.stores.qdrant import QdrantStore

SECRETS = {
    "database_url": "postgresql://me:p%40ss%20word@db:5432/x",
    "qdrant_url": "http://qdrant:6333",
    "qdrant_api_key": "key-of-qdrant",
    "broker_url": "redis://:broker-secret@redis:6379/0",
}


def line(settings: Settings, message: str, **facts: object) -> str:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, message, (), None)
    record.__dict__.update(logs.facts(**facts))
    return logs.formatter(settings).format(record)


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "secret",
    ["p%40ss%20word", "p@ss word", "key-of-qdrant", "broker-secret"],
)
def test_secrets_of_the_settings_are_masked_wherever_they_turn_up(
    log_format: str, secret: str, tmp_path: Path
) -> None:
    known = {"data_dir": tmp_path, "log_format": log_format, **SECRETS}
    said = line(Settings.model_validate(known), f"it said {secret}!", error=f"no: {secret}")
    assert secret not in said
    assert f"it said {logs.MASK}!" in said


def test_a_password_in_any_address_is_masked(settings: Settings) -> None:
    said = line(settings, "amqp://guest:hush-hush@other:5672// is away")
    assert "amqp://guest:********@other:5672// is away" in said


def test_a_json_line_is_one_line_also_with_a_traceback_and_with_whatever_an_item_is_called(
    tmp_path: Path,
) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "log_format": "json"})
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 1, "a\nb", (), sys.exc_info())
    record.__dict__.update(logs.facts(item='"\n\u2028\ud800', at_all=object()))
    [said] = logs.formatter(settings).format(record).splitlines()
    parsed = json.loads(said)
    assert parsed["item"] == '"\n\u2028\ud800'
    assert "ValueError: first" in parsed["traceback"]


@pytest.mark.live
def test_a_worker_writes_one_object_for_each_slice_and_each_failure(
    engine: sa.Engine, database_url: str, tmp_path: Path, service: Callable[[str], str]
) -> None:
    broker, queue = service("redis"), unique("logs")
    with QdrantRest() as server:
        store = QdrantStore(url=server.url)
        world = make(engine, store, queue=queue)
        environment = {
            "TWINSPAN_DATABASE_URL": database_url,
            "TWINSPAN_QDRANT_URL": server.url,
            "TWINSPAN_QDRANT_API_KEY": "key-of-qdrant",
            "TWINSPAN_BROKER_URL": broker,
            "TWINSPAN_LOG_FORMAT": "json",
            "TWINSPAN_MAX_ATTEMPTS": "1",
        }
        with Worker(folder=tmp_path, environment=environment, queue=queue) as worker:
            worker.wait_ready()
            world.insert([f"k{n}" for n in range(20)])
            world.insert(["bad"], title="POISON")

            def lines() -> list[dict[str, object]]:
                whole = worker.log().rpartition("\n")[0].splitlines()
                return [json.loads(one) for one in whole if one.startswith("{")]

            def of(kind: str) -> list[dict[str, object]]:
                return [one for one in lines() if kind in one]

            wait_until(
                lambda: (
                    of("error_class")
                    and sum(one["items"].get("encoded", 0) for one in of("items")) == 20
                ),
                within_s=30,
                what="both kinds of lines",
                log=worker.log,
            )
            worker.terminate(within_s=20)
            [failure] = of("error_class")
            slices = of("items")
        forget_queue(broker, queue)
        store.close()
    facts = {"index": world.index.id, "alias": "items", "item": "bad", "error_class": "tower"}
    assert facts.items() <= failure.items()
    assert (failure["level"], failure["logger"]) == ("WARNING", "indexer.sync")
    assert "poison" in str(failure["error"])
    for one in slices:
        assert (one["index"], one["alias"], one["level"]) == (world.index.id, "items", "INFO")
        assert one["fences"][0] <= one["fences"][1]
        assert {"claim", "read", "encode", "write", "ack"} <= one["seconds"].keys()
    assert failure["fence"] in {fence for one in slices for fence in one["fences"]}
    assert "key-of-qdrant" not in worker.log()
