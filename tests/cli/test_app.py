"""The command line in real processes or through main(), with a tiny trained model."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.run.test_train import TINY  # the overrides that make debug.yaml run in a second
from tests.waiting import DEADLINE, as_from_a_terminal

from foretrain import cli
from foretrain.run.config import load_config, shipped_config
from foretrain.run.train import train_run


def foretrain(*arguments: object, code: int = 0) -> None:
    """Run the command in this process and check its exit code."""
    old = sys.argv
    sys.argv = ["foretrain", *map(str, arguments)]
    try:
        cli.main()
        found = 0
    except SystemExit as leave:
        found = leave.code or 0
    finally:
        sys.argv = old
    assert found == code


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw CSVs, a corpus and a trained release."""
    folder = tmp_path_factory.mktemp("cli")
    stamps = pd.date_range("2024-01-01", periods=160, freq="h")
    (folder / "raw").mkdir()
    for item in ("007", "1e5", "nan"):
        wave = 10 + np.sin(np.arange(160) * 2 * np.pi / 24) + len(item)
        pd.DataFrame({"timestamp": stamps, "target": wave}).to_csv(folder / "raw" / f"{item}.csv", index=False)
    foretrain("data", "import", folder / "raw", "--out", folder / "corpus")
    overrides = [*TINY, ("data.corpora", [{"path": str(folder / "corpus")}]), ("output_dir", str(folder / "run"))]
    train_run(load_config(shipped_config("debug.yaml"), overrides))
    frame = pd.concat(
        pd.DataFrame({"item_id": item, "timestamp": stamps, "target": np.arange(160.0) % period})
        for item, period in (("007", 24), ("NA", 7))
    )
    frame.to_csv(folder / "history.csv", index=False)
    return folder


@pytest.mark.processes
def test_help_is_fast():
    """Measured in CPU time, which does not depend on the load of the machine."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        done = subprocess.run([sys.executable, "-m", "foretrain.cli", "--help"], capture_output=True, check=False)
        times.append(spent() - before)
        assert done.returncode == 0 and b"forecast" in done.stdout
    assert min(times) < 0.6  # 0.1 s; the bound only catches an import of something heavy


def test_ids_survive_import_and_forecast(work: Path, capsys):
    out = work / "forecast.csv"
    foretrain("forecast", work / "run" / "release", work / "history.csv", "--prediction-length", 8, "--out", out)
    rows = pd.read_csv(out, dtype={"item_id": str}, keep_default_na=False)
    assert list(rows["item_id"].unique()) == ["007", "NA"] and len(rows) == 16
    assert rows.columns.tolist()[:4] == ["item_id", "timestamp", "target_name", "predictions"]
    foretrain("data", "inspect", work / "corpus", "--verify", "--plot", work / "corpus.png")
    text = capsys.readouterr().out
    assert "007" in text and "1e5" in text
    assert (work / "corpus.png").read_bytes().startswith(b"\x89PNG")


def test_forecast_flags_change_the_result(work: Path):
    release, history = work / "run" / "release", work / "history.csv"

    def run(*flags: object) -> pd.DataFrame:
        out = work / f"f{len(list(work.glob('f*.parquet')))}.parquet"
        foretrain("forecast", release, history, "--prediction-length", 8, "--out", out, *flags)
        return pd.read_parquet(out)

    plain = run()
    assert not np.allclose(plain["predictions"], run("--context-length", 16)["predictions"])
    assert not np.allclose(plain["predictions"], run("--cross-learning")["predictions"])
    assert run("--quantile-levels", "0.25,0.75").columns.tolist()[-2:] == ["0.25", "0.75"]
    assert (np.diff(plain.iloc[:, 4:], axis=1) >= 0).all()
    assert (np.diff(run("--no-sort-quantiles").iloc[:, 4:], axis=1) < 0).any()
    assert np.allclose(plain["predictions"], run("--batch-size", 1)["predictions"], rtol=1e-4)
    picture = work / "fan.png"
    run("--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def kronos(zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Kronos and the 5-minute bars of a market, in the layout of Kronos' examples."""
    folder = tmp_path_factory.mktemp("kronos")
    (folder / "release").mkdir()
    zoo.built("kronos").save_release(folder / "release")
    rng = np.random.default_rng(0)
    days = pd.bdate_range("2024-03-22", periods=5)  # March 29 was a holiday
    stamps = np.concatenate([pd.date_range(d + pd.Timedelta("9h30min"), periods=78, freq="5min") for d in days])[:-3]
    close = 50 + rng.normal(0, 0.1, len(stamps)).cumsum()
    bars = {"timestamps": stamps, "open": close, "high": close + 0.1, "low": close - 0.1, "close": close, "volume": 7.0}
    pd.DataFrame(bars).to_csv(folder / "ACME.csv", index=False)
    return folder


