"""Raw public files become corpora that give the figures of the files."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.suites.small_suite import define  # noqa: F401  # a fixture

from foretrain.data.store import Corpus
from foretrain.data.writer import CorpusWriter
from foretrain.suites.definition import tasks_of
from foretrain.suites.score import find_data, load_data, score_naive

ORIGIN = "origin: 'github.com/someone/loads, data/load.csv', licence: none"
SOURCES = f"""
load: {{reader: table, files: [load.csv], archive: loads.zip, {ORIGIN}}}
steps: {{reader: columns, files: [steps.txt], {ORIGIN}}}
"""
TASKS = """
raw_15T: {horizon: 4, freq: 15min, seasonality: 4, num_windows: 2, targets: [a, b], known_covariates: [c, d], dataset: r, raw: {source: load}}
sums_1H: {horizon: 2, freq: h, seasonality: 2, targets: [target_0, target_1, target_2], dataset: s, raw: {source: load, derive: {every: h, how: sum}}}
means/W: {horizon: 1, freq: W, seasonality: 1, targets: [a], dataset: w, raw: {source: load, derive: {every: W-THU, how: mean, drop_last: true}}}
split: {horizon: 3, freq: D, seasonality: 2, dataset: x, raw: {source: steps, split: true}}
hub_only: {horizon: 3, freq: D, seasonality: 2, dataset: y}
""".strip()  # noqa: E501
NAMES = ("raw_15T", "sums_1H", "means/W", "split")


def write_raw(folder: Path, scale: float = 1.0) -> None:
    """A table of quarters of an hour over four weeks, with missing values and hours, and one of steps."""
    draw = np.random.default_rng(4)
    stamps = np.datetime64("2024-01-01T00:00") + 15 * np.arange(28 * 96)
    values = (np.cumsum(draw.standard_normal((len(stamps), 3)), axis=0) * scale + 50).round(6)
    values[draw.random(values.shape) < 0.02] = np.nan
    rows = [
        f"{str(stamp).replace('T', ' ')}:00,{','.join('' if np.isnan(v) else repr(float(v)) for v in row)}"
        for stamp, row in zip(stamps, values, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "load.csv").write_text("\n".join(["date,a,b,c", *rows]) + "\n")
    steps = np.cumsum(draw.standard_normal((60, 2)), axis=0).round(3)
    (folder / "steps.txt").write_text("\n".join(",".join(map(str, row)) for row in steps.tolist()) + "\n")


@pytest.fixture
def raw(define, tmp_path: Path) -> Path:  # noqa: F811
    define(TASKS, SOURCES)
    write_raw(tmp_path / "raw")
    return tmp_path / "raw"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def convert(root: Path, raw: Path | None, *words: object, code: int = 0) -> None:
    given = () if raw is None else ("--from", raw)
    foretrain("data", "download", "small", "--source", "local", *given, "--data-root", root, *words, code=code)


def task(name: str):
    return next(one for one in tasks_of("small") if one.name == name)


def of_raw(name: str, raw: Path):
    return load_data(task(name), raw).series


@pytest.mark.parametrize("name", NAMES)
def test_a_corpus_gives_the_figures_of_the_raw_files(raw, root, name):
    convert(root, raw, "--task", name)
    assert find_data(task(name), root) == "corpus"
    from_raw = of_raw(name, raw)
    found = score_naive(task(name), load_data(task(name), root).series)
    for metric, value in score_naive(task(name), from_raw).items():
        assert found[metric] == pytest.approx(value, rel=1e-5), metric  # float32: 6e-8 of a value


def test_values_stamps_and_missing_ones_survive(raw, root):
    convert(root, raw, code=1)
    for name in ("raw_15T", "sums_1H", "means/W"):
        (before,), (after,) = of_raw(name, raw), load_data(task(name), root).series
        assert np.array_equal(before.stamps, after.stamps)
        assert np.array_equal(before.values.astype(np.float32)[0], after.values[0], equal_nan=True)
        assert name != "raw_15T" or np.isnan(after.values).any()
    corpus = Corpus.open(root / "small" / "raw_15T")
    assert corpus.columns == ("a", "b", "c") and corpus.manifest.known_covariates == ("c",)
    assert corpus.manifest.time == "regular" and corpus.manifest.freq == "15min"
    assert Corpus.open(root / "small" / "means" / "W").manifest.freq == "W-THU"
    split = load_data(task("split"), root).series
    assert [one.item_id for one in split] == ["steps_0", "steps_1"] and split[0].stamps is None


def test_the_record_says_of_what_and_how_a_corpus_was_made(raw, root, capsys):
    convert(root, raw, "--task", "sums_1H")
    found = json.loads((root / "small" / "sums_1H" / "download.json").read_text())
    assert found["files"]["load.csv"]["bytes"] == (raw / "load.csv").stat().st_size
    assert found["made_of"]["derive"]["how"] == "sum" and found["values"] == "float32"
    assert found["columns"] == {"target_0": "a", "target_1": "b", "target_2": "c"}
    convert(root, raw, "--task", "raw_15T")
    assert "without d, which the raw files do not name" in capsys.readouterr().out


def test_a_second_call_keeps_what_is_done_and_needs_no_raw_files(raw, root, capsys):
    convert(root, raw, "--task", "split")
    made = (root / "small" / "split" / "manifest.json").stat().st_mtime_ns
    convert(root, raw, "--task", "split")
    shutil.rmtree(raw)
    convert(root, None, "--task", "split")
    assert capsys.readouterr().out.count("kept       split  converted before, 2 series, 120 steps") == 2
    assert (root / "small" / "split" / "manifest.json").stat().st_mtime_ns == made


def test_other_raw_files_and_damaged_corpora_are_converted_anew(raw, root, capsys):
    convert(root, raw, "--task", "split")
    write_raw(raw)
    (raw / "steps.txt").write_text("1,2\n" * 9 + "2,5\n" * 9)
    convert(root, raw, "--task", "split")
    assert load_data(task("split"), root).series[0].values.tolist() == [[1.0] * 9 + [2.0] * 9]
    shard = next((root / "small" / "split").glob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[-40] ^= 1
    shard.write_bytes(content)
    convert(root, raw, "--task", "split")
    assert capsys.readouterr().out.count("converted  split") == 3
    Corpus.open(root / "small" / "split").verify()
    shard.write_bytes(content)
    (raw / "steps.txt").unlink()
    convert(root, raw, "--task", "split", code=2)
    assert "or delete the folder" in capsys.readouterr().out


def test_an_interrupted_conversion_leaves_nothing(raw, root, monkeypatch, capsys):
    append = CorpusWriter.append

    def cut(self, item_id, *values, **more):
        append(self, item_id, *values, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(CorpusWriter, "append", cut)
    convert(root, raw, "--task", "split", code=130)
    assert not [path for path in root.rglob("*") if path.is_file()]
    monkeypatch.setattr(CorpusWriter, "append", append)
    convert(root, raw, "--task", "split")
    assert "converted  split" in capsys.readouterr().out


def test_a_corpus_of_the_user_is_kept(raw, root, capsys):
    convert(root, raw, "--task", "split")
    (root / "small" / "split" / "download.json").unlink()
    convert(root, raw, "--task", "split")
    assert "a corpus that another command made is there" in capsys.readouterr().out


def test_what_is_missing_is_named_with_its_place(raw, root, capsys):
    (raw / "load.csv").unlink()
    convert(root, raw, code=1)
    said = capsys.readouterr().out
    assert f"put load.csv or loads.zip, from github.com/someone/loads, data/load.csv, into {root}" in said
    assert f"put data sets of someone/sets into {root / 'sets'}" in said and "1 of 5 tasks is in" in said
    convert(root, raw, "--task", "raw*", code=2)
    convert(root, raw / "none", code=2)
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_packed_files_below_the_folder_are_found(raw, root, packed):
    plain = raw / "load.csv"
    inner = raw / "deep" / "er"
    inner.mkdir(parents=True)
    if packed == "gz":
        (inner / "load.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    else:
        with zipfile.ZipFile(inner / "loads.zip", "w") as archive:
            archive.write(plain, "some/load.csv")
    plain.unlink()
    convert(root, raw, "--task", "sums_1H")
    assert find_data(task("sums_1H"), root) == "corpus"


def test_of_files_that_differ_the_one_of_the_named_repository_is_taken_or_none(raw, root, capsys):
    for name, scale in (("loads", 1.0), ("other", 2.0)):
        write_raw(raw / "someone+" / name, scale)
    (raw / "load.csv").unlink()
    convert(root, raw, "--task", "raw_15T")
    (found,), (expected,) = load_data(task("raw_15T"), root).series, of_raw("raw_15T", raw / "someone+" / "loads")
    assert np.array_equal(found.values, expected.values.astype(np.float32), equal_nan=True)
    (raw / "someone+" / "loads").rename(raw / "third")
    convert(root / "anew", raw, "--task", "raw_15T", code=2)
    assert "differ. Name the folder of one with --from" in capsys.readouterr().out


def test_values_that_float32_would_change_are_refused(raw, root, capsys):
    rows = "\n".join(f"{1e9 + step % 5},{step}" for step in range(40))
    (raw / "steps.txt").write_text(rows + "\n")
    convert(root, raw, "--task", "split", code=2)
    assert "column target would lose" in capsys.readouterr().out
    assert find_data(task("split"), root) is None


def test_a_disk_without_room_is_said_before(raw, root, capsys, monkeypatch):
    from foretrain.suites import download

    usage = shutil.disk_usage("/")._replace(free=download.RESERVE)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    convert(root, raw, "--task", "split", code=2)
    assert "needs 480 bytes and 268.4 MB of reserve" in capsys.readouterr().out and not root.exists()


def git(folder: Path, *words: str) -> None:
    env = os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    author = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    subprocess.run(["git", *author, *words], cwd=folder, env=env, check=True, capture_output=True)


@pytest.mark.processes
@pytest.mark.parametrize("kind", ["bare", "no work tree", "work tree"])
def test_a_git_repository_is_read_without_a_work_tree(raw, root, tmp_path, kind):
    git(raw, "init", "-q")
    git(raw, "add", ".")
    git(raw, "commit", "-q", "-m", "data")
    if kind == "bare":
        git(tmp_path, "clone", "-q", "--bare", "raw", "mirror")
    else:
        git(tmp_path, "clone", "-q", *(["--no-checkout"] if kind == "no work tree" else []), "raw", "mirror")
    convert(root, tmp_path / "mirror", "--task", "sums_1H")
    found = json.loads((root / "small" / "sums_1H" / "download.json").read_text())["files"]["load.csv"]
    assert found["bytes"] == (raw / "load.csv").stat().st_size


@pytest.mark.processes
def test_pointers_and_broken_repositories_are_named(raw, root, tmp_path, capsys):
    (raw / "steps.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    convert(root, raw, "--task", "split", code=2)
    assert "steps.txt: is a pointer of git LFS" in capsys.readouterr().out
    git(tmp_path, "init", "-q", "--bare", "empty")
    convert(root, tmp_path / "empty", "--task", "split", code=2)
    said = capsys.readouterr().err
    assert "empty: git ls-tree failed" in said and len(said.splitlines()) == 1


def test_another_form_of_the_raw_files_gives_the_same_figures(define, root, tmp_path, capsys):  # noqa: F811
    sources = f"""
