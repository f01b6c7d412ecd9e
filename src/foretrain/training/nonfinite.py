"""What a non-finite loss or gradient leaves behind: the batch, for replay."""

from __future__ import annotations

import math
from pathlib import Path

from foretrain.atomic import write_json
from foretrain.training.loader import BatchLoader
from foretrain.training.step import StepResult


def save_for_replay(folder: Path, outcome: StepResult, feed: BatchLoader, seed: int) -> Path | None:
    """Write this rank's micro-batches of a bad step (of a bad loss those that have it) into folder.

    step-S-k-K.safetensors holds what the model was given; the .json beside it says which windows of the run these are,
    the seed of the draws and the values, so that `model(batch)` after torch.manual_seed repeats it.
    """
    from safetensors.torch import save_file

    from foretrain.models.weights import disk_errors
    from foretrain.training.precision import draw_seed

    bad = [item for item in outcome.pieces if outcome.nonfinite == "gradient" or not math.isfinite(item[1] + item[2])]
    folder.mkdir(parents=True, exist_ok=True)
    written = None
    for piece, total, weight in bad:
        written = folder / f"step-{piece.step:08d}-k-{piece.k:05d}.safetensors"
        batch = feed.prepare(piece).batch
        with disk_errors(written):
            save_file({name: tensor.contiguous().clone() for name, tensor in batch.items()}, written)
        cut = feed.windows(piece)
        facts = {
            "step": piece.step,
            "micro_batch": piece.k,
            "first_window": None if cut.static_shapes else piece.first,  # of the run, where windows have numbers
            "windows": len(cut) - cut.num_padding_windows,
            "source": None if cut.source is None else cut.source.tolist(),  # corpus, series, cutoff; -1 = filling
            "nonfinite": outcome.nonfinite,
            "loss_sum": repr(total),
            "weight": repr(weight),
            "grad_norm": repr(outcome.grad_norm),
            "draw_seed": draw_seed(seed, piece.step, piece.k),
        }
        write_json(written.with_suffix(".json"), facts)
    return written
