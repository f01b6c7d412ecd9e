"""A mapped file that shrinks between two looks: the command ends by a line instead of without a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.waiting import DEADLINE

from foretrain.data.store import CorpusWriter

READ = """
import os, sys, threading
from foretrain.cli.faults import name_bus_errors
from foretrain.data.store import Corpus
name_bus_errors()
corpus = Corpus.open(sys.argv[1])
chunk, row = corpus.locate(0)
values = chunk.values(row)
os.truncate(f"{sys.argv[1]}/data-00000-of-00001.arrow", 4096)
def read():
    print(float(values.sum()))
if sys.argv[2] == "thread":
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
read()
print("read what is not there")
"""


@pytest.mark.processes
@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_page_that_cannot_be_read_is_one_line_that_names_the_file(tmp_path: Path, where: str) -> None:
    with CorpusWriter(tmp_path / "c", ["a"], time="steps") as writer:
        writer.append("i", np.ones((1, 200_000)))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "c"), where],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    start = f"error: {tmp_path / 'c' / 'data-00000-of-00001.arrow'}: became shorter while it was read (4,096 of 800,"
    assert done.stderr.startswith(start) and done.stderr.count("\n") == 1
