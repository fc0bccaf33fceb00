"""Faults against real processes: totals equal to a recount of the raw topic, or a halt that says why."""
