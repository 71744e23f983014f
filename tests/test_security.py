"""What nobody may be able to do: run code through us, or read a password off us."""

from __future__ import annotations

import ast
import io
import json
import logging
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from indexer import database
from indexer.cli.app import run
from indexer.errors import TwinspanError
from indexer.settings import Settings
from indexer.stores.connect import connect
from workers.app import make_app
from workers.tasks import DRAIN

ROOT = Path(__file__).parent.parent
OURS = ("indexer", "encoders", "workers", "migrations")
CANARY = "canary-1Xq"
EXECUTING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in OURS:
        for path in (ROOT / package).rglob("*.py"):
            yield path, ast.parse(path.read_text())


def test_nothing_of_ours_can_run_code_out_of_data() -> None:
    found: list[str] = []
    for path, tree in sources():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module.split(".")[0]]
            found += [f"{path}: {name}" for name in names if name in EXECUTING]
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in {"eval", "exec", "torch.load", "yaml.load", "np.load", "os.system"}:
                    safe = {kw.arg: ast.unparse(kw.value) for kw in node.keywords}
                    if called == "np.load" and safe.get("allow_pickle", "False") == "False":
                        continue
                    found.append(f"{path}: {called}")
                if any(kw.arg == "shell" for kw in node.keywords):
                    found.append(f"{path}: a shell")
    assert found == []


def test_a_worker_takes_json_and_nothing_else() -> None:
    app = make_app(Settings.model_validate({"broker_url": "memory://"}))
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"
    assert app.conf.event_serializer == "json"


class _Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-python-serialize", pickle.dumps([[_Bomb()], {}, {}])),
        ("application/x-yaml", b"!!python/object/apply:pathlib.Path.touch [exploded]"),
        ("application/json", json.dumps([["rm -rf /"], {}, {}]).encode()),
        ("application/json", json.dumps([[1, 2, 3], {"more": 1}, {}]).encode()),
        ("application/json", b"{"),
    ],
)
def test_messages_that_are_no_wake_ups_do_nothing_and_the_worker_goes_on(
    kind: str,
    body: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Received and refused by a real worker, which then serves a true wake-up."""
    from celery.contrib.testing.worker import start_worker

    monkeypatch.chdir(tmp_path)
    rung: list[int] = []
    app = make_app(Settings.model_validate({"broker_url": "memory://"}))
    app.steps["worker"].clear()
    app.drainer.drain = lambda index_id, **_: rung.append(index_id)  # type: ignore[method-assign]
    app.loader.import_default_modules()
    queue = app.amqp.queues["twinspan"]
    with (
        caplog.at_level(logging.CRITICAL),  # Celery sets the root's level, for whoever comes next
        caplog.at_level(logging.CRITICAL + 1, "celery"),
        start_worker(app, perform_ping_check=False, pool="solo", loglevel="CRITICAL"),
        app.connection_for_write() as connection,
    ):
        headers = {"lang": "py", "task": DRAIN, "id": "1", "argsrepr": "", "kwargsrepr": ""}
        producer = connection.Producer()
        producer.publish(
            body,
            exchange=queue.exchange,
            routing_key=queue.routing_key,
            content_type=kind,
            content_encoding="binary",
            headers=headers,
            declare=[queue],
        )
        app.send_task(DRAIN, args=(7,), queue="twinspan")
        for _ in range(200):
            if 7 in rung:
                break
            __import__("threading").Event().wait(0.05)
    assert rung[-1] == 7
    assert not any(one == "rm -rf /" for one in rung)
    assert not (tmp_path / "exploded").exists()


ADDRESSES = {
    "TWINSPAN_DATABASE_URL": f"postgresql://user:{CANARY}@127.0.0.1:1/db",
    "TWINSPAN_QDRANT_URL": f"http://user:{CANARY}@127.0.0.1:1",
    "TWINSPAN_BROKER_URL": f"redis://user:{CANARY}@127.0.0.1:1/0",
    "TWINSPAN_QDRANT_API_KEY": CANARY,
}
WRONG = {
    "TWINSPAN_DATABASE_URL": f"postgresql://user:{CANARY}@127.0.0.1:no/db",
    "TWINSPAN_QDRANT_URL": f"http://user:{CANARY}@[::1",
    "TWINSPAN_BROKER_URL": f"nothing://user:{CANARY}@127.0.0.1/0",
}


@pytest.mark.parametrize("addresses", [ADDRESSES, ADDRESSES | WRONG], ids=["away", "wrong"])
@pytest.mark.parametrize(
    "command",
    [["settings"], ["settings", "--json"], ["status"], ["doctor"], ["migrate"], ["verify"]],
    ids=" ".join,
)
def test_no_command_says_a_password(
    addresses: dict[str, str],
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in addresses.items():
        monkeypatch.setenv(variable, value)
    with caplog.at_level(logging.DEBUG):
        run(command)
    out, err = capfd.readouterr()
    assert out + err, "it said something"
    assert CANARY not in out + err + caplog.text


@pytest.mark.parametrize("addresses", [ADDRESSES, ADDRESSES | WRONG], ids=["away", "wrong"])
def test_no_error_no_traceback_and_no_repr_has_a_password(
    addresses: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {name.removeprefix("TWINSPAN_").lower(): url for name, url in addresses.items()}
    known = Settings.model_validate(given)
    # a URL setting that is no secret by type is shown without its password wherever we show it
    said = [repr(known.database_url), repr(known.broker_url), repr(known.qdrant_api_key)]

    def attempt(act: Callable[[], object]) -> None:
        try:
            act()
        except (TwinspanError, OSError) as error:
            said.append(str(error) + repr(error))
            told = io.StringIO()
            traceback.print_exception(error, file=told)
            said.append(told.getvalue())

    def ask_database() -> None:
        assert known.database_url is not None
        with database.begin(database.engine(known.database_url.get_secret_value())):
            pass

    attempt(ask_database)
    attempt(lambda: connect(known).collections())
    attempt(lambda: make_app(known))
    assert len(said) > 5
    for one in said:
        assert CANARY not in one, re.sub(CANARY, "<canary>", one)[-2_000:]
