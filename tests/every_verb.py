"""Runs every verb in one process and writes what was unpickled, and which shells were started, on the way.

    python -m tests.every_verb FOLDER

FOLDER holds sales.csv and predictions.csv. It gets whatever the verbs write, and watched.json. tests/test_trust.py
starts this in a fresh process, since imports are watched too and hub settings are read on import.
"""

from __future__ import annotations

import _pickle
import json
import os
import pickle
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

PACKAGE = str(Path(__file__).parents[1] / "src" / "foretrain")
TINY = (
    "data.context_length=32", "data.prediction_length=4", "data.validation_steps=16", "data.test_steps=16",
    "data.corpora=[{path: corpus}]", "model.d_model=16", "model.d_kv=8", "model.d_ff=32", "model.num_heads=2",
    "model.patch_size=8", "training.batch_size=4", "training.validate_every=2", "training.checkpoint_every=2",
    "training.log_every=1", "training.prefetch=1", "optimizer.schedule.warmup_steps=1", "output_dir=run",
)  # fmt: skip
SCORE = ("--column", "item=S", "--column", "timestamp=D", "--column", "last_close=L", "--column", "actual=Y",
         "--column", "predicted=F", "--column", "step=H", "--values", "fraction")  # fmt: skip

SHELLS = {"sh", "bash", "dash", "zsh"}

# A command's line is recorded in reports; a password in an address must not be.
ADDRESS = "http://me:{password}@localhost/x"


class Watch:
    """Notes what is unpickled and by whom, and what a shell is started for."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        for module in (pickle, _pickle):
            for name in ("load", "loads"):
                setattr(module, name, self._watched(name, getattr(module, name)))
        sys.addaudithook(self._hook)

    def _hook(self, event: str, details: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            self._note(f"{details[0]}.{details[1]}")
        elif event == "os.system" or (event == "subprocess.Popen" and os.path.basename(str(details[0])) in SHELLS):
            self._note(f"{event} {details}")

    def _watched(self, name: str, function: Any) -> Any:
        def watched(*arguments: Any, **settings: Any) -> Any:
            self._note(f"pickle.{name}")
            return function(*arguments, **settings)

        return watched

    def _note(self, what: str) -> None:
        """Note it with the innermost file of foretrain that is under way."""
        frame = sys._getframe(2)
        while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
            frame = frame.f_back
        place = "no file of foretrain" if frame is None else os.path.relpath(frame.f_code.co_filename, PACKAGE)
        self.seen.add(f"{what} for {place}")


def main() -> None:
    """Watch, then import foretrain and run its verbs."""
    watch = Watch()
    pickle.loads(pickle.dumps(OrderedDict(a=1)))  # the proof that it would be noted
    os.chdir(sys.argv[1])
    run_verbs()
    Path("watched.json").write_text(json.dumps(sorted(watch.seen)))


def run_verbs() -> None:
    """Run each verb once; some twice, with an error of each kind."""
    verb("data", "import", "sales.csv", "--out", "corpus")
    verb("data", "inspect", "corpus", "--verify", "--plot", "corpus.svg")
    verb("train", "debug", *TINY, "training.max_steps=2", "--verbose")
    verb("train", "debug", *TINY, "training.max_steps=4", "--resume")
    verb("runs", "health", "run")
    shutil.copytree("run", "copy")
    verb("runs", "tag", "run", "good")
    verb("runs", "promote", "run", "--force")
    verb("runs", "promote", "copy", "--force")
    verb("runs", "rollback", ".")
    verb("runs", "promoted", ".")
    verb("runs", "list", ".")
    verb("runs", "show", "run")
    verb("runs", "compare", "run", "copy")
    verb("runs", "plot", "run", "copy", "--out", "runs.svg")
    verb("evaluate", "run", "--data", "corpus", "--out", "evaluation")
    verb("forecast", "run", "sales.csv", "--out", "forecast.parquet", "--plot", "forecast.png")
    verb("export", "run/checkpoints/latest", "--out", "exported")
    verb("score", "predictions.csv", *SCORE, "--out", "score")
    verb("config", "show", "debug")
    verb("doctor", code=None)
    verb("benchmark", "--list")
    verb("data", "download", "chronos-lite", "--from", ".", code=2)
    verb("data", "download", "chronos-lite", "--offline", code=2)
    verb("data", "download", "chronos-lite", code=2)
    verb("tune", "show", "nowhere", code=2)
    verb("tune", "report", "nowhere", code=2)
    verb("tune", "lr-range", "debug", *TINY, "--steps", 30, "--out", "range")
    verb("tune", "probe", "debug", *TINY, "training.max_steps=12", "--out", "probe", code=None)
    verb("data", "market", "build", "nowhere", "--out", "lib", code=2)
    verb("data", "market", "download", "A/B", "--source", "ccxt", "--exchange", "nowhere", "--out", "coins", code=2)
    verb("benchmark", "run", "naive", "--suite", "local", "--data", "corpus", "--horizon", 3, "--out", "scores")
    verb("compare", "--from", "scores", "--html", "compared.html", "--json", "compared.json")
    verb("quick", "sales.csv", "--prediction-length", 4, "--max-steps", 2, "--threads", 1)
    for model in ("me/refused", "me/broken", "me/portal"):
        verb("forecast", model, "sales.csv", code=2)
    verb("forecast", ADDRESS.format(password=os.environ["ON_THE_LINE"]), "sales.csv", code=2)

    from foretrain.cli import doctor

    def fail(folder: Path) -> None:
        raise KeyError("a fault of its own", os.environ["WANDB_API_KEY"])

    doctor.examine = fail
    for messages in "01":
        os.environ["FORETRAIN_REPORT_MESSAGES"] = messages
        verb("doctor", f"{ADDRESS.format(password=os.environ['ON_THE_LINE'])}?token={os.environ['HF_TOKEN']}", code=1)
        (report,) = Path().glob("foretrain-error-*.txt")
        report.rename(f"report-{messages}.txt")  # a process writes one; two of a second have the same name


def verb(*words: object, code: int | None = 0) -> None:
    """Run a command in this process; `code` None takes any exit code."""
    from foretrain.cli import main as command

    sys.argv = ["foretrain", *map(str, words)]
    try:
        command()
        found = 0
    except SystemExit as leave:
        found = leave.code or 0
    assert code is None or found == code, f"{words}: exit code {found}"


if __name__ == "__main__":
    main()
