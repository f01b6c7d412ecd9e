"""A hash of the loss curve of a run, to compare runs."""

from __future__ import annotations

import hashlib
from pathlib import Path

from foretrain.training.journal import read_journal


def loss_curve_hash(path: Path) -> str:
    """sha256 over (step, loss) of the training lines: equal for equal runs, interrupted or not."""
    digest = hashlib.sha256()
    for record in read_journal(path):
        if record.get("kind", "train") == "train":
            digest.update(f"{record['step']} {record['loss']!r}\n".encode())
    return digest.hexdigest()
