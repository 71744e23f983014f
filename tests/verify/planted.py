"""One fault of each kind, by the cause that verify names."""

from __future__ import annotations

from collections.abc import Callable

from indexer.stores import KEY_FIELD
from verify.world import ITEMS, World

Fault = Callable[[World, str], None]


def insert_unseen(world: World, key: str) -> None:
    world.unseen(f"INSERT INTO public.items (id, title) VALUES ('{key}', 'unseen')")


def update_unseen(world: World, key: str) -> None:
    world.unseen(f"UPDATE public.items SET title = 'unseen' WHERE id = '{key}'")


def update_payload_unseen(world: World, key: str) -> None:
    world.unseen(f"UPDATE public.items SET attributes = '{{}}' WHERE id = '{key}'")


def delete_unseen(world: World, key: str) -> None:
    world.unseen(f"DELETE FROM public.items WHERE id = '{key}'")


def delete_point(world: World, key: str) -> None:
    world.store.delete_if_newer(world.index.ref, [key], fence=world.fence())


def alter_vector(world: World, key: str) -> None:
    world.put(key, payload=world.point(key), salt="other")


def lose_a_write(world: World, key: str) -> None:
    """The store goes back to what it held before the last change."""
    before = world.point(key)
    world.run("UPDATE public.items SET title = 'seen' WHERE id = :key", key=key)
    world.drain()
    world.put(key, payload=before)


def alter_payload(world: World, key: str) -> None:
    payload = {**world.point(key), "genres": ["Horror"]}
    world.store.set_payload_if_newer(world.index.ref, {key: payload}, fence=world.fence())


def empty_payload(world: World, key: str) -> None:
    world.store.set_payload_if_newer(world.index.ref, {key: {KEY_FIELD: key}}, fence=world.fence())


def add_ghost(world: World, key: str) -> None:
    world.put(key, payload={"year": 1999})


def believe_in_nothing(world: World, key: str) -> None:
    world.run(
        "INSERT INTO indexer.entries"
        " (index_id, item_key, wanted, written, lane, changed_at, present)"
        " VALUES (:index, :key, 2, 2, 1, now(), true)",
        index=world.index.id,
        key=key,
    )


def forget(world: World, key: str) -> None:
    world.run("DELETE FROM indexer.entries WHERE item_key = :key", key=key)


def fence_of_the_future(world: World, key: str) -> None:
    """As after the database was restored from a backup: the store would refuse what we write."""
    world.store.set_payload_if_newer(world.index.ref, {key: world.point(key)}, fence=1 << 40)


def ledger(change: str) -> Fault:
    def alter(world: World, key: str) -> None:
        world.run(f"UPDATE indexer.entries SET {change} WHERE item_key = :key", key=key)

    return alter


FAULTS: dict[str, list[Fault]] = {
    "missed_change": [insert_unseen, update_unseen, update_payload_unseen, delete_unseen],
    "missing": [delete_point],
    "stale_vector": [alter_vector, lose_a_write],
    "stale_payload": [alter_payload, empty_payload],
    "ghost": [add_ghost],
    "ledger_wrong": [
        ledger("present = false"),
        ledger("content_hash = 'x'"),
        ledger("payload_hash = 'x'"),
        ledger("written = wanted + 9"),
        believe_in_nothing,
        forget,
        fence_of_the_future,
    ],
}
WITHOUT_ROW = (insert_unseen, add_ghost, believe_in_nothing)


def plant(world: World) -> dict[str, list[str]]:
    """One fault of each kind, each on an item of its own; returns the keys by cause."""
    planted: dict[str, list[str]] = {}
    known = iter(f"k{n}" for n in range(ITEMS))
    new = iter(("a1", "a2", "a3"))
    for cause, faults in FAULTS.items():
        for fault in faults:
            key = next(new if fault in WITHOUT_ROW else known)
            fault(world, key)
            planted.setdefault(cause, []).append(key)
    return planted
