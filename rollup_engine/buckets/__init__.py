"""Buckets as a source of events: an object at one etag is immutable, so its lines are the log's offsets."""
