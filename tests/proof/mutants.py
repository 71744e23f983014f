"""The code, broken on purpose in every place that we know of, and a proof must see each."""

from __future__ import annotations

from proof import mutants_of_indexes, mutants_of_items

MUTANTS = (*mutants_of_items.MUTANTS, *mutants_of_indexes.MUTANTS)
