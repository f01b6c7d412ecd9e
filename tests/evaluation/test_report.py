from __future__ import annotations

import io
import json
import re
import resource
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from foretrain.errors import DataError
from foretrain.evaluation import plots
from foretrain.evaluation.report import format_table, plot_forecast, print_result, render, write_report
from foretrain.evaluation.tasks import evaluate

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def few(hourly, persistence):
    return evaluate(
        persistence(0.3),
        hourly(5, 260, price=True),
        prediction_length=6,
        num_windows=12,
        name="<script>alert(1)</script> & co",
        command="foretrain evaluate 'a <b>' --data c",
    )


@pytest.fixture(scope="module")
def many(hourly, persistence):
    return evaluate(
        persistence(0.3), hourly(45, 460, provenance="synthetic"), prediction_length=6, num_windows=3, name="walk model"
    )


@pytest.fixture(scope="module")
def saved(few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, write_report(few, folder)


class _Checker(HTMLParser):
    """Collects the resources that a page would fetch and checks that its tags are balanced."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def _parse(page):
    checker = _Checker()
    checker.feed(page)
    assert not checker.open
    return checker


def test_the_page_is_self_contained(saved):
    page = (saved[0] / "report.html").read_text()
    checker = _parse(page)
    assert len(checker.sources) == 4
    assert all(source.startswith("data:image/png;base64,") for source in checker.sources)
    assert "script" not in checker.tags and "link" not in checker.tags
    assert "http" not in page and "@import" not in page and "url(" not in page


def test_names_and_commands_are_escaped(saved):
    checker = _parse((saved[0] / "report.html").read_text())
    text = "".join(checker.text)
    assert "<script>alert(1)</script> & co" in text and "foretrain evaluate 'a <b>' --data c" in text


def test_the_page_has_verdict_hash_units_command_and_sorting(few, saved):
    text = "".join(_parse((saved[0] / "report.html").read_text()).text)
    assert few.verdict[1:] in text and few.data[0]["fingerprint"] in text
    assert "percent of the last close" in text and "sorted before scoring" in text
    assert "SYNTHETIC" not in text
    for name in ("naive", "drift", "seasonal naive", "historical mean"):
        assert name in text


def test_synthetic_data_is_flagged_at_the_top(many):
    text = "".join(_parse(render(many)).text)
    assert text.index("SYNTHETIC DATA") < text.index("Model and baselines")


def test_windows_that_training_saw_come_first_everywhere(hourly, persistence, tmp_path):
    corpus = hourly(5, 260)
    release = {"corpora": [{"fingerprint": corpus.fingerprint}], "data": {"validation_steps": 6, "test_steps": 18}}
    found = evaluate(persistence(25.0), corpus, prediction_length=6, num_windows=12, split="all", release=release)
    write_report(found, tmp_path)
    alarm = "WINDOWS OVERLAP TRAINING DATA"
    assert format_table(found).startswith(alarm)
    page = (tmp_path / "report.html").read_text()
    assert page.index(alarm) < page.index("<h1>") and '<div class="verdict none"><strong>No fair test' in page
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(stored)[1] == "warnings" and stored["warnings"][0].startswith(alarm)
    assert stored["overlaps_training"] and stored["headline"].startswith("NO FAIR TEST")


def test_many_items_are_cut_in_the_page_and_whole_in_the_csv(many, tmp_path):
    many.save(tmp_path)
    table = pd.read_csv(tmp_path / "per_item.csv")
    assert table["item"].nunique() == 45 and len(table) == 45 * 5
    assert "The best and worst 20 are shown" in render(many, {})


def test_files_hold_the_same_figures(few, saved):
    folder, paths = saved
    assert {path.name for path in paths} == {
        "evaluation.json",
        "metrics.csv",
        "per_item.csv",
        "per_horizon.csv",
        "report.html",
        "forecasts.png",
    }
    tree = json.loads((folder / "evaluation.json").read_text())
    assert tree["verdict"] == few.verdict and tree["data"][0]["provenance"] == "real"
    table = pd.read_csv(folder / "metrics.csv", index_col="forecaster")
    assert table.loc["model", "wql"] == pytest.approx(few.pooled["model"]["wql"], rel=1e-12)
    assert tree["pooled"]["naive"]["mase"] == few.pooled["naive"]["mase"]
    steps = pd.read_csv(folder / "per_horizon.csv")
    assert len(steps) == 6 * 5 and steps["step"].max() == 6
    assert (folder / "forecasts.png").read_bytes().startswith(PNG)


def test_dollars_are_in_the_item_table_and_in_no_pooled_one(few, saved):
    folder, _ = saved
    assert "price_mae" in pd.read_csv(folder / "per_item.csv").columns
    assert not {"price_mae", "mae", "rmse"} & set(pd.read_csv(folder / "metrics.csv").columns)


def test_squares_and_returns_are_in_the_files_and_the_page(few, saved):
    folder, _ = saved
    tree = json.loads((folder / "evaluation.json").read_text())
    table = pd.read_csv(folder / "metrics.csv", index_col="forecaster")
    names = ["pct_mse", "pct_rmse", "pct_mape", "pct_r2"]  # of five items with prices of their own
    assert list(table.columns[-len(names) :]) == names
    for who in ("model", "naive", "drift", "seasonal_naive", "historical_mean"):
        assert list(table.loc[who, names]) == pytest.approx([tree["squares"][who][name] for name in names], rel=1e-12)
        assert table.loc[who, "pct_rmse"] ** 2 == pytest.approx(table.loc[who, "pct_mse"], rel=1e-12)
    assert table.loc["naive", "pct_mape"] == pytest.approx(100.0) and table.loc["naive", "pct_r2"] <= 0
    assert few.aggregate["pct_r2"] == few.squares["model"]["pct_r2"]
    assert "while that of price levels" in "".join(_parse((folder / "report.html").read_text()).text)


def test_one_unit_has_a_mean_squared_error(hourly, persistence, tmp_path):
    found = evaluate(persistence(25.0), hourly(1, 90), prediction_length=4, num_windows=2)
    assert found.squares["model"]["mse"] == pytest.approx(found.pooled["model"]["rmse"] ** 2, rel=1e-12)
    found.save(tmp_path)
    assert "mse" in pd.read_csv(tmp_path / "metrics.csv").columns


def test_undefined_figures_become_null_in_json(hourly, persistence, tmp_path):
    found = evaluate(persistence(float("nan")), hourly(2, 90), prediction_length=4, num_windows=2)
    write_report(found, tmp_path)
    tree = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert tree["pooled"]["model"]["wql"] is None


def test_the_console_table_is_plain_text_without_a_terminal(few):
    stream = io.StringIO()
    print_result(few, stream)
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue() and lines[0] == few.headline
    assert stream.getvalue() == format_table(few) + "\n"
    start = next(k for k, line in enumerate(lines) if line.startswith("forecaster"))
    assert [line.split("  ")[0] for line in lines[start + 2 : start + 7]] == [
        few.name,
        "naive",
        "drift",
        "seasonal naive",
        "historical mean",
    ]
    assert f"{few.pooled['naive']['pct_mae']:.3f}" in lines[start + 3]


def test_the_console_table_has_colours_on_a_terminal(few, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    print_result(few, stream)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert plain != stream.getvalue() and "seasonal naive" in plain and few.name in plain


@pytest.mark.parametrize("shape", ["one step", "one window", "no calendar", "constant"])
def test_edge_cases_can_be_drawn(hourly, persistence, shape, tmp_path):
    from foretrain.data.store import Corpus

    if shape in ("no calendar", "constant"):
        values = np.zeros((1, 60), np.float32) if shape == "constant" else np.arange(60, dtype=np.float32)[None]
        corpus = Corpus.from_arrays("c", [("a $1 and $2 item_", values, None)], ["x"])
    else:
        corpus = hourly(1, 60)
    horizon = 1 if shape == "one step" else 5
    found = evaluate(persistence(0.5), corpus, prediction_length=horizon, num_windows=1 if shape == "one window" else 3)
    write_report(found, tmp_path)
    _parse((tmp_path / "report.html").read_text())


def _frames(items, numeric=False):
    hours = pd.date_range("2024-01-01", periods=60, freq="h")
    history = pd.concat(
        pd.DataFrame({"item_id": name, "timestamp": np.arange(60) if numeric else hours, "load": np.arange(60.0)})
        for name in items
    )
    ahead = np.arange(60, 65) if numeric else pd.date_range("2024-01-03 12:00", periods=5, freq="h")
    forecast = pd.concat(
        pd.DataFrame(
            {
                "item_id": name,
                "timestamp": ahead,
                "target_name": "load",
                "predictions": 60.0,
                "0.1": 55.0,
                "0.5": 60.0,
                "0.9": 65.0,
            }
        )
        for name in items
    )
    return history, forecast


@pytest.mark.parametrize("kind", [".png", ".svg", ".pdf"])
@pytest.mark.parametrize("count", [1, 7])
def test_forecasts_are_drawn_as_a_fan_chart(tmp_path, kind, count):
    path = tmp_path / f"fan{kind}"
    plot_forecast(*_frames([f"item {k}" for k in range(count)]), path)
    content = path.read_bytes()
    assert content.startswith(PNG if kind == ".png" else b"%PDF" if kind == ".pdf" else b"<?xml")
    assert b"CreationDate" not in content and b"<dc:date>" not in content  # equal forecasts, equal files


@pytest.mark.parametrize("kind", [".png", ".svg", ".pdf"])
def test_a_full_disk_is_an_error_of_the_disk_whatever_the_kind_of_picture(tmp_path, kind):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            plot_forecast(*_frames(["a"]), tmp_path / f"fan{kind}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_forecasts_without_a_calendar_can_be_drawn(tmp_path):
    plot_forecast(*_frames(["a"], numeric=True), tmp_path / "fan.png")
    assert (tmp_path / "fan.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(("rows", "freq"), [(45, "15min"), (56, "h"), (57, "h"), (70, "D"), (26, "MS"), (400, "MS")])
def test_dates_are_labelled_without_a_warning_whatever_the_time_that_is_drawn(rows, freq):
    stamps = pd.date_range("2024-01-01", periods=rows + 5, freq=freq).to_numpy("datetime64[us]").astype(np.int64)
    fan = plots.Fan("a", np.arange(float(rows)), np.ones((5, 3)), (0.1, 0.5, 0.9), times=stamps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots.png(plots.draw_fans, [fan, fan]) is not None


def test_a_picture_of_unknown_kind_or_of_nothing_is_refused(tmp_path):
    history, forecast = _frames(["a"])
    with pytest.raises(DataError, match=r"\.png, \.svg or \.pdf"):
        plot_forecast(history, forecast, tmp_path / "fan.bmp")
    with pytest.raises(DataError, match="nothing to draw"):
        plot_forecast(history, forecast.iloc[:0], tmp_path / "fan.png")
    assert not list(tmp_path.iterdir())
