"""The command `twinspan`: a thin layer that reads arguments, calls one verb and shows the answer.

Data goes to stdout, progress and errors to stderr. Exit codes: 0 done, 1 it could not be done (or
`verify` found drift), 2 the input is wrong, 130 interrupted.
"""

from indexer.cli.app import main

__all__ = ["main"]
