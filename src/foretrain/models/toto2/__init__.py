"""Toto 2.0: a causal decoder over patches of multivariate series, with a quantile head."""
