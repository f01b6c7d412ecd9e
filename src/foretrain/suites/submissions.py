"""Results of a benchmark in the form in which its suite takes them, for people to hand in.

* fev-bench: a CSV for each model in fev's columns, and seasonal_naive.csv, the baseline that fev.leaderboard asks for.
* GIFT-Eval: MODEL/all_results.csv and MODEL/config.json.
* Chronos: MODEL-in-domain.csv and MODEL-zero-shot.csv (dataset, model, MASE, WQL), and those of seasonal-naive.

Only whole suites are written: a task that is missing, failed, imputed or scored on a part of its items is an error.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from foretrain.atomic import new_folder, write_json, write_text
from foretrain.errors import DataError
from foretrain.printing import for_spreadsheet
from foretrain.reading import read_object
from foretrain.suites.definition import BenchmarkTask, own_suites, tasks_of

SCHEMA = 1  # of the results that are read
FEV_VERSION = "0.10.0"  # the version of fev whose rules the figures follow (tests/proofs/fev_parity.py)
_WITH_SUBMISSION = ("offset", "gift-eval", "fev")  # rules of windows of their suites
FEV_BASELINE, CHRONOS_BASELINE = "seasonal_naive", "seasonal-naive"
FEV_METRICS = ("SQL", "MASE", "WAPE", "WQL")
_FEV_EXTRA = ["MASE", {"name": "WAPE", "epsilon": 1.0}, {"name": "WQL", "epsilon": 1.0}]
GIFT_METRICS = (
    "MSE[mean]", "MSE[0.5]", "MAE[0.5]", "MASE[0.5]", "MAPE[0.5]", "sMAPE[0.5]", "MSIS", "RMSE[mean]", "NRMSE[mean]",
    "ND[0.5]", "mean_weighted_sum_quantile_loss",
)  # fmt: skip
_GIFT_DOMAINS = {
    "Econ/Fin": ("m4_yearly", "m4_quarterly", "m4_monthly", "m4_weekly", "m4_daily", "m4_hourly"),
    "Energy": ("electricity", "ett1", "ett2", "solar"),
    "Healthcare": ("hospital", "covid_deaths", "us_births"),
    "Nature": ("saugeen", "temperature_rain", "kdd_cup_2018", "jena_weather"),
    "Sales": ("car_parts", "restaurant", "hierarchical_sales"),
    "Transport": ("loop_seattle", "sz_taxi", "m_dense"),
    "Web/CloudOps": (
        "bitbrains_fast_storage", "bitbrains_rnd", "bizitobs_application", "bizitobs_service", "bizitobs_l2c",
    ),
}  # fmt: skip
_GIFT_VARIATES = {
    "ett1": 7, "ett2": 7, "jena_weather": 21, "bitbrains_fast_storage": 2, "bitbrains_rnd": 2,
    "bizitobs_application": 2, "bizitobs_service": 2, "bizitobs_l2c": 7,
}  # fmt: skip
_NAMED = 5  # tasks that an error lists

_FIELDS = {"model": str, "suite": str, "task": str, "state": str, "metrics": dict, "baseline": dict}

Results = Mapping[str, Mapping[str, Any]]  # of one model and suite, by task
Row = dict[str, Any]


def read_results(folder: Path, suites: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return the results below a folder, MODEL/SUITE/TASK.json, of some suites (none named: of all).

    Raises DataError for a folder without any, and for files that cannot be read or are no results.
    """
    found = []
    for path in sorted(folder.glob("*/*/*.json")):
        try:
            result = read_object(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}). Score this task anew.") from None
        lacking = [name for name, kind in _FIELDS.items() if not isinstance(result.get(name), kind)]
        if lacking:
            raise DataError(f"{path}: is no result of a benchmark: {lacking[0]} is missing or of another kind.")
        if not suites or result["suite"] in suites:
            found.append(result)
    if not found:
        of = f" of {', '.join(suites)}" if suites else ""
        raise DataError(f"{folder}: holds no results{of} as MODEL/SUITE/TASK.json.")
    return found


