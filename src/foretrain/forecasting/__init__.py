"""Data frames in, data frames out; batching by length."""
