"""Measurements: one program a question, all in the manner of `method.py`.

    python -m benchmarks              # all of them, one after the other: what `make bench` does
    python -m benchmarks.e_tiles      # one of them; each tells with --help what it measures and how
    python -m benchmarks.report       # docs/benchmarks.md from the results

Peers live in an environment of their own: `python -m benchmarks.peers` makes it.
"""
