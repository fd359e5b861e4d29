"""Shards to public layouts: `relo export`."""
