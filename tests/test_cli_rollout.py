"""Which index answers, as an admin sees it: what a command says, its exit code, what it leaves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from command_line import Said, Twinspan, up

from indexer import alias_lock
from indexer.stores import Collection, CollectionSpec, Point
from indexer.stores.edge import EdgeStore

Sql = Callable[..., None]


def states(shop: Twinspan) -> dict[int, str]:
    rows = json.loads(shop("status", "--all", "--json").out)["indexes"]
    return {row["index"]: row["state"] for row in rows}


def answering(shop: Twinspan) -> int:
    return json.loads(shop("recommend", "m1", "--json").out)["index"]


def steps(shop: Twinspan) -> list[tuple[str, int, str]]:
    """What the history says, oldest first."""
    said = json.loads(shop("history", "--json").out)
    return [(step["action"], step["index_id"], step["outcome"]) for step in reversed(said)]


def edge(folder: Path) -> closing[EdgeStore]:
    """The vector store of the commands, which hold it only while they run."""
    return closing(EdgeStore(folder / ".twinspan" / "edge"))


# -- the way of an index ---------------------------------------------------------------------------


def test_each_verb_says_in_a_line_what_has_become_of_the_index(shop: Twinspan) -> None:
    built = shop("reindex", "--no-promote")
    assert (built.code, built.out) == (0, "index 2 is building under alias items\n")
    assert "alias items, unchanged vectors from items-1" in built.err
    assert "next: `twinspan promote 2`" in built.err
    assert shop("promote", "2").out == "index 2 is live under alias items\n"
    assert answering(shop) == 2
    assert shop("rollback").out == "index 1 is live under alias items\n"
    assert answering(shop) == 1
    again = shop("rollback", "items")
    assert again.code == 1
    assert "Index 2 was rolled back: `twinspan promote 2` brings it back." in again.error
    for _ in range(2):  # repeating it is no error
        retired = shop("retire", "2", "--yes")
        assert (retired.code, retired.out) == (0, "index 2 is retired\n")
    assert states(shop) == {1: "live", 2: "retired"}
    assert "index 2 is retired; it cannot go live" in shop("promote", "2").error
    assert "index 2 is retired, not being built" in shop("cancel", "2", "--yes").error


def test_each_verb_gives_the_index_as_json(shop: Twinspan) -> None:
    for command, index, state in (
        (("reindex", "--no-promote"), 2, "building"),
        (("promote", "2"), 2, "live"),
        (("rollback",), 1, "live"),
        (("retire", "2", "--yes"), 2, "retired"),
        (("reindex", "--no-wait"), 3, "building"),
        (("cancel", "3", "--yes"), 3, "failed"),
    ):
        said = shop(*command, "--json")
        assert said.code == 0, said.err
        document = json.loads(said.out)
        assert (document["id"], document["state"]) == (index, state)
        assert document["collection"] == f"items-{index}"
    assert document["error"] == "cancelled"


def test_status_says_what_an_index_is_waiting_for(shop: Twinspan) -> None:
    shop("reindex", "--no-wait")
    assert "index 2 is being built: " in shop("status").err
    shop("reindex", "--resume", "2", "--no-promote")
    assert "index 2 is built and answers nobody yet: `twinspan promote 2`" in shop("status").err


def test_the_history_tells_every_step_and_how_it_ended(shop: Twinspan) -> None:
    shop("reindex")
    shop("rollback")
    assert steps(shop) == [
        *(("start", 1, "done"), ("gate", 1, "passed"), ("promote", 1, "done")),
        *(("start", 2, "done"), ("gate", 2, "passed"), ("promote", 2, "done")),
        ("rollback", 1, "done"),
    ]
    table = shop("history", "items", "--limit", "2").out.splitlines()
    assert [" rollback " in line for line in table[-2:]] == [True, False]
    assert [" promote " in line for line in table[-2:]] == [False, True]
    assert len(table) == 4, "a head, a rule, and two steps"
    assert shop("history", "nope").out == "nothing was done to alias 'nope'\n"
    assert shop("history", "nope", "--json").json == []


def test_an_index_that_is_being_built_is_given_up_and_leaves_nothing(
    shop: Twinspan, tmp_path: Path
) -> None:
    begun = shop("reindex", "--no-wait")
    assert begun.out == "index 2 is building under alias items\n"
    assert "next: `twinspan reindex --resume 2`" in begun.err
    refused = shop("retire", "2", "--yes")
    assert "`twinspan cancel 2` gives it up" in refused.error
    for _ in range(2):
        said = shop("cancel", "2", "--yes")
        assert (said.code, said.out) == (0, "index 2 is failed (cancelled)\n")
    with edge(tmp_path) as store:
        assert store.collections() == ["items-1"]
    assert "index 2: cancelled" in shop("status").err
    assert "index 2 is failed (cancelled); it cannot go live" in shop("promote", "2").error
    resumed = shop("reindex", "--resume", "2")
    assert (resumed.code, "start a new one" in resumed.error) == (1, True)
    assert steps(shop)[-2:] == [("start", 2, "done"), ("cancel", 2, "done")]


def test_a_build_goes_on_where_it_was_left_and_never_takes_the_place_of_a_newer_one(
    shop: Twinspan,
) -> None:
    assert shop("reindex", "--no-wait").code == 0
    assert shop("reindex", "--resume", "2").out == "index 2 is live under alias items\n"
    assert shop("reindex", "--resume", "2").code == 0, "it is live: nothing is left to do"
    said = shop("reindex", "--resume", "1")
    assert (said.code, answering(shop)) == (1, 2)
    assert "`twinspan promote 1` makes it live again" in said.error


def test_a_build_that_goes_on_cannot_become_another(connected: Twinspan) -> None:
    for option in (
        ("--encoder", "abc"),
        ("--catalog", "films"),
        ("--alias", "other"),
        ("--queue", "gpu"),
        ("--adopt", "items-1"),
        ("--trust",),
    ):
        said = connected("reindex", "--resume", "1", *option)
        assert said.code == 2
        assert f"leave out {option[0]}" in said.error


# -- the question ----------------------------------------------------------------------------------


def test_what_cannot_be_undone_is_asked_about(
    shop: Twinspan, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop("reindex", "--no-wait")
    for typed, code, says in (
        ("n\n", 1, "left as it is"),
        ("\n", 1, "left as it is"),
        ("", 2, "error: nobody is there to answer: say --yes."),
        ("Yes\n", 0, ""),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        said = shop("cancel", "2")
        assert said.code == code
        assert said.err.startswith("Cancel index 2 (items-2, building)? [y/N]: ")
        assert says in said.err
        assert states(shop)[2] == ("building" if code else "failed")


# -- against the advice ----------------------------------------------------------------------------


def test_what_the_gate_refuses_goes_live_by_force_only_and_that_is_kept(
    shop: Twinspan, sql: Sql
) -> None:
    shop("reindex", "--no-wait")
    sql("UPDATE indexer.entries SET error = 'boom', quarantined = true WHERE index_id = 2")
    for command in (("reindex", "--resume", "2"), ("promote", "2")):
        said = shop(*command)
        assert said.code == 1
        assert "index 2 does not pass the gate. quarantined items: 30 of 30" in said.error
    assert answering(shop) == 1
    assert steps(shop)[-1] == ("gate", 2, "refused")
    assert shop("promote", "2", "--force").out == "index 2 is live under alias items\n"
    newest = json.loads(shop("history", "--limit", "1", "--json").out)[0]
    assert (newest["action"], newest["forced"], newest["outcome"]) == ("promote", True, "done")
    assert "does not pass the gate" in newest["report"]["gate"]
    assert shop("history", "--limit", "1").out.splitlines()[-1].endswith("yes")


def test_an_index_that_lacks_changes_comes_back_by_force_only(shop: Twinspan, sql: Sql) -> None:
    shop("reindex")
    sql(
        "UPDATE indexer.entries SET wanted = wanted + 1, changed_at = now() - interval '1 hour'"
        " WHERE index_id = 1 AND item_key IN ('m1', 'm2')"
    )
    said = shop("rollback")
    assert said.code == 1
    assert "index 1 lacks 2 changes that live index 2 has" in said.error
    assert "--force" in said.error
    assert answering(shop) == 2
    assert shop("rollback", "--force").out == "index 1 is live under alias items\n"
    assert answering(shop) == 1
    newest = json.loads(shop("history", "--limit", "1", "--json").out)[0]
    assert (newest["forced"], newest["report"]["behind"]) == (True, 2)


# -- vectors that exist already --------------------------------------------------------------------


def test_vectors_are_adopted_from_a_collection_that_somebody_vouches_for(
    shop: Twinspan, tmp_path: Path
) -> None:
    with edge(tmp_path) as store:
        _copy_without_metadata(store, "items-1", "offline")
        _copy_without_metadata(store, "items-1", "spoilt", turned="m1")
    doubted = shop("reindex", "--adopt", "offline")
    assert doubted.code == 1
    assert "does not say which encoder made it" in doubted.error
    assert "--trust" in doubted.error
    adopted = shop("reindex", "--adopt", "offline", "--trust", "--json")
    assert adopted.code == 0, adopted.err
    assert "unchanged vectors from offline" in adopted.err
    document = json.loads(adopted.out)
    assert (document["state"], document["adopts"]) == ("live", "offline")
    false_word = shop("reindex", "--adopt", "spoilt", "--trust")
    assert false_word.code == 1
    assert "1 with other vectors" in false_word.error, "they were taken over, not made again"
    assert answering(shop) == document["id"]
    starts = [one for one in json.loads(shop("history", "--json").out) if one["action"] == "start"]
    assert [one["report"]["adopts"] for one in starts] == ["spoilt", "offline", None]


def _copy_without_metadata(store: EdgeStore, name: str, copy: str, turned: str = "") -> None:
    """As a job of somebody else would have written it, with one item's vectors turned round."""
    spec = store.status(name).spec
    source, target = (Collection(name=one, catalog="items") for one in (name, copy))
    store.ensure_collection(
        CollectionSpec(collection=target, vectors=spec.vectors, fields={}, metadata={})
    )
    found = next(store.scroll(source, vectors=[one.name for one in spec.vectors], batch=100))
    made = [
        Point(
            key=point.key,
            vectors={
                name: np.multiply(vector, -1 if point.key == turned else 1)  # type: ignore[arg-type]
                for name, vector in point.vectors.items()
            },
            payload=point.payload,
        )
        for point in found
    ]
    store.write_if_newer(target, made, fence=1, mode="upsert")
    store.flush(target)


