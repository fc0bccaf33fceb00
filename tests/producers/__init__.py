"""Producers and clients as they come, against a running engine."""
