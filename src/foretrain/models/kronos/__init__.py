"""Kronos: candles as pairs of discrete tokens, and a causal decoder that forecasts them. See README.md."""
