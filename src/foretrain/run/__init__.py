"""What a run is and does: its config, its parts, training, stages, promotion, dry run, export."""
