"""`config list`, `config copy`, and configs by name, in a folder that has none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.cli.test_app import foretrain
from tests.run.test_train import TINY

from foretrain.run.shipped import shipped_config, shipped_names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder, in which every test works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_config_has_a_line_with_what_it_is(capsys):
    foretrain("config", "list")
    text = capsys.readouterr().out
    assert re.findall(r"^  ([\w/-]+)  +\w.{15}", text, flags=re.M) == [
        *(name for name in shipped_names() if not name.startswith("synthetic/")),
        *(name for name in shipped_names() if name.startswith("synthetic/")),
    ]
    assert max(map(len, text.splitlines())) <= 120


def test_a_copy_is_the_file_and_is_never_overwritten(elsewhere: Path, capsys):
    foretrain("config", "copy", "kronos/two-stage")
    assert (elsewhere / "kronos-two-stage.yaml").read_bytes() == shipped_config("kronos/two-stage").read_bytes()
    foretrain("config", "copy", "synthetic/mixture.yaml", "--out", "my series/m.yaml")
    assert "foretrain data generate 'my series/m.yaml'" in capsys.readouterr().out
    (elsewhere / "debug.yaml").write_text("mine")
    foretrain("config", "copy", "debug", code=2)
    assert capsys.readouterr().err.startswith("error: debug.yaml: exists")
    assert (elsewhere / "debug.yaml").read_text() == "mine"
    foretrain("config", "copy", "kronos/debg", code=2)
    assert "Did you mean 'kronos/debug'?" in capsys.readouterr().err


def test_a_training_and_series_are_made_from_names_alone(elsewhere: Path, capsys):
    foretrain("train", "debug", *[item for item in TINY if isinstance(item, str)], "--max-steps", "2",
              "optimizer.schedule.warmup_steps=0", "output_dir=run")  # fmt: skip
    assert (elsewhere / "run" / "release" / "model.safetensors").is_file()
    foretrain("data", "generate", "configs/synthetic/mixture.yaml", "--out", "corpus", "--num-series", "3")
    said = capsys.readouterr().err
    assert "note: there is no file configs/synthetic/mixture.yaml here, so the shipped config" in said
    assert (elsewhere / "corpus" / "manifest.json").is_file()


def test_a_setting_may_be_longer_than_the_name_of_a_file(elsewhere: Path, capsys):
    names = [f"A{k:03}" for k in range(60)]
    foretrain("config", "show", "debug", f"data.holdout_items=[{', '.join(names)}]")
    said = capsys.readouterr().out
    assert all(f"- {name}\n" in said for name in names)


def test_the_copy_of_a_config_is_what_its_name_means_from_then_on(elsewhere: Path, capsys):
    foretrain("config", "copy", "debug")
    text = (elsewhere / "debug.yaml").read_text()
    (elsewhere / "debug.yaml").write_text(re.sub(r"^seed:.*", "", text, flags=re.M) + "\nseed: 77\n")
    capsys.readouterr()
    foretrain("config", "show", "debug")
    shown = capsys.readouterr()
    assert "seed: 77" in shown.out
    assert shown.err == "note: debug.yaml is a file here, which is used, and not the shipped config debug.\n"
