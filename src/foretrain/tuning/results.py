"""full_optimization_results.json: a study in one file, for programs that read results of searches by that name.

`results`, `total_time_s` and `config` have the fields that such files had in an earlier project (symbol, status,
best_model, best_mae, elapsed_s; symbols, trials, workers), and a trial has those of its log of runs (id, timestamp,
params, metrics, score, objective, source, suggestion_context); all others are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from foretrain.atomic import replacing_file, write_json
from foretrain.errors import ForetrainError
from foretrain.tuning.candidates import run_config
from foretrain.tuning.losses import read_losses
from foretrain.tuning.records import DEFAULT_TRIAL, LOSSES, TrialRecord
from foretrain.tuning.report import study_facts
from foretrain.tuning.study import StudyFolder, front

RESULTS = "full_optimization_results.json"
UNITS = {
    "best_mae": "mean absolute error on the validation that chose the trial: of prices as a fraction of the last "
    "close, of others divided by the mean error of the seasonal naive forecast before it (MASE)",
    "naive_mae": "the same of the naive forecast",
    "default_mae": "the same of the run as it stands",
    "elapsed_s": "seconds of all trials, which all symbols share",
    "total_time_s": "seconds from the first start of a trial to the last end, pauses included",
}


def write_results(study: StudyFolder, records: Sequence[TrialRecord], facts: dict[str, Any] | None = None) -> Path:
    """Write the results of a study into its folder; return the file, which is not there if no trial has ended.

    facts: those of study_facts, if made already. Raises OSError.
    """
    path = study.path / RESULTS
    if all(record.number == DEFAULT_TRIAL for record in records):
        return path
    tree = results_of(study, records, facts or study_facts(study, records))
    with replacing_file(path) as scratch:
        write_json(scratch, tree)
    return path


def results_of(study: StudyFolder, records: Sequence[TrialRecord], facts: dict[str, Any]) -> dict[str, Any]:
    """Return what full_optimization_results.json holds.

    A symbol is an item of the validation. Its best model is the trial that won over all items: choosing one for each
    item would count the choice as skill.
    """
    rows, symbols = _rows(study, records, facts["seconds"]["of_trials"])
    objective = facts["study"]["objectives"][0]
    return {
        "schema": facts["schema"],
        "foretrain": facts["foretrain"],
        "results": rows,
        "total_time_s": facts["seconds"]["from_first_to_last"],
        "config": {
            "symbols": symbols,
            "trials": study.config.trials,
            "workers": study.config.workers,
            "study": study.config.model_dump(mode="json", exclude={"storage"}),
        },
        "units": UNITS,
        "study": facts["study"],
        "best": facts["best"],
        "default": facts["default"],
        "edges": facts["edges"],
        "importance": facts["importance"],
        "trials": [_trial(record, objective) for record in records],
    }


def _rows(study: StudyFolder, records: Sequence[TrialRecord], seconds: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each item and trial that won, and the items."""
    winners = [record.number for record in front(records, study.directions)]
    default = _errors(study, DEFAULT_TRIAL)
    model = _family(study)
    rows, symbols = list[dict[str, Any]](), dict.fromkeys(item for _, item in default)
    for number in winners:
        for (corpus, item), (error, naive) in _errors(study, number).items():
            symbols[item] = None
            rows.append(
                {
                    "symbol": item,
                    "status": "success",
                    "best_model": model,
                    "best_mae": error,
                    "elapsed_s": seconds,
                    "corpus": corpus,
                    "trial": number,
                    "naive_mae": naive,
                    "default_mae": default.get((corpus, item), (None, None))[0],
                }
            )
    if not rows:
        why = "no trial is complete and keeps to the constraints" if not winners else "the losses of trials are gone"
        rows = [{"symbol": item, "status": "failed", "error": why, "elapsed_s": seconds} for item in symbols]
    return rows, sorted(symbols)


def _errors(study: StudyFolder, number: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the mean scaled errors of a trial and of naive by corpus and item; {} without its losses."""
    try:
        table = read_losses(study.trial(number) / LOSSES)
    except ForetrainError:
        return {}
    steps = table.column("steps").to_numpy()
    weighted = {name: pa.array(table.column(name).to_numpy() * steps) for name in ("loss", "naive")}
    summed = (
        pa.table({"corpus": table.column("corpus"), "item": table.column("item"), "steps": steps, **weighted})
        .group_by(["corpus", "item"])
        .aggregate([("loss", "sum"), ("naive", "sum"), ("steps", "sum")])
        .to_pylist()
    )
    return {
        (row["corpus"], row["item"]): (row["loss_sum"] / row["steps_sum"], row["naive_sum"] / row["steps_sum"])
        for row in sorted(summed, key=lambda row: (row["corpus"], row["item"]))
    }


def _family(study: StudyFolder) -> str:
    try:
        return run_config(study.config, {}, Path(study.path)).model.family
    except ForetrainError:  # its config is gone
        return study.config.run


def _trial(record: TrialRecord, objective: dict[str, str]) -> dict[str, Any]:
    tree = record.model_dump(mode="json")
    return {
        "id": "default" if record.number == DEFAULT_TRIAL else str(record.number),
        "timestamp": record.ended,
        "params": tree["params"],
        "metrics": tree["metrics"],
        "score": record.values[0] if record.values else None,
        "objective": objective["metric"],
        "direction": objective["direction"],
        "source": record.source,
        "suggestion_context": record.suggestion,
        **{name: tree[name] for name in ("number", "state", "values", "feasible", "curve", "steps", "seconds")},
        **{name: tree[name] for name in ("worker", "attempts", "started", "message", "constraints")},
    }
