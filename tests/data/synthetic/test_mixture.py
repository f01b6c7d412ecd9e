"""Blocks of a mixture, and the corpus written from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.waiting import as_from_a_terminal, wait_until

from foretrain.config import build, read_yaml
from foretrain.data.store import Corpus
from foretrain.data.synthetic import to_disk
from foretrain.data.synthetic.mixture import GENERATORS, MAX_LENGTH, Lengths, Mixture, draw_block
from foretrain.data.synthetic.multivariate import KINDS
from foretrain.data.synthetic.to_disk import write_corpus
from foretrain.errors import ConfigError, DataError

SHORT = (Lengths(shortest=10, longest=20),)
DATED = {"freq": "h", "generators": ({"kind": "calendar"}, {"kind": "arma"}, {"kind": "candles"})}
BARS = {"freq": "30min", "columns": "candles", "generators": ({"kind": "candles"},)}


def mixture(**options) -> Mixture:
    return Mixture(**({"lengths": SHORT} | options))


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("length", [2, 3, 17, 300])
def test_every_generator_draws_finite_series_of_any_length(kind, length):
    values = kind().draw(np.random.default_rng(3), 40, length)
    assert values.shape == (40, length)
    assert np.isfinite(values).all()
    if length > 17:
        assert (values.std(axis=1) > 0).mean() > 0.8  # some are constant, such as demand that never comes


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.__name__)
def test_every_generator_draws_the_longest_series(kind):
    values = kind().draw(np.random.default_rng(3), 3, MAX_LENGTH)
    assert values.shape == (3, MAX_LENGTH)
    assert np.isfinite(values.astype(np.float32)).all()
    late = values[:, -MAX_LENGTH // 4 :]
    assert (late.std(axis=1) > 0).any()


@pytest.mark.parametrize("kind", GENERATORS, ids=lambda kind: kind.__name__)
def test_a_generator_draws_the_same_series_from_the_same_seed(kind):
    first, again, other = (kind().draw(np.random.default_rng(seed), 16, 50) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_long_series_of_a_block_are_drawn_in_pieces_and_differ():
    length = 5000
    chosen = mixture(generators=({"kind": "arma"},), lengths=(Lengths(shortest=length, longest=length),))
    values = draw_block(chosen, 0).values
    assert len(np.unique(values[:, 0])) == len(values) == 512


def test_a_block_depends_on_seed_and_number_alone():
    one = draw_block(mixture(), 7, 64)
    draw_block(mixture(), 8, 64)
    again = draw_block(mixture(), 7, 64)
    assert np.array_equal(one.values, again.values, equal_nan=True)
    assert np.array_equal(one.generator, again.generator)
    assert not np.array_equal(one.generator, draw_block(mixture(seed=1), 7, 64).generator)


def test_weights_are_shares_of_series():
    parts = ({"kind": "arma", "weight": 3.0}, {"kind": "chaos", "weight": 1.0})
    found = np.concatenate([draw_block(mixture(generators=parts), number, 512).generator for number in range(8)])
    assert abs((found == 0).mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / len(found))


def test_lengths_follow_the_shares_and_stay_inside_their_ends():
    buckets = (Lengths(shortest=5, longest=6, share=1.0), Lengths(shortest=30, longest=32, share=3.0))
    chosen = mixture(lengths=buckets, generators=({"kind": "shapes"},))
    lengths = [draw_block(chosen, number, 2).values.shape[1] for number in range(400)]
    assert set(lengths) == {5, 6, 30, 31, 32}
    assert abs(np.mean(np.array(lengths) > 6) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 400)


def test_missing_values_have_their_share_and_never_open_a_series():
    values = draw_block(
        mixture(missing=0.5, missing_fraction=(0.2, 0.2), lengths=(Lengths(shortest=200, longest=200),)), 0
    ).values
    gone = np.isnan(values)
    assert 0.4 < gone.any(axis=1).mean() < 0.6
    assert 0.12 < gone[gone.any(axis=1)].mean() < 0.22  # the gap and the single values may coincide
    assert not gone[:, 0].any()


@pytest.mark.parametrize("options", [{}, DATED, BARS], ids=["steps", "dated", "candles"])
def test_a_corpus_does_not_depend_on_processes_or_on_the_number_of_series(tmp_path, monkeypatch, options):
    monkeypatch.setattr(to_disk, "PART", 1024)
    few = write_corpus(mixture(**options), tmp_path / "few", 1100)
    many = write_corpus(mixture(**options), tmp_path / "many", 2500)
    assert (few.num_series, many.num_series) == (1100, 2500)
    assert few.provenance["kind"] == "synthetic"
    small, large = Corpus.open(tmp_path / "few"), Corpus.open(tmp_path / "many")
    for series in (0, 511, 512, 1023, 1024, 1099):
        assert small.item_id(series) == large.item_id(series)
        assert np.array_equal(small.values(series), large.values(series), equal_nan=True)
        assert np.array_equal(small.times(series), large.times(series))
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_corpus_is_continued_and_equals_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(to_disk, "PART", 512)
    drawn = []

    def failing(mixture, parts, number, count, write=to_disk.write_part):
        if number == 2 and len(drawn) == 2:
            drawn.append("stopped")
            raise KeyboardInterrupt
        drawn.append(number)
        write(mixture, parts, number, count)

    monkeypatch.setattr(to_disk, "write_part", failing)
    with pytest.raises(KeyboardInterrupt):
        write_corpus(mixture(), tmp_path / "out", 2000)
    assert not (tmp_path / "out").exists()
    found = write_corpus(mixture(), tmp_path / "out", 2000)
    assert drawn == [0, 1, "stopped", 2, 3]
    assert found.content_hash == write_corpus(mixture(), tmp_path / "whole", 2000).content_hash


def test_parts_of_another_mixture_are_refused(tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(to_disk, "write_part", stopped)
        write_corpus(mixture(), tmp_path / "out", 10)
    with pytest.raises(DataError, match="another mixture"):
        write_corpus(mixture(seed=5), tmp_path / "out", 10)


def test_an_existing_folder_is_never_overwritten(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_corpus(mixture(), tmp_path / "out", 10)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"generators": []}, "generators"),
        ({"generators": [{"kind": "arma", "weight": 0}]}, "weight"),
        ({"generators": [{"kind": "fourier"}]}, "kind"),
        ({"generators": [{"kind": "arma", "scale": [2, 1]}]}, "smaller end"),
        ({"generators": [{"kind": "arma", "scale": [0, 1]}]}, "above 0"),
        ({"lengths": [{"shortest": 9, "longest": 8}]}, "exceeds longest"),
        ({"lengths": [{"shortest": 9, "longest": MAX_LENGTH + 1}]}, "longest"),
        ({"missing_fraction": [0.5, 1.0]}, "missing_fraction"),
        ({"missing": 2}, "missing"),
    ],
)
def test_impossible_settings_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        build(Mixture, options)


@pytest.mark.processes
def test_the_command_writes_the_shipped_mixture_with_two_processes(tmp_path, pytestconfig):
    config = pytestconfig.rootpath / "configs" / "synthetic" / "mixture.yaml"
    shipped = read_yaml(config)
    assert build(Mixture, shipped) == Mixture()
    words = ["data", "generate", str(config), "lengths=[{shortest: 8, longest: 9}]", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "foretrain.cli", *words, "--num-series", "33000", "--workers", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "33,000 synthetic series" in done.stdout
    corpus = Corpus.open(tmp_path / "out")
    corpus.verify()
    assert corpus.num_series == 33_000
    assert len(set(corpus.item_ids())) == 33_000
    assert "data generate" in corpus.manifest.provenance["command"]


def of_parent(pid: int) -> list[int]:
    """Processes that write parts, and what multiprocessing starts with them, by the process that started them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if rest[0] != "Z" and int(rest[1]) == pid and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
            found.append(int(stat.parent.name))
    return found