def test_what_cannot_be_adopted_is_named(shop: Twinspan) -> None:
    assert shop("train", "content", "-o", "half_life=3.5").code == 0
    for options, code, says in (
        (("--trust",), 2, "name it with --adopt"),
        (("--adopt", "nope"), 1, "no collection 'nope'"),
        (("--adopt", "items-1", "--trust"), 1, "its vectors mean something else"),
    ):
        said = shop("reindex", *options)
        assert (said.code, says in said.error) == (code, True), said.err
    assert states(shop) == {1: "live"}


# -- wrong use, and two at once --------------------------------------------------------------------

WRONG: list[tuple[tuple[str, ...], int, str]] = [
    (("promote",), 2, "Missing argument 'INDEX'"),
    (("promote", "x"), 2, "valid integer"),
    (("promote", "0"), 2, "greater than or equal to 1"),
    (("promote", "99999999999"), 2, "less than or equal to 2147483647"),
    (("promote", "99"), 1, "there is no index 99. `twinspan status` lists them."),
    (("retire", "99", "--yes"), 1, "there is no index 99"),
    (("cancel", "99", "--yes"), 1, "there is no index 99"),
    (("gate", "99"), 1, "there is no index 99"),
    (("reindex", "--resume", "99"), 1, "there is no index 99"),
    (("verify", "--index", "99"), 1, "there is no index 99"),
    (("retire", "1", "--yes"), 1, "index 1 is live under alias 'items'. Promote another first"),
    (("cancel", "1", "--yes"), 1, "index 1 is live, not being built"),
    (("rollback",), 1, "alias 'items' has no standby index that was live before 1"),
    (("rollback", "nope"), 1, "no index is live under alias 'nope', only under: items."),
    (("reindex", "--catalog", "nope"), 1, "no catalog 'nope' is attached. There is: items."),
    (("reindex", "--alias", "a b"), 2, "alias 'a b': use up to 100 letters"),
    (("reindex", "--alias", ""), 2, ""),
    (("reindex", "--queue", ""), 2, ""),
    (("history", "--limit", "0"), 2, "greater than or equal to 1"),
]


