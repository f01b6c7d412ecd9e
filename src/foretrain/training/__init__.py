"""The training loop and what it needs: optimizer, schedule, checkpoint, distributed, monitor."""
