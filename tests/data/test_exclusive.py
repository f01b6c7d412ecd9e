"""One writer at a time: updates that run at once, links, leftovers of writers that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.data.importers.importing import DAYS, written
from tests.waiting import DEADLINE

from foretrain.data.exclusive import discard, exclusive
from foretrain.data.importers import import_corpus
from foretrain.data.store import Corpus, CorpusWriter
from foretrain.data.synthetic.linear_models import Arma
from foretrain.data.synthetic.mixture import Mixture
from foretrain.data.synthetic.to_disk import write_corpus as generate
from foretrain.errors import DataError


def rows(item: str, days: list[str], level: float = 0.0) -> list[str]:
    return [f"{item},{day},{level + k}" for k, day in enumerate(days)]


def table(path: Path, *lines: list[str]) -> Path:
    return written(path, ["item_id,timestamp,target", *(line for part in lines for line in part)])


def corpus(tmp_path: Path) -> Path:
    out = tmp_path / "data" / "c"
    import_corpus([table(tmp_path / "a.csv", rows("a", DAYS[:35]))], out)
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_corpus_that_another_process_writes_is_not_imported_to_nor_updated_nor_generated(tmp_path: Path) -> None:
    out = corpus(tmp_path)
    more = table(tmp_path / "b.csv", rows("b", DAYS))
    for folder, update in ((out, True), (tmp_path / "data" / "new", False)):
        with exclusive(folder), pytest.raises(DataError, match=r"process \d+ on .* is writing this corpus"):
            import_corpus([more], folder, update=update)
    with exclusive(tmp_path / "new"), pytest.raises(DataError, match="is writing this corpus"):
        generate(Mixture(generators=(Arma(),)), tmp_path / "new", 10)
    assert import_corpus([more], out, update=True).changed
    assert Corpus.open(out).item_ids() == ["a", "b"]


def test_a_corpus_that_changed_during_its_update_is_not_exchanged(tmp_path: Path, random_items, write_corpus) -> None:
    first = write_corpus(tmp_path / "c", random_items(0, 2, 1, 5, 9), ["a"])
    with (
        pytest.raises(DataError, match=r"was changed while it was being updated\. Repeat the command\."),
        CorpusWriter(tmp_path / "c", ["a"], time="steps", replaces=first.manifest) as writer,
    ):
        writer.append("x", np.zeros((1, 5)))
        os.rename(tmp_path / "c", tmp_path / "gone")
        with CorpusWriter(tmp_path / "c", ["a"], time="steps", locked=True) as other:
            other.append("y", np.ones((1, 5)))
    assert Corpus.open(tmp_path / "c").item_ids() == ["y"]
    assert names(tmp_path) == ["c", "gone"]


def test_an_update_through_a_link_updates_the_corpus_that_it_names(tmp_path: Path) -> None:
    out = corpus(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(out)
    report = import_corpus([table(tmp_path / "b.csv", rows("b", DAYS))], link, update=True)
    assert report.out == link and link.is_symlink()
    assert Corpus.open(out).item_ids() == ["a", "b"]
    assert names(tmp_path) == ["a.csv", "b.csv", "data", "link"]
    assert names(out.parent) == [".c.old", "c"]


def test_the_replaced_folder_stays_until_the_next_update(tmp_path: Path) -> None:
    out = corpus(tmp_path)
    for number, item in enumerate("bc"):
        import_corpus([table(tmp_path / "more.csv", rows(item, DAYS, 100 * number))], out, update=True)
        assert Corpus.open(out.parent / ".c.old").item_ids() == ["a", "b"][: number + 1]
    assert Corpus.open(out).item_ids() == ["a", "b", "c"]
    assert names(out.parent) == [".c.old", "c"]


def test_leftovers_of_killed_writers_go_with_the_next_import(tmp_path: Path) -> None:
    out = corpus(tmp_path)
    for name in (".c.writing-0123abcd", ".c.import-0123abcd", ".c.parts", ".cc.writing-0123abcd", ".c.writing-mine"):
        (out.parent / name).mkdir()
        (out.parent / name / "file").write_text("x")
    import_corpus([table(tmp_path / "b.csv", rows("b", DAYS))], out, update=True)
    assert names(out.parent) == [".c.old", ".c.parts", ".c.writing-mine", ".cc.writing-0123abcd", "c"]


def test_a_folder_that_is_discarded_is_whole_under_its_name_or_one_that_the_next_writer_deletes(
    tmp_path: Path, monkeypatch
) -> None:
    parts = tmp_path / ".c.parts"
    (parts / "part").mkdir(parents=True)
    monkeypatch.setattr("foretrain.data.exclusive.remove", lambda path: None)  # as after a kill
    discard(parts, tmp_path / "c")
    assert not parts.exists() and len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    with exclusive(tmp_path / "c"):
        assert [path.name for path in tmp_path.iterdir()] == [".c.lock"]


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_import_ended_by_a_signal_leaves_nothing_or_what_the_next_one_deletes(tmp_path: Path, number) -> None:
    out = tmp_path / "data" / "c"
    out.parent.mkdir()  # else it would be deleted too
    big = table(tmp_path / "big.csv", *[rows(f"item{k}", DAYS, k) for k in range(20_000)])
    command = [sys.executable, "-m", "foretrain.cli", "data", "import", str(big), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        end = time.monotonic() + DEADLINE
        while not list(out.parent.glob(".c.import-*")) and time.monotonic() < end:
            assert running.poll() is None, running.communicate()
            time.sleep(0.01)
        running.send_signal(number)
        _, error = running.communicate(timeout=DEADLINE)
    assert "Traceback" not in error
    if number == signal.SIGTERM:
        assert running.returncode == 143 and names(out.parent) == []
    import_corpus([table(tmp_path / "b.csv", rows("b", DAYS))], out)
    assert names(out.parent) == ["c"]


@pytest.mark.processes
def test_of_updates_at_once_each_adds_its_items_or_is_refused(tmp_path: Path) -> None:
    out = corpus(tmp_path)
    script = """
import sys, time
from foretrain.data.importers import import_corpus
from foretrain.errors import DataError
print("ready", flush=True); sys.stdin.readline()
for item in sys.argv[2:]:
    try:
        import_corpus([item], sys.argv[1], update=True)
        print("added", item)
    except DataError as error:
        assert "is writing this corpus" in str(error), error
        print("refused", item)
"""
    files = [table(tmp_path / f"f{k}.csv", rows(f"f{k}", DAYS, k)) for k in range(12)]
    running = []
    for k in range(2):
        command = [sys.executable, "-c", script, str(out), *map(str, files[k::2])]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    answers = []
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        answers += process.communicate(timeout=DEADLINE)[0].splitlines()
        assert process.returncode == 0
    added = {Path(line.split()[1]).stem for line in answers if line.startswith("added")}
    assert len(answers) == 12 and added
    assert set(Corpus.open(out).item_ids()) == {"a", *added}
    assert names(out.parent) == [".c.old", "c"]


def test_a_writer_that_fails_deletes_the_parent_folders_that_it_created(tmp_path):
    with pytest.raises(DataError, match="refused"), exclusive(tmp_path / "a" / "b" / "corpus"):
        raise DataError("refused")
    assert not list(tmp_path.iterdir())
