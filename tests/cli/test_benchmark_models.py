"""`foretrain benchmark MODEL...` on generated data, whose figures are worked out here by loops."""

from __future__ import annotations

import importlib
import json
import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.suites.fake_statsforecast import stand_in  # noqa: F401
from tests.suites.shipped import LEVELS, WALKS, suites, write_walks  # noqa: F401
from tests.waiting import run_command, torchrun

from foretrain.notes import Note
from foretrain.suites.result_folders import ResultLock

FORECASTERS = """
import numpy as np

calls = []

def last(histories, horizon, quantile_levels):
    calls.append(len(histories))
    newest = np.array([row[-1] for values in histories for row in values])
    return np.tile(newest[:, None, None], (1, len(quantile_levels), horizon))

def broken(histories, horizon, quantile_levels, **more):
    if horizon == 4:
        raise KeyError("no such horizon")
    return last(histories, horizon, quantile_levels)

def stopped(histories, horizon, quantile_levels):
    if horizon == 4:
        raise KeyboardInterrupt
    return last(histories, horizon, quantile_levels)

def other_arguments(x, horizon):
    pass

def infinite(histories, horizon, quantile_levels):
    return last(histories, horizon, quantile_levels) * np.inf
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> str:
    """The name of a module of forecasters in the current folder, which no other test has."""
    name = f"mine_{abs(hash(tmp_path)) % 10**12}"
    (tmp_path / f"{name}.py").write_text(FORECASTERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def read(folder: Path, *parts: str) -> dict:
    return json.loads(folder.joinpath(*parts).read_text())


def naive_figures(shift: float = 0.0) -> dict[str, float]:
    """MASE, WQL and MSE of the newest value on the two newest windows of three steps of all walks."""
    scaled, loss, size, squared = [], 0.0, 0.0, []
    for column in WALKS.T:
        for cutoff in (34, 37):
            past, future = column[:cutoff], column[cutoff : cutoff + 3]
            scale = np.mean([abs(past[t] - past[t - 2]) for t in range(2, cutoff)])
            for y in future:
                error = y - past[-1] - shift
                scaled.append(abs(error) / scale)
                loss += sum(2 * max(q * error, (q - 1) * error) for q in LEVELS) / 9
                size += abs(y)
                squared.append(error**2)
    return {"MASE": float(np.mean(scaled)), "WQL": loss / size, "MSE": float(np.mean(squared))}


def benchmark(root: Path, *words: object, code: int = 0) -> None:
    foretrain("benchmark", *words, "--data-root", root, "--out", "results", code=code)


def test_a_function_has_the_figures_of_loops_beside_those_of_seasonal_naive(suites, mine, capsys):  # noqa: F811
    benchmark(suites, f"{mine}:last", "seasonal_naive", "--suite", "pooled", "--task", "walks")
    found = read(Path("results"), f"{mine}:last", "pooled", "walks.json")
    assert found["metrics"] == pytest.approx(naive_figures(), rel=1e-12)
    own = read(Path("results"), "seasonal_naive", "pooled", "walks.json")
    assert own["metrics"] == own["baseline"] == found["baseline"]
    facts = ("series", "windows", "forecasts", "variates", "max_items", "imputed", "state", "error", "dataset")
    assert [found[name] for name in facts] == [5, 10, 10, 1, None, False, "done", None, "x"]
    assert found["schema"] == 1 and found["identity"] != own["identity"] and found["data_hash"] == own["data_hash"]
    said = capsys.readouterr().out
    ratio = found["metrics"]["MASE"] / found["baseline"]["MASE"]
    row = next(line for line in said.splitlines() if line.startswith("  walks") and ":last" in line)
    assert row.split()[2:7] == ["5", "10", f"{found['metrics']['MASE']:.5g}", f"{own['metrics']['MASE']:.5g}",
                                f"{ratio:.3g}"]  # fmt: skip
    assert "2 scored, 0 kept, 0 failed" in said


def test_a_model_of_the_box_is_scored_with_its_hash_and_size(suites, mine):  # noqa: F811
    benchmark(suites, "tiny", "--suite", "pooled", "--task", "walks", "--threads", 1)
    found = read(Path("results"), "tiny", "pooled", "walks.json")
    assert found["num_parameters"] > 1_000_000 and re.fullmatch("[0-9a-f]{64}", found["model_hash"])
    assert (found["device"], found["dtype"], found["point"]) == ("cpu", "float32", "median")
    assert 0 < found["metrics"]["MASE"] < 5 and found["seconds"] > 0


def test_results_say_what_training_saw_and_learn_it_later(suites, mine, capsys, monkeypatch):  # noqa: F811
    words = ("tiny", "naive", f"{mine}:last", "--suite", "pooled", "--task", "walks", "--threads", 1)
    benchmark(suites, *words)
    said = capsys.readouterr().out
    files = {name: (name, "pooled", "walks.json") for name in ("tiny", "naive", f"{mine}:last")}
    found = {name: read(Path("results"), *parts) for name, parts in files.items()}
    assert [found[name]["trained_on"] for name in files] == [[], [], None]
    assert [[flag["code"] for flag in found[name]["flags"]] for name in files] == [[], [], ["benchmark_data_unknown"]]
    lines = [line for line in said.splitlines() if "TRAINING:" in line or "unknown:" in line]
    assert [f"{mine}:last" in line for line in lines if line.startswith("  walks")] == [True] and len(lines) == 3
    monkeypatch.setattr(
        "foretrain.suites.run.flags_of",
        lambda task, facts, series, **_: [] if facts is None else [Note("benchmark_test_seen", "it was trained on x.")],
    )
    benchmark(suites, *words)
    said = capsys.readouterr().out
    assert "0 scored, 3 kept" in said and said.count("SEEN: it was trained on x.") == 2
    later = {name: read(Path("results"), *parts) for name, parts in files.items()}
    assert [later[name]["trained_on"] for name in files] == [["x"], [], ["x"]]
    assert [later[name]["metrics"] for name in files] == [found[name]["metrics"] for name in files]


def test_results_name_unit_and_licence_and_older_ones_learn_them_without_a_new_score(suites, mine):  # noqa: F811
    words = ("naive", "--suite", "pooled", "--task", "walks")
    benchmark(suites, *words)
    path = Path("results/naive/pooled/walks.json")
    found = json.loads(path.read_text())
    assert (found["unit"], found["licence"]) == ("unknown", "none")  # of a suite that is not shipped
    older = {name: value for name, value in found.items() if name not in ("unit", "licence")} | {"seconds": 77.0}
    path.write_text(json.dumps(older))
    benchmark(suites, *words)
    assert json.loads(path.read_text()) == found | {"seconds": 77.0}


def test_finished_tasks_are_kept_and_changed_ones_computed_anew(suites, mine, capsys):  # noqa: F811
    words = (f"{mine}:last", "--suite", "pooled")
    benchmark(suites, *words, "--task", "walks")
    place = Path("results") / f"{mine}:last" / "pooled"
    before = (place / "walks.json").stat().st_mtime_ns
    capsys.readouterr()
    benchmark(suites, *words)
    said = capsys.readouterr().out
    assert f"kept   pooled/walks  {mine}:last" in said and f"done   pooled/deep/er  {mine}:last" in said
    assert "1 scored, 1 kept, 0 failed; 1 task without data" in said
    assert (place / "walks.json").stat().st_mtime_ns == before and (place / "deep--er.json").is_file()
    write_walks(suites, WALKS + 1)
    benchmark(suites, *words, "--task", "walks")
    assert "1 scored, 0 kept" in capsys.readouterr().out
    (place / "walks.json").write_text("{")
    benchmark(suites, *words, "--task", "walks")
    assert "1 scored, 0 kept" in capsys.readouterr().out and read(place, "walks.json")["state"] == "done"


def test_a_stop_between_tasks_loses_no_finished_one(suites, mine, capsys):  # noqa: F811
    benchmark(suites, f"{mine}:stopped", "--suite", "pooled", code=130)
    place = Path("results") / f"{mine}:stopped" / "pooled"
    assert [path.name for path in place.iterdir()] == ["walks.json"]
    benchmark(suites, f"{mine}:stopped", "--suite", "pooled", "--task", "walks")
    assert "0 scored, 1 kept" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_the_others(suites, mine, capsys):  # noqa: F811
    (Path("results") / "naive" / "pooled" / "deep--er.json").mkdir(parents=True)
    benchmark(suites, "naive", "--suite", "pooled", code=2)
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "deep--er.json: cannot be written" in error and "\n" not in error
    assert read(Path("results"), "naive", "pooled", "walks.json")["state"] == "done"


def test_a_failure_is_imputed_where_the_suite_does_so_and_tried_again(suites, mine, capsys):  # noqa: F811
    name = f"{mine}:broken"
    benchmark(suites, name, "--suite", "pooled", code=1)
    found = read(Path("results"), name, "pooled", "deep--er.json")
    assert found["state"] == "failed" and found["imputed"] and found["metrics"] == found["baseline"] != {}
    assert found["error"] == f"{name}: raised KeyError: 'no such horizon'."
    said = capsys.readouterr().out
    assert "FAILED, imputed with seasonal naive" in said and "1 scored, 0 kept, 1 failed" in said
    benchmark(suites, name, "--suite", "pooled", code=1)
    assert "0 scored, 1 kept, 1 failed" in capsys.readouterr().out


def test_a_failure_stays_missing_where_the_suite_does_not_impute(suites, mine, capsys):  # noqa: F811
    benchmark(suites, f"{mine}:infinite", "--suite", "single", code=1)
    found = read(Path("results"), f"{mine}:infinite", "single", "walks.json")
    assert (found["state"], found["imputed"], found["metrics"]) == ("failed", False, {})
    assert "5 of 5 forecasts are not finite, first that of item" in found["error"] and found["baseline"]
    assert "FAILED" in capsys.readouterr().out


def test_data_that_cannot_be_used_are_a_failure_of_the_task(suites, mine, capsys):  # noqa: F811
    (suites / "walks.txt").write_text("no,table\nof,numbers\n")
    benchmark(suites, "naive", "--suite", "pooled", "--task", "walks", code=1)
    found = read(Path("results"), "naive", "pooled", "walks.json")
    assert found["state"] == "failed" and "no numbers" in found["error"] and not found["metrics"]


def test_a_sample_is_stated_and_depends_on_no_order(suites, mine, capsys):  # noqa: F811
    benchmark(suites, "naive", "--suite", "pooled", "--task", "walks", "--max-items", 2)
    found = read(Path("results"), "naive", "pooled", "walks.json")
    assert [found[name] for name in ("series", "windows", "max_items", "items_of")] == [2, 4, 2, 5]
    said = capsys.readouterr().out
    assert "SAMPLE of 5 items" in said and "compare with no published figure" in said
    benchmark(suites, "naive", "--suite", "pooled", "--task", "walks")
    whole = read(Path("results"), "naive", "pooled", "walks.json")
    assert "1 scored, 0 kept" in capsys.readouterr().out
    assert whole["max_items"] is None and whole["metrics"] != found["metrics"]
    benchmark(suites, "naive", "--suite", "pooled", "--task", "walks", "--max-items", 5)
    assert "0 scored, 1 kept" in capsys.readouterr().out  # all of them


def test_a_dry_run_says_what_tasks_cost_and_writes_nothing(suites, mine, capsys):  # noqa: F811
    benchmark(suites, f"{mine}:last", f"{mine}:broken", "--suite", "pooled", "--dry-run", code=1)
    said = capsys.readouterr().out
    assert "pooled/walks: 5 series, 10 windows, 10 forecasts of 3 steps" in said
    assert re.search(rf"  {mine}:last: about [\d.,]+ s", said)
    assert f"  {mine}:broken: time unknown: it failed on a batch: KeyError: 'no such horizon'" in said
    assert not Path("results").exists()


def test_covariates_go_to_models_that_take_them_and_to_no_other(suites, mine, tmp_path):  # noqa: F811
    days = [f"2024-03-{day + 1:02}" for day in range(31)] + [f"2024-04-{day + 1:02}" for day in range(14)]
    rng = np.random.default_rng(0)
    y, seen, ahead = rng.normal(10, 1, 45), rng.normal(0, 1, 45), np.arange(45.0)
    words = ["work" if k % 7 < 5 else "free" for k in range(45)]
    rows = [f"{d},{a},{b},{c},{w}" for d, a, b, c, w in zip(days, y, seen, ahead, words, strict=True)]
    (tmp_path / "exog.csv").write_text("\n".join(["timestamp,y,seen,ahead,day", *rows]) + "\n")
    foretrain("data", "import", tmp_path / "exog.csv", "--out", suites / "exog" / "exog")
    (tmp_path / f"{mine}_x.py").write_text(
        "import numpy as np\nseen = []\n"
        "def taking(histories, horizon, quantile_levels, known_covariates, past_covariates):\n"
        "    seen.extend(zip(histories, past_covariates, known_covariates))\n"
        "    return np.zeros((len(histories), len(quantile_levels), horizon))\n"
    )
    benchmark(suites, f"{mine}_x:taking", f"{mine}:last", "tiny", "--suite", "exog", "--threads", 1)
    names = {"past": ["seen"], "known": ["ahead", "day"], "absent": ["nowhere"]}
    assert read(Path("results"), f"{mine}_x:taking", "exog", "exog.json")["covariates"] == names
    assert read(Path("results"), "tiny", "exog", "exog.json")["covariates"] == names
    assert read(Path("results"), f"{mine}:last", "exog", "exog.json")["covariates"] == {}
    import importlib

    windows = importlib.import_module(f"{mine}_x").seen
    assert sorted(len(history[0]) for history, _, _ in windows) == [39, 42]
    for history, past, known in windows:
        steps = len(history[0])
        np.testing.assert_allclose(past["seen"], seen[:steps], rtol=1e-6)
        np.testing.assert_allclose(known["ahead"], ahead[: steps + 3])
        # a category is the mean of the history's targets in it, shrunk towards the mean of all
        for word in ("work", "free"):
            at = [k for k in range(steps + 3) if words[k] == word]
            inside = [k for k in at if k < steps]
            mean = (y[:steps].mean() + y[inside].sum()) / (1 + len(inside))
            np.testing.assert_allclose(known["day"][at], mean, rtol=1e-5)


def test_static_covariates_go_to_functions_that_name_them_and_to_no_family(suites, mine, tmp_path):  # noqa: F811
    import pyarrow as pa
    import pyarrow.parquet as pq

    days, folder = np.datetime64("2024-01-01", "us") + np.arange(20) * np.timedelta64(1, "D"), suites / "sets" / "fixed"
    folder.mkdir(parents=True)
    lists = {"timestamp": [days] * 3, "y": [np.sin(np.arange(20)) + k for k in range(3)]}
    pq.write_table(
        pa.table({"id": ["c", "a", "b"], "kind": ["x", None, "z"], "size": [1, 2, 3], **lists}), folder / "f.parquet"
    )
    (tmp_path / f"{mine}_x.py").write_text(
        "import numpy as np\nseen = {}\n"
        "def taking(histories, horizon, quantile_levels, item_ids, static_covariates):\n"
        "    seen.update(zip(item_ids, static_covariates))\n"
        "    return np.zeros((len(histories), len(quantile_levels), horizon))\n"
        "def other(histories, horizon, quantile_levels, known_covariates):\n"
        "    return np.zeros((len(histories), len(quantile_levels), horizon))\n"
    )
    words = (f"{mine}_x:taking", f"{mine}_x:other", "tiny", "--suite", "fixed", "--threads", 1)
    benchmark(suites, *words)
    names = {"past": [], "known": [], "absent": ["nowhere"], "static": ["kind", "size"]}
    found = {
        name: read(Path("results"), name, "fixed", "fixed.json")
        for name in (f"{mine}_x:taking", f"{mine}_x:other", "tiny")
    }
    assert [one["covariates"] for one in found.values()] == [names, {}, {}]
    taking, other, tiny = (one["data_hash"] for one in found.values())
    assert taking != other == tiny
    import importlib

    expected = {"c": {"kind": "x", "size": 1}, "a": {"kind": None, "size": 2}, "b": {"kind": "z", "size": 3}}
    assert importlib.import_module(f"{mine}_x").seen == expected


def test_a_corpus_or_file_of_the_user_is_a_suite_of_its_own(mine, tmp_path, capsys):
    stamps = np.datetime64("2024-01-01") + np.arange(40)
    rows = [f"{stamp},{','.join(map(str, row))}" for stamp, row in zip(stamps, WALKS.tolist(), strict=True)]
    (tmp_path / "walks.csv").write_text("\n".join(["timestamp,a,b,c,d,e", *rows]) + "\n")
    words = ("--suite", "local", "--horizon", 3, "--windows", 2, "--seasonality", 2, "--out", "results")
    foretrain("benchmark", f"{mine}:last", *words, "--data", tmp_path / "walks.csv")
    found = read(Path("results"), f"{mine}:last", "local", "walks.json")
    assert {name: found["metrics"][name] for name in ("MASE", "WQL")} == pytest.approx(
        {name: value for name, value in naive_figures().items() if name != "MSE"}, rel=1e-5
    )
    assert (found["series"], found["windows"]) == (5, 10)
    foretrain("data", "import", tmp_path / "walks.csv", "--out", tmp_path / "walks")
    foretrain("benchmark", f"{mine}:last", *words, "--data", tmp_path / "walks")
    assert "0 scored, 1 kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("naive",), "give --suite"),
        (("naive", "--suite", "nothing"), "nothing: no such suite"),
        (("naive", "--suite", "pooled", "--task", "walk"), "--task walk: no task of the suites is called so"),
        (("naive", "naive", "--suite", "pooled"), "naive: is given twice"),
        (("a/b", "a--b", "--suite", "pooled"), "a--b: is given beside a/b, whose results have the same folder"),
        (("nothing/here.txt/", "--suite", "pooled"), "no such folder"),
        (("no_module_here:f", "--suite", "pooled"), "no_module_here:f: there is no module no_module_here"),
        (("MINE:nothing", "--suite", "pooled"), "has no attribute 'nothing'"),
        (("MINE:calls", "--suite", "pooled"), "MINE:calls: is a list, not a function"),
        (("MINE:other_arguments", "--suite", "pooled"), "needs 'x'; a forecaster takes histories, horizon"),
        (("naive", "--suite", "pooled", "--self-check"), "models are scored without --self-check"),
        (("naive", "--suite", "pooled", "--json", "-"), "--json: has no effect with models"),
        (("naive", "--suite", "pooled", "--horizon", 3), "--horizon: has no effect without --suite local"),
        (("naive", "--suite", "pooled", "--data", "x"), "--data: belongs to --suite local"),
        (("naive", "--suite", "local"), "--suite local: give --data"),
        (("naive", "--suite", "local", "--suite", "pooled"), "--suite local: is scored alone"),
        (("naive", "--suite", "pooled", "--task", "other"), "none of 1 tasks has its data"),
        (("--self-check", "--max-items", 3), "--max-items: has no effect without a model"),
        (("--self-check", "--context", 3), "--context: has no effect without a model"),
        ((), "name models to score, or give --self-check"),
    ],
)
def test_a_wrong_word_is_one_line_with_exit_code_2(suites, mine, words, text, capsys):  # noqa: F811
    words = [str(word).replace("MINE", mine) for word in words]
    foretrain("benchmark", *words, "--data-root", suites, code=2)
    said = capsys.readouterr()
    assert text.replace("MINE", mine) in said.err and said.err.startswith("error: ") and said.err.count("\n") == 1


def test_one_command_at_a_time_writes_results_of_a_model(suites, mine, capsys):  # noqa: F811
    words = ("--suite", "pooled", "--task", "walks")
    lock = ResultLock(Path("results"), f"{mine}:last")
    with lock:
        benchmark(suites, f"{mine}:infinite", f"{mine}:last", *words, code=2)
        said = capsys.readouterr()
        text = f"error: results/{mine}:last: process {os.getpid()} on {socket.gethostname()} is writing results of this"
        assert said.err.startswith(text) and said.err.count("\n") == 1 and str(lock.path) in said.err
        assert not said.out and importlib.import_module(mine).calls == []
        benchmark(suites, "naive", *words)  # another model's, into the same folder
        benchmark(suites, f"{mine}:last", *words, "--dry-run")
        assert {path.name for path in Path("results").glob("*/*")} == {"pooled", ".benchmark.lock"}
    benchmark(suites, f"{mine}:last", *words)
    assert not lock.path.exists() and read(Path("results"), f"{mine}:last", "pooled", "walks.json")


@pytest.mark.processes
def test_a_folder_in_use_is_refused_before_torch_is_loaded_and_a_killed_writer_is_no_obstacle(tmp_path, mine):
    (tmp_path / "walks.csv").write_text("timestamp,a\n2024-01-01,1\n")
    words = ["benchmark", "naive", "--suite", "local", "--horizon", "1", "--data", "walks.csv", "--out", "results"]
    without = "import sys; sys.modules['torch'] = None; from foretrain.cli import main; main()"
    with ResultLock(tmp_path / "results", "naive"):
        done = run_command([sys.executable, "-c", without, *words], cwd=tmp_path)
    assert done.returncode == 2 and "is writing results of this model. Wait for it or stop it." in done.stdout
    killed = "import os, sys; from pathlib import Path; from foretrain.suites.result_folders import ResultLock; "
    killed += "ResultLock(Path('results'), 'naive').__enter__(); os.kill(os.getpid(), 9)"
    assert run_command([sys.executable, "-c", killed], cwd=tmp_path).returncode == -9
    lock = ResultLock(tmp_path / "results", "naive")
    assert lock.path.exists()
    lock.check_free()
    with lock:
        assert str(os.getpid()) in lock.path.read_text()


@pytest.mark.processes
def test_two_processes_write_the_figures_of_one_and_share_its_results(tmp_path, mine, stand_in):  # noqa: F811
    stamps = np.datetime64("2024-01-01") + np.arange(40)
    rows = [f"{stamp},{','.join(map(str, row))}" for stamp, row in zip(stamps, WALKS.tolist(), strict=True)]
    (tmp_path / "walks.csv").write_text("\n".join(["timestamp,a,b,c,d,e", *rows]) + "\n")
    words = ["benchmark", f"{mine}:last", f"{mine}:infinite", "auto_ets", "linear"]
    words += [
        "--suite",
        "local",
        "--horizon",
        "3",
        "--windows",
        "7",
        "--data",
        str(tmp_path / "walks.csv"),
        "--threads",
        "1",
    ]
    foretrain(*words, "--out", "one", code=1)
    done = run_command([*torchrun(2), "-m", "foretrain", *words, "--out", "two"], cwd=tmp_path)
    assert done.returncode != 0 and done.stdout.count("3 scored, 0 kept, 1 failed") == 1, done.stdout[-3000:]
    one, two = (read(tmp_path / name, f"{mine}:last", "local", "walks.json") for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-12) and two["baseline"] == one["baseline"]
    assert (one["processes"], two["processes"]) == (1, 2) and one["identity"] == two["identity"]
    one, two = (read(tmp_path / name, "auto_ets", "local", "walks.json") for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-12) and one["identity"] == two["identity"]
    assert one["notes"] == two["notes"] and "of 35 rows, which have naive's" in one["notes"][0]
    one, two = (read(tmp_path / name, "linear", "local", "walks.json") for name in ("one", "two"))
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6) and one["notes"] == two["notes"] != []
    bad = read(tmp_path / "two", f"{mine}:infinite", "local", "walks.json")
    assert bad["state"] == "failed" and "35 of 35 forecasts are not finite" in bad["error"]