def test_candles_are_forecast_written_and_drawn(kronos: Path, tmp_path: Path, capsys):
    quantiles, candles, paths, picture = (tmp_path / name for name in ("q.csv", "c.csv", "p.parquet", "fan.png"))
    foretrain(
        "forecast", kronos / "release", kronos / "ACME.csv", "--prediction-length", 6, "--out", quantiles,
        "--candles", candles, "--paths", paths, "--plot", picture, "--num-samples", 3, "--quantile-levels", "0.5,0.9",
    )  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(quantiles).columns.tolist()[3:] == ["predictions", "mean", "0.5", "0.9"]
    wide, drawn = pd.read_csv(candles), pd.read_parquet(paths)
    assert wide.columns.tolist() == ["item_id", "timestamp", "open", "high", "low", "close", "volume"]
    assert wide["timestamp"].tolist()[2:4] == ["2024-03-28 15:55:00", "2024-03-29 09:30:00"]  # no bars at night
    assert drawn["sample"].unique().tolist() == [0, 1, 2] and len(drawn) == 18
    np.testing.assert_allclose(drawn.groupby("timestamp")["close"].mean(), wide["close"], rtol=1e-5)
    assert f"wrote {paths}: 18 rows, 1 item, 6 steps" in capsys.readouterr().out


def test_flags_of_candle_forecasts_change_the_result(kronos: Path, tmp_path: Path):
    def run(*flags: object, release: Path = kronos / "release") -> pd.DataFrame:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        foretrain("forecast", release, kronos / "ACME.csv", "--prediction-length", 6, "--out", out, *flags)
        return pd.read_parquet(out)

    plain = run("--num-samples", 2)
    assert not plain["0.1"].equals(run("--num-samples", 3)["0.1"])
    assert not plain["0.1"].equals(run("--num-samples", 2, "--seed", 5)["0.1"])
    greedy = run("--num-samples", 2, "--option", "temperature=0", "--option", "mode=rolling")
    assert greedy["0.1"].equals(greedy["0.9"]) and not plain["0.1"].equals(plain["0.9"])
    assert set(run("--num-samples", 2, "--target", "close")["target_name"]) == {"close"}
    points = run("--num-samples", 4, "--aggregate", "trimmed_mean_25", "--aggregate", "quantile_0.3")
    assert points.columns.tolist()[4:7] == ["mean", "trimmed_mean_25", "quantile_0.3"]
    last = {"": plain, **{flag: run(f"--{flag}", value) for flag, value in (("freq", "5min"), ("calendar", "NYSE"))}}
    assert {flag: str(table["timestamp"].max()) for flag, table in last.items()} == {
        "": "2024-03-29 09:40:00",
        "freq": "2024-03-28 16:10:00",
        "calendar": "2024-04-01 09:40:00",
    }
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((kronos / "release" / name).read_bytes())
    assert run("--num-samples", 2, "--tokenizer", kronos / "release" / "tokenizer", release=bare).equals(plain)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--calendar", "NYSSE"], "Did you mean 'NYSE'?"),
        (["--option", "temprature=1"], "Did you mean 'temperature'?"),
        (["--aggregate", "trimmed_mean_60"], "60 is no percent cut at either end; it must be greater than 0"),
        (["--option", "temperature"], "give KEY=VALUE"),
        (["--option", "top_k=1", "--option", "top_k=2"], "top_k is given twice"),
        (["--candles", "c.txt"], "--candles c.txt: name a .csv or .parquet"),
        (["--plot", "fan.bmp"], "pictures are written as"),
        (["--plot", "taken/fan.png"], "taken/fan.png: cannot be written"),
        (["--candles", "taken/c.csv"], "taken/c.csv: cannot be written"),
        (["--paths", "new/p.csv", "--option", "top_p=7"], "top_p is 7"),
        (["--paths", "./x.csv"], "--paths x.csv: is the file of --out"),
        (["--candles", "ACME.csv"], "--candles ACME.csv: is an input file"),
    ],
)
def test_bad_candle_flags_get_one_clear_line(kronos: Path, tmp_path: Path, flags, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(kronos / "ACME.csv", tmp_path)
    (tmp_path / "taken").write_text("a file, no folder")
    foretrain("forecast", kronos / "release", "ACME.csv", "--prediction-length", 4, "--out", "x.csv", *flags, code=2)
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"ACME.csv", "taken"}, "no new file may remain"
    assert (tmp_path / "ACME.csv").read_bytes() == (kronos / "ACME.csv").read_bytes()


