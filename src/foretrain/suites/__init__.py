"""Benchmarks of the field as data: their tasks, their windows, and the figures that were published for them."""
