"""Benchmarks: one script per table of docs/benchmarks.md. `python -m benchmarks` runs them all."""
