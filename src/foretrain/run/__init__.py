"""Runs: config, model and data, training, stages, promotion, dry run, export."""
