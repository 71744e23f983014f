"""Random histories of the real code, each compared with the oracle once it has come to rest."""

from __future__ import annotations

import os
import random

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test
from proof.machine import Proof
from proof.world import World

EXAMPLES = int(os.environ.get("TWINSPAN_TEST_PROOF_EXAMPLES", "100"))  # for each store
STEPS = 60


def test_every_history_ends_with_what_the_oracle_says(world: World) -> None:
    seed = int(os.environ.get("TWINSPAN_TEST_PROOF_SEED", random.SystemRandom().getrandbits(32)))
    print(f"TWINSPAN_TEST_PROOF_SEED={seed}")
    machine = type("Proof", (Proof,), {"world": world})
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        database=None,
    )
    hypothesis.seed(seed)(machine)
    run_state_machine_as_test(machine, settings=settings)
