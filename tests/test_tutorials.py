"""Every command of the tutorials works, in order, in an empty folder without a network, and prints what they show.

Trainings are cut to some steps of one process; `python tests/proofs/tutorials.py` runs the pages as they stand.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.tutorials import PAGES, Command, blocks, fits, is_printed, named, written
from tests.waiting import DEADLINE

from foretrain.cli.main import main

# What is made small: words of a page, each of which it must have.
SMALL = {
    "practitioner": {
        "{max_steps: 200, batch_size: 16, validate_every: 50, checkpoint_every: 50": (
            "{max_steps: 2, batch_size: 4, validate_every: 2, checkpoint_every: 2"
        ),
        "--minutes 1": "--minutes 0.05 --max-steps 1",
    },
    "quant": {
        "{max_steps: 100, batch_size: 16, validate_every: 25, checkpoint_every: 25": (
            "{max_steps: 2, batch_size: 4, validate_every: 2, checkpoint_every: 2"
        ),
        "--num-samples 100": "--num-samples 5",
    },
    "researcher": {
        "max_tokens: 8192 ": "max_tokens: 1024\n    workers: 0 ",
        "{max_steps: 400, ema_decay: 0.99, checkpoint_every: 20, validate_every: 100, log_every: 20}": (
            "{max_steps: 4, ema_decay: 0.99, checkpoint_every: 2, validate_every: 2, log_every: 1}"
        ),
        "warmup_steps: 20": "warmup_steps: 1",
        # that a killed run resumes bit for bit is shown in test_resume.py
        "timeout -s KILL 40 foretrain train small.yaml threads=1 || echo killed": (
            "foretrain train small.yaml threads=1 training.max_steps=2"
        ),
        # that two processes under torchrun continue the run of one is shown in test_world.py, and costs 8 s of CPU here
        "export OMP_NUM_THREADS=1\ntorchrun --standalone --nproc-per-node 2 -m foretrain.cli train": "foretrain train",
        "cpu (1 threads), 2 processes;": "cpu (1 threads);",
        "1 accumulation x 2 processes": "2 accumulation x 1 process",
        "step-00000380": "step-00000002",
        "--num-series 512": "--num-series 16",
    },
}


class Folder:
    """A scratch folder in which commands run: foretrain's and Python's in this process, others in a shell."""

    def __init__(self, path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self._capfd, self._patch = path, capfd, monkeypatch
        monkeypatch.chdir(path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(self, command: Command) -> list[str]:
        """Run a command and return the lines it printed. Fails if the command fails."""
        self._capfd.readouterr()
        words = shlex.split(command.line, comments=True)
        if words[0] == "foretrain":
            code = self._foretrain(words[1:])
        elif words[:2] == ["python", "-"]:
            exec(compile(command.document, str(self.path), "exec"), {"__name__": "__main__"})
            code = 0
        else:
            code = subprocess.run(["bash", "-c", command.text], timeout=DEADLINE, check=False).returncode
        out, err = self._capfd.readouterr()
        assert code == 0, f"{command.line}\n{out[-2000:]}{err[-2000:]}"
        return (out + err).splitlines()

    def _foretrain(self, arguments: list[str]) -> int:
        self._patch.setattr(sys, "argv", ["foretrain", *arguments])
        try:
            main()
        except SystemExit as leave:
            return int(leave.code or 0)
        return 0


@pytest.mark.processes
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs_from_beginning_to_end_and_prints_and_writes_what_it_says(page, tmp_path, capfd, monkeypatch):
    text = page.read_text()
    for words, fewer in SMALL[page.stem].items():
        assert words in text
        text = text.replace(words, fewer)
    folder = Folder(tmp_path, capfd, monkeypatch)
    for block in blocks(text):
        printed = [line for command in block.commands for line in folder.run(command)]
        assert [line for line in block.shown if not is_printed(line, printed)] == [], "\n".join(printed)
        assert [name for name in written(printed) if not (tmp_path / name).exists()] == []
    runs = [path.parent for path in tmp_path.glob("runs/*/config.yaml")]
    absent = [name for name in named(text) if not any((place / name).exists() for place in (tmp_path, *runs))]
    assert [name for name in absent if not any((run / "release" / name).exists() for run in runs)] == []


def test_tutorials_are_short_and_every_shown_output_follows_its_commands():
    assert [page.stem for page in PAGES] == sorted(SMALL)
    for page in PAGES:
        lines = page.read_text().splitlines()
        assert len(lines) <= 190 and max(map(len, lines)) <= 120
        assert all(block.shown for block in blocks(page.read_text()) if "foretrain" in block.commands[-1].line)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("naive  0.29  1.2 ...", "naive      0.3012   1.25  9", True),
        ("naive  0.29  1.2", "drift      0.3012   1.25", False),
        ("step 50/200 | loss 0.8 | ... | gnorm 0.7", "step 4/8 | loss 1e-3 | ema 3 | gnorm 10.0", True),
        ("wrote a.csv: 84 rows, 3 items", "wrote a.csv: 84 lines, 3 items", False),
    ],
)
def test_a_shown_line_is_compared_but_for_its_numbers(shown: str, printed: str, same: bool):
    assert fits(shown, printed) is same


def test_a_verdict_may_differ_but_must_be_there():
    assert is_printed("Promoted: its mase 0.4 is below naive's", ["NOT PROMOTED: its mase 3 is not below naive's 2."])
    assert is_printed("tiny: better than naive, p<0.001.", ["tiny: worse than naive, p=0.02."])
    assert not is_printed("tiny: better than naive, p<0.001.", ["wrote x.csv"])
    assert not is_printed("wrote x.csv", ["better than naive"])
