"""Metric SQL: what billing teams write, rewritten so that every window counts once, and run without harm.

`catalog` says what can be queried, `rewriter` turns a metric into one read-only statement over the partial rollups,
`execute` runs it. Knows of the rest of the project only its configuration and its errors.
"""
