"""Messages of the library on the command line."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import warnings

import pytest

from foretrain.cli.messages import file_error_text, messages_in_lines, naming_flags_that_take_less
from foretrain.errors import ModelError
from foretrain.notes import Code, Note, warn

LOG = logging.getLogger("foretrain.anything")


def test_a_message_is_one_line_of_stderr_and_equal_ones_are_shown_once(capsys, caplog):
    with messages_in_lines():
        for _ in range(2):
            warn(LOG, Note(Code.BARS_MISSING, "2 bars are missing"))
        LOG.info("nobody asked")
    assert tuple(capsys.readouterr()) == ("", "warning: 2 bars are missing\n")
    assert not caplog.records  # what others set up for the root logger shows nothing twice


def test_notes_of_an_export_are_printed_with_its_results(capsys):
    with messages_in_lines():
        warn(LOG, Note(Code.RELEASE_WITHOUT_FACTS, "out cannot say"))
    assert tuple(capsys.readouterr()) == ("note: out cannot say\n", "")


def test_logging_is_restored_afterwards():
    before = warnings.formatwarning
    with messages_in_lines():
        assert warnings.formatwarning is not before
    log = logging.getLogger("foretrain")
    assert warnings.formatwarning is before and log.propagate and not log.handlers


def test_warnings_of_other_packages_come_without_a_place_in_the_code():
    with messages_in_lines():
        assert warnings.formatwarning(UserWarning("odd"), UserWarning, "x.py", 1) == "warning: odd\n"
        text = warnings.formatwarning(FutureWarning("gone soon"), FutureWarning, "x.py", 1)
    assert text == "warning: FutureWarning: gone soon\n"


@pytest.mark.processes
def test_without_any_setup_a_warning_reaches_stderr():
    """A NullHandler, usual in libraries, would hide warnings from users of notebooks."""

    code = (
        "import logging, foretrain\n"
        "from foretrain.notes import Note, warn\n"
        "warn(logging.getLogger('foretrain.anything'), Note('x', 'something is off'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "something is off\n"


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (errno.EEXIST, "runs: a file is where a folder is needed. Choose another folder, or remove the file."),
        (errno.ENOSPC, "runs: No space left on device. Free space or choose another folder."),
        (errno.ENAMETOOLONG, "runs: File name too long. A name has at most 255 bytes; choose a shorter one."),
        (errno.EBADF, None),
    ],
)
def test_an_error_of_files_is_one_line_if_the_user_can_mend_it(number, answer):
    assert file_error_text(OSError(number, os.strerror(number), "runs")) == answer


def test_a_forecast_that_finds_no_memory_names_the_flags_that_take_less_with_their_values():
    def text(**flags):
        given = {"batch_size": 256, "context_length": 512, "num_samples": 100, "dtype": "float32"} | flags
        with pytest.raises(ModelError) as caught, naming_flags_that_take_less(**given):
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")
        return str(caught.value)

    assert text().endswith(
        "a lower --batch-size (now 256 rows); a lower --num-samples (now 100); a lower --context-length (now 512); "
        "--dtype bfloat16; or end other programs."
    )
    assert "--batch-size" not in text(batch_size=1) and "(now the model's)" in text(context_length=None)
    with (
        pytest.raises(RuntimeError, match="shapes"),
        naming_flags_that_take_less(batch_size=1, context_length=None, num_samples=None, dtype="float32"),
    ):
        raise RuntimeError("shapes do not match")
