from __future__ import annotations

import json

import pytest
from tests.cli.test_app import foretrain
from tests.training.test_health import line, start
from tests.training.test_run_record import validation, write_run

from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.plots import style
from foretrain.run.curves import MOST, chosen_metric, curve_lines, curves_of, draw_curves
from foretrain.training.health import health
from foretrain.training.run_record import read_run

COURSE = [
    start(), line(10, 8.0), line(20, 4.0), validation(20, 0.3), line(30, 2.0), line(40, 1.0),
    validation(40, 0.2), line(50, loss_mean=None), validation(60, 0.25, best=False),
]  # fmt: skip


@pytest.fixture
def record(tmp_path):
    return read_run(write_run(tmp_path / "a", COURSE))


def test_curves_are_means_their_average_and_the_metric(record):
    found = curves_of(record, "val_wql")
    assert found.loss == [(10, 8.0), (20, 4.0), (30, 2.0), (40, 1.0)] and found.best == (40, 0.2)
    assert found.scores == [(20, 0.3), (40, 0.2), (60, 0.25)] and found.half_life == 100
    assert found.fast[-1] == (40, health([one for one in COURSE if one["step"] < 50])["loss"]["fast"])


def test_the_metric_is_the_common_one_or_the_named_one(record, tmp_path):
    other = read_run(write_run(tmp_path / "b", COURSE, best_metric="val_loss"))
    silent = read_run(write_run(tmp_path / "c", COURSE[:3]))
    assert chosen_metric([record, silent], None) == "val_wql" and chosen_metric([silent], None) is None
    assert chosen_metric([record, other], "val_loss") == "val_loss"
    with pytest.raises(ConfigError, match="different metrics choose the weights"):
        chosen_metric([record, other], None)
    with pytest.raises(ConfigError, match="Did you mean 'val_wql'"):
        chosen_metric([record], "val_wq")


def test_the_highest_value_is_best_of_a_metric_that_should_be_high(tmp_path):
    found = read_run(write_run(tmp_path / "a", COURSE, best_mode="max"))
    assert curves_of(found, "val_wql").best == (20, 0.3)


def test_a_picture_has_labelled_axes_and_a_name_for_each_run(record, tmp_path):
    other = read_run(write_run(tmp_path / "b", COURSE[:3]))
    curves = [curves_of(one, "val_wql") for one in (record, other)]
    with style():
        loss, metric = draw_curves([record, other], curves, "val_wql").axes
    assert (loss.get_ylabel(), metric.get_ylabel(), metric.get_xlabel()) == ("loss", "val_wql", "step")
    assert loss.get_legend_handles_labels()[1] == ["a", "b"]
    with style():
        (alone,) = draw_curves([other], curves[1:], None).axes
    assert alone.get_ylabel() == "loss" and alone.get_yscale() == "linear"


def test_runs_whose_names_are_alike_have_names_of_their_own_in_a_picture(tmp_path):
    records = [read_run(write_run(tmp_path / part / ("run" * 20), COURSE[:3])) for part in ("a", "b")]
    with style():
        (loss,) = draw_curves(records, [curves_of(one, None) for one in records], None).axes
    assert len(set(loss.get_legend_handles_labels()[1])) == 2


def test_losses_of_different_kinds_and_widths_are_told_on_the_axis(tmp_path):
    wide = read_run(write_run(tmp_path / "a", [start(), line(10, 90.0), line(20, 1.0)]))
    other = read_run(write_run(tmp_path / "b", COURSE[:3]))
    other.config["model"]["family"] = "toto"
    with style():
        (loss,) = draw_curves([wide, other], [curves_of(one, None) for one in (wide, other)], None).axes
    assert loss.get_ylabel() == "loss, each its own" and loss.get_yscale() == "log"


def test_a_run_without_a_line_is_said_to_have_none(tmp_path):
    empty = read_run(write_run(tmp_path / "a", [start()]))
    assert curve_lines([curves_of(empty, None)], None)[1] == "  no line yet"
    with pytest.raises(DataError, match="no training line yet"), style():
        draw_curves([empty], [curves_of(empty, None)], None)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_verb_writes_a_picture_whole_or_none(record, tmp_path, capsys, kind):
    foretrain("runs", "plot", record.folder, "--out", tmp_path / f"runs.{kind}")
    begin = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert (tmp_path / f"runs.{kind}").read_bytes().startswith(begin)
    assert f"wrote {tmp_path / f'runs.{kind}'}" in capsys.readouterr().out


def test_the_verb_shows_bars_and_data(record, tmp_path, capsys):
    foretrain("runs", "plot", record.folder)
    assert "loss     █▄▂▁  steps 10 to 40: 8 -> 1, 1 to 8" in capsys.readouterr().out
    foretrain("runs", "plot", record.folder, "--json", "--metric", "val_loss")
    found = json.loads(capsys.readouterr().out)
    assert found["metric"] == "val_loss" and found["runs"][str(record.folder)]["metric"][0] == [20, 0.6]
    for words, said in (
        ((record.folder, "--out", "runs.gif"), "pictures are written as .png, .svg or .pdf"),
        ([tmp_path / str(k) for k in range(MOST + 1)], f"Name up to {MOST}"),
        ((record.folder, record.folder), "name different runs"),
    ):
        foretrain("runs", "plot", *words, code=2)
        assert said in capsys.readouterr().err
