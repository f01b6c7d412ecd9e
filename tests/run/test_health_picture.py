from __future__ import annotations

import pytest
from tests.cli.test_app import foretrain
from tests.training.test_health import line, start
from tests.training.test_run_record import write_run

from foretrain.errors import ConfigError
from foretrain.evaluation.plots import style
from foretrain.run.health_picture import draw_health

SPIKE = {"step": 30, "kind": "alarm", "code": "loss_spike", "text": "the loss jumped", "serious": False}
RANKS = {"slowest_rank": 2, "slowest_rank_s": 0.5, "median_rank_s": 0.2}
COURSE = [start(clip_norm=1.0), line(10, 8.0), line(20, 4.0), line(30, 9.0, **RANKS), SPIKE, line(40, 1.0, **RANKS)]


def labels(panel):
    return panel.get_legend_handles_labels()[1]


def test_the_picture_has_loss_norms_the_wait_for_data_the_slowest_rank_and_alarms():
    with style():
        loss, norms, wait, ranks = draw_health(COURSE, "runs/a").axes
    assert loss.get_title(loc="left") == "runs/a, to step 40"
    means = next(drawn for drawn in loss.get_lines() if drawn.get_label() == "mean of a line")
    assert list(means.get_xdata()) == [10, 20, 30, 40] and list(means.get_ydata()) == [8.0, 4.0, 9.0, 1.0]
    assert "clip_norm" in labels(norms) and [name for name in labels(loss) if "ALARM" in name] == ["ALARM loss_spike"]
    (marked,) = [drawn for drawn in wait.get_lines() if drawn.get_label() == "ALARM loss_spike"]
    assert set(marked.get_xdata()) == {30}
    assert list(wait.get_lines()[0].get_ydata()) == [10.0] * 4  # in percent
    assert labels(ranks)[:2] == ["slowest rank: 2 in 100% of lines", "middle rank"]


def test_a_picture_of_an_earlier_step_knows_nothing_of_later_ones():
    with style():
        panels = draw_health(COURSE, "a", 20).axes
    assert len(panels) == 3 and not any("ALARM" in name for name in labels(panels[0]))
    with pytest.raises(ConfigError, match="a: has no training line up to step 5"):
        draw_health(COURSE, "a", 5)


def test_the_verb_writes_a_picture_of_one_run(tmp_path, capsys):
    write_run(tmp_path / "a", COURSE)
    foretrain("runs", "health", tmp_path / "a", "--out", tmp_path / "a.png")
    assert capsys.readouterr().out == f"wrote {tmp_path / 'a.png'}\n"
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    foretrain("runs", "health", tmp_path / "a", "--out", tmp_path / "a.gif", code=2)
    assert "pictures are written as .png" in capsys.readouterr().err
    for stage in ("01-one", "02-two"):
        write_run(tmp_path / "p" / "stages" / stage, COURSE)
    foretrain("runs", "health", tmp_path / "p", "--out", tmp_path / "p.png", code=2)
    assert "--out draws one run. Name a stage: " in capsys.readouterr().err and not (tmp_path / "p.png").exists()
