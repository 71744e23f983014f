"""The HTTP side on a real port, over a real index: answers, refusals, what never gets through."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import films
import httpx
import pytest
import sqlalchemy as sa
from conftest import Databases
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from served import Served, problem, serving

from indexer import database, http, indexes, interactions
from indexer.embedded import Services
from indexer.errors import EmbeddedError
from indexer.http.guard import BODY_MAX, is_loopback
from indexer.http.server import HttpServer

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    databases: Callable[[str], Databases],
) -> Iterator[Served]:
    scratch = databases(postgres_url)
    url = scratch.create()
    with serving(tmp_path_factory.mktemp("served"), url) as found:
        yield found
    scratch.drop(url)


# -- queries ----------------------------------------------------------------------------------


def test_recommendations_follow_the_history_and_the_filter(served: Served) -> None:
    asked = {"history": ["m0", "m4"], "where": {"year": {"gte": 1980}}, "k": 3}
    response = served.client.post("/recommend", json=asked)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [hit["payload"]["genres"] for hit in answer["hits"]] == [["Comedy"]] * 3
    assert all(hit["payload"]["year"] >= 1980 for hit in answer["hits"])
    assert answer["encoder"] == served.encoder.id
    assert answer["index"] == served.index_id
    assert answer["history"] == 2


def test_an_address_asks_the_same_as_a_body(served: Served) -> None:
    where = {"genres": "Drama"}
    body = served.client.post("/recommend", json={"history": ["m1"], "where": where, "k": 4})
    address = served.client.get(
        "/recommend", params={"item": ["m1"], "where": json.dumps(where), "k": 4}
    )
    keys = [[hit["key"] for hit in one.json()["hits"]] for one in (body, address)]
    assert keys[0] == keys[1] != []
    body = served.client.post("/similar", json={"key": "m1", "k": 4})
    address = served.client.get("/similar", params={"key": "m1", "k": 4})
    assert body.json()["hits"] == address.json()["hits"] != []


def test_events_with_time_and_value_are_a_history_too(served: Served) -> None:
    event = {"item_key": "m2", "event": "rating", "value": 4, "occurred_at": "2026-01-02T03:04:05Z"}
    answer = served.client.post("/recommend", json={"history": [event, "m6", 7]}).json()
    assert answer["history"] == 2
    assert answer["unknown"] == ["7"]


def test_a_user_key_brings_the_history_from_postgresql(served: Served) -> None:
    engine = served.services.engine
    with database.begin(engine) as connection:
        connection.execute(
            sa.text(
                "INSERT INTO indexer.interactions (user_key, item_key, occurred_at) "
                "VALUES ('u1', 'm3', now()), ('u1', 'm7', now())"
            )
        )
    assert len(interactions.history(engine, catalog="items", user_key="u1", limit=10)) == 2
    answer = served.client.post("/recommend", json={"user_key": "u1", "k": 2}).json()
    assert answer["history"] == 2
    assert [hit["payload"]["genres"] for hit in answer["hits"]] == [["Western"]] * 2


def test_similar_items_are_of_the_same_kind(served: Served) -> None:
    answer = served.client.get("/similar", params={"key": "m2", "k": 3}).json()
    assert [hit["payload"]["genres"] for hit in answer["hits"]] == [["Horror"]] * 3


def test_unknown_history_keys_are_ignored_and_reported(served: Served) -> None:
    asked = {"history": ["m0", "nobody", "with\0nul"]}
    answer = served.client.post("/recommend", json=asked).json()
    assert answer["unknown"] == ["nobody", "with\0nul"]
    assert answer["hits"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"k": 0}, "k: "),
        ({"k": 10_001}, "k: "),
        ({"k": 501}, "k must be from 1 to 500"),
        ({"k": "5"}, "k: "),
        ({"k": True}, "k: "),
        ({"histroy": []}, "histroy: "),
        ({"history": ["m0"] * 10_001}, "history: "),
        ({"history": "m0"}, "history: "),
        ({"history": [{"item_key": "m0", "occurred_at": "yesterday"}]}, "occurred_at must be"),
        ({"where": {"colour": "red"}}, "colour"),
        ({"where": {"year": "late"}}, "year"),
        ({"where": {"year": {"gte": None}}}, "year"),
        ({"where": {"genres": []}}, "genres"),
        ({"where": ["genres"]}, "where: "),
        ({"where": {"genres": ["a"] * 10_001}}, "parts; the most is"),
        ({"features": []}, "features: "),
        ({"exclude_seen": "yes"}, "exclude_seen: "),
        ({"alias": ""}, "alias: "),
        ({"user_key": "x" * 2_001}, "user_key"),
        ([], "body"),
        ("text", "body"),
        (None, "body"),
    ],
)
def test_a_wrong_request_is_400_and_says_what_is_wrong(
    served: Served, body: object, says: str
) -> None:
    assert says in problem(served.client.post("/recommend", json=body), 400)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"history": ["\\ud800"]}',
        b'{"where": {"genres": "\\udfff"}}',
        b'{"where": {"\\ud800": 1}}',
        b'{"features": {"a": {"b": ["\\ud800"]}}}',
        b'{"user_key": "\\udc00"}',
        b'{"k": 1e999}',
        b'{"k": ' + b"9" * 5_000 + b"}",
        b'{"where": {"year": NaN}}',
        b'{"where": ' + b'{"not":' * 200 + b"1" + b"}" * 200 + b"}",
        b"[" * 100_000,
    ],
)
def test_bytes_that_are_no_request_are_400(served: Served, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    problem(served.client.post("/recommend", content=raw, headers=headers), 400)


def test_a_lone_surrogate_is_named_with_its_place(served: Served) -> None:
    raw = b'{"where": {"genres": ["ok", "\\ud800"]}}'
    headers = {"content-type": "application/json"}
    said = problem(served.client.post("/recommend", content=raw, headers=headers), 400)
    assert "body.where.genres[1] holds half of a surrogate pair" in said


def test_a_body_that_is_not_said_to_be_json_is_refused(served: Served) -> None:
    problem(served.client.post("/recommend", content=b'{"k": 3}'), 400)
    headers = {"content-type": "text/plain"}
    problem(served.client.post("/recommend", content=b'{"k": 3}', headers=headers), 400)


def test_an_address_is_checked_like_a_body(served: Served) -> None:
    for params in ({"k": "0"}, {"k": "many"}, {"where": "{"}, {"where": '{"colour": 1}'}):
        problem(served.client.get("/recommend", params=params), 400)
    problem(served.client.get("/recommend", params={"item": ["m0"] * 201}), 400)
    problem(served.client.get("/similar"), 400)
    problem(served.client.get("/similar", params={"key": "nobody"}), 400)


def test_an_unknown_alias_is_404_and_not_remembered(served: Served) -> None:
    for number in range(3):
        said = problem(served.client.post("/recommend", json={"alias": f"no-{number}"}), 404)
        assert f"no-{number}" in said
    assert set(served.api.retrievers._known) == {"items"}


def test_unknown_paths_and_methods_are_problems_too(served: Served) -> None:
    problem(served.client.get("/nowhere"), 404)
    problem(served.client.delete("/recommend"), 405)
    problem(served.client.get("/indexes/9999", headers=served.bearer), 404)
    problem(served.client.get("/indexes/x", headers=served.bearer), 400)
    problem(served.client.get(f"/indexes/{2**40}", headers=served.bearer), 400)


@examples(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    body=st.fixed_dictionaries(
        {},
        optional={
            "history": ANYTHING, "where": ANYTHING, "features": ANYTHING,
            "user_key": ANYTHING, "k": ANYTHING, "alias": st.just("items") | ANYTHING,
        },
    )
)  # fmt: skip
def test_no_body_at_all_makes_the_server_fail(served: Served, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    response = served.client.post("/recommend", content=raw, headers=headers)
    assert response.status_code in {200, 400, 404}, response.text


# -- what never gets through ------------------------------------------------------------------


def test_a_body_that_is_too_big_is_413(served: Served) -> None:
    big = b'{"history": ["' + b"x" * BODY_MAX + b'"]}'
    headers = {"content-type": "application/json"}
    problem(served.client.post("/recommend", content=big, headers=headers), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(5):
            yield b" " * (BODY_MAX // 4)

    problem(served.client.post("/recommend", content=chunks(), headers=headers), 413)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", "", "["]
)
def test_a_foreign_host_name_is_refused(served: Served, host: str) -> None:
    problem(served.client.get("/health/live", headers={"Host": host}), 403)


@pytest.mark.parametrize("host", ["localhost", "localhost:7700", "127.0.0.1:1", "[::1]:7700"])
def test_loopback_names_are_welcome(served: Served, host: str) -> None:
    assert served.client.get("/health/live", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused(served: Served) -> None:
    for origin in ("https://evil.example", "null"):
        problem(served.client.get("/status", headers={"Origin": origin}), 403)
    own = {"Origin": "http://localhost:3000"}
    assert served.client.get("/status", headers=own).status_code == 200


def test_a_request_without_any_host_is_refused(served: Served) -> None:
    address = (served.client.base_url.host, served.client.base_url.port or 0)
    with socket.create_connection(address, timeout=10) as raw:
        raw.sendall(b"GET /health/live HTTP/1.0\r\n\r\n")
        assert b" 403 " in raw.recv(200)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)
    assert not is_loopback(f"{host}.evil.example")


@pytest.mark.parametrize("token", [None, "Bearer", "Bearer wrong", "Basic x"])
def test_changes_need_the_token(served: Served, token: str | None) -> None:
    headers = {} if token is None else {"Authorization": token}
    asked = {"catalog": "items", "encoder_uri": served.encoder.uri}
    before = len(indexes.all_of(served.services.engine))
    requests = [
        ("POST", "/indexes", asked),
        ("GET", f"/indexes/{served.index_id}", None),
        ("POST", f"/indexes/{served.index_id}/promote", None),
        ("POST", f"/indexes/{served.index_id}/retire", None),
        ("GET", f"/indexes/{served.index_id}/verification", None),
    ]
    for method, path, body in requests:
        problem(served.client.request(method, path, json=body, headers=headers), 401)
    assert len(indexes.all_of(served.services.engine)) == before


# -- indexes ----------------------------------------------------------------------------------


def test_an_index_is_built_compared_promoted_and_retired(served: Served, tmp_path: Path) -> None:
    other = films.trained(tmp_path, weight=0.9)
    asked = {"catalog": "items", "encoder_uri": other.uri}
    response = served.client.post("/indexes", json=asked, headers=served.bearer)
    assert response.status_code == 201, response.text
    new = response.json()["id"]
    assert response.json()["state"] == "building"

    said = problem(served.client.post(f"/indexes/{new}/promote", headers=served.bearer), 409)
    assert "does not pass the gate" in said
    while not indexes.get(served.services.engine, new).backfill_done:  # in the background
        assert served.api.filler._thread.is_alive()
    served.drain()
    one = served.client.get(f"/indexes/{new}", headers=served.bearer).json()
    assert one["progress"]["complete"]
    assert one["progress"]["done"] == one["progress"]["total"] == len(films.rows())

    path = f"/indexes/{new}/verification"
    seen = served.client.post(path, json={"vectors": True}, headers=served.bearer).json()
    assert (seen["items"], seen["agree"], seen["drift"]) == (40, 40, 0)
    assert (seen["vectors"], seen["vectors_differ"], seen["phase"]) == (40, 0, "done")
    assert served.client.get(path, headers=served.bearer).json() == seen

    promoted = served.client.post(f"/indexes/{new}/promote", headers=served.bearer).json()
    assert promoted["state"] == "live"
    answer = served.client.post("/recommend", json={"history": ["m0"]}).json()
    assert (answer["index"], answer["encoder"]) == (new, other.id)

    problem(served.client.post(f"/indexes/{new}/retire", headers=served.bearer), 409)
    path = f"/indexes/{served.index_id}"
    assert served.client.get(path, headers=served.bearer).json()["state"] == "standby"
    served.client.post(f"{path}/promote", headers=served.bearer).raise_for_status()
    dropped = served.client.post(f"/indexes/{new}/retire", headers=served.bearer).json()
    assert dropped["state"] == "retired"


def test_building_for_what_does_not_exist_says_so(served: Served, tmp_path: Path) -> None:
    unknown = {"catalog": "nothing", "encoder_uri": served.encoder.uri}
    problem(served.client.post("/indexes", json=unknown, headers=served.bearer), 404)
    missing = {"catalog": "items", "encoder_uri": str(tmp_path / "none")}
    problem(served.client.post("/indexes", json=missing, headers=served.bearer), 404)
    ugly = {"catalog": "items", "encoder_uri": served.encoder.uri, "alias": "a b"}
    problem(served.client.post("/indexes", json=ugly, headers=served.bearer), 400)


# -- health -----------------------------------------------------------------------------------


def test_status_names_catalogs_indexes_and_parts_but_no_password(served: Served) -> None:
    status = served.client.get("/status").json()
    assert status["catalogs"] == ["items"]
    assert [one["state"] for one in status["indexes"]] == ["live"]
    assert status["indexes"][0]["items"] == len(films.rows())
    assert status["embedded"] == ["store", "broker"]
    assert status["health"]["ready"]
    password = sa.make_url(served.services.settings.database_url.get_secret_value()).password  # type: ignore[union-attr]
    assert not password or password not in json.dumps(status)


def test_ready_while_all_is_well(served: Served) -> None:
    response = served.client.get("/health")
    assert response.status_code == 200
    assert response.json()["problems"] == []
    assert response.json()["last_ready_at"]


def test_not_ready_without_a_worker_though_alive(served: Served) -> None:
    served.worker["alive"] = False
    try:
        response = served.client.get("/health")
        assert served.client.get("/health/live").json()["instance"] == served.api.instance
    finally:
        served.worker["alive"] = True
    assert response.status_code == 503
    assert response.json()["problems"] == ["the worker is not running"]


@pytest.mark.parametrize("routed", [False, True])
def test_not_ready_while_a_change_waits_too_long(served: Served, routed: bool) -> None:
    engine = served.services.engine
    with database.begin(engine) as connection:
        connection.execute(sa.text("UPDATE public.items SET title = title || '!' WHERE id = 'm0'"))
        connection.execute(sa.text("UPDATE indexer.changes SET changed_at = now() - interval '1h'"))
    if routed:
        from indexer import changes

        changes.route(engine, limit=100)
    response = served.client.get("/health")
    served.drain()
    assert response.status_code == 503
    assert response.json()["oldest_change_s"] > 3_590
    assert "waiting for 36" in response.json()["problems"][0]
    assert served.client.get("/health").status_code == 200


def test_not_ready_and_503_while_the_database_is_gone(served: Served, tmp_path: Path) -> None:
    gone = database.engine("postgresql://nobody@127.0.0.1:1/none")
    services = Services(
        settings=served.services.settings,
        engine=gone,
        store=served.services.store,
        towers=served.services.towers,
    )
    api = http.Api(services, worker_alive=lambda: True)
    with (
        HttpServer(http.make_app(api), host="127.0.0.1", port=0) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        health = client.get("/health")
        assert health.status_code == 503
        assert not health.json()["ready"]
        assert health.json()["last_ready_at"] is None
        assert "not available" in problem(client.get("/status"), 503)
        assert client.post("/recommend", json={"history": ["m0"]}).status_code == 200
        problem(client.post("/recommend", json={"user_key": "u1"}), 503)
    gone.dispose()


def test_the_description_of_the_api_is_complete(served: Served) -> None:
    description = served.client.get("/openapi.json").json()
    assert {"/recommend", "/similar", "/status", "/health", "/indexes"} <= set(description["paths"])
    assert description["info"]["title"] == "Twinspan"


# -- the port ---------------------------------------------------------------------------------


def test_a_taken_port_is_named(served: Served) -> None:
    port = served.client.base_url.port or 0
    with pytest.raises(EmbeddedError, match=f"port {port}.*TWINSPAN_HTTP_PORT"):
        HttpServer(http.make_app(served.api), host="127.0.0.1", port=port)


def test_an_address_that_is_not_ours_is_named(served: Served) -> None:
    with pytest.raises(EmbeddedError, match=r"cannot serve on 192\.0\.2\.1"):
        HttpServer(http.make_app(served.api), host="192.0.2.1", port=0)
