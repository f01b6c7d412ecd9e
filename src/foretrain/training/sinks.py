"""Sinks: where a run's report goes beside metrics.jsonl and training.log, such as TensorBoard.

A sink takes what metrics.jsonl already has, so nothing is lost with it: one that fails is dropped with a line in the
log, and the run goes on to the same weights.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from foretrain.training.run_record import metrics_of, number

_NOT_SCALARS = ("step", "steps", "time", "memory_total_gb")  # of a line of kind train


class Sink(Protocol):
    """Takes the report of a run, in the process of rank 0. Whatever a method raises drops the sink, not the run."""

    def open(self, folder: Path, step: int) -> None:
        """Begin in a run folder after a step, once more after a rollback: what the sink has of later steps is void."""
        ...

    def record(self, record: Mapping[str, Any]) -> None:
        """Take a line of metrics.jsonl: its `kind` is train, validation, evaluation, epoch or alarm; None is a number
        that is not finite.

        At the end of a run it is a record of kind end, with stopped_by, release_step, metric, value and what the run
        took, as in final_metrics.json.
        """
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """Take a text: a report on the run's health, or the summary at its end."""
        ...

    def close(self) -> None:
        """End; it is called once, also if the run has failed."""
        ...


class Sinks:
    """The sinks of a run that have not failed.

    say: writes a line into the log.
    """

    def __init__(self, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self._working, self._say = list(sinks), say

    def open(self, folder: Path, step: int) -> None:
        """See Sink.open."""
        self._each("opened", lambda sink: sink.open(folder, step))

    def record(self, record: Mapping[str, Any]) -> None:
        """See Sink.record."""
        self._each("written", lambda sink: sink.record(copy.deepcopy(dict(record))))

    def text(self, step: int, name: str, text: str) -> None:
        """See Sink.text."""
        self._each("written", lambda sink: sink.text(step, name, text))

    def close(self) -> None:
        """See Sink.close."""
        self._each("closed", lambda sink: sink.close())
        self._working.clear()

    def _each(self, what: str, call: Callable[[Sink], None]) -> None:
        for sink in list(self._working):
            try:
                call(sink)
            except (Exception, SystemExit) as error:  # SystemExit: of a library that gives up
                self._working.remove(sink)
                if what != "closed":
                    with suppress(Exception, SystemExit):
                        sink.close()
                why = " ".join(f"{type(error).__name__}: {error}".split())
                rest = "" if what == "closed" else "; the run goes on without it"
                self._say(f"warning: {type(sink).__name__} cannot be {what} ({why}){rest}")


class TensorBoard:
    """Writes scalars and texts for TensorBoard into the folder tensorboard of the run."""

    def __init__(self) -> None:
        self._writer: Any = None
        self._excepthook = threading.excepthook

    def open(self, folder: Path, step: int) -> None:
        """See Sink.open. Raises ImportError if TensorBoard is not installed, OSError of the disk."""
        from torch.utils.tensorboard import SummaryWriter  # its import is slow

        self.close()
        self._excepthook, threading.excepthook = threading.excepthook, _hook_without_tensorboard
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def record(self, record: Mapping[str, Any]) -> None:
        """See Sink.record."""
        step = record["step"]
        for tag, value in scalars(record).items():
            self._writer.add_scalar(tag, value, step)
        if record.get("kind") == "alarm":
            self._writer.add_text("alarms", f"{record.get('code')}: {record.get('text')}", step)
        self._writer.flush()

    def text(self, step: int, name: str, text: str) -> None:
        """See Sink.text."""
        self._writer.add_text(name, f"```\n{text}\n```", step)
        self._writer.flush()

    def close(self) -> None:
        """See Sink.close."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            for thread in threading.enumerate():
                if _of_tensorboard(thread) and getattr(thread, "exception", None) is not None:
                    thread.join(1.0)  # it has failed, and is about to call the hook
            if threading.excepthook is _hook_without_tensorboard:
                threading.excepthook = self._excepthook


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars of a record by TensorBoard's tags: ours, and those of HF Trainer and TSM-Trainer beside them.

    val_wql/NAME of one corpus has the tag validation/NAME/val_wql. The averages of a run's only evaluator have names
    without it, so the tasks of that one do too.
    """
    kind, found = record.get("kind"), dict[str, Any]()
    if kind == "train":
        found = {f"train/{name}": value for name, value in record.items() if name not in _NOT_SCALARS}
        found["train/learning_rate"] = record.get("lr")
    elif kind == "epoch":
        found = {"epoch/loss": record.get("loss")}
    elif kind == "validation":
        for name, value in metrics_of(record).items():
            found["/".join(["validation", *reversed(name.split("/", 1))])] = value
        found["eval/loss"] = record.get("val_loss")
    elif kind == "evaluation":
        found = dict(metrics_of(record))
        if "benchmark/avg_wql" in found or "benchmark/avg_mase" in found:
            tasks = [name for name in found if name.endswith(("/wql", "/mase")) and name.count("/") > 2]
            found |= {f"benchmark/{name.split('/', 2)[2]}": found[name] for name in tasks}
    elif kind == "end":
        for ours, name in (("seconds", "runtime"), ("steps_per_s", "steps_per_second"),
                           ("windows_per_s", "samples_per_second")):  # fmt: skip
            found[f"train/train_{name}"] = record["run"].get(ours)
    return {tag: known for tag, value in found.items() if (known := number(value)) is not None}


def _of_tensorboard(thread: threading.Thread | None) -> bool:
    return type(thread).__module__.startswith("tensorboard.")


def _hook_without_tensorboard(end: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread that failed, but for TensorBoard's on a full disk: its next write raises that."""
    if not (isinstance(end.exc_value, OSError) and _of_tensorboard(end.thread)):
        threading.__excepthook__(end)
