"""Budgets: what a call can cost at most (`bound`), and who may spend what is left (`desk`)."""
