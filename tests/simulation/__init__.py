"""Deterministic simulation: random schedules of faults over the real stages, checked against a naive recount."""
