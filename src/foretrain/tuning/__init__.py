"""Hyper-parameter search: spaces, studies that several processes share, and what may be said of their winners."""
