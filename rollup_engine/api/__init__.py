"""The HTTP API: metrics, usage, volume and status for those who hold a key. Reads only."""
