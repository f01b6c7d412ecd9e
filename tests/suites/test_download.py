"""Data sets of a hub, fetched from one on this machine that fails in the ways of networks and of servers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_app import foretrain
from tests.fake_hub import COMMIT, ConnectProxy, FakeHub, Repository, serving
from tests.suites.small_suite import define  # noqa: F401  # a fixture
from tests.waiting import DEADLINE

from foretrain.suites import download

pytestmark = pytest.mark.processes

CERTIFICATE = Path(__file__).parents[1] / "fixtures" / "hub.test.pem"
TASKS = "".join(f"{name}: {{horizon: 2, freq: D, seasonality: 1, dataset: {name}}}\n" for name in ("walks", "deep/one"))
WALKS = "walks/train-00000-of-00001.parquet"
DEEP = ["deep/one/train-00000-of-00002.parquet", "deep/one/train-00001-of-00002.parquet"]
FILES = {
    WALKS: b"walks" * 1000,
    DEEP[0]: b"first" * 500,
    DEEP[1]: b"second" * 500,
    "walks/loader.py": b"raise SystemExit('a script ran')",
    "walks/model.pkl": b"a pickle",
    "other/train.parquet": b"not asked for",
}


@pytest.fixture
def server(define, monkeypatch, tmp_path) -> Iterator[FakeHub]:  # noqa: F811
    """The hub that the library asks; its cache is empty."""
    import huggingface_hub.constants as constants
    from huggingface_hub import file_download

    define(TASKS)
    with serving(FakeHub({"someone/sets": Repository(dict(FILES), "datasets")})) as hub:
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # read once, at the import; CI sets the variable
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what is held in memory, and lost by a cut
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # between attempts
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        yield hub


@pytest.fixture
def repository(server: FakeHub) -> Repository:
    return server.repositories["someone/sets"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def fetch(root: Path, *words: object, code: int = 0) -> None:
    foretrain("data", "download", "small", "--data-root", root, *words, code=code)


def contents(root: Path) -> dict[str, bytes]:
    """The files below the copy of the repository, but for the record."""
    folder = root / "sets"
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "download.json"}


def record(root: Path) -> dict:
    return json.loads((root / "sets" / "download.json").read_text())


def test_data_sets_are_fetched_and_recorded_and_nothing_else_is(server, root, capsys):
    fetch(root)
    assert contents(root) == {name: FILES[name] for name in (WALKS, *DEEP)}
    found = record(root)
    assert found["repository"] == "someone/sets" and found["revision"] == "main" and found["commit"] == COMMIT
    assert found["datasets"]["walks"]["files"] == {
        WALKS: {"bytes": 5000, "sha256": hashlib.sha256(FILES[WALKS]).hexdigest()}
    }
    said = capsys.readouterr().out
    assert (
        f"commit {COMMIT}" in said
        and "fetching   deep/one: 5.5 kB\n" in said
        and "2 files, 5.5 kB" in said
        and "2 of 2 data sets" in said
    )
    assert {name for name, _ in server.asked} == {WALKS, *DEEP}


def test_a_second_call_fetches_what_is_missing_or_differs_and_no_more(server, root, capsys):
    fetch(root)
    (root / "sets" / DEEP[1]).write_bytes(b"SECOND" * 500)
    (root / "sets" / WALKS).unlink()
    server.asked.clear()
    fetch(root)
    assert {name for name, _ in server.asked} == {WALKS, DEEP[1]}
    assert contents(root) == {name: FILES[name] for name in (WALKS, *DEEP)}
    assert "1 file, 3.0 kB; 1 were there" in capsys.readouterr().out
    server.asked.clear()
    fetch(root, "--task", "w*")
    assert not server.asked and "all as the hub lists them" in capsys.readouterr().out


def test_a_cut_leaves_no_data_set_and_the_next_call_goes_on_from_there(server, repository, root, capsys):
    repository.cuts[DEEP[1]], repository.down = [1000], {DEEP[1]}
    fetch(root, "--task", "deep/*", code=2)
    assert not (root / "sets" / "deep").exists() and not (root / "sets" / "download.json").exists()
    assert "1,000 of 3,000 bytes arrived; repeat the command" in capsys.readouterr().out
    repository.down.clear()
    server.asked.clear()
    fetch(root, "--task", "deep/*")
    assert server.asked == [(DEEP[1], "bytes=1000-")]  # the first file was whole
    assert contents(root) == {name: FILES[name] for name in DEEP}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_is_cut_is_made_again(server, repository, root, ranges):
    repository.cuts[WALKS], repository.ranges = [1000, 700], ranges
    fetch(root, "--task", "walks")
    assert contents(root) == {WALKS: FILES[WALKS]} and len(server.asked) == 3


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (FILES[WALKS].replace(b"w", b"W"), "has the hash"),
        (FILES[WALKS] + b"more", "sends more than the 5,000 bytes"),
        (FILES[WALKS][:-5], "repeat the command"),
    ],
)
def test_a_wrong_content_is_refused_and_deleted_and_the_others_are_fetched(repository, root, capsys, sent, reason):
    repository.lies[WALKS] = sent
    fetch(root, code=1)
    said = [line for line in capsys.readouterr().out.splitlines() if "MISSING" in line]
    assert len(said) == 1 and reason in said[0] and "1 of 2" not in said[0]
    there = contents(root)
    assert WALKS not in there and set(DEEP) <= set(there)
    repository.lies.clear()
    fetch(root)
    assert contents(root)[WALKS] == FILES[WALKS]


@pytest.mark.parametrize("name", ["walks/../../evil.parquet", "/evil.parquet", "walks/..\\evil.parquet", "walks//x"])
def test_a_name_that_leaves_its_folder_is_refused(repository, root, tmp_path, capsys, name):
    repository.listed.append({"type": "file", "path": name, "size": 4, "oid": "0" * 40})
    repository.files[name] = b"evil"
    fetch(root, "--task", "walks", code=2)
    assert "no file of its folder. None is fetched" in capsys.readouterr().out
    assert not list(tmp_path.rglob("evil*")) and not contents(root)


@pytest.mark.parametrize("size", [-1, 10**12, "5"])
def test_a_size_that_cannot_be_is_refused(repository, root, capsys, size):
    repository.listed.append({"type": "file", "path": "walks/x.parquet", "size": size, "oid": "0" * 40})
    fetch(root, "--task", "walks", code=2)
    assert "None is fetched" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words", "reason"),
    [
        ({}, ("--revision", "v9"), "revision v9): the hub has no such revision"),
        ({"gated": True}, (), "access is restricted; accept its terms on the hub and log in"),
        ({"kind": "models"}, (), "no such repository on the hub"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_exit_code_2(repository, root, capsys, change, words, reason):
    for key, value in change.items():
        setattr(repository, key, value)
    fetch(root, *words, code=2)
    said = capsys.readouterr()
    assert reason in said.err and len(said.err.splitlines()) == 1
    assert not root.exists()


def test_a_data_set_that_the_hub_has_not_is_one_line_and_the_others_are_fetched(repository, root, capsys):
    del repository.files[WALKS], repository.files["walks/loader.py"], repository.files["walks/model.pkl"]
    fetch(root, code=1)
    said = capsys.readouterr().out
    assert said.count("MISSING") == 1 and "walks: the hub has no such data set" in said
    assert set(contents(root)) == set(DEEP)
    repository.files["walks/loader.py"] = b"a script is no data"
    fetch(root, "--task", "walks", code=2)
    assert f"no such data set (.parquet) in commit {COMMIT}" in capsys.readouterr().out


def test_a_recorded_commit_is_kept_until_another_revision_is_named(repository, root, capsys):
    fetch(root)
    repository.commit = "f" * 40
    del repository.files[DEEP[1]]
    fetch(root, code=2)
    assert "--revision main takes the newest" in capsys.readouterr().err
    assert set(contents(root)) == {WALKS, *DEEP}
    fetch(root, "--revision", "main")
    assert set(contents(root)) == {WALKS, DEEP[0]}  # a part of the old commit would be read with the new one
    assert record(root)["commit"] == "f" * 40


def test_files_of_others_stay_and_are_not_read_with_the_data_set(root, server, capsys):
    fetch(root)
    folder = root / "sets" / "walks"
    (folder / "notes.txt").write_text("mine")
    (root / "sets" / WALKS).unlink()
    fetch(root)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "mine.parquet").write_text("mine")
    fetch(root, code=1)
    assert "Move it away" in capsys.readouterr().out and (folder / "mine.parquet").exists()


def test_offline_uses_what_is_there_and_says_what_to_put_where(server, root, capsys):
    fetch(root, "--offline", code=2)
    assert f"put *.parquet of walks/ in someone/sets into {root / 'sets' / 'walks'}" in capsys.readouterr().out
    assert not root.exists() and not server.tokens
    fetch(root)
    server.tokens.clear()
    capsys.readouterr()
    fetch(root, "--offline")
    assert "all as recorded of commit 0123456789ab" in capsys.readouterr().out
    (root / "sets" / WALKS).write_bytes(b"damaged")
    fetch(root, "--offline", code=1)
    said = capsys.readouterr().out
    assert f"put {WALKS} of someone/sets, commit {COMMIT} (5,000 bytes, sha256" in said and not server.tokens
    fetch(root, "--offline", "--revision", "v2", "--task", "deep/*", code=2)
    assert f"is of commit {COMMIT}, not of v2" in capsys.readouterr().out


def test_the_cache_of_the_hub_library_is_used_if_it_has_all_parts(server, root, capsys):
    import huggingface_hub as hub

    for name in DEEP:
        fetch(root, "--offline", "--task", "deep/*", code=2)
        hub.hf_hub_download("someone/sets", name, repo_type="dataset")
    server.asked.clear()
    server.tokens.clear()
    fetch(root, "--offline", "--task", "deep/*")
    assert "2 files from the hub's cache" in capsys.readouterr().out and not server.tokens
    assert contents(root) == {name: FILES[name] for name in DEEP}
    assert record(root)["datasets"]["deep/one"]["commit"] == COMMIT
    shutil.rmtree(root)
    fetch(root, "--task", "deep/*")
    assert not server.asked and contents(root) == {name: FILES[name] for name in DEEP}


def test_a_disk_without_room_is_said_before_anything_is_fetched(server, root, capsys, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=download.RESERVE + 4999)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    fetch(root, "--task", "walks", code=2)
    assert "needs 5.0 kB and 268.4 MB of reserve; the disk has 268.4 MB free" in capsys.readouterr().out
    assert not server.asked


def test_a_damaged_record_is_named_and_may_be_deleted(server, root, capsys):
    fetch(root)
    (root / "sets" / "download.json").write_text('{"schema": 1, "datasets": {"walks": 3}}')
    fetch(root, code=2)
    assert "download.json: cannot be read as a record" in capsys.readouterr().err
    (root / "sets" / "download.json").unlink()
    server.asked.clear()
    fetch(root)
    assert not server.asked and set(record(root)["datasets"]) == {"walks", "deep/one"}


def test_a_token_is_sent_and_is_neither_printed_nor_recorded(server, repository, root, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_the_user")
    repository.down = {WALKS}
    fetch(root, code=1)
    assert "Bearer hf_secret_of_the_user" in server.tokens
    said = capsys.readouterr()
    assert "hf_secret" not in said.out + said.err + (root / "sets" / "download.json").read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--source", "hub", "--from", "x"], "--from: has no effect with --source hub"),
        (["--source", "local", "--offline"], "--offline: has no effect"),
        (["--from", ".", "--revision", "x"], "--revision: has no effect"),
        (["--from", ".", "--proxy", "http://x:1"], "--proxy: has no effect"),
        (["--offline", "--proxy", "http://x:1"], "no effect with --offline"),
        (["--proxy", "me:secret@proxy"], "no address of a proxy"),
        (["--proxy", "ftp://me:secret@proxy"], "no address of a proxy"),
        (["--task", "walk"], "Did you mean 'walks'"),
    ],
)
def test_a_choice_without_effect_or_meaning_is_refused(server, root, capsys, words, reason):
    fetch(root, *words, code=2)
    said = capsys.readouterr().err
    assert reason in said and "secret" not in said


def test_raw_files_that_would_do_are_named_and_a_corpus_that_is_read_first_too(define, server, root, capsys):  # noqa: F811
    sources = "steps: {reader: columns, files: [steps.txt], origin: github.com/someone/steps, licence: none}"
    define(TASKS.splitlines()[0][:-1] + ", raw: {source: steps, split: true}}", sources)
    fetch(root, "--offline", code=2)
    assert f"walks: put steps.txt, from github.com/someone/steps, into {root}" in capsys.readouterr().out
    root.mkdir()
    (root / "steps.txt").write_text("1,2\n3,5\n2,2\n")
    fetch(root, "--source", "local")
    fetch(root)
    assert f"1 file, 5.0 kB; {root / 'small' / 'walks'} is read before it" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_tls_through_a_connect_proxy(tmp_path, way):
    """The host exists for the proxy alone. A new process: the library reads its settings on import."""
    path = "monash_m1_yearly/train-00000-of-00001.parquet"
    repository = Repository({path: b"yearly" * 100}, "datasets")
    with (
        serving(FakeHub({"autogluon/chronos_datasets": repository}), str(CERTIFICATE)) as hub,
        serving(ConnectProxy(hub.server_port)) as proxy,
    ):
        address = f"http://me:proxy-secret@127.0.0.1:{proxy.server_port}"
        given = {
            "HF_ENDPOINT": "https://hub.test",
            "HF_HOME": str(tmp_path / "home"),
            "SSL_CERT_FILE": str(CERTIFICATE),
        }
        unset = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "hf_hub_offline", "hf_token")
        env = {name: value for name, value in os.environ.items() if name.lower() not in unset} | given
        words = ["data", "download", "chronos-zero-shot", "--task", "monash_m1_yearly", "--data-root", "data"]
        if way == "flag":
            words += ["--proxy", address]
            env["NO_PROXY"] = "hub.test"
        else:
            env["HTTPS_PROXY"] = address
        done = subprocess.run(
            [sys.executable, "-m", "foretrain", *words],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=DEADLINE,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data" / "chronos_datasets" / path).read_bytes() == b"yearly" * 100
    assert set(proxy.hosts) == {"hub.test:443"}
    assert set(proxy.accounts) == {f"Basic {base64.b64encode(b'me:proxy-secret').decode()}"}
    assert "proxy-secret" not in done.stdout + done.stderr
