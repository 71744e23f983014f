"""What is printed where, exit codes, connections that fail, and the generated pages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import DEADLINE_S, Twinspan

from indexer.cli import reference

# -- what is printed where -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["status", "--nope"], "No such option: --nope"),
        (["similar"], "Missing argument"),
        (["recommend", "-k", "many"], "valid integer"),
        (["import", "movielens"], "Missing argument"),
    ],
    ids=str,
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    twinspan: Twinspan, arguments: list[str], message: str
) -> None:
    said = twinspan(*arguments)
    assert said.code == 2
    assert message in said.error
    assert "--help`" in said.error
    assert said.out == ""


def test_help_and_version_go_to_stdout(twinspan: Twinspan) -> None:
    assert twinspan("--help").code == 0
    assert "reindex" in twinspan("--help").out
    assert twinspan("reindex", "-h").code == 0
    assert twinspan("--version").code == 0


def test_settings_are_shown_with_their_source_and_secrets_are_not(
    twinspan: Twinspan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "twinspan.toml").write_text("batch_items = 7\npoll_s = 0.5\n")
    monkeypatch.setenv("TWINSPAN_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1/none")
    monkeypatch.setenv("TWINSPAN_POLL_S", "0.25")
    for said in (twinspan("settings", "--json"), twinspan("settings")):
        assert said.code == 0
        assert "hunter2" not in said.out + said.err
    rows = {row["name"]: row for row in json.loads(twinspan("settings", "--json").out)}
    assert (rows["batch_items"]["value"], rows["batch_items"]["source"]) == (7, "twinspan.toml")
    assert (rows["poll_s"]["value"], rows["poll_s"]["source"]) == (0.25, "environment")
    assert rows["lease_s"]["source"] == "default"
    assert rows["database_url"]["value"] == "********"


def test_a_wrong_setting_is_named(twinspan: Twinspan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINSPAN_POLL_S", "-1")
    said = twinspan("status")
    assert said.code == 2
    assert "poll_s" in said.error


def test_debug_shows_the_traceback_wherever_it_stands() -> None:
    for arguments in (["--debug", "attach", "no.toml"], ["attach", "no.toml", "--debug"]):
        done = subprocess.run(
            [sys.executable, "-m", "indexer.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert "Traceback" in done.stderr


def test_a_closed_pipe_ends_in_silence() -> None:
    done = subprocess.run(
        f"{sys.executable} -m indexer.cli settings --json | true",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_an_interrupted_command_ends_quietly_with_130(shop: Twinspan) -> None:
    """At the question that it asks: the one place where a test can be sure that it waits."""
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.cli", "retire", "1"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that runs the tests in the background has them ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    assert b"Retire index 1" in process.stderr.read(20)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert b"Traceback" not in rest
    assert b"error" not in rest
    assert len(json.loads(shop("status", "--json").out)["indexes"]) == 1


# -- connections that fail -------------------------------------------------------------------------


def test_an_unreachable_database_is_one_line(
    twinspan: Twinspan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPAN_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/none")
    said = twinspan("status")
    assert said.code == 1
    assert "127.0.0.1:1" in said.error
    assert "hunter2" not in said.err


def test_an_unmigrated_database_says_what_to_run(
    connected: Twinspan, sql: Callable[..., None]
) -> None:
    sql("DROP SCHEMA indexer CASCADE")
    sql("DROP TABLE public.items")
    said = connected("status")
    assert said.code == 1
    assert "twinspan migrate" in said.error
    assert connected("migrate").code == 0
    assert connected("status").code == 0


def test_an_unreachable_vector_store_is_one_line(
    connected: Twinspan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINSPAN_QDRANT_URL", "http://127.0.0.1:1")
    said = connected("recommend", "m1")
    assert said.code == 1
    assert "127.0.0.1:1" in said.error


def test_without_an_index_recommend_says_what_to_run(connected: Twinspan) -> None:
    said = connected("recommend", "m1")
    assert said.code == 1
    assert "twinspan reindex" in said.error


def test_without_a_catalog_the_commands_say_so(connected: Twinspan) -> None:
    assert "no catalog" in connected("status").out
    for command in (("train", "content"), ("detach", "items"), ("reindex",)):
        said = connected(*command)
        assert said.code in {1, 2}
        assert said.error


def test_doctor_finds_what_is_wrong(
    connected: Twinspan, monkeypatch: pytest.MonkeyPatch, sql: Callable[..., None]
) -> None:
    connected("attach", "items")
    fine = connected("doctor", "--json")
    assert fine.code == 0, fine.out
    assert {"database", "schema", "triggers", "vector store"} <= {c["name"] for c in fine.json}  # type: ignore[attr-defined]
    sql("ALTER TABLE public.items DISABLE TRIGGER ALL")
    monkeypatch.setenv("TWINSPAN_QDRANT_URL", "http://127.0.0.1:1")
    found = {c["name"]: c for c in connected("doctor", "--json").json}  # type: ignore[attr-defined]
    assert connected("doctor").code == 1
    assert not found["triggers"]["ok"]
    assert not found["vector store"]["ok"]
    assert found["database"]["ok"]


# -- generated pages -------------------------------------------------------------------------------


def test_the_reference_names_every_command_and_setting() -> None:
    pages = reference.pages()
    for command in ("demo", "up", "attach", "import movielens", "reindex", "verify", "similar"):
        assert f"`twinspan {command}" in pages["cli.md"]
    assert "`poll_s`" in pages["settings.md"]


def test_the_reference_is_current() -> None:
    assert reference.main(["--check"]) == 0
