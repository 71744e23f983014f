"""What never gets through: too big, for another host, from another site, without the token."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from served import Served, problem

from indexer import indexes
from indexer.http.guard import BODY_MAX, is_loopback


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
