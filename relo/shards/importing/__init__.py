"""Public datasets to shards: `relo import`."""
