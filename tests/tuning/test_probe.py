"""The probe of a config's first steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tuning.short_runs import config_of, left_in, watch_scratch, words_of
from typer.testing import CliRunner

from foretrain.cli.app import app
from foretrain.tuning.probe import FAILS, TRAINS, UNSURE, probe_lines, probe_of, run_probe
from foretrain.tuning.short_run import ShortRun


def run_of(
    losses: list[float], *, validation_s: float | None = 3.0, nonfinite: int | None = None, **line: Any
) -> ShortRun:
    """A run whose lines are of 5 steps each."""
    start = {"step": 0, "kind": "start", "total_steps": 1000, "log_every": 5, "clip_norm": 1.0}
    scores = [{"step": at, "kind": "validation", "val_wql": value} for at, value in ((0, 0.5), (5 * len(losses), 0.4))]
    common = {"kind": "train", "steps": 5, "lr": 1e-3, "steps_per_s": 10.0, "grad_norm_mean": 1.0, **line}
    lines = [{**common, "step": 5 * (k + 1), "loss_mean": loss} for k, loss in enumerate(losses)]
    return ShortRun([start, scores[0], *lines, scores[1]], 0.25, "cpu", validation_s, nonfinite)


FALLING = [2 - 0.04 * k + 0.01 * (-1) ** k for k in range(40)]
FLAT = [2 + 0.1 * (-1) ** k for k in range(40)]


@pytest.mark.parametrize(
    "run, verdict, why",
    [
        (run_of(FALLING), TRAINS, "the loss falls by 1.56 over these steps"),
        (run_of(FALLING[::-1]), FAILS, "the loss rises by 1.56 over these steps"),
        (run_of(FLAT), UNSURE, "flat within its noise"),
        (run_of(FALLING, nonfinite=201), FAILS, "not finite at step 201"),
        (run_of(FALLING[:2]), UNSURE, "too few lines"),
        (run_of([]), UNSURE, "there is no training line"),
    ],
)
def test_the_verdict_goes_by_the_loss(run: ShortRun, verdict: str, why: str):
    found = probe_of(run, config_of(training__max_steps=1000))
    assert found.verdict == verdict and why in found.why


def test_a_serious_alarm_is_the_verdict():
    run = run_of(FALLING)
    run.records.append({"step": 200, "kind": "alarm", "code": "gradients_dead", "text": "nothing is learned"})
    found = probe_of(run, config_of(training__max_steps=1000))
    assert found.verdict == FAILS and found.why == "nothing is learned (step 200)"


def test_the_time_of_the_whole_run_counts_its_steps_and_validations():
    config = config_of(training__max_steps=1000, training__validate_every=250, training__validate_first=True)
    found = probe_of(run_of(FALLING), config)
    assert found.run_s == pytest.approx(1000 / 10 + 5 * 3.0)
    assert (found.before, found.after, found.memory_gb) == (0.5, 0.4, 0.25)
    text = "\n".join(probe_lines(found))
    assert "the whole run takes about 1m 55s here; 0.25 GB at the peak" in text
    assert f"{found.metric}: 0.5 before the first step, 0.4 after the last" in text
    assert probe_of(run_of(FALLING, validation_s=None), config).run_s == pytest.approx(100)


def test_notes_tell_of_clipping_warm_up_and_waiting():
    warming = {"kind": "constant", "warmup_steps": 900}
    run = run_of(FALLING, clipped_share=0.8, data_share=0.5)
    found = probe_of(run, config_of(training__max_steps=1000, optimizer__schedule=warming))
    notes = "\n".join(found.notes)
    assert "80% of the steps are clipped" in notes and "still warming up" in notes and "50% of the time" in notes
    assert probe_of(run_of(FALLING), config_of(training__max_steps=1000)).notes == ()


def test_the_first_steps_of_a_run_are_trained_as_they_stand_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    scratch = watch_scratch(monkeypatch, tmp_path / "scratch")
    schedule = {"kind": "linear"}
    found = run_probe(config_of(training__max_steps=40, optimizer__schedule=schedule), 20, lambda text: None)
    lines = [record for record in found.records if record.get("kind") == "train"]
    assert lines[-1]["step"] == 20 and lines[-1]["lr"] == pytest.approx(lines[0]["lr"] * 21 / 40)  # of 40 steps, not 20
    assert found.before is not None and found.after is not None and found.run_s is not None
    assert not left_in(scratch)


def test_a_run_without_validation_says_that_its_schedule_is_cut():
    found = run_probe(config_of(training__max_steps=40, training__validate_every=None), 20, lambda text: None)
    assert found.before is None and "schedule was run through" in found.notes[0]
    assert max(record["step"] for record in found.records) == 20 and found.run_s is not None


def test_the_command_exits_with_1_for_what_does_not_train(tmp_path: Path):
    out = tmp_path / "out"
    lost = words_of(optimizer__learning_rate=1e30, training__clip_norm=None)
    done = CliRunner().invoke(app, ["tune", "probe", *lost, "--out", str(out)])
    assert done.exit_code == 1 and "does not train: " in done.stdout
    assert json.loads((out / "probe.json").read_text())["verdict"] == FAILS
    assert (out / "probe.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_json():
    done = CliRunner().invoke(app, ["tune", "probe", *words_of(), "--json"])
    facts = json.loads(done.stdout)
    assert facts["metric"] == "val_wql" and facts["health"]["step"] == 6
