"""Instrumentors: the gate that every call passes, the watch on its answer, and a reader per SDK."""
