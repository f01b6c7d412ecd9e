"""Kronos: K-lines as pairs of discrete tokens, and a decoder that continues them. See README.md."""