steps: {{reader: columns, files: [steps.txt], {ORIGIN}, also: {{"": tsf}}}}
tsf: {{reader: monash, files: [steps.tsf], archive: steps.zip, origin: 'zenodo.org/record/1', licence: none}}
"""
    define("split: {horizon: 3, freq: D, seasonality: 2, dataset: x, raw: {source: steps, split: true}}", sources)
    write_raw(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    convert(root, tmp_path / "empty", code=2)
    assert "steps.txt, from github.com/someone/loads, data/load.csv, or steps.tsf or steps.zip, from zenodo.org/" in (
        capsys.readouterr().out
    )
    values = np.loadtxt(tmp_path / "raw" / "steps.txt", delimiter=",").T
    lines = [f"T{k}:2024-01-01 00-00-00:{','.join(map(repr, row))}" for k, row in enumerate(values.tolist())]
    head = "@attribute series_name string\n@attribute start_timestamp date\n@frequency daily\n@data\n"
    other = tmp_path / "other"
    other.mkdir()
    (other / "steps.tsf").write_text(head + "\n".join(lines) + "\n")
    expected = score_naive(task("split"), of_raw("split", tmp_path / "raw"))
    assert score_naive(task("split"), of_raw("split", other)) == expected
    convert(root, other)
    assert load_data(task("split"), root).series[0].stamps is not None
    convert(root, tmp_path / "raw")  # the first form is the better one
    assert load_data(task("split"), root).series[0].stamps is None
    said = capsys.readouterr().out
    assert "converted  split  from tsf, 2 series" in said and "converted  split  from steps, 2 series" in said
