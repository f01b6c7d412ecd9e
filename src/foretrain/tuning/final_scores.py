"""Scores the contenders of a final table on all windows of the test part, and says what the search's own losses tell.

# T origins, K trials
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from foretrain.data.splits import Origins
from foretrain.data.store import Corpus
from foretrain.data.synthetic.generated import AnySource
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.backtest import Backtest, Forecasts
from foretrain.evaluation.metrics import METRICS
from foretrain.evaluation.overlap import check_overlap, reference_overlap
from foretrain.evaluation.panel import Panel, open_ends
from foretrain.evaluation.result import EvaluationResult, summarise
from foretrain.evaluation.significance import lag_in_origins, overlap_in_origins
from foretrain.evaluation.validation import chosen_options, held_panel, validation_panel
from foretrain.forecasting.batching import forecast_notes
from foretrain.models import family
from foretrain.models.output import recorded_output
from foretrain.notes import Code, Note, once
from foretrain.run.config import RunConfig
from foretrain.run.promotion import scored_columns
from foretrain.tuning.contenders import DEFAULT, WINNER, Contender
from foretrain.tuning.losses import LossMatrix, save_study_losses, study_matrix
from foretrain.tuning.records import DEFAULT_TRIAL, TrialRecord
from foretrain.tuning.selection import SelectedEdge, selected_edge
from foretrain.tuning.study import StudyFolder, ranked

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
    backtest = Backtest(
        panel, levels=settings.quantile_levels, baselines=tuple(baselines), batch_size=settings.batch_size
    )
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


# -- the search's own losses


def search_edges(
    study: StudyFolder, winner: TrialRecord, folds: Sequence[RunConfig], source: AnySource
) -> dict[str, dict[str, Any]]:
    """Return the edge of a winner on the validation that chose it, over the default and over naive, as JSON data.

    folds: the run as it stands, of each fold. Every trial that might have won counts: those with losses through the
    draws of selected_edge; those that were pruned have none, and each adds the p-value of a single one (Bonferroni).
    Losses that cannot be compared give the reason in the place of figures.
    """
    try:
        return _search_edges(study, winner, folds, source)
    except DataError as error:
        nothing = {"edge": None, "p_value": None, "reason": " ".join(str(error).split())}
        return {DEFAULT: nothing, "naive": nothing}


def _search_edges(
    study: StudyFolder, winner: TrialRecord, folds: Sequence[RunConfig], source: AnySource
) -> dict[str, dict[str, Any]]:
    records = study.records()
    able = [record.number for record in ranked(records, study.directions)]
    able += [] if winner.number in able else [winner.number]
    has_default = any(one.number == DEFAULT_TRIAL and one.state == "complete" for one in records)
    matrix = study_matrix(save_study_losses(study), [*([DEFAULT_TRIAL] if has_default else []), *able])
    references = {"naive": matrix.naive}
    references |= {DEFAULT: matrix.values[:, matrix.trials.index(DEFAULT_TRIAL)]} if has_default else {}
    block = max(block_of(_panel(own, source)) for own in folds)
    pruned = sum(record.state == "pruned" for record in records)
    return {
        against: counted_edge(_edge(matrix, able, winner.number, losses, block), pruned, block)
        for against, losses in references.items()
    }


def _panel(own: RunConfig, source: AnySource) -> Panel:
    return validation_panel(own.evaluation, own.data, source.corpora, source.selections, own.seed)


def _edge(matrix: LossMatrix, able: Sequence[int], winner: int, losses: np.ndarray, block: int) -> SelectedEdge:
    columns = [matrix.trials.index(number) for number in able]
    return selected_edge(matrix.values[:, columns], losses, able.index(winner), block=block)


def counted_edge(edge: SelectedEdge, pruned: int, block: int) -> dict[str, Any]:
    """Return an edge as JSON data, with the p-value that counts pruned trials too."""
    p_value = None
    if edge.p_value is not None and edge.p_single is not None:
        p_value = min(1.0, edge.p_value + pruned * edge.p_single)
    tree = asdict(edge)
    return {
        **{name: tree[name] for name in ("trials", "dates", "blocks", "statistic", "p_single", "reason")},
        "edge": edge.edge if np.isfinite(edge.edge) else None,
        "block": block,
        "pruned": pruned,
        "p_of_trials_with_losses": edge.p_value,
        "p_value": p_value,
    }


def block_of(panel: Panel) -> int:
    """Return 1 + the most later origins that a forecast of a panel overlaps: origins that are taken as one block.

    Where items do not share origins, those of all lie closer than the stride, and the overlap is counted from the time
    stamps. Origins of corpora without a calendar are told apart by their distance to the end.
    """
    nominal = lag_in_origins(panel.prediction_length, panel.stride)
    if any(corpus.manifest.time == "steps" for corpus in panel.corpora):
        return nominal + 1
    spans = [_span(panel.corpora[corpus], series, at, panel.prediction_length) for corpus, series, at in panel.refs]
    starts, group = np.unique([first for first, _ in spans], return_inverse=True)
    ends = np.array([last for _, last in spans], np.int64)
    return max(nominal, overlap_in_origins(starts, group.reshape(-1), ends)) + 1


def _span(corpus: Corpus, series: int, cutoff: int, horizon: int) -> tuple[int, int]:
    """Return the first and the last time of a forecast."""
    times = corpus.times_slice(series, cutoff, cutoff + horizon)
    assert times is not None
    return int(times[0]), int(times[-1])