def test_a_plot_of_some_items_reports_their_number(kronos: Path, tmp_path: Path, capsys):
    one = pd.read_csv(kronos / "ACME.csv").tail(90)
    pd.concat([one.assign(item_id=f"S{i}") for i in range(5)]).to_csv(tmp_path / "five.csv", index=False)
    foretrain("forecast", kronos / "release", tmp_path / "five.csv", "--prediction-length", 2, "--out",
              tmp_path / "x.csv", "--plot", tmp_path / "x.png", "--num-samples", 2)  # fmt: skip
    assert "x.png (the first 4 of 5 items)" in capsys.readouterr().out


def test_paths_of_any_series_are_written_and_aggregated(work: Path, zoo, tmp_path: Path, capsys):
    (tmp_path / "release").mkdir()
    zoo.built("toto").save_release(tmp_path / "release")
    flags = (work / "history.csv", "--prediction-length", 6, "--out", tmp_path / "q.csv")
    foretrain("forecast", tmp_path / "release", *flags, "--paths", tmp_path / "p.csv", "--num-samples", 5,
              "--aggregate", "trimmed_mean_20")  # fmt: skip
    drawn = pd.read_csv(tmp_path / "p.csv", dtype={"item_id": str}, keep_default_na=False)
    assert drawn.columns.tolist() == ["item_id", "timestamp", "sample", "target"] and len(drawn) == 2 * 5 * 6
    paths = drawn[drawn.item_id == "NA"]["target"].to_numpy().reshape(5, 6)
    found = pd.read_csv(tmp_path / "q.csv", dtype={"item_id": str}, keep_default_na=False)
    expected = np.sort(paths, axis=0)[1:-1].mean(0)
    np.testing.assert_allclose(found[found.item_id == "NA"]["trimmed_mean_20"], expected, rtol=1e-5)
    foretrain("forecast", work / "run" / "release", *flags, "--paths", tmp_path / "none.csv", code=2)
    assert "paths: chronos2 draws no sample paths" in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()


def test_a_tokenizer_is_no_predictor(kronos: Path, capsys):
    foretrain("forecast", kronos / "release" / "tokenizer", kronos / "ACME.csv", "--prediction-length", 4, "--out",
              "x.csv", code=2)  # fmt: skip
    assert "which makes no forecasts" in capsys.readouterr().err


def test_evaluate_writes_a_report_with_naive_beside_the_model(work: Path, capsys):
    out = work / "evaluation"
    foretrain("evaluate", work / "run" / "release", "--data", work / "corpus", "--num-windows", 2, "--out", out)
    text = capsys.readouterr().out
    assert "naive" in text and "seasonal" in text
    assert "naive" in json.loads((out / "evaluation.json").read_text())["pooled"]
    html = (out / "report.html").read_text()
    assert "<html" in html and "http://" not in html.replace("http://www.w3.org", "")
    foretrain("evaluate", work / "run" / "release", "--data", work / "corpus", "--out", out, code=2)
    assert "exists already" in capsys.readouterr().err
    for place, message in (
        (out / "report.html", "exists already"),
        (out / "report.html" / "x", "x: cannot be created"),
    ):
        foretrain("evaluate", "no-model", "--data", work / "corpus", "--out", place, code=2)
        assert message in capsys.readouterr().err


