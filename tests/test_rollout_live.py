"""A new tower under load, small: the long one is `python -m benchmarks rollout`."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import chaos_servers
import live
import pytest

pytestmark = pytest.mark.live


def test_an_index_built_under_load_and_kills_is_promoted_taken_back_and_promoted_again() -> None:
    """No query fails, and none mixes two encoders (see `rollout_run` and `rollout_queries`)."""
    if problem := chaos_servers.missing("redis"):
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(problem)
        pytest.skip(problem)
    command = [sys.executable, str(live.TESTS / "rollout_run.py")]
    done = subprocess.run(
        [*command, "--items", "2000", "--kills", "3", "--seconds", "2"],
        env={**os.environ, "PYTHONPATH": f"{live.REPOSITORY}{os.pathsep}{live.TESTS}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(done.stdout)
    assert found["kills"] == {"worker": 2, "reindex": 1}
    assert found["queries"]["failed"] == found["queries"]["mixed"] == 0
    assert len(found["queries"]["answers"]) == 2, "only one index was asked"
    assert len(found["promote_s"]) == 3
    assert len(found["verified"]) == 2
    assert min(found["verified"].values()) > 1_500
