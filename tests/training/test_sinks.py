from __future__ import annotations

import errno
import io
import json
import sys
import threading
import time

import pytest
import torch
from rich.console import Console

from foretrain.training.sinks import TensorBoard, scalars
from foretrain.training.trainer import ValidationResult

METHODS = ("open", "record", "text", "close")


class Kept:
    """Keeps what it takes, and changes it."""

    def __init__(self):
        self.opened, self.records, self.texts, self.closed = [], [], [], 0

    def open(self, folder, step):
        self.opened.append(step)

    def record(self, record):
        self.records.append(json.loads(json.dumps(record)))
        record.clear()

    def text(self, step, name, text):
        self.texts.append((step, name, text))

    def close(self):
        self.closed += 1


class Failing(Kept):
    """Raises in one of its methods."""

    def __init__(self, where, error):
        super().__init__()
        self.calls = {name: 0 for name in METHODS}
        for name in METHODS:
            setattr(self, name, self._method(name, error if name == where else None))

    def _method(self, name, error):
        def call(*_):
            self.calls[name] += 1
            if error is not None:
                raise error

        return call


RUN = {"validate_every": 6, "health_every": 6, "evaluate": lambda model, step: ValidationResult({"loss": float(step)})}


def weights(toy, folder):
    return {name: tensor.clone() for name, tensor in toy.release(folder).items()}


def test_a_sink_takes_every_line_of_the_journal_the_reports_and_the_end(toy, tmp_path):
    kept = Kept()
    toy.trainer(tmp_path, sinks=[kept], **RUN).fit()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept.records[:-1] == [line for line in written if line["kind"] != "start"]
    end = kept.records[-1]
    assert (end["kind"], end["step"], end["stopped_by"], end["release_step"]) == ("end", 12, "max_steps", 6)
    assert end["run"] == json.loads((tmp_path / "final_metrics.json").read_text())["run"]
    assert [(step, name) for step, name, _ in kept.texts] == [(6, "health"), (12, "health"), (12, "end")]
    assert kept.texts[0][2] in (tmp_path / "training.log").read_text() and kept.texts[2][2].startswith("finished at")
    assert kept.opened == [0] and kept.closed == 1


def test_a_sink_is_opened_again_after_a_rollback(toy, tmp_path):
    kept, source = Kept(), toy.Source(poison={8 * 7: float("inf")})
    toy.trainer(tmp_path, source=source, sinks=[kept], on_nonfinite="rollback").fit()
    assert kept.opened == [0, 5] and kept.closed == 1


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    toy.trainer(folder, **RUN).fit()
    return toy.losses(folder), weights(toy, folder)


@pytest.mark.parametrize("error", [RuntimeError("no network\nnow"), OSError(errno.ENOSPC, "No space"), SystemExit(0)])
@pytest.mark.parametrize("where", METHODS)
def test_a_sink_that_fails_is_dropped_with_one_line_and_changes_nothing(toy, tmp_path, undisturbed, where, error):
    losses, expected = undisturbed
    failing, kept = Failing(where, error), Kept()
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, sinks=[failing, kept], console=console, **RUN).fit()
    assert toy.losses(tmp_path) == losses
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(toy, tmp_path).items())
    (line,) = [line for line in console.file.getvalue().splitlines() if "Failing" in line]
    what = {"open": "opened", "close": "closed"}.get(where, "written")
    assert line.startswith(f"warning: Failing cannot be {what} ({type(error).__name__}: ")
    assert ("; the run goes on without it" in line) == (where != "close")
    assert failing.calls[where] == failing.calls["close"] == 1
    assert len(kept.records) == 12 + 2 + 1 and kept.closed == 1


