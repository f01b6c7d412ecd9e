"""How commands end: one line and an exit code, also for faults that nothing expects."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE, wait_until

from foretrain.cli import main
from foretrain.cli.crash import MESSAGES
from foretrain.cli.main import _signals_as_exceptions
from foretrain.errors import DataError, Interrupted


@pytest.fixture
def failing(monkeypatch, tmp_path: Path):
    """Let `foretrain doctor` raise an exception; return a function that runs it and gives its exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["foretrain", "doctor", "folder"])

    def run(error: BaseException) -> int:
        def fail(folder: Path) -> None:
            raise error

        monkeypatch.setattr("foretrain.cli.doctor.examine", fail)
        with pytest.raises(SystemExit) as leave:
            main()
        assert isinstance(leave.value.code, int)
        return leave.value.code

    return run


def test_a_fault_of_its_own_is_one_line_and_a_report_without_data(failing, capsys, tmp_path: Path, monkeypatch) -> None:
    assert failing(KeyError("secret value")) == 1
    (report,) = tmp_path.glob("foretrain-error-*.txt")
    line = capsys.readouterr().err
    assert line == (f"error: foretrain failed (KeyError), which is a fault of its own. A report is in {report}.\n")
    text = report.read_text()
    assert "command: foretrain doctor folder" in text and "builtins.KeyError\n" in text and "in fail" in text
    assert "torch " in text and "secret" not in text
    report.unlink()
    monkeypatch.setenv(MESSAGES, "1")
    assert failing(KeyError("secret value")) == 1
    assert "secret value" in next(tmp_path.glob("foretrain-error-*.txt")).read_text()


def test_the_report_goes_to_the_folder_for_temporary_files_if_it_must(failing, capsys, tmp_path, monkeypatch) -> None:
    other = tmp_path / "tmp"
    other.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(other))
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "gone")
    assert failing(ZeroDivisionError()) == 1
    assert f"A report is in {other}" in capsys.readouterr().err
    other.rename(tmp_path / "away")
    assert failing(ZeroDivisionError()) == 1
    assert "No report could be saved" in capsys.readouterr().err


def out_of_memory(text: str) -> RuntimeError:
    """torch's error of a GPU whose memory is full."""
    import torch

    return torch.OutOfMemoryError(text)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), " (an allocation failed). Less"),
        (OSError(12, "Cannot allocate memory"), " ([Errno 12] Cannot allocate"),
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate 8 bytes."), " ([enforce fail] not"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), " (CUDA error: CUBLAS"),
        (out_of_memory("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), " (CUDA out of memory. Tried to"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), " (DefaultCPUAllocator: can't"),
    ],
)  # fmt: skip
def test_memory_that_does_not_suffice_is_no_fault_of_its_own(failing, capsys, tmp_path, error, reason) -> None:
    assert failing(error) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: out of memory{reason}") and "training.micro_batch_size" in line
    assert line.count("\n") == 1 and not list(tmp_path.glob("foretrain-error-*"))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OSError(5, "Input/output error", "x.csv"), 2, "error: x.csv: Input/output error. The disk or its connection"),
        (OSError(28, "No space left on device", "x.csv"), 2, "error: x.csv: No space left on device. Free space"),
        (UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"), 2, "error: 'a\\udcff': holds bytes"),
        (DataError("a\nb: no such file\n  one problem"), 2, "error: a\\nb: no such file\n  one problem"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (EOFError(), 1, "foretrain failed (EOFError)"),
    ],
)
def test_other_ends_have_their_codes(failing, capsys, error, code, text) -> None:
    assert failing(error) == code
    shown = capsys.readouterr().err
    assert text in shown and "Aborted" not in shown and "Traceback" not in shown


def test_signals_have_their_usual_effect_again_after_a_command(failing) -> None:
    failing(ValueError())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_comes_in_a_finalizer_which_swallows_its_exception_is_sent_again() -> None:
    class Finalizer:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Interrupted), _signals_as_exceptions():
        found = Finalizer()
        del found
        wait_until(lambda: False)


def test_a_signal_that_comes_in_an_import_waits_for_its_end(tmp_path: Path, monkeypatch) -> None:
    """Of torch's an exception may end the process by an abort."""
    (tmp_path / "signalled_module.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGUSR1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    imported = False
    with pytest.raises(Interrupted), _signals_as_exceptions():
        importlib.import_module("signalled_module")
        imported = True
        wait_until(lambda: False)
    assert imported


@pytest.mark.processes
def test_a_signal_that_comes_while_a_command_only_imports_ends_it_at_once(tmp_path: Path) -> None:
    (tmp_path / "signalled_module.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGUSR1)\n")
    script = (
        "from foretrain.cli.main import _signals_as_exceptions\nfrom foretrain.cli.start import importing\n"
        "with _signals_as_exceptions(), importing():\n    import signalled_module\n    print('imported')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_a_command_with_143_and_no_traceback(tmp_path: Path, number: int) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nimport foretrain.cli.doctor as doctor\n"
        "def wait(folder):\n"
        "    try:\n        print('started', flush=True); time.sleep(60)\n"
        "    finally:\n        Path('cleaned').touch()\n"
        "doctor.examine = wait\nfrom foretrain.cli import main\nsys.argv = ['foretrain', 'doctor']\nmain()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stdout.readline() == "started\n"
        os.kill(running.pid, number)
        _, error = running.communicate(timeout=DEADLINE)
    assert running.returncode == 143 and error == ""
    assert (tmp_path / "cleaned").exists()
