"""Synthetic series: small corpora for demos and tests (corpora.py), and generators of pretraining mixtures."""

from __future__ import annotations

from foretrain.data.synthetic.corpora import OHLCV, SyntheticSpec, generate

__all__ = ["OHLCV", "SyntheticSpec", "generate"]