def test_score_compares_predictions_with_naive(tmp_path: Path, capsys):
    days = pd.bdate_range("2025-01-06", periods=15).astype(str)
    columns = {"S": "ACME", "D": days, "M": "2025-01-01", "H": 1, "L": 100.0, "Y": 0.02, "F": 0.01}
    pd.DataFrame(columns).to_csv(tmp_path / "p.csv", index=False)
    flags = {"item": "S", "timestamp": "D", "last_close": "L", "actual": "Y", "predicted": "F", "step": "H"}
    named = [word for role, name in flags.items() for word in ("--column", f"{role}={name}")]
    foretrain("score", tmp_path / "p.csv", *named, "--values", "fraction", "--claimed-percent", 0.01, "--out",
              tmp_path / "out")  # fmt: skip
    text = capsys.readouterr().out
    assert "better than naive" in text and "1 against 2 percent of the last close" in text
    assert "0.01 % is a fraction with a percent sign" in text and f"wrote {tmp_path / 'out' / 'score.md'}" in text
    assert json.loads((tmp_path / "out" / "score.json").read_text())["per_item"][0]["price_mae"] == pytest.approx(1.0)
    foretrain("score", tmp_path / "p.csv", *named, "--values", "percent")
    assert "0.01 against 0.02 percent" in capsys.readouterr().out
    foretrain("score", tmp_path / "p.csv", *named, "--values", "fraction", "--column", "cutoff=M")
    assert "15 steps, made at 1 origin," in capsys.readouterr().out


def test_evaluate_against_zero_shot_marks_the_release_and_fails_only_with_the_flag(work: Path, tmp_path: Path, capsys):
    run = shutil.copytree(work / "run", tmp_path / "run")
    arguments = ("evaluate", run, "--data", work / "corpus", "--seasonality", 1, "--against", "zero-shot", "--out")

    def mark() -> dict:
        return json.loads((run / "best_model" / "release.json").read_text())["promotion"]

    foretrain(*arguments, tmp_path / "a")
    text = capsys.readouterr().out
    assert "\nNOT PROMOTED: its mase" in text and "\nzero shot " in text and "release.json: not promoted" in text
    assert "too few windows to tell" in mark()["reason"] and mark()["require_significance"] is True
    assert json.loads((tmp_path / "a" / "evaluation.json").read_text())["promotion"] == mark()
    assert "NOT PROMOTED" in (tmp_path / "a" / "report.html").read_text()
    foretrain(*arguments, tmp_path / "b", "--no-require-significance")
    assert mark()["require_significance"] is False and "but too few" not in mark()["reason"]
    foretrain(*arguments, tmp_path / "c", "--fail-if-not-promoted", code=1)


def test_another_corpus_does_not_replace_the_promotion_on_the_runs_corpus(work: Path, tmp_path: Path, capsys):
    run = shutil.copytree(work / "run", tmp_path / "run")
    arguments = ("--seasonality", 1, "--against", "zero-shot")
    foretrain("evaluate", run, "--data", work / "corpus", *arguments)
    first = json.loads((run / "release" / "release.json").read_text())["promotion"]
    foretrain("data", "import", work / "history.csv", "--out", tmp_path / "strange")
    capsys.readouterr()
    foretrain("evaluate", run, "--data", tmp_path / "strange", *arguments)
    assert "is unchanged; the run did not use corpus 'strange'" in capsys.readouterr().out
    assert json.loads((run / "release" / "release.json").read_text())["promotion"] == first


