"""Scores the contenders of a final table on all windows of the test part."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from foretrain.data.splits import Origins
from foretrain.data.synthetic.generated import AnySource
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.backtest import Backtest, Forecasts
from foretrain.evaluation.metrics import METRICS
from foretrain.evaluation.overlap import check_overlap, reference_overlap
from foretrain.evaluation.panel import Panel, open_ends
from foretrain.evaluation.result import EvaluationResult, summarise
from foretrain.evaluation.validation import chosen_options, held_panel
from foretrain.forecasting.batching import forecast_notes
from foretrain.models import family
from foretrain.models.output import recorded_output
from foretrain.notes import Code, Note, once
from foretrain.run.config import RunConfig
from foretrain.run.promotion import scored_columns
from foretrain.tuning.contenders import DEFAULT, WINNER, Contender

_UNFAIR = (Code.TRAINING_SAW_WINDOWS, Code.BEFORE_TRAINING_CUTOFF, Code.VALIDATION_SAW_WINDOWS)


def final_panel(run: RunConfig, contexts: Sequence[int], source: AnySource) -> Panel:
    """Return the windows of the test part that all contenders are scored on. Reads no values of it.

    run: as it stands, resolved. contexts: steps of history of the contenders; baselines see the longest. Raises
    ConfigError without room for a window.
    """
    data = run.data.model_copy(update={"context_length": max(contexts)})
    try:
        panel = held_panel(run.evaluation, data, source.corpora, source.selections, run.seed)
    except (ConfigError, DataError) as error:
        raise ConfigError(
            f"the test part has no room for a window, so nothing can be compared on it: {error}"
        ) from None
    return replace(panel, selections=tuple(scored_columns(run, source)))


def fairness(contenders: Mapping[str, Contender], panel: Panel) -> list[Note]:
    """Return notes on contenders whose training, or that of what they were made from, saw the test part."""
    refs = np.array(panel.refs, np.int64).reshape(-1, 3)
    origins = [
        Origins(refs[refs[:, 0] == corpus, 1], refs[refs[:, 0] == corpus, 2]) for corpus in range(len(panel.corpora))
    ]
    found = check_overlap(contenders[WINNER].facts, panel.corpora, origins)
    if contenders[DEFAULT].hash == contenders[WINNER].hash:
        return found
    return [*found, *reference_overlap(DEFAULT, contenders[DEFAULT].facts, panel.corpora, origins)]


def is_unfair(notes: Sequence[Note]) -> bool:
    """Whether notes say that the winner was made from, or chosen by, windows that are scored."""
    return any(note.code in _UNFAIR for note in notes)


def scored_finals(
    contenders: Mapping[str, Contender], panel: Panel, run: RunConfig, baselines: Sequence[str], notes: Sequence[Note]
) -> EvaluationResult:
    """Forecast the windows with each contender, one after the other, and compare the winner with all others.

    notes: further ones, for the result. Reads the values of the test part. Raises the errors of loading a model.
    """
    settings = run.evaluation
    backtest = Backtest(panel, levels=settings.quantile_levels, baselines=baselines, batch_size=settings.batch_size)
    found = {key: _forecasts(backtest, one) for key, one in contenders.items()}
    for corpus in panel.corpora:
        corpus.check_unchanged()
    mine, remarks = found[WINNER], list[Note]()
    for key, one in contenders.items():
        lead = "In these forecasts" if key == WINNER else f"Of {one.label}, in these forecasts"
        remarks += forecast_notes(found[key].notes, f"{lead}: {{}}.")
    return summarise(
        backtest,
        mine.quantiles,
        name=contenders[WINNER].label,
        settings={
            "prediction_length": panel.prediction_length,
            "stride": panel.stride,
            "split": "test",
            "context_length": panel.context_length,
            "quantile_levels": list(backtest.asked),
            "crossed_share": float(mine.crossed.mean()),
            "sort_quantiles": recorded_output(contenders[WINNER].facts).sort_quantiles,
        },
        command=None,
        warnings=[*notes, *open_ends(panel), *remarks],
        notes=mine.notes,
        beside={key: (one.label, found[key].quantiles) for key, one in contenders.items() if key != WINNER},
    )


def _forecasts(backtest: Backtest, one: Contender) -> Forecasts:
    settings, dtype = one.config.evaluation, one.config.training.dtype
    gc.collect()  # of the contender before
    model = one.open().eval()
    request = backtest.request(
        context_length=min(one.context, model.max_context_length),
        num_samples=settings.num_samples,
        seed=one.config.seed,
        options=chosen_options(settings, family(one.config.model.family)),
        output=recorded_output(one.facts),
    )
    with torch.no_grad(), once():
        return backtest.forecast(model, request, dtype=None if dtype == "float32" else getattr(torch, dtype))


def units(result: EvaluationResult) -> dict[str, str]:
    """Return the unit of each metric of a result."""
    return {name: metric.unit for name, metric in METRICS.items() if name in result.pooled["model"]}
