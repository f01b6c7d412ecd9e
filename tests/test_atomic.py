from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from foretrain import atomic
from foretrain.errors import DataError

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


class Refused(Exception):
    """What a caller makes of a place where nothing can be written."""


def refused(path: Path, error: OSError) -> Refused:
    return Refused(f"{path.name}: {error.strerror}")


def fill(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text("new")


def write_file(path: Path, text: str = "new") -> None:
    with atomic.replacing_file(path) as scratch:
        scratch.write_text(text)


def write_file_in_folder(path: Path) -> None:
    with atomic.replacing_file(path, in_folder=True) as scratch:
        (scratch.parent / "of-another-writer").touch()
        scratch.write_text("new")


def write_together(path: Path) -> None:
    with atomic.files_together([path], refused) as places:
        places[path].write_text("new")


def write_new_folder(path: Path) -> None:
    with atomic.new_folder(path) as scratch:
        fill(scratch)


def write_folder(path: Path) -> None:
    with atomic.replacing_folder(path) as scratch:
        fill(scratch)


FILES = [write_file, write_file_in_folder, write_together, lambda path: atomic.create_text(path, "new")]
FOLDERS = [write_new_folder, write_folder]
FILE_IDS = ["replacing_file", "replacing_file, in a folder", "files_together", "create_text"]
FOLDER_IDS = ["new_folder", "replacing_folder"]
EVERY = pytest.mark.parametrize("write", FILES + FOLDERS, ids=FILE_IDS + FOLDER_IDS)


@pytest.fixture
def full_disk(monkeypatch):
    def refuse(descriptor: int) -> None:
        raise NO_SPACE

    monkeypatch.setattr(os, "fsync", refuse)


@EVERY
def test_what_is_written_has_its_name_and_nothing_else_is_left(tmp_path, write):
    write(tmp_path / "out.txt")
    found = tmp_path / "out.txt"
    assert ((found / "inner" / "a.txt") if found.is_dir() else found).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]


@EVERY
def test_a_disk_that_refuses_leaves_nothing(tmp_path, write, full_disk):
    with pytest.raises((OSError, Refused), match="No space left"):
        write(tmp_path / "out.txt")
    assert not list(tmp_path.iterdir())


@EVERY
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_modes_follow_the_umask(tmp_path, write, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask


@pytest.mark.parametrize("write", FILES[:3], ids=FILE_IDS[:3])
def test_a_file_is_replaced_or_kept_where_the_disk_refuses(tmp_path, write, monkeypatch):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with monkeypatch.context() as patch, pytest.raises((OSError, Refused), match="No space left"):
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(NO_SPACE))
        write(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "scratch_of",
    [atomic.replacing_file, atomic.new_folder, atomic.replacing_folder, lambda p: atomic.files_together([p], refused)],
    ids=["replacing_file", "new_folder", "replacing_folder", "files_together"],
)
def test_a_block_that_fails_leaves_nothing_and_raises_what_it_raised(tmp_path, scratch_of, error):
    with pytest.raises(error), scratch_of(tmp_path / "out"):
        raise error
    assert not list(tmp_path.iterdir())