def test_a_comparison_with_any_other_model_marks_no_release(work: Path, tmp_path: Path, capsys):
    run = shutil.copytree(work / "run", tmp_path / "run")
    other = shutil.copytree(work / "run" / "release", tmp_path / "other")
    foretrain("evaluate", run, "--data", work / "corpus", "--seasonality", 1, "--against", other)
    text = capsys.readouterr().out
    assert f"\n{other} " in text and "no difference from other model (identical losses)" in text
    assert "NOT PROMOTED" in text and "recorded in" not in text
    assert "promotion" not in json.loads((run / "release" / "release.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "none.yaml"], "none.yaml: no such config file"),
        (["train"], "no config given; for example: foretrain train chronos2/test"),
        (["data", "generate", "--out", "x"], "no config given; for example: foretrain data generate synthetic/mixture"),
        (["train", "{debug}", "training.max_stepz=1"], "training.max_stepz: unknown key. Did you mean 'max_steps'?"),
        (["train", "{debug}", "oops"], "expected section.key=value"),
        (["train", "{debug}", "threads=0"], "threads"),
        (["train", "{debug}", "training=5", "--grad-accum", "2"], "training"),
        (["train", "{debug}", "training.batch_size=abc", "--grad-accum", "2"], "training.batch_size"),
        (["train", "{debug}", "data.corpora=[{{path: none}}]"], "none"),
        (["train", "{debug}", "model.model_id=none", "model.random_init=false"], "none: no such folder"),
        (["forecast", "{release}", "none.csv", "--prediction-length", "8", "--out", "x.csv"], "none.csv: no such file"),
        (["forecast", "{release}", "{history}", "--prediction-length", "8", "--out", "x.txt"],
         "name a .csv or .parquet"),
        (["forecast", "{release}", "{history}", "--prediction-length", "8", "--out", "x.csv", "--target", "tarjet"],
         "no column 'tarjet'. Did you mean 'target'?"),
        (["forecast", "{release}", "{text}", "--prediction-length", "8", "--out", "x.csv"], "'oops'"),
        (["forecast", "{corpus}", "{history}", "--prediction-length", "8", "--out", "x.csv"], "config.json"),
        (["forecast", "{damaged}", "{history}", "--prediction-length", "8", "--out", "x.csv"], "the file is damaged"),
        (["forecast", "{stranger}", "{history}", "--prediction-length", "8", "--out", "x.csv"], "config.json"),
        (["forecast", "{release}", "{history}", "--prediction-length", "8", "--out", "x.csv", "--quantile-levels", "2"],
         "levels lie between 0 and 1"),
        (["evaluate", "{release}", "--data", "{corpus}", "--prediction-length", "5000"],
         "the longest has 160 rows"),
        (["evaluate", "{release}", "--data", "none"], "none"),
        (["evaluate", "{release}", "--data", "{corpus}", "--cross-learning"], "part of the model"),
        (["evaluate", "{release}", "--data", "{corpus}", "--option", "crosslearning=1"], "Did you mean"),
        (["evaluate", "{release}", "--data", "{corpus}", "--option", "temperature"], "give KEY=VALUE"),
        (["evaluate", "{release}", "--data", "{corpus}", "--tokenizer", "x"], "has no tokenizer"),
        (["evaluate", "{release}", "--data", "{corpus}", "--fail-if-not-promoted"], "no effect without --against"),
        (["evaluate", "{release}", "--data", "{corpus}", "--no-require-significance"], "no effect without --against"),
        (["evaluate", "{release}", "--data", "{corpus}", "--against", "none"], "none: no such folder"),
        (["evaluate", "{release}", "--data", "{corpus}", "--promote-over", "items"], "no effect without --against"),
        (["evaluate", "{release}", "--data", "{corpus}", "--against", "zero-shot", "--promote-over", "items",
          "--no-require-significance"], "--promote-over items: has no effect with --no-require-significance"),
        (["evaluate", "{release}", "--data", "{corpus}", "--clusters", "Region"], "no column 'Region'"),
        (["score", "none.csv"], "none.csv: no such file"),
        (["score", "{history}"], "no column 'actual'; name it with --column actual=NAME"),
        (["score", "{history}", "--column", "actual"], "give KEY=VALUE, for example --column timestamp=Date"),
        (["data", "import", "{empty}", "--out", "x"], "{empty}"),
        (["data", "import", "{raw}", "--out", "{corpus}"], "{corpus}"),
        (["data", "inspect", "{empty}"], "{empty}"),
        (["data", "inspect", "{raw}", "--verify"], "--verify and --plot apply to corpora"),
        (["data", "inspect", "{corpus}", "--encoding", "gbk"], "is a corpus; the options of reading files"),
        (["data", "import", "{raw}"], "give --out, the corpus folder to write, or --dry-run"),
        (["forecast", "{release}", "{corpus}", "--prediction-length", "8", "--out", "x.csv", "--encoding", "gbk"],
         "is a corpus; encoding applies to files only"),
        (["export", "{corpus}", "--out", "x"], "cannot be exported"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_clear_line_and_exit_code_2(work: Path, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {
        "debug": shipped_config("debug.yaml"),
        "release": work / "run" / "release",
        "history": work / "history.csv",
        "corpus": work / "corpus",
        "raw": work / "raw",
        "text": tmp_path / "text.csv",
        "empty": tmp_path / "empty",
        "damaged": tmp_path / "damaged",
        "stranger": tmp_path / "stranger",
    }
    places["empty"].mkdir()
    places["text"].write_text("item_id,timestamp,target\n" + "".join(f"a,2024-01-{d:02},{d}\n" for d in range(1, 9)))
    places["text"].write_text(places["text"].read_text() + "a,2024-01-09,oops\n")
    for name in ("damaged", "stranger"):
        places[name].mkdir()
    (places["damaged"] / "config.json").write_text((work / "run" / "release" / "config.json").read_text())
    (places["damaged"] / "model.safetensors").write_bytes(b"\xff" * 64)
    (places["stranger"] / "config.json").write_text('{"model_type": "bert"}')
    before = {path.name for path in tmp_path.iterdir()}
    foretrain(*(argument.format(**places) for argument in arguments), code=2)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message.format(**places) in error
    assert "Traceback" not in error
    assert {path.name for path in tmp_path.iterdir()} == before, "nothing may be left behind"


@pytest.mark.processes
def test_a_full_disk_is_one_line_and_leaves_no_file(work: Path, tmp_path: Path):
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "from foretrain.cli import main\n"
        "main()\n"
    )
    out = tmp_path / "forecast.csv"
    done = subprocess.run(
        [sys.executable, "-c", code, "forecast", work / "run" / "release", work / "history.csv",
         "--prediction-length", "8", "--out", out],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 200
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_training_flags_reach_the_config(work: Path, tmp_path: Path, capsys):
    foretrain(
        "train", shipped_config("debug.yaml"), "--dry-run", "--verbose", "--context-length", 64,
        "--prediction-length", 12, "--max-steps", 77, "--learning-rate", 0.5, "--per-device-train-batch-size", 3,
        "--gradient-accumulation-steps", 5, "--output-dir", tmp_path / "r", "--max-train-series", 9, "--seed", 4,
        "--dtype", "bfloat16", "--device", "cpu", "--random-init",
    )  # fmt: skip
    text = capsys.readouterr().out
    for part in (
        "context_length: 64", "prediction_length: 12", "max_steps: 77", "learning_rate: 0.5", "micro_batch_size: 3",
        "batch_size: 15", "max_train_series: 9", "seed: 4", "dtype: bfloat16", "device: cpu", "random_init: true",
    ):  # fmt: skip
        assert part in text, part
    flags = ("--dry-run", "--verbose", "--model-id", work / "run" / "release", "model={}", "data.context_length=64")
    foretrain("train", shipped_config("debug.yaml"), *flags)
    assert "random_init: false" in capsys.readouterr().out
    foretrain("config", "show", shipped_config("debug.yaml"), "seed=11")
    assert "seed: 11" in capsys.readouterr().out
    foretrain("config", "schema")
    assert "training" in json.loads(capsys.readouterr().out)["$defs"]["RunConfig"]["properties"]


@pytest.mark.processes
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_saves_and_exits_without_a_traceback_and_resume_continues(tmp_path: Path, number, code):
    arguments = [sys.executable, "-m", "foretrain.cli", "train", str(shipped_config("debug.yaml")), *TINY[:-1],
                 f"output_dir={tmp_path / 'run'}", "training.max_steps=100000", "--threads", "1"]  # fmt: skip
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_from_a_terminal,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step"):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == code and "Traceback" not in err
    assert "continue with --resume" in out
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_import_flags_reach_the_importer(tmp_path: Path, capsys):
    def manifest(name: str, *flags: object) -> dict:
        foretrain("data", "import", tmp_path / "raw", "--out", tmp_path / name, *flags)
        return json.loads((tmp_path / name / "manifest.json").read_text())

    (tmp_path / "raw").mkdir()
    days = pd.date_range("2024-01-02", periods=40, freq="D")
    lines = [f"{day:%d/%m/%Y};{10 + k};{5 + k / 2};{'ja' if k % 2 else 'nein'};-9" for k, day in enumerate(days)]
    text = "Straße\n" + "\n".join(lines) + "\n"
    (tmp_path / "raw" / "px-007-v2.csv").write_bytes(text.encode("latin-1"))
    flags = ("--encoding", "latin-1", "--skip-rows", 1, "--no-header", "--na-values", "-9",
             "--names", "date,close,adj_close,open_now,volume",
             "--dayfirst", "--id-pattern", "px-(.*)-v2", "--categorical", "open_now",
             "--min-rows", 20)  # fmt: skip
    full = manifest("full", *flags, "--provenance", "synthetic", "--freq", "D", "--target", "adj_close")
    assert full["columns"][0]["name"] == "adj_close"
    assert {c["name"]: c["kind"] for c in full["columns"]}["open_now"] == "categorical"
    assert full["provenance"]["kind"] == "synthetic" and full["freq"] == "D"
    assert full["first_time"].startswith("2024-01-02")
    assert "007" in (tmp_path / "full" / "data_summary.csv").read_text()
    few = manifest("few", *flags, "--columns", "close")
    assert [c["name"] for c in few["columns"]] == ["close"]
    adjusted = manifest("adjusted", *flags, "--adjust")
    assert adjusted["adjusted"] and not few["adjusted"]
    panel = manifest(
        "panel", *flags[:-2], "--columns", "close,adj_close", "--format", "panel", "--timestamp-column", "date"
    )
    assert panel["num_series"] == 2
    foretrain("data", "import", tmp_path / "raw", "--out", tmp_path / "bad", *flags[:-2], "--min-rows", 90, code=2)
    assert not (tmp_path / "bad").exists()
    more = f"{days[-1] + pd.Timedelta(days=1):%d/%m/%Y};99;49;ja;-9\n"
    (tmp_path / "raw" / "px-007-v2.csv").write_bytes((text + more).encode("latin-1"))
    again = ("--update", "--target", "adj_close", "--provenance", "synthetic")
    assert manifest("full", *flags, *again)["num_rows"] == 41
    broken = text + lines[-1].replace(";49;", ";50;") + "\n"  # a stamp twice, with another close
    (tmp_path / "raw" / "px-007-v2.csv").write_bytes(broken.encode("latin-1"))
    rows = {policy: manifest(policy, *flags, "--on-bad", policy)["num_rows"] for policy in ("fix", "drop")}
    assert rows == {"fix": 40, "drop": 39}
    foretrain("data", "import", tmp_path / "raw", "--out", tmp_path / "bad", *flags, "--on-bad", "error", code=2)
    assert "duplicate" in capsys.readouterr().err and not (tmp_path / "bad").exists()
    (tmp_path / "raw" / "px-007-v2.csv").unlink()
    hours = pd.date_range("2024-01-02 09:00", periods=40, freq="h")
    pd.DataFrame({"id": "x", "when": hours, "load": 1.0 * np.arange(40)}).to_csv(
        tmp_path / "raw" / "h.csv", index=False
    )
    named = ("--id-column", "id", "--timestamp-column", "when")
    zoned = manifest("zoned", *named, "--timezone", "America/New_York")
    assert zoned["timezone"] == "UTC" and zoned["first_time"].startswith("2024-01-02T14:00")
    assert manifest("naive", *named)["timezone"] is None
    capsys.readouterr()


def test_evaluate_flags_change_what_is_scored(work: Path, capsys):
    def settings(*flags: object) -> dict:
        out = work / f"eval{len(list(work.glob('eval*')))}"
        foretrain("evaluate", work / "run" / "release", "--data", work / "corpus", "--out", out, *flags)
        return json.loads((out / "evaluation.json").read_text())

    plain = settings("--num-windows", 1)
    other = settings(
        "--num-windows", 3, "--stride", 2, "--split", "validation", "--prediction-length", 5, "--context-length", 16,
        "--quantile-levels", "0.2,0.5,0.8", "--batch-size", 1, "--seasonality", 7, "--max-items", 2,
        "--target", "target", "--no-sort-quantiles", "--no-repair-candles", "--no-blank-missing",
        "--dtype", "float32", "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    output = dict.fromkeys(("sort_quantiles", "repair_candles", "blank_missing"), True)
    assert json.loads((work / "run" / "release" / "release.json").read_text())["output"] == output
    assert plain["settings"] | output == plain["settings"]
    assert other["settings"] | dict.fromkeys(output, False) == other["settings"]
    assert plain["counts"]["windows"] == 3 and other["counts"]["windows"] == 6
    assert other["settings"] | {
        "stride": 2, "split": "validation", "prediction_length": 5, "context_length": 16, "batch_size": 1,
        "quantile_levels": [0.2, 0.5, 0.8], "seasonality": {"corpus": 7},
    } == other["settings"]  # fmt: skip
    capsys.readouterr()
    drawn = settings("--num-samples", 3, "--seed", 4, "--option", "limit_prediction_length=true")
    assert capsys.readouterr().err.startswith("warning: num_samples has no effect")  # this family draws none
    assert drawn["settings"]["options"]["limit_prediction_length"] is True
    assert (drawn["settings"]["num_samples"], drawn["settings"]["seed"]) == (3, 4)
    foretrain("evaluate", work / "run" / "release", "--data", work / "corpus", "--split", "nowhere", code=2)
    foretrain("evaluate", work / "run" / "release", "--data", work / "corpus", "--past-covariates", "clos", code=2)
    foretrain("evaluate", work / "run" / "release", "--data", work / "corpus", "--known-covariates", "clos", code=2)
    assert "clos" in capsys.readouterr().err


def test_forecast_reads_odd_headers_known_covariates_and_parquet(work: Path, tmp_path: Path):
    stamps = pd.date_range("2024-01-01", periods=120, freq="h")
    frame = pd.DataFrame({"Symbol": "A/B <x>", "Date": stamps, "load": np.arange(120.0) % 24, "temp": np.arange(120.0)})
    frame.to_parquet(tmp_path / "history.parquet")
    future = pd.DataFrame(
        {"Symbol": "A/B <x>", "Date": stamps[-1] + pd.to_timedelta(np.arange(1, 9), "h"), "temp": 1e3}
    )
    future.to_csv(tmp_path / "future.csv", index=False)
    common = (work / "run" / "release", tmp_path / "history.parquet", "--prediction-length", 8, "--id-column", "Symbol",
              "--target", "load", "--freq", "h")  # fmt: skip
    foretrain("forecast", *common, "--out", tmp_path / "a.csv")
    foretrain("forecast", *common, "--out", tmp_path / "b.csv", "--future", tmp_path / "future.csv",
              "--known-covariates", "temp", "--timestamp-column", "Date")  # fmt: skip
    a, b = (pd.read_csv(tmp_path / f"{name}.csv") for name in "ab")
    assert a.columns.tolist()[:2] == ["item_id", "timestamp"] and (a["item_id"] == "A/B <x>").all()
    assert not np.allclose(a["predictions"], b["predictions"])


def test_export_writes_a_release_that_forecasts(work: Path, tmp_path: Path, capsys):
    checkpoint = sorted((work / "run" / "checkpoints").glob("step-*"))[-1]
    foretrain("export", checkpoint, "--out", tmp_path / "release")
    assert f"wrote {tmp_path / 'release'}" in capsys.readouterr().out
    foretrain(
        "forecast", tmp_path / "release", work / "history.csv", "--prediction-length", 8, "--out", tmp_path / "f.csv"
    )
    assert len(pd.read_csv(tmp_path / "f.csv")) == 16
    foretrain("export", checkpoint, "--out", tmp_path / "release", code=2)
    foretrain("export", checkpoint, "--out", tmp_path / "ema", "--ema", code=2)


@pytest.mark.processes
def test_a_closed_pipe_does_not_end_a_run(tmp_path: Path):
    command = [sys.executable, "-m", "foretrain.cli", "train", str(shipped_config("debug.yaml")), *TINY,
               f"output_dir={tmp_path / 'run'}", "--threads", "1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=DEADLINE) == 0, process.stderr.read()
    process.stderr.close()
    assert "finished at step 6" in (tmp_path / "run" / "training.log").read_text()


@pytest.mark.processes
def test_warnings_are_one_line_without_a_place_in_the_code(kronos: Path, tmp_path: Path):
    pd.read_csv(kronos / "ACME.csv").assign(sector="x").to_csv(tmp_path / "a.csv", index=False)
    flags = ["--prediction-length", "2", "--out", str(tmp_path / "o.csv"), "--num-samples", "1"]
    command = [sys.executable, "-m", "foretrain.cli", "forecast", str(kronos / "release"), str(tmp_path / "a.csv")]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    assert done.stderr == (
        "warning: a.csv: column 'sector': text, 1 category ('x')\n"
        "warning: kronos reads open, high, low, close, volume and no other columns; left out: 'sector'.\n"
    )


@pytest.mark.parametrize(
    "flag", ["--target", "--past-covariates", "--known-covariates", "--quantile-levels", "--columns"]
)
def test_a_list_that_is_given_in_two_parts_is_refused(work: Path, capsys, flag):
    common = (work / "run" / "release", work / "history.csv", "--prediction-length", 8, "--out", work / "two.csv")
    foretrain("forecast", *common, flag, "target", f"{flag}=other", code=2)
    assert capsys.readouterr().err == f"error: {flag} is given twice; give it once, with commas: {flag} a,b.\n"
    assert not (work / "two.csv").exists()
