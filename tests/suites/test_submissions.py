"""Submissions of made-up results of whole suites; fev itself reads one in tests/proofs/fev_parity.py."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_app import foretrain

from foretrain.errors import DataError
from foretrain.suites.definition import tasks_of
from foretrain.suites.submissions import read_results, write_submissions


def results(suite: str, model: str = "acme/model", **changes: Any) -> list[dict[str, Any]]:
    """Results of all tasks of a suite: figure number k of task t is t + k / 16, of the baseline 100 more."""
    found = []
    for t, task in enumerate(tasks_of(suite)):
        figures = {name: t + k / 16 for k, name in enumerate(task.suite.metrics, 1)}
        baseline = {name: value + 100 for name, value in figures.items()}
        found.append({
            "schema": 1, "model": model, "model_hash": "a", "suite": suite, "task": task.name,
            "dataset": task.definition.dataset, "state": "done", "error": None, "metrics": figures,
            "baseline": baseline, "imputed": False, "series": 1, "windows": 1, "variates": 1, "forecasts": 3,
            "max_items": None, "seconds": 2.5, "device": "cpu", "dtype": "bfloat16", "num_parameters": 7,
            "identity": "b", "trained_on": [],
        } | changes)  # fmt: skip
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_fev_gets_a_file_in_its_columns_and_the_baseline_beside_it(tmp_path):
    made = results("fev-bench")
    made[0]["trained_on"], made[1]["trained_on"] = ["the data set itself"], None
    files = write_submissions(made, tmp_path / "out")
    assert files == [tmp_path / "out" / "fev-bench" / name for name in ("acme--model.csv", "seasonal_naive.csv")]
    table, naive = map(rows, files)
    assert ",".join(table[0]) == (
        "model_name,dataset_path,dataset_config,horizon,num_windows,initial_cutoff,window_step_size,min_context_length,"
        "max_context_length,seasonality,eval_metric,extra_metrics,quantile_levels,id_column,timestamp_column,target,"
        "generate_univariate_targets_from,known_dynamic_columns,past_dynamic_columns,static_columns,task_name,"
        "test_error,training_time_s,inference_time_s,num_forecasts,dataset_fingerprint,trained_on_this_dataset,"
        "fev_version,SQL,MASE,WAPE,WQL"
    )
    assert len(table) == len(naive) == 100
    assert [row["trained_on_this_dataset"] for row in table[:3]] == ["True", "", "False"]
    by_task = {row["task_name"]: row for row in table}
    ett, sales = by_task["ETT_15T"], by_task["rohlik_sales_1D"]
    assert ett["target"] == "['HUFL', 'HULL', 'LUFL', 'LULL', 'MUFL', 'MULL', 'OT']"
    assert (ett["initial_cutoff"], ett["window_step_size"], ett["num_windows"]) == ("-1920", "96", "20")
    assert (sales["initial_cutoff"], sales["target"]) == ("2023-12-15T00:00:00", "sales")
    assert sales["past_dynamic_columns"] == "['availability']"
    assert (ett["inference_time_s"], ett["num_forecasts"]) == ("2.5", "3")
    place = [task.name for task in tasks_of("fev-bench")].index("ETT_15T")
    assert float(ett["test_error"]) == float(ett["SQL"]) == place + 1 / 16
    assert {row["model_name"] for row in naive} == {"seasonal_naive"}
    assert float(naive[place]["MASE"]) == place + 2 / 16 + 100


def test_gift_eval_gets_98_lines_of_15_columns_and_a_config_with_what_is_known(tmp_path):
    write_submissions(results("gift-eval", trained_on=["ett1"]), tmp_path)
    folder = tmp_path / "gift-eval" / "acme--model"
    lines = (folder / "all_results.csv").read_text().splitlines()
    assert len(lines) == 98
    assert lines[0] == (
        "dataset,model,eval_metrics/MSE[mean],eval_metrics/MSE[0.5],eval_metrics/MAE[0.5],eval_metrics/MASE[0.5],"
        "eval_metrics/MAPE[0.5],eval_metrics/sMAPE[0.5],eval_metrics/MSIS,eval_metrics/RMSE[mean],"
        "eval_metrics/NRMSE[mean],eval_metrics/ND[0.5],eval_metrics/mean_weighted_sum_quantile_loss,domain,num_variates"
    )
    table = {row["dataset"]: row for row in rows(folder / "all_results.csv")}
    assert (table["jena_weather/10T/long"]["domain"], table["jena_weather/10T/long"]["num_variates"]) == (
        "Nature",
        "21",
    )
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "model": "acme/model", "model_type": "", "model_dtype": "bfloat16", "model_link": "", "code_link": "",
        "org": "", "testdata_leakage": "Yes", "replication_code_available": "",
    }  # fmt: skip


def test_chronos_gets_a_file_for_each_of_its_benchmarks(tmp_path):
    write_submissions(results("chronos-in-domain") + results("chronos-zero-shot"), tmp_path)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv"))
    assert names == [
        "chronos-in-domain/acme--model-in-domain.csv", "chronos-in-domain/seasonal-naive-in-domain.csv",
        "chronos-zero-shot/acme--model-zero-shot.csv", "chronos-zero-shot/seasonal-naive-zero-shot.csv",
    ]  # fmt: skip
    lines = (tmp_path / names[0]).read_text().splitlines()
    assert lines[:2] == ["dataset,model,MASE,WQL", "electricity_15min,acme/model,0.0625,0.125"]
    assert len(lines) == 16


def test_a_model_s_name_is_no_formula_of_a_spreadsheet(tmp_path):
    (file, _) = write_submissions(results("chronos-in-domain", "=1+1"), tmp_path)
    assert {row["model"] for row in rows(file)} == {"'=1+1"}


def broken(suite: str = "chronos-in-domain", **changes: Any) -> list[dict[str, Any]]:
    made = results(suite)
    made[2] |= changes
    return made


@pytest.mark.parametrize(
    "made, words",
    [
        (results("chronos-in-domain")[1:], r"not all 15 tasks are whole: electricity_15min \(missing\)\. Score them"),
        (results("gift-eval")[:90], r"not all 97 tasks are whole: .* and 2 more \(missing\)"),
        (broken(state="failed", metrics={}), r"whole: monash_electricity_weekly \(failed\)"),
        (broken(imputed=True), r"whole: monash_electricity_weekly \(imputed\)"),
        (broken(max_items=10), r"whole: monash_electricity_weekly \(scored in part\)"),
        (broken(metrics={"MASE": 1.0, "WQL": None}), "monash_electricity_weekly: WQL of metrics is None; it must be"),
        (broken(metrics={"MASE": float("nan"), "WQL": 1.0}), "MASE of metrics is nan; it must be a number"),
        (broken(schema=2), "a result has schema 2; this version reads 1"),
        (results("chronos-in-domain") * 2, "chronos-in-domain/electricity_15min: two results"),
        ([], "no results to write"),
        (results("chronos-lite"), "chronos-lite: has no submission. Those that have one"),
        (results("chronos-in-domain") + results("chronos-in-domain", "b", baseline={}), "MASE of baseline is None"),
        (results("chronos-in-domain", "a/b") + results("chronos-in-domain", "a--b"), "two models would be written"),
        (results("fev-bench", "seasonal_naive"), "two models would be written into seasonal_naive.csv"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused_in_a_line_and_nothing_is_written(made, words, tmp_path):
    with pytest.raises(DataError, match=words) as error:
        write_submissions(made, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_models_beside_another_seasonal_naive_are_refused(tmp_path):
    other = results("chronos-in-domain", "other")
    other[3]["baseline"]["WQL"] += 1e-3
    with pytest.raises(DataError, match="the seasonal naive beside other differs from that beside acme/model"):
        write_submissions(results("chronos-in-domain") + other, tmp_path)


def test_an_existing_folder_is_not_written_into(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match="exists already"):
        write_submissions(results("chronos-in-domain"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def put(folder: Path, made: list[dict[str, Any]]) -> None:
    """Results where `foretrain benchmark` puts them."""
    for result in made:
        path = (
            folder / result["model"].replace("/", "--") / result["suite"] / f"{result['task'].replace('/', '--')}.json"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))


def test_the_command_writes_whole_suites_and_names_their_files(tmp_path, capsys):
    put(tmp_path / "runs", results("chronos-in-domain") + results("gift-eval") + results("fev-bench")[:3])
    out = tmp_path / "out"
    whole = ("--suite", "gift-eval", "--suite", "chronos-in-domain")
    foretrain("benchmark", "--from", tmp_path / "runs", "--submission", out, *whole)
    said = [line.partition("   ") for line in capsys.readouterr().out.splitlines()]
    assert [path for path, _, _ in said] == sorted(str(path) for path in out.rglob("*.*"))
    assert [hint for path, _, hint in said if path.endswith("config.json")] == ["(fill in its empty fields)"]
    foretrain("benchmark", "--from", tmp_path / "runs", "--submission", tmp_path / "all", code=2)
    assert "acme/model, fev-bench: not all 100 tasks are whole" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--from", "x"], ["--submission", "y"], ["--from", "x", "--submission", "y", "--list"]]
)
def test_from_and_submission_go_together_alone(arguments, capsys):
    foretrain("benchmark", *arguments, code=2)
    assert "--from RESULTS goes with --submission DIR or --report DIR" in capsys.readouterr().err


def test_a_folder_without_results_and_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no results as MODEL/SUITE/TASK\.json"):
        read_results(tmp_path)
    put(tmp_path, results("chronos-in-domain")[:1])
    with pytest.raises(DataError, match="holds no results of gift-eval"):
        read_results(tmp_path, ["gift-eval"])
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.json").write_text('{"model": "m", "suite": 3}')
    with pytest.raises(DataError, match=r"c\.json: is no result of a benchmark: suite is missing or of another kind"):
        read_results(tmp_path)
    (tmp_path / "a" / "b" / "c.json").write_text("{")
    with pytest.raises(DataError, match=r"c\.json: cannot be read"):
        read_results(tmp_path)