def write_submissions(results: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """Write the submissions of all models and suites into a new folder; returns the files, sorted.

    results: the JSON of tasks. Values are written in full precision. Raises DataError for results that are not whole,
    two results of one task, baselines that differ between models, suites without a submission, and an existing folder.
    """
    groups: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for result in results:
        if result.get("schema") != SCHEMA:
            raise DataError(
                f"a result has schema {result.get('schema')!r}; this version reads {SCHEMA}. Score it anew."
            )
        group = groups[result["suite"], result["model"]]
        if result["task"] in group:
            named = f"{result['model']}, {result['suite']}/{result['task']}"
            raise DataError(f"{named}: two results. Leave one of them out.")
        group[result["task"]] = result
    if not groups:
        raise DataError("no results to write a submission from.")
    tasks = {suite: _own_tasks(suite) for suite, _ in groups}
    for (suite, model), group in groups.items():
        _require_whole(suite, model, group, tasks[suite])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists already. Name a new folder.")
    files: dict[str, str | Row] = {}
    for suite in tasks:
        of_models = {model: group for (name, model), group in groups.items() if name == suite}
        _require_one_baseline(suite, of_models)
        files |= _files_of(suite, of_models, tasks[suite])
    with new_folder(out) as folder:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                write_text(path, content)
            else:
                write_json(path, content)
    return sorted(out / name for name in files)


def _own_tasks(suite: str) -> list[BenchmarkTask]:
    known = [name for name in own_suites() if tasks_of(name)[0].suite.rule in _WITH_SUBMISSION]
    if suite not in known:
        raise DataError(f"{suite}: has no submission. Those that have one: {', '.join(known)}.")
    return tasks_of(suite)


def _require_whole(suite: str, model: str, results: Results, tasks: Sequence[BenchmarkTask]) -> None:
    """Raise DataError that names the tasks without a figure of their own over all items."""
    lacking = {
        "missing": [task.name for task in tasks if task.name not in results],
        "failed": [name for name, result in results.items() if result["state"] != "done"],
        "imputed": [name for name, result in results.items() if result["state"] == "done" and result.get("imputed")],
        "scored in part": [name for name, result in results.items() if result.get("max_items") is not None],
    }
    parts = [f"{_listed(names)} ({why})" for why, names in lacking.items() if names]
    if parts:
        raise DataError(
            f"{model}, {suite}: not all {len(tasks)} tasks are whole: {'; '.join(parts)}. Score them first."
        )
    unknown = sorted(set(results) - {task.name for task in tasks})
    if unknown:
        raise DataError(f"{model}, {suite}: {_listed(unknown)}: no such task of the suite. Score with this version.")
    names = list(tasks[0].suite.metrics)
    for task, result in results.items():
        for side in ("metrics", "baseline"):
            for name in names:
                value = result[side].get(name)
                if not isinstance(value, int | float) or not math.isfinite(value):
                    raise DataError(f"{model}, {suite}/{task}: {name} of {side} is {value}; it must be a number.")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _require_one_baseline(suite: str, of_models: Mapping[str, Results]) -> None:
    """Raise DataError if the seasonal naive beside one model is another than that beside a second."""
    (first, expected), *others = of_models.items()
    for model, results in others:
        for task, result in results.items():
            if dict(result["baseline"]) != dict(expected[task]["baseline"]):
                raise DataError(
                    f"{suite}/{task}: the seasonal naive beside {model} differs from that beside {first}; their data "
                    "are not the same. Score both on one set of files."
                )


def _files_of(suite: str, of_models: Mapping[str, Results], tasks: Sequence[BenchmarkTask]) -> dict[str, str | Row]:
    """Return {file name: text, or the object of a JSON file} of a suite. Raises DataError if two files share a name."""
    rule = tasks[0].suite.rule
    naive = _as_model(next(iter(of_models.values())))
    if rule == "gift-eval":
        named = [
            (f"{_file_name(model)}/{name}", content)
            for model, results in of_models.items()
            for name, content in _gift_files(model, results, tasks).items()
        ]
    elif rule == "fev":
        tables = [*of_models.items(), (FEV_BASELINE, naive)]
        named = [(f"{_file_name(model)}.csv", _fev_table(model, results, tasks)) for model, results in tables]
    else:
        end = f"-{suite.removeprefix('chronos-')}.csv"
        tables = [*of_models.items(), (CHRONOS_BASELINE, naive)]
        named = [(f"{_file_name(model)}{end}", _chronos_table(model, results, tasks)) for model, results in tables]
    files: dict[str, str | Row] = {}
    for name, content in named:
        if name in files:
            raise DataError(f"{suite}: two models would be written into {name}. Leave one of them out.")
        files[name] = content
    return {f"{suite}/{name}": content for name, content in files.items()}


def _as_model(results: Results) -> dict[str, Row]:
    """Return the results with the baseline's figures in place of the model's."""
    return {
        task: {"metrics": result["baseline"], "forecasts": result.get("forecasts"), "trained_on": ()}
        for task, result in results.items()
    }


def _file_name(model: str) -> str:
    """Return a model's name as one part of a path."""
    name = model.replace("/", "--")
    return f"_{name}" if name.startswith(".") else name


def _fev_table(model: str, results: Results, tasks: Sequence[BenchmarkTask]) -> str:
    return _csv([_fev_row(model, task, results[task.name]) for task in tasks])


def _fev_row(model: str, task: BenchmarkTask, result: Mapping[str, Any]) -> Row:
    """Return a row in fev's columns. Those that define the task have fev's words, by which fev tells tasks apart."""
    rule, suite = task.definition, task.suite
    windows, targets = rule.num_windows or 1, list(rule.targets or ())
    if rule.initial_cutoff is None:
        cutoff = str(-rule.horizon * windows)
    else:
        cutoff = datetime.fromisoformat(rule.initial_cutoff).isoformat()
    metrics, trained = result["metrics"], result.get("trained_on")
    assert suite.hub is not None  # of every suite with the rule `fev`
    return {
        "model_name": model, "dataset_path": suite.hub.repository, "dataset_config": rule.dataset,
        "horizon": rule.horizon, "num_windows": windows, "initial_cutoff": cutoff, "window_step_size": rule.horizon,
        "min_context_length": rule.min_context, "max_context_length": rule.max_context,
        "seasonality": rule.seasonality, "eval_metric": suite.eval_metric, "extra_metrics": str(_FEV_EXTRA),
        "quantile_levels": str(list(suite.quantile_levels)), "id_column": "id", "timestamp_column": "timestamp",
        "target": targets[0] if len(targets) == 1 else str(sorted(targets)), "generate_univariate_targets_from": None,
        "known_dynamic_columns": str(sorted(rule.known_covariates)),
        "past_dynamic_columns": str(sorted(rule.past_covariates)),
        "static_columns": str(sorted(rule.static_covariates)), "task_name": task.name,
        "test_error": metrics[suite.eval_metric], "training_time_s": 0.0, "inference_time_s": result.get("seconds"),
        "num_forecasts": result.get("forecasts"), "dataset_fingerprint": None,
        "trained_on_this_dataset": None if trained is None else bool(trained), "fev_version": FEV_VERSION,
        **{name: metrics[name] for name in FEV_METRICS},
    }  # fmt: skip


def _gift_files(model: str, results: Results, tasks: Sequence[BenchmarkTask]) -> dict[str, str | Row]:
    domains = {name: domain for domain, names in _GIFT_DOMAINS.items() for name in names}
    rows = []
    for task in tasks:
        data, metrics = task.name.partition("/")[0], results[task.name]["metrics"]
        figures = {f"eval_metrics/{name}": metrics[name] for name in GIFT_METRICS}
        of = {"domain": domains[data], "num_variates": _GIFT_VARIATES.get(data, 1)}
        rows.append({"dataset": task.name, "model": model, **figures, **of})
    leaks = any(result.get("trained_on") for result in results.values())
    dtypes = sorted({result.get("dtype") or "" for result in results.values()})
    config = {  # what only the people who hand it in know is empty
        "model": model, "model_type": "", "model_dtype": ", ".join(dtypes), "model_link": "", "code_link": "",
        "org": "", "testdata_leakage": "Yes" if leaks else "", "replication_code_available": "",
    }  # fmt: skip
    return {"all_results.csv": _csv(rows), "config.json": config}


def _chronos_table(model: str, results: Results, tasks: Sequence[BenchmarkTask]) -> str:
    figures = {task.name: results[task.name]["metrics"] for task in tasks}
    return _csv([{"dataset": t, "model": model, "MASE": of["MASE"], "WQL": of["WQL"]} for t, of in figures.items()])


def _csv(rows: Sequence[Row]) -> str:
    """Return rows of equal columns as CSV; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: for_spreadsheet(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows)
    return text.getvalue()
