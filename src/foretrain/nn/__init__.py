"""Layers and tensor functions that at least two model families use."""