def _wrong(shop: Twinspan) -> list[tuple[int, str]]:
    heard: list[tuple[int, str]] = []
    for arguments, code, says in WRONG:
        said = shop(*arguments)
        assert (said.code, says in said.error) == (code, True), (arguments, said.err)
        assert said.out == ""
        heard.append((said.code, said.error if says else ""))
    return heard


def test_wrong_use_is_one_line_that_says_what_is_there(shop: Twinspan) -> None:
    _wrong(shop)
    assert states(shop) == {1: "live"}


def test_where_several_aliases_are_live_a_rollback_must_name_one(
    shop: Twinspan, connected: Twinspan
) -> None:
    assert shop("reindex", "--alias", "other").out == "index 2 is live under alias other\n"
    said = shop("rollback")
    assert (said.code, said.error) == (2, "roll back what? say which: items, other.")
    assert shop("detach", "items", "--drop-indexes").code == 0
    said = shop("rollback")
    assert (said.code, said.error) == (2, "roll back what? no index is live.")


def test_while_another_admin_changes_the_alias_each_verb_leaves_it_alone(
    shop: Twinspan, database_url: str
) -> None:
    shop("reindex")
    other = sa.create_engine(
        sa.make_url(database_url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool
    )
    with other.connect() as admin:
        lock = sa.text("SELECT pg_advisory_lock(:key, hashtext('items'))")
        admin.execute(lock, {"key": alias_lock.ALIAS_LOCK})
        for command in (
            ("promote", "1"),
            ("rollback",),
            ("retire", "1", "--yes"),
            ("cancel", "1", "--yes"),
        ):
            said = shop(*command)
            assert said.code == 1
            assert "somebody else is changing alias 'items' right now" in said.error
        assert answering(shop) == 2
    assert shop("rollback").code == 0


def test_a_store_that_another_command_holds_is_named(shop: Twinspan, tmp_path: Path) -> None:
    shop("reindex")
    with edge(tmp_path):
        said = shop("rollback")
    assert said.code == 1
    assert "is held by process" in said.error
    assert shop("rollback").code == 0


# -- beside `twinspan up` --------------------------------------------------------------------------


@pytest.mark.slow
def test_beside_a_running_server_each_verb_says_the_same(
    shop: Twinspan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = _wrong(shop)
    monkeypatch.setenv("TWINSPAN_HTTP_PORT", "0")
    monkeypatch.setenv("TWINSPAN_GATE_WAIT_S", "0")
    with up(tmp_path):
        assert _wrong(shop) == alone
        assert shop("reindex", "--no-promote").out == "index 2 is building under alias items\n"
        assert shop("promote", "2").out == "index 2 is live under alias items\n"
        assert shop("rollback").out == "index 1 is live under alias items\n"
        assert "brings it back" in shop("rollback").error
        assert shop("promote", "2", "--force", "--json").json["state"] == "live"  # type: ignore[index]
        assert shop("retire", "1", "--yes").out == "index 1 is retired\n"
        begun = shop("reindex", "--no-wait", "--adopt", "items-2")
        assert "unchanged vectors from items-2" in begun.err
        assert _ended(shop("cancel", "3", "--yes")) == "index 3 is failed (cancelled)\n"
        assert "start a new one" in shop("reindex", "--resume", "3").error
        assert "name it with --adopt" in shop("reindex", "--trust").error
        assert states(shop) == {1: "retired", 2: "live", 3: "failed"}
        forced = json.loads(shop("history", "--json").out)
        assert [step["action"] for step in forced if step["forced"]] == ["promote"]
        assert len({step["by"] for step in forced}) == 1


def _ended(said: Said) -> str:
    assert said.code == 0, said.err
    return said.out
