"""Toto 1.0: a decoder for multivariate series that outputs mixtures of Student-T distributions. See README.md."""
