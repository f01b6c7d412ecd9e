"""A linear model of patches, after DLinear: the smallest complete family, and a trained baseline."""
