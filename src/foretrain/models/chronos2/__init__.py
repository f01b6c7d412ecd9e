"""Chronos-2: encoder with time and group attention, quantile head (models/chronos2/README.md)."""
