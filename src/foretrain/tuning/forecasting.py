"""A trial of task: forecast: a release under other forecast options, scored on a fold without training."""

from __future__ import annotations

import gc
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foretrain.data.splits import Origins
from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.evaluation.overlap import check_overlap
from foretrain.evaluation.panel import Panel
from foretrain.evaluation.validation import Validation
from foretrain.forecasting.parents import with_ancestry
from foretrain.forecasting.predictor import Predictor, load
from foretrain.models import family
from foretrain.notes import Code
from foretrain.run.build import open_source, settled
from foretrain.run.config import RunConfig
from foretrain.run.intact import stage_corpora
from foretrain.training.memory import ResidentGrowth
from foretrain.tuning.candidates import check_options, forecast_context, metric_key
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.folds import Fold
from foretrain.tuning.losses import losses_table, write_losses
from foretrain.tuning.records import LOSSES
from foretrain.tuning.space import Candidate


def forecast_fold(config: TuneConfig, candidate: Candidate, own: RunConfig, fold: Fold) -> dict[str, Any]:
    """Score a candidate on one fold, write its losses and return what fold.json holds. Raises ConfigError."""
    folder = Path(own.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    gc.collect()
    growth = ResidentGrowth()
    predictor, validation = open_fold(config, own, fold)
    context = forecast_context(candidate)
    most = min(own.data.context_length, predictor.model.max_context_length)
    if context is not None and context > most:
        raise ConfigError(f"context_length: {context} is more than the {most} steps that the windows or the model have")
    if predictor.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(predictor.device)
    began = time.monotonic()
    with torch.no_grad():
        scored = validation.forecasts(predictor.model, context_length=context)
    each = (time.monotonic() - began) / validation.backtest.num_windows
    write_losses(losses_table(validation.backtest, scored, fold.number), folder / LOSSES)
    found = {name: value if math.isfinite(value) else None for name, value in validation.figures(scored).items()}
    on_gpu = predictor.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(predictor.device) if on_gpu else growth.bytes()
    return {
        "step": 0,
        "steps": 0,
        "pruned": False,
        "stopped_by": "forecast",
        "metrics": found,
        "curve": [[0, found.get(metric_key(config.objectives[0]))]],
        "memory_gb": None if peak is None else peak / 1e9,
        "seconds_per_forecast": each,
    }


def open_fold(config: TuneConfig, own: RunConfig, fold: Fold) -> tuple[Predictor, Validation]:
    """Return the release of a study and what scores it on one fold.

    Raises ConfigError for a release of another family than the run's, and for one whose training saw the fold.
    """
    predictor = open_model(config, own)
    stage_corpora([own.data], World())  # of one process
    own, source = open_source(own)
    own, _ = settled(own, source, World(device=predictor.device))
    validation = Validation(
        own.evaluation.model_copy(update={"loss": False}),
        own.data,
        model=predictor.model,
        family=family(own.model.family),
        corpora=source.corpora,
        selections=source.selections,
        dtype=own.training.dtype,
        seed=own.seed,
    )
    facts = with_ancestry(predictor.facts)
    panel = validation.backtest.panel
    saw = [note for note in check_overlap(facts, panel.corpora, _origins(panel)) if note.code in _SEEN]
    if saw:
        raise ConfigError(
            f"folds: fold {fold.number} ({fold.words}): {saw[0].text.rstrip('.')}. Its losses there say nothing of "
            "other days; use fewer folds, or later dates."
        )
    return predictor, validation


def open_model(config: TuneConfig, own: RunConfig) -> Predictor:
    """Return the release of a study. Raises ConfigError for one of another family than the run's."""
    check_options(own)
    assert config.model is not None
    predictor = load(config.model, device=None if own.device == "auto" else own.device)
    if predictor.model.family != own.model.family:
        raise ConfigError(
            f"model: {config.model} is a {predictor.model.family}, and {config.run} is the config of a "
            f"{own.model.family}. Name a run of the same family."
        )
    predictor.model.eval()
    return predictor


_SEEN = (Code.TRAINING_SAW_WINDOWS,)


def _origins(panel: Panel) -> list[Origins]:
    """Return the forecast origins of each corpus of a panel."""
    refs = np.array(panel.refs, np.int64).reshape(-1, 3)
    return [
        Origins(refs[refs[:, 0] == corpus, 1], refs[refs[:, 0] == corpus, 2]) for corpus in range(len(panel.corpora))
    ]
