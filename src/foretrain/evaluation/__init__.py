"""Metrics, baselines, significance, rolling-origin evaluation and its report."""
