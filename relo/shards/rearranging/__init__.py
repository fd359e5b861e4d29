"""Datasets merged, split, thinned out and repacked without decoding a tile: `relo shards`."""
