"""Short histories in a given order, one for each thing that could go wrong. On the whole code each
ends as the oracle says; with a mutant it must not."""

from __future__ import annotations

from contextlib import suppress

from indexer import indexes
from indexer.errors import IndexStateError
from proof.oracle import POISON, Change, Row
from proof.parts import LEASE_S
from proof.world import World

RED, BLUE = Row(title="red"), Row(title="blue")
NEW_YEAR = Row(title="red", year=1999)


def write(*keys: str, row: Row = RED) -> Change:
    return Change(verb="upsert", keys=keys, row=row)


def delete(*keys: str) -> Change:
    return Change(verb="delete", keys=keys)


def an_item_changes(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(write("a", row=BLUE))
    world.settle()


def a_zombie_writes_an_old_row(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(write("a", row=NEW_YEAR), write("b"))
    _stalled(world, "set_payload_if_newer", "write_if_newer")
    world.commit(write("a", row=BLUE), write("b", row=BLUE))
    _others_work(world)
    world.settle(last_steps=1, after=True)


def a_zombie_sets_an_old_payload(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(write("a", row=NEW_YEAR))
    _stalled(world, "set_payload_if_newer")
    world.commit(write("a", row=BLUE))
    _others_work(world)
    world.settle(last_steps=1, after=True)


def a_zombie_deletes_an_item_that_is_back(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(delete("a"))
    _stalled(world, "delete_if_newer")
    world.commit(write("a"))
    _others_work(world)
    world.settle(last_steps=1, after=True)


def a_zombie_buries_an_item_that_is_back(world: World) -> None:
    world.commit(write("a"))
    _stalled(world, "write_if_newer", name="A")
    world.commit(delete("a"))
    _stalled(world, "bury_if_newer", name="B")
    world.commit(write("a"))
    _others_work(world)
    world.settle(last_steps=1, after=True)


def a_zombie_acks_a_write_that_was_refused(world: World) -> None:
    """The other holder has read a newer row under the same version: its route comes later."""
    world.commit(write("a"))
    _stalled(world, "write_if_newer", name="A")
    world.worker("B")
    world.run_to("B", "read")
    world.commit(write("a", row=BLUE))
    world.run_to("B", "ack_if_held")
    world.advance("B", 1)
    world.kill("B")
    world.run_to("A", "ack_if_held")
    world.advance("A", 1)
    world.kill("A")
    world.commit(write("a", row=RED))
    world.settle()


def an_item_changes_while_it_is_written(world: World) -> None:
    world.commit(write("a"))
    world.worker("A")
    world.run_to("A", "write_if_newer")
    world.commit(write("a", row=BLUE))
    world.route()
    world.settle()


def an_item_changes_before_the_claim(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(write("a", row=BLUE))
    world.worker("A")
    world.run_to("A", "claim")
    world.commit(write("a", row=NEW_YEAR))
    world.route()
    world.settle()


def an_item_changes_and_changes_back(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(write("a", row=BLUE))
    world.worker("A")
    world.run_to("A", "ack_if_held")
    world.kill("A")
    world.commit(write("a", row=RED))
    world.settle()


def poison_is_cured(world: World) -> None:
    _indexed(world, write("a"), write("b", row=Row(title=POISON)))
    world.commit(write("b", row=BLUE))
    world.settle()


def a_first_write_comes_after_the_delete(world: World) -> None:
    world.commit(write("a"))
    _stalled(world, "write_if_newer")
    world.commit(delete("a"))
    _others_work(world)
    world.settle(last_steps=1, after=True)


def a_first_write_and_its_ack_come_after_the_delete(world: World) -> None:
    world.commit(write("a"))
    _stalled(world, "write_if_newer")
    world.commit(delete("a"))
    _others_work(world)
    world.settle(after=True)


def a_request_that_timed_out_arrives_after_the_delete(world: World) -> None:
    world.commit(write("a"))
    world.worker("A").faults["store"] = "late"
    world.finish("A")
    world.commit(delete("a"))
    world.settle(after=True)


def an_update_comes_after_the_delete(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(write("a", row=BLUE))
    _stalled(world, "write_if_newer")
    world.commit(delete("a"))
    _others_work(world)
    world.settle(last_steps=1, after=True)


def an_item_is_back_after_a_delete_without_an_ack(world: World) -> None:
    _indexed(world, write("a"))
    world.commit(delete("a"))
    world.worker("A")
    world.run_to("A", "ack_if_held")
    world.kill("A")
    world.commit(write("a"))
    world.settle()


def an_outage_ends(world: World) -> None:
    """What was given back is worked on after the pause, long before the lease would have ended."""
    world.commit(write("a"))
    world.store.refusals = 1
    _others_work(world)
    world.time_passes(LEASE_S / 10)
    _others_work(world)
    world.check()


def the_power_fails_after_the_ack(world: World) -> None:
    world.commit(write("a"))
    _others_work(world)
    world.power_cut()
    world.settle()


def a_backfill_dies_in_its_transaction(world: World) -> None:
    _indexed(world, write("a", "b", "c"))
    world.fill("filling", world.begin("two")).faults["fill"] = "killed"
    world.finish("filling")
    world.settle()


def an_item_changes_during_a_backfill(world: World) -> None:
    _indexed(world, write("a", "b"))
    filling = world.fill("filling", world.begin("two"))
    world.advance("filling", 3)
    assert filling.at, "it has not read everything"
    _others_work(world)
    world.commit(write("a", row=BLUE), delete("b"), write("c"))
    _others_work(world)
    world.settle()


def a_promotion_comes_too_early(world: World) -> None:
    _indexed(world, write("a", "b", "c"))
    index = world.begin("two")
    with suppress(IndexStateError):
        world.promote(index)
    world.check_index(indexes.live(world.engine, index.alias))
    world.settle()


def a_promotion_dies_after_the_switch(world: World) -> None:
    _indexed(world, write("a"))
    index = world.reindex("two")
    world.drain()
    world.admin("admin", "promote", 0)
    assert world.run_to("admin", "point_alias")
    world.processes["admin"].faults["store"] = "lost answer"
    world.finish("admin")
    world.settle()
    assert indexes.live(world.engine, index.alias).id == index.id


def an_alias_is_switched_after_the_cancel(world: World) -> None:
    """A promotion's request that was given up for lost arrives between a cancel's two steps."""
    _indexed(world, write("a"))
    world.reindex("two")
    world.drain()
    world.admin("M", "promote", 0)
    assert world.run_to("M", "point_alias")
    world.processes["M"].faults["store"] = "late"
    world.finish("M")
    world.admin("N", "cancel", 0)
    assert world.run_to("N", "drop_collection")
    world.late_request_arrives()
    world.finish("N")
    world.settle()


def an_item_changes_before_a_rollback(world: World) -> None:
    _indexed(world, write("a", "b"))
    index = world.reindex("two")
    world.drain()
    world.promote(index)
    world.commit(write("a", row=BLUE), delete("b"))
    world.drain()
    world.admin("admin", "roll back", 0)
    world.finish("admin")
    assert indexes.live(world.engine, index.alias).id != index.id
    world.check()
    world.settle()


def somebody_meddles_in_three_ways(world: World) -> None:
    _indexed(world, write("a", "b"))
    world.meddle("a point is deleted", "a")
    world.meddle("the ledger is altered", "b")
    world.commit(write("c"))
    world.meddle("changes are lost", "c")
    world.settle()


def _indexed(world: World, *changes: Change) -> None:
    world.commit(*changes)
    world.drain()
    world.check()


def _stalled(world: World, *gates: str, name: str = "A") -> None:
    """This worker stands before its writes, and the others take its lease for expired."""
    process = world.worker(name)
    assert world.run_to(name, *gates), f"{name} did not come to {gates}"
    world.lease_runs_out(process, noticed=False)


def _others_work(world: World) -> None:
    world.worker("other")
    world.finish("other")
