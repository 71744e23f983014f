"""Histories in a given order, each one that a proof must see."""

from __future__ import annotations

import pytest
from proof.oracle import Change, Row
from proof.world import World

RED, BLUE = Row(title="red"), Row(title="blue")


def insert(*keys: str, row: Row = RED) -> Change:
    return Change(verb="insert", keys=keys, row=row)


def delete(*keys: str) -> Change:
    return Change(verb="delete", keys=keys)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("last_steps", [1, 2, 3, None])
def test_a_first_write_that_comes_after_the_delete(
    world: World, last_steps: int | None, after: bool
) -> None:
    world.commit(insert("a"))
    zombie = world.worker("A")
    assert zombie.run_to("write_if_newer")
    world.lease_runs_out(zombie, noticed=False)
    world.commit(delete("a"))
    if not after:
        world.worker("B")
        world.finish("B")
    world.settle(last_steps=last_steps, after=after)
