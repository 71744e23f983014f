"""Random histories of the real code, each compared with the oracle once it has come to rest."""

from __future__ import annotations

import os
import random

from proof import prove
from proof.machine import Proof
from proof.world import World

EXAMPLES = int(os.environ.get("TWINSPAN_TEST_PROOF_EXAMPLES", "100"))  # for each store


def test_every_history_ends_with_what_the_oracle_says(world: World) -> None:
    """The seed is printed; TWINSPAN_TEST_PROOF_SEED plays the same histories again."""
    seed = int(os.environ.get("TWINSPAN_TEST_PROOF_SEED", random.SystemRandom().getrandbits(32)))
    print(f"TWINSPAN_TEST_PROOF_SEED={seed}")
    machine = type("Proof", (Proof,), {"world": world})
    with world.instrumented():
        prove.run(machine, examples=EXAMPLES, seed=seed)
