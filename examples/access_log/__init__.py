"""A public Apache access log as usage events: converter, seeded demo traffic, and a recount as the oracle."""
