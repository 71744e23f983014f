"""Random histories of the real code, each compared with the oracle once it has come to rest."""

from __future__ import annotations

import os

from proof import prove
from proof.machine import Proof
from proof.world import World

SEED = 20_261_121  # a commit is judged by its own histories; `make prove` looks for new ones
EXAMPLES = int(os.environ.get("TWINSPAN_TEST_PROOF_EXAMPLES", "100"))  # for each store


def test_every_history_ends_with_what_the_oracle_says(world: World) -> None:
    """The seed is printed; TWINSPAN_TEST_PROOF_SEED plays other histories."""
    seed = int(os.environ.get("TWINSPAN_TEST_PROOF_SEED", SEED))
    print(f"TWINSPAN_TEST_PROOF_SEED={seed}")
    machine = type("Proof", (Proof,), {"world": world})
    with world.instrumented():
        prove.run(machine, examples=EXAMPLES, seed=seed)
