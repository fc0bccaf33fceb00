"""File downloads as in Orb's description of streaming rollups: made-up events, a rollup and a metric."""
