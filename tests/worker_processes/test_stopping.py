"""Workers that get SIGTERM hand their work back before they end."""

from __future__ import annotations

import os
import signal

import pytest
from live import wait_until
from live_world import World

from worker_processes.backlog import Start, keys, leased, wait_clean

pytestmark = pytest.mark.live


@pytest.mark.parametrize("pool", ["--pool=solo", "--pool=prefork"])
def test_a_worker_that_is_stopped_hands_its_work_to_another_at_once(
    pool: str, world: World, start: Start, broker: str
) -> None:
    patient = {"TWINSPAN_LEASE_S": "600", "TWINSPAN_FAULTS_ENCODE_S": "0.3"}
    worker = start(broker, pool, "--concurrency=1", environment=patient)
    world.insert(keys(2_000))
    wait_until(lambda: leased(world.engine), within_s=20, what="a claim", log=worker.log)
    took = worker.terminate(within_s=20)
    assert took < 10
    assert leased(world.engine) == 0
    assert not world.is_clean()
    wait_clean(world, start(broker))
    assert world.assert_agrees() == 2_000


def test_a_whole_group_that_gets_sigterm_gives_its_leases_back(
    world: World, start: Start, broker: str
) -> None:
    patient = {"TWINSPAN_LEASE_S": "600", "TWINSPAN_FAULTS_ENCODE_S": "0.3"}
    worker = start(broker, "--pool=prefork", "--concurrency=2", environment=patient)
    world.insert(keys(2_000))
    wait_until(lambda: leased(world.engine), within_s=20, what="a claim", log=worker.log)
    os.killpg(worker.pid, signal.SIGTERM)
    wait_until(lambda: not worker.running, within_s=20, what="its end", log=worker.log)
    assert leased(world.engine) == 0
    wait_clean(world, start(broker))
    assert world.assert_agrees() == 2_000
