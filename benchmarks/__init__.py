"""Benchmarks: what we add to the bare client, as ratios measured in one run. `make bench`, or `python -m benchmarks`."""
