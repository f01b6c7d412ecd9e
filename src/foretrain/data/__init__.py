"""Corpora (memory-mapped store, importers, quality rules) and windows (sampling, buckets, splits)."""
