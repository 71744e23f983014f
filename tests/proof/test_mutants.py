"""Whoever breaks the code in one of these places is told: the proof fails, and says where."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proof import mutants, scenarios
from proof.mutation import Mutant
from proof.world import World


def history(mutant: Mutant) -> Callable[[World], None]:
    return getattr(scenarios, mutant.scenario)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_the_proof_fails_with_this_mutant_and_passes_without(world: World, mutant: Mutant) -> None:
    if not isinstance(world.store.real, mutant.stores):
        pytest.skip("it breaks the other store")
    with mutant.whole(), world.instrumented():
        world.reset()
        history(mutant)(world)
    with mutant.applied(), world.instrumented():
        world.reset()
        with pytest.raises(AssertionError) as caught:
            history(mutant)(world)
        world.stop()
    print(f"{mutant.name}: {caught.value}")
