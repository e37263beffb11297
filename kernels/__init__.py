"""Operators with a reference, dispatched by backend."""
