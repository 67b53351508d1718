"""Benchmarks of budgets: do they hold, does anybody starve, what do they cost. `make bench-budgets`."""
