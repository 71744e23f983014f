"""What is asked over HTTP, by body and by address: answers, and refusals that say what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from served import Served, problem

from indexer import database, interactions

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


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
    assert served.client.post("/recommend", json={"alias": "items"}).status_code == 200
    for number in range(3):
        said = problem(served.client.post("/recommend", json={"alias": f"no-{number}"}), 404)
        assert f"no-{number}" in said
    assert set(served.api.retrievers._known) == {"items"}


@pytest.mark.parametrize("alias", ["x" * 300, "ü" * 200, "..", "../up", "a\0b"], ids=ascii)
def test_an_alias_that_can_name_nothing_is_404(served: Served, alias: str) -> None:
    problem(served.client.post("/recommend", json={"alias": alias}), 404)
    problem(served.client.get("/similar", params={"key": "m0", "alias": alias}), 404)


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
