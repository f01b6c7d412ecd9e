"""Saving the batch of a non-finite loss or gradient for replay."""

from __future__ import annotations

import math
from pathlib import Path

from foretrain.atomic import replacing_file, write_json
from foretrain.training.loader import BatchLoader
from foretrain.training.step import StepResult


def save_for_replay(folder: Path, result: StepResult, loader: BatchLoader, seed: int) -> Path | None:
    """Write this rank's micro-batches of a non-finite step into a folder; of a non-finite loss only those that have it.

    step-S-k-K.safetensors holds the inputs of the model; the .json beside it holds the indices of the windows, the seed
    of the random draws and the values, so that `model(batch)` after torch.manual_seed repeats the step. Returns the
    last file written, None if there was none.
    """
    from safetensors.torch import save_file

    from foretrain.models.weights import replacing_tensors
    from foretrain.training.precision import draw_seed

    folder.mkdir(parents=True, exist_ok=True)
    written = None
    for micro_batch, total, weight in result.micro_batches:
        if result.nonfinite == "loss" and math.isfinite(total + weight):
            continue
        written = folder / f"step-{micro_batch.step:08d}-k-{micro_batch.k:05d}.safetensors"
        batch = loader.prepare(micro_batch).batch
        with replacing_tensors(written) as scratch:
            save_file({name: tensor.contiguous().clone() for name, tensor in batch.items()}, scratch)
        windows = loader.windows(micro_batch)
        facts = {
            "step": micro_batch.step,
            "micro_batch": micro_batch.k,
            # index in the run; windows of a token budget have none
            "first_window": None if windows.static_shapes else micro_batch.first,
            "windows": len(windows) - windows.num_padding_windows,
            # corpus, series, cutoff; -1 = padding window
            "source": None if windows.source is None else windows.source.tolist(),
            "nonfinite": result.nonfinite,
            "loss_sum": repr(total),
            "weight": repr(weight),
            "grad_norm": repr(result.grad_norm),
            "draw_seed": draw_seed(seed, micro_batch.step, micro_batch.k),
        }
        with replacing_file(written.with_suffix(".json")) as scratch:
            write_json(scratch, facts)
    return written