def test_a_file_is_never_seen_half_written(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with atomic.replacing_file(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.processes
@pytest.mark.parametrize("manager", ["replacing_file", "replacing_folder"])
def test_the_next_write_removes_what_a_kill_left(tmp_path, manager):
    """A process that is killed inside the block leaves its scratch, the old state and no new one."""
    path = tmp_path / "out"
    script = f"""
import os, signal, sys
from pathlib import Path
from foretrain import atomic
with atomic.{manager}(Path(sys.argv[1])) as scratch:
    (scratch / "a" if scratch.is_dir() else scratch).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    (write_file if manager == "replacing_file" else write_folder)(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_is_never_written_over_a_file_that_exists(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(FileExistsError):
        atomic.create_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_text_is_created_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*names) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    atomic.create_text(tmp_path / "deep" / "out.txt", "new")
    assert (tmp_path / "deep" / "out.txt").read_text() == "new"


def test_files_appear_together_and_take_the_folders_made_for_them_along_when_they_do_not(tmp_path):
    first, second = tmp_path / "new" / "deep" / "a.csv", tmp_path / "b.png"
    with pytest.raises(ValueError), atomic.files_together([first, second], refused) as places:
        for path in (first, second):
            assert places[path].suffix == path.suffix
            places[path].write_text("x")
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_a_place_where_no_file_can_be_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"b\.csv"):  # noqa: SIM117
        with atomic.files_together([tmp_path / "a.csv", tmp_path / "file" / "b.csv"], refused):
            pytest.fail("the block was entered")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_refusal_inside_the_block_names_the_file_that_was_being_written(tmp_path):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    with pytest.raises(Refused, match=r"b\.csv: No space"), atomic.files_together([first, second], refused) as places:
        raise OSError(errno.ENOSPC, "No space left on device", str(places[second]))
    with pytest.raises(FileNotFoundError), atomic.files_together([first, second], refused):
        (tmp_path / "an input that is gone").read_text()


def test_a_new_folder_never_replaces_one_that_holds_something(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    (path / "mine.txt").write_text("old")
    with pytest.raises(DataError, match="out: appeared while it was being written, and is not replaced"):
        write_new_folder(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


@pytest.mark.parametrize("links", [True, False], ids=["links", "a file system without hard links"])
def test_files_of_which_another_process_created_one_appear_not_at_all(tmp_path, monkeypatch, links):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    with (
        pytest.raises(DataError, match=r"b\.txt: appeared while it was being written"),
        atomic.files_together([first, second], refused, new=[first, second]) as places,
    ):
        for place in places.values():
            place.write_text("mine")
        second.write_text("of another")
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"] and second.read_text() == "of another"
    second.unlink()
    with atomic.files_together([first, second], refused, new=[second]) as places:
        for place in places.values():
            place.write_text("mine")
    assert first.read_text() == second.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


@pytest.fixture(params=["exchange", "two renames"])
def system(request, monkeypatch):
    """Systems that can exchange two folders in one step, and those that cannot."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)


def folder_of(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "a.txt").write_text(text)
    return path


def test_a_folder_replaces_another_and_nothing_of_that_is_left(tmp_path, system):
    new, old = folder_of(tmp_path / "new", "new"), folder_of(tmp_path / "old", "old")
    folder_of(tmp_path / ".old-old", "left by a kill")
    atomic.replace_folder(new, old)
    assert (old / "a.txt").read_text() == "new"
    assert list(tmp_path.iterdir()) == [old]


def test_a_folder_that_cannot_be_kept_is_replaced_all_the_same(tmp_path, system):
    new, old = folder_of(tmp_path / "new", "new"), folder_of(tmp_path / "old", "old")
    atomic.replace_folder(new, old, keep=tmp_path / "not there" / "kept")
    assert (old / "a.txt").read_text() == "new"
    assert [(path / "a.txt").read_text() for path in tmp_path.iterdir() if path != old] == ["old"]


def test_a_folder_may_replace_none(tmp_path, system):
    atomic.replace_folder(folder_of(tmp_path / "new", "new"), tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, system):
    old = folder_of(tmp_path / "old", "old")
    with pytest.raises(OSError, match="No such file"):
        atomic.replace_folder(tmp_path / "not there", old)
    assert (old / "a.txt").read_text() == "old" and list(tmp_path.iterdir()) == [old]


def test_a_link_is_replaced_rather_than_what_it_points_to(tmp_path, system):
    elsewhere = folder_of(tmp_path / "elsewhere", "old")
    (tmp_path / "out").symlink_to(elsewhere)
    write_folder(tmp_path / "out")
    assert not (tmp_path / "out").is_symlink() and (elsewhere / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_json_is_written_as_before_and_refuses_what_json_has_not(tmp_path):
    atomic.write_json(tmp_path / "a.json", {"a": [1, 0.5], "b": "é"})
    assert (tmp_path / "a.json").read_text() == json.dumps({"a": [1, 0.5], "b": "é"}, indent=1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(tmp_path / "b.json", {"a": float("nan")})


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_syncs_no_folders_is_no_error_but_one_that_syncs_no_files_is(tmp_path, monkeypatch, number):
    def refuse(descriptor: int) -> None:
        raise OSError(number, "not here")

    (tmp_path / "a.txt").write_text("")
    monkeypatch.setattr(os, "fsync", refuse)
    atomic.sync(tmp_path)
    with pytest.raises(OSError, match="not here"):
        atomic.sync(tmp_path / "a.txt")


def read_while(path: Path, write) -> bytes:
    """What a reader of a pipe gets while a function writes into it."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    write(path)
    reader.join()
    return found[0]


@pytest.mark.parametrize("write", FILES[2:], ids=FILE_IDS[2:])
def test_a_pipe_gets_the_whole_and_stays_a_pipe(tmp_path, write):
    os.mkfifo(tmp_path / "pipe.csv")
    assert read_while(tmp_path / "pipe.csv", write) == b"new"
    assert (tmp_path / "pipe.csv").is_fifo() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("link", [False, True], ids=["device", "link to it"])
@pytest.mark.parametrize("write", FILES, ids=FILE_IDS)
def test_nothing_is_renamed_over_a_device(tmp_path, write, link, monkeypatch):
    monkeypatch.setattr(Path, "replace", None)
    monkeypatch.setattr(Path, "rename", None)
    path = tmp_path / "link"
    path.symlink_to("/dev/null")
    try:
        write(path if link else Path("/dev/null"))
    except OSError as error:
        assert write in FILES[:2] and "which no file replaces" in str(error)
    assert path.is_symlink() and Path("/dev/null").is_char_device() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_an_open_file_is_written_where_it_stands(tmp_path, name):
    with open(tmp_path / "file", "w") as file:
        file.write("before\n")
        file.flush()
        atomic.create_text(Path(name.format(file.fileno())), "new")
    assert (tmp_path / "file").read_text() == "before\nnew"
    assert atomic.open_descriptor(Path("/dev/stdout")) == 1
    assert not atomic.is_stream(tmp_path / "file") and not atomic.is_stream(tmp_path / "none")


def test_files_beside_a_stream_are_there_when_its_reader_has_had_enough(tmp_path):
    def stop(path: Path, content: Path) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    os.mkfifo(tmp_path / "pipe")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(BrokenPipeError):
        patch.setattr(atomic, "write_stream", stop)
        with atomic.files_together([tmp_path / "pipe", tmp_path / "a.txt"], refused) as places:
            for place in places.values():
                place.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_no_other_module_makes_scratch_files_or_renames_them_by_hand():
    """Beside the lines of a journal, which are synced in place."""
    known = {
        "mkdtemp": set(),
        "mkstemp": {"atomic.py"},
        "os.replace": set(),
        "os.rename": set(),
        "os.fsync": {
            "atomic.py",
            "training/journal.py",
            "tuning/adviser/log.py",
            "tuning/ledger.py",
            "tuning/storage.py",
        },
    }
    source = Path(atomic.__file__).parent
    for call, users in known.items():
        found = {str(path.relative_to(source)) for path in source.rglob("*.py") if f"{call}(" in path.read_text()}
        assert found == users, call


def leave(write: str, path: Path) -> None:
    """Let another process write to a path, and end as by a kill while its scratch is there."""
    code = (
        "import os, sys; from pathlib import Path; from foretrain import atomic\n"
        "path, kill = Path(sys.argv[1]), lambda *arguments: os._exit(9)\n"
        f"os.fsync = kill\n{write}\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == 9 and len(list(path.parent.iterdir())) == 1


KILLED = {
    "files_together": "with atomic.files_together([path], Exception) as files: files[path].write_text('x')",
    "create_text": "atomic.create_text(path, 'x')",
    "new_folder": "with atomic.new_folder(path) as folder: (folder / 'a').write_text('x')",
}


@pytest.mark.processes
@pytest.mark.parametrize("write", KILLED)
def test_the_next_write_deletes_what_a_killed_process_left(tmp_path, write):
    path = tmp_path / "out.txt"
    leave(KILLED[write], path)
    dict(zip(FILE_IDS + FOLDER_IDS, FILES + FOLDERS, strict=True))[write](path)
    assert list(tmp_path.iterdir()) == [path]


def test_scratch_of_a_living_process_of_another_path_or_of_another_host_stays(tmp_path):
    own = atomic.tagged_name(tmp_path, ".out", ".txt")
    host, boot, pid, started = own.name.split(".")[2:6]
    away = tmp_path / own.name.replace(host, "0" * 8)
    other = tmp_path / own.name.replace(started, "1").replace("out", "else")
    same = [tmp_path / own.name.replace(*change) for change in ((f".{pid}.{started}", f".{pid}.1"), (boot, "0" * 8))]
    for path in (own, away, other, *same):
        path.write_text("")
    write_together(tmp_path / "out.txt")
    assert {*tmp_path.iterdir()} == {own, away, other, tmp_path / "out.txt"}


def test_a_failed_write_deletes_the_parent_folders_that_it_created(tmp_path, full_disk):
    for write in (write_new_folder, write_together):
        with pytest.raises((OSError, Refused), match="No space left"):
            write(tmp_path / "a" / "b" / "out.txt")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_copied_with_its_folders_and_the_first_error_is_raised_as_it_is(tmp_path):
    fill(folder_of(tmp_path / "one", "x"))
    atomic.copy_folder(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two" / "inner" / "a.txt").read_text() == "new"

    def refuse(source: Path, target: Path) -> None:
        raise NO_SPACE

    with pytest.raises(OSError, match="No space left") as raised:
        atomic.copy_folder(tmp_path / "one", tmp_path / "three", refuse)
    assert raised.value is NO_SPACE


@pytest.mark.parametrize("write", [write_new_folder, lambda path: atomic.create_text(path, "new")])
def test_what_is_new_is_not_there_if_the_disk_does_not_confirm_its_entry(tmp_path, monkeypatch, write):
    def refuse(path: Path) -> None:
        if path == tmp_path / "a":
            raise NO_SPACE

    monkeypatch.setattr(atomic, "sync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "a" / "out.txt")
    assert not list(tmp_path.iterdir())


def test_a_new_file_replaces_none_where_links_are_impossible(tmp_path, monkeypatch):
    def refuse(source: Path, target: Path) -> None:
        raise NO_SPACE

    monkeypatch.setattr(os, "link", refuse)
    atomic.create_text(tmp_path / "out.txt", "new")
    with pytest.raises(FileExistsError):
        atomic.create_text(tmp_path / "out.txt", "newer")
    assert (tmp_path / "out.txt").read_text() == "new" and len(list(tmp_path.iterdir())) == 1
