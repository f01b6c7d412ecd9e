"""Toto 1.0: a decoder of multivariate series whose output is a mixture of Student-T distributions. See README.md."""