def test_a_run_goes_on_without_tensorboard_if_it_is_not_installed(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    console = Console(file=io.StringIO(), width=400)
    toy.trainer(tmp_path, tensorboard=True, console=console).fit()
    assert console.file.getvalue().count("warning: TensorBoard cannot be opened (ModuleNotFoundError: ") == 1
    assert len(toy.losses(tmp_path)) == 12 and (tmp_path / "release").is_dir()


def test_a_full_disk_in_tensorboards_thread_drops_it_without_a_traceback(toy, tmp_path, monkeypatch, capfd):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def refuse(writer: RecordWriter, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hook, console = threading.excepthook, Console(file=io.StringIO(), width=400)
    monkeypatch.setattr(RecordWriter, "write", refuse)
    toy.trainer(tmp_path, tensorboard=True, console=console).fit()
    assert console.file.getvalue().count("warning: TensorBoard cannot be ") == 1
    assert len(toy.losses(tmp_path)) == 12 and (tmp_path / "release").is_dir()
    assert "Traceback" not in "".join(capfd.readouterr()) and threading.excepthook is hook


@pytest.mark.parametrize("on", [True, False])
def test_tensorboard_is_written_if_asked_for(toy, tmp_path, on):
    toy.trainer(tmp_path, tensorboard=on).fit()
    if not on:
        assert not (tmp_path / "tensorboard").exists()
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 13))


def test_tensorboard_shows_every_step_of_a_resumed_run_once(toy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    toy.trainer(tmp_path, tensorboard=True, max_steps=8).fit()
    resume = tmp_path / "checkpoints" / "step-00000005"
    time.sleep(
        1.1
    )  # TensorBoard orders files by name: the second, then a counter of the process that sorts 10 before 9
    toy.trainer(tmp_path, tensorboard=True, resume=resume).fit()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("train/loss")]
    assert shown == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in toy.losses(tmp_path)]


def test_tensorboard_has_our_tags_and_those_of_upstream(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    line = {"step": 5, "kind": "train", "loss": 1.0, "loss_mean": 1.5, "lr": 0.1, "grad_norm": 2.0, "epoch": 0.5,
            "data_share": None, "step_s_bins": {"1": 2}, "left_out": "loss", "steps": 5, "time": 9.0}  # fmt: skip
    validation = {"step": 5, "kind": "validation", "epoch": 0.5, "val_loss": 3.0, "val_wql/a": 0.4, "best": True}
    evaluation = {"step": 5, "kind": "evaluation", "evaluator": "lite", "state": "done", "score": 0.3, "seconds": 2.0,
                  "benchmark/chronos_lite/m4_hourly/wql": 0.2, "benchmark/chronos_lite/m4_hourly/mase": 0.9,
                  "benchmark/lite/avg_wql": 0.3, "benchmark/avg_wql": 0.3, "benchmark/avg_mase": 0.9}  # fmt: skip
    alarm = {"step": 5, "kind": "alarm", "code": "loss_spike", "text": "it jumped", "serious": False}
    end = {"step": 5, "kind": "end", "run": {"seconds": 8.0, "steps_per_s": 2.0, "windows_per_s": None}}
    board = TensorBoard()
    board.open(tmp_path, 0)
    for record in (line, validation, evaluation, alarm, end):
        board.record(record)
    board.text(5, "health", "loss 1")
    board.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    values = {tag: round(events.Scalars(tag)[0].value, 6) for tag in events.Tags()["scalars"]}
    train = {"loss": 1.0, "loss_mean": 1.5, "lr": 0.1, "grad_norm": 2.0, "epoch": 0.5}
    assert values == {
        **{f"train/{name}": value for name, value in train.items()},
        "train/learning_rate": 0.1,
        "validation/val_loss": 3.0, "validation/a/val_wql": 0.4, "eval/loss": 3.0,
        **{name: value for name, value in evaluation.items() if name.startswith("benchmark/")},
        "benchmark/m4_hourly/wql": 0.2, "benchmark/m4_hourly/mase": 0.9,
        "train/train_runtime": 8.0, "train/train_steps_per_second": 2.0,
    }  # fmt: skip
    (text,), (report,) = (events.Tensors(f"{name}/text_summary") for name in ("alarms", "health"))
    assert text.tensor_proto.string_val[0] == b"loss_spike: it jumped"
    assert report.tensor_proto.string_val[0] == b"```\nloss 1\n```"


def test_tasks_of_several_evaluators_keep_the_names_of_their_suites():
    found = {"benchmark/lite/m4_hourly/wql": 0.2, "benchmark/quick/avg_wql": 0.2}
    assert scalars({"step": 1, "kind": "evaluation", "evaluator": "quick", "seconds": 1.0, **found}) == found