@pytest.mark.processes
@pytest.mark.parametrize("killed", ["parent", "worker"])
def test_a_killed_call_leaves_no_process_behind_and_a_killed_process_is_an_error(tmp_path, killed):
    (tmp_path / "mixture.yaml").write_text("{generators: [{kind: arma}], lengths: [{shortest: 8, longest: 9}]}")
    words = [
        "data",
        "generate",
        str(tmp_path / "mixture.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--num-series",
        "9999999",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "foretrain.cli", *words, "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=as_from_a_terminal,
    ) as call:  # fmt: skip
        wait_until(lambda: list((tmp_path / ".out.parts").glob("part-*-32768")), call)
        workers = of_parent(call.pid)
        assert len(workers) == 2
        if killed == "parent":
            call.terminate()
        else:
            os.kill(workers[0], signal.SIGKILL)
        errors = call.communicate()[1]
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    if killed == "worker":
        assert call.returncode == 2
        assert errors.splitlines()[-1].startswith("error: ") and "was killed" in errors and "Traceback" not in errors


GROUPS = {"layout": {"targets": 2, "past": 1, "known": 2}, "generators": ({"kind": "arma"}, {"kind": "shapes"})}


def test_a_corpus_of_groups_has_columns_by_role_and_says_which_are_covariates(tmp_path):
    manifest = write_corpus(mixture(**GROUPS), tmp_path / "out", 600)
    names = ["target_1", "target_2", "past_1", "known_1", "known_2"]
    assert [column.name for column in manifest.columns] == names
    assert (manifest.past_covariates, manifest.known_covariates) == (("past_1",), ("known_1", "known_2"))
    assert manifest.default_targets == ("target_1", "target_2")
    corpus = Corpus.open(tmp_path / "out")
    block = draw_block(mixture(**GROUPS), 1)
    assert np.array_equal(corpus.values(513), block.values[1], equal_nan=True)
    assert corpus.item_id(513) == f"{KINDS[block.generator[1]]}-000000513"


def test_a_single_target_of_a_group_is_called_target(tmp_path):
    manifest = write_corpus(mixture(**GROUPS | {"layout": {"known": 1}}), tmp_path / "out", 5)
    assert [column.name for column in manifest.columns] == ["target", "known_1"]


def test_what_is_known_ahead_has_no_missing_values():
    block = draw_block(mixture(**GROUPS, missing=1.0, missing_fraction=(0.4, 0.5)), 3, 64)
    gone = np.isnan(block.values)
    assert gone[:, :3].any() and not gone[:, 3:].any() and not gone[:, :, 0].any()


def test_settings_of_groups_without_a_layout_are_refused():
    with pytest.raises(ValueError, match="multivariate has no effect"):
        mixture(multivariate={"noise": (0.1, 0.2)})


def test_the_shipped_groups_have_the_settings_of_the_generators_defaults(pytestconfig):
    shipped = read_yaml(pytestconfig.rootpath / "configs" / "synthetic" / "groups.yaml")
    assert build(Mixture, shipped) == Mixture(seed=1, layout={"targets": 1, "past": 1, "known": 2})
