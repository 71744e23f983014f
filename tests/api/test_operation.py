"""An operator's side: indexes built and promoted, status and health, the description, the port."""

from __future__ import annotations

import json
from pathlib import Path

import films
import httpx
import pytest
import sqlalchemy as sa
from served import Served, problem

from indexer import database, http, indexes
from indexer.embedded import Services
from indexer.errors import EmbeddedError
from indexer.http.server import HttpServer

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
