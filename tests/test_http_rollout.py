"""Indexes over HTTP: promoted, taken back, given up and retired; what is refused, and how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from served import Served, problem, serving

from indexer import alias_lock, indexes


@pytest.fixture
def served(tmp_path: Path, database_url: str) -> Iterator[Served]:
    with serving(tmp_path, database_url) as found:
        yield found


def post(served: Served, path: str, **body: object) -> Any:
    response = served.client.post(path, json=body or None, headers=served.bearer)
    assert response.is_success, response.text
    return response.json()


def refused(served: Served, status: int, path: str, **body: object) -> str:
    return problem(served.client.post(path, json=body or None, headers=served.bearer), status)


def steps(served: Served, **asked: object) -> list[dict[str, Any]]:
    response = served.client.get("/history", params=asked, headers=served.bearer)  # type: ignore[arg-type]
    assert response.status_code == 200, response.text
    return response.json()


def answering(served: Served) -> int:
    return served.client.post("/recommend", json={"history": ["m0"]}).json()["index"]


def test_an_index_is_promoted_taken_back_and_retired_and_the_history_says_by_whom(
    served: Served,
) -> None:
    first, second = served.index_id, served.build(served.encoder)
    verdict = post(served, f"/indexes/{second}/gate", by="anna")
    assert (verdict["passed"], verdict["index_id"]) == (True, second)
    assert post(served, f"/indexes/{second}/promote", by="anna")["state"] == "live"
    assert answering(served) == second
    back = post(served, "/aliases/items/rollback", by="berta")
    assert (back["id"], back["state"], answering(served)) == (first, "live", first)
    said = refused(served, 409, "/aliases/items/rollback")
    assert f"`twinspan promote {second}` brings it back" in said
    for _ in range(2):  # repeating it is no error
        assert post(served, f"/indexes/{second}/retire")["state"] == "retired"
    assert "is retired; it cannot go live" in refused(served, 409, f"/indexes/{second}/promote")
    newest = steps(served, alias="items", limit=4)
    assert [(one["action"], one["outcome"]) for one in newest] == [
        ("retire", "done"), ("rollback", "done"), ("promote", "done"), ("gate", "passed"),
    ]  # fmt: skip
    assert [one["by"] for one in newest[1:3]] == ["berta", "anna"]
    assert steps(served, alias="nope") == []


def test_a_build_that_is_given_up_leaves_nothing(served: Served) -> None:
    body = {"catalog": "items", "encoder_uri": served.encoder.uri, "fill": False}
    begun = post(served, "/indexes", **body)
    assert begun["adopts"] == f"items-{served.index_id}"
    assert "gives it up" in refused(served, 409, f"/indexes/{begun['id']}/retire")
    for _ in range(2):
        ended = post(served, f"/indexes/{begun['id']}/cancel", by="anna")
        assert (ended["state"], ended["error"]) == ("failed", "cancelled")
    assert served.services.store.collections() == [f"items-{served.index_id}"]
    said = refused(served, 409, f"/indexes/{served.index_id}/cancel")
    assert "is live, not being built" in said


def test_against_the_advice_it_is_done_by_force_only_and_that_is_kept(served: Served) -> None:
    body = {"catalog": "items", "encoder_uri": served.encoder.uri, "fill": False}
    empty = post(served, "/indexes", **body)["id"]
    assert "does not pass the gate" in refused(served, 409, f"/indexes/{empty}/promote")
    assert steps(served, limit=1)[0]["outcome"] == "refused"
    assert post(served, f"/indexes/{empty}/promote", force=True)["state"] == "live"
    assert steps(served, limit=1)[0]["forced"]
    with served.services.engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE indexer.entries SET wanted = wanted + 1, "
                "changed_at = now() - interval '1 hour' WHERE index_id = :index"
            ),
            {"index": served.index_id},
        )
    assert "lacks 40 changes" in refused(served, 409, "/aliases/items/rollback")
    back = post(served, "/aliases/items/rollback", force=True)
    assert (back["id"], answering(served)) == (served.index_id, served.index_id)


def test_what_may_be_taken_over_is_checked(served: Served) -> None:
    body = {"catalog": "items", "encoder_uri": served.encoder.uri}
    assert "name it with --adopt" in refused(served, 400, "/indexes", trust=True, **body)
    assert "no collection 'nope'" in refused(served, 404, "/indexes", adopt="nope", **body)
    assert len(indexes.all_of(served.services.engine)) == 1


@pytest.fixture
def elsewhere(served: Served) -> Iterator[sa.Connection]:
    """A connection of another admin, who is changing the alias."""
    other = sa.create_engine(served.services.engine.url, poolclass=sa.NullPool)
    with other.connect() as admin:
        lock = sa.text("SELECT pg_advisory_lock(:key, hashtext('items'))")
        admin.execute(lock, {"key": alias_lock.ALIAS_LOCK})
        yield admin


def test_while_another_admin_changes_the_alias_each_verb_is_409(
    served: Served, elsewhere: sa.Connection
) -> None:
    one = f"/indexes/{served.index_id}"
    for path in (f"{one}/promote", "/aliases/items/rollback", f"{one}/retire", f"{one}/cancel"):
        said = refused(served, 409, path)
        assert "IndexStateError: somebody else is changing alias 'items' right now" in said
    elsewhere.close()
    assert post(served, f"{one}/promote")["state"] == "live"


def test_what_there_is_not_is_404_and_what_makes_no_sense_400(served: Served) -> None:
    verbs = ("promote", "gate", "cancel", "retire", "verification")
    for verb in verbs:
        body = {"sample": 0} if verb == "verification" else {}
        said = refused(served, 404, f"/indexes/99/{verb}", **body)
        assert said.startswith("IndexUnknown: there is no index 99")
        assert "path.index_id" in refused(served, 400, f"/indexes/{2**31}/{verb}", **body)
    said = refused(served, 404, "/aliases/nope/rollback")
    assert said.startswith("IndexUnknown: no index is live under alias 'nope', only under: items.")
    assert "body.force" in refused(served, 400, "/aliases/items/rollback", force="yes")
    assert "body.by" in refused(served, 400, f"/indexes/{served.index_id}/promote", by="")
    queue = {"catalog": "items", "encoder_uri": served.encoder.uri, "queue": " "}
    assert "queue" in refused(served, 400, "/indexes", **queue)
    response = served.client.get("/history", params={"limit": 0}, headers=served.bearer)
    assert "query.limit" in problem(response, 400)


def test_no_verb_works_without_the_token(served: Served) -> None:
    described = served.client.get("/openapi.json").json()["paths"]
    asked = 0
    for path, methods in described.items():
        if not path.startswith(("/indexes", "/aliases", "/history")):
            continue
        place = path.replace("{index_id}", str(served.index_id)).replace("{alias}", "items")
        for method in methods:
            problem(served.client.request(method, place), 401)
            asked += 1
    assert asked == 10
    assert len(steps(served)) == 3, "start, gate, promote: nothing was added"
