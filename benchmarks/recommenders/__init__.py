"""Recommenders compared on public data sets: the same data, protocol and evaluator for each.

    TWINSPAN_DATA=FOLDER python -m benchmarks.recommenders run --data ml-1m --model full
    TWINSPAN_DATA=FOLDER python -m benchmarks.recommenders served --data ml-1m
    python -m benchmarks.recommenders table

A run is a data set, a protocol, a model and a seed. It takes up where it was interrupted, and
leaves a JSON file (options, curve, metrics) and the rank of every user's target in `results/`;
`served` does by the command line what a user would, and asks the index, too. `table` writes
docs/results.md from those files.
"""
