"""Series, windows, the memory-mapped store, importers, quality rules, sampling and splits."""
