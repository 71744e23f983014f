"""Hostile calls of every edge: HTTP, the command line, Retriever. Nobody is shown a traceback.

What is refused is refused by the caller's own fault; what is taken is answered.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import films
import hostile
import httpx
import pytest
import typer
from api.conftest import served  # noqa: F401 - a fixture
from conftest import Databases
from hypothesis import given
from served import Served

from indexer import catalog, database, reindex, sync
from indexer.catalog import spec
from indexer.cli.app import app, run
from indexer.errors import UsageError
from indexer.query import Query
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.towers import Towers

BODY: dict[str, Any] = {
    "alias": "items",
    "history": ["m1", {"item_key": "m2", "event": "view", "value": 3.5}, 7],
    "features": {"age": 30, "names": ["a"]},
    "where": {"year": {"gte": 1960}, "any": [{"genres": "Comedy"}, {"genres": ["Horror"]}]},
    "k": 3,
    "exclude_seen": True,
    "exact": False,
}
PATHS = ("/recommend", "/similar", "/indexes", "/status", "/health", "/indexes/1", "/x")


def names(rng: random.Random) -> str:
    known = [*BODY, "user_key", "key", "occurred_at", "catalog", "encoder_uri", "gte", "not"]
    return rng.choice(known) if rng.random() < 0.7 else hostile.text(rng)


def body(rng: random.Random) -> Any:
    good = {**BODY, "key": "m1"} if rng.random() < 0.3 else BODY
    return hostile.mutated(rng, good, names=names)


def raw(rng: random.Random, document: Any) -> bytes:
    """JSON or nearly so, now and then with NaN, broken bytes, or endless brackets."""
    shape = rng.random()
    if shape < 0.03:
        return rng.choice([b"[", b'{"a":']) * 50_000
    if shape < 0.06:
        return b'{"k": ' + b"1" * 5_000 + b"}"
    try:
        text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError):
        return b"{}"
    said = text.encode("utf-8", "surrogatepass")
    return said if shape < 0.85 else hostile.garbled(rng, said)


# -- HTTP ------------------------------------------------------------------------------------------


def refused_or_answered(response: httpx.Response) -> None:
    assert response.status_code in {200, 307, 400, 401, 404, 405, 409, 413, 503}, response.text
    if response.status_code >= 400 and "ready" not in response.json():
        said = response.json()
        assert set(said) == {"error", "message"}
        assert "\n" not in hostile.sentence(ValueError(said["message"]))


@hostile.times(250)
@given(rng=hostile.rngs)
def test_no_body_makes_the_server_fail(served: Served, rng: random.Random) -> None:  # noqa: F811
    headers = {"content-type": rng.choice(["application/json", "application/json", "text/x"])}
    if rng.random() < 0.5:
        headers |= served.bearer
    method = rng.choice(["POST", "POST", "POST", "GET", "PUT"])
    path = rng.choice(PATHS) if rng.random() < 0.3 else "/recommend"
    content = raw(rng, body(rng))
    refused_or_answered(served.client.request(method, path, content=content, headers=headers))


@hostile.times(250)
@given(rng=hostile.rngs)
def test_no_address_makes_the_server_fail(served: Served, rng: random.Random) -> None:  # noqa: F811
    known = ["item", "user_key", "where", "k", "alias", "exclude_seen", "exact", "key", "vectors"]
    params: list[tuple[str, str]] = [("key", "m1")]
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(known) if rng.random() < 0.9 else sayable(hostile.text(rng))
        value = sayable(hostile.text(rng))
        if name == "where" and rng.random() < 0.7:
            value = sayable(raw(rng, hostile.mutated(rng, BODY["where"])))
        params.append((name, value[:2_000]))
    path = rng.choice(["/recommend", "/similar", f"/indexes/{sayable(hostile.text(rng))[:50]}"])
    try:
        request = served.client.build_request("GET", path, params=params, headers=served.bearer)
    except (httpx.InvalidURL, UnicodeError):
        return
    refused_or_answered(served.client.send(request))


def sayable(text: str | bytes) -> str:
    raw_text = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    return raw_text.decode("utf-8", "replace")


# -- Retriever -------------------------------------------------------------------------------------


def argument(rng: random.Random) -> Any:
    shape = rng.random()
    if shape < 0.02:
        return ["m1"] * rng.choice([10_000, 10_001, 100_000])
    return rng.choice(list(BODY.values())) if shape < 0.3 else hostile.anything(rng)


@hostile.times(300)
@given(rng=hostile.rngs)
def test_a_query_is_answered_or_refused_as_the_callers_fault(
    served: Served,  # noqa: F811
    rng: random.Random,
) -> None:
    retriever = served.api.retrievers.get("items")
    parts = [*BODY, "nonsense"]
    asked = {**{name: BODY[name] for name in BODY if name != "alias"}}
    for name in rng.sample(parts[1:], rng.randint(1, 3)):
        asked[name] = argument(rng)
    many = [asked] * rng.choice([1, 1, 1, 3])
    try:
        if rng.random() < 0.2:
            hits = [retriever.similar(argument(rng), where=argument(rng), k=argument(rng))]
        elif rng.random() < 0.5:
            asked.pop("nonsense", None)
            hits = retriever.recommend_many([Query(**one) for one in many])
        else:
            hits = retriever.recommend_many(many if rng.random() < 0.9 else argument(rng))
    except UsageError as error:
        hostile.sentence(error)
        return
    for each in hits:
        assert len(each) <= served.api.services.settings.k_max
        assert json.loads(json.dumps(each.as_dict(), allow_nan=False))


# -- the command line ------------------------------------------------------------------------------

NOT_RUN = {("up",), ("demo",)}  # servers until Ctrl-C, and downloads
OPTIONS = ("--json", "--where", "-w", "-k", "--alias", "--feature", "--nope", "--", "-", "--exact")


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        inner = getattr(command, "commands", None)
        waiting += [((*path, name), one) for name, one in (inner or {}).items()]
        if inner is None and path not in NOT_RUN:
            found.append(path)
    return sorted(found)


@dataclass(frozen=True)
class Shell:
    """A folder with an index of films, in which commands are run."""

    folder: Path
    database_url: str


@pytest.fixture(scope="module")
def shell(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    databases: Callable[[str], Databases],
) -> Iterator[Shell]:
    folder, scratch = tmp_path_factory.mktemp("shell"), databases(postgres_url)
    url = scratch.create()
    engine, store = database.engine(url), EdgeStore(folder / ".twinspan" / "edge")
    catalog.attach(engine, spec.BUILTIN)
    films.insert(engine, films.rows())
    settings = Settings.model_validate({"data_dir": folder / ".twinspan"})
    encoder = films.trained(folder / ".twinspan" / "encoders")
    index = reindex.start(engine, store, catalog_name="items", encoder_uri=encoder.uri)
    for _ in reindex.fill(engine, index):
        pass
    sync.drain(engine, store, Towers(settings), settings)
    store.close()
    engine.dispose()
    (folder / "empty.csv").write_text("")
    (folder / "odd.toml").write_text('name = "odd"\ntable = "nope"\nkey = "id"\n')
    yield Shell(folder=folder, database_url=url)
    scratch.drop(url)


def word(rng: random.Random) -> str:
    known = ["items", "1", "m1", "empty.csv", "odd.toml", "content", "year>=1970", "age=3", "0"]
    if rng.random() < 0.5:
        return rng.choice(known)
    if rng.random() < 0.1:
        return sayable(raw(rng, hostile.mutated(rng, BODY["where"])))
    return sayable(hostile.text(rng)).replace("\0", "")


@hostile.times(80)
@given(rng=hostile.rngs)
def test_a_command_is_done_or_says_why_not_in_one_line(
    shell: Shell, capsys: pytest.CaptureFixture[str], rng: random.Random
) -> None:
    arguments = [*rng.choice(commands())]
    for _ in range(rng.randint(0, 4)):
        arguments += [rng.choice(OPTIONS)] if rng.random() < 0.3 else []
        arguments.append(word(rng))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shell.folder)
        patch.setenv("TWINSPAN_DATABASE_URL", shell.database_url)
        patch.setattr(sys, "stdin", io.StringIO(""))
        capsys.readouterr()
        code = run(arguments)
        said = capsys.readouterr()
    assert code in {0, 1, 2, 130}, (arguments, said.err)
    assert "Traceback" not in said.err, (arguments, said.err)
    assert "not expected" not in said.err, (arguments, said.err)
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) <= (code not in (0, 130)), (arguments, said.err)
