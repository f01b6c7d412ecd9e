"""Shipped configs are found by name from any folder; a file that is there wins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from foretrain.errors import ConfigError
from foretrain.notes import Code
from foretrain.run.shipped import about, find_config, shipped_config, shipped_names

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> Path:
    """An empty folder, in which every test works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_names_are_those_of_the_files():
    assert sorted(shipped_names()) == sorted(
        path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")
    )


@pytest.mark.parametrize("form", ["{}", "{}.yaml", "configs/{}", "configs/{}.yaml", "./configs/{}.yaml"])
@pytest.mark.parametrize("name", ["debug", "chronos2/finetune"])
def test_a_config_has_the_same_name_in_every_spelling(name: str, form: str):
    typed = form.format(name)
    assert shipped_config(typed) == CONFIGS / f"{name}.yaml"
    found, note = find_config(Path(typed))
    assert found == CONFIGS / f"{name}.yaml"
    assert (note and note.code) == (None if form == "{}" else Code.SHIPPED_CONFIG_USED)


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("none.yaml", "`foretrain config list`"),
        ("chronos2/finetun", "Did you mean 'chronos2/finetune'?"),
        ("two-stage", "Did you mean 'kronos/two-stage'?"),
        ("synthetic", "Did you mean 'synthetic/candles' or 'synthetic/groups' or 'synthetic/mixture'?"),
        ("../configs/debug.yaml", "Did you mean 'debug' or 'kronos/debug'?"),
    ],
)
def test_an_unknown_name_is_refused_with_similar_ones(typed: str, hint: str):
    for look_up in (shipped_config, lambda name: find_config(Path(name))):
        with pytest.raises(ConfigError) as caught:
            look_up(typed)
        assert str(caught.value).startswith(f"{typed}: ") and hint in str(caught.value)


def test_a_file_that_is_there_wins(elsewhere: Path):
    file = elsewhere / "configs" / "debug.yaml"
    file.parent.mkdir()
    file.write_text("seed: 1")
    assert find_config(Path("configs/debug.yaml")) == (Path("configs/debug.yaml"), None)
    found, note = find_config(Path("configs/debug"))
    assert found == Path("configs/debug.yaml") and note is not None and note.code == Code.FILE_NAMED_AS_CONFIG
    assert find_config(Path("debug")) == (CONFIGS / "debug.yaml", None)


def test_a_folder_of_a_config_s_name_is_no_config(elsewhere: Path):
    for name in ("debug", "mine"):
        (elsewhere / name).mkdir()
    assert find_config(Path("debug")) == (CONFIGS / "debug.yaml", None)
    with pytest.raises(ConfigError, match="mine: is a folder"):
        find_config(Path("mine"))


def test_a_config_of_another_verb_is_refused_with_that_verb():
    with pytest.raises(ConfigError, match="describes synthetic series: foretrain data generate synthetic/mixture"):
        find_config(Path("synthetic/mixture"))
    with pytest.raises(ConfigError, match="describes a training: foretrain train debug"):
        find_config(CONFIGS / "debug.yaml", "data generate")
    assert find_config(Path("synthetic/mixture"), "data generate") == (CONFIGS / "synthetic" / "mixture.yaml", None)


@pytest.mark.parametrize("name", shipped_names())
def test_every_config_says_at_its_head_what_it_is(name: str):
    assert len(about(name)) > 20


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("my sales.csv", "is a file of data, not a config. To fine-tune on it: foretrain quick 'my sales.csv'; or,"),
        (
            "corpus",
            "is a corpus, not a config. To train on it: foretrain train chronos2/finetune data.corpora.0.path=c",
        ),
        ("run", "is the folder of a run. To continue it: foretrain train run/config.yaml --resume"),
        ("release", "is a model, not a config. To fine-tune it: foretrain quick FILE --model release"),
        ("tiny", "is a model, not a config. To fine-tune it: foretrain quick FILE --model tiny"),
    ],
)
def test_what_is_no_config_is_named_with_the_command_that_takes_it(name: str, answer: str):
    for file in ("my sales.csv", "corpus/dataset_info.json", "run/config.yaml", "release/config.json"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text("date,sales\n")
    with pytest.raises(ConfigError, match=f"{re.escape(name)}: {re.escape(answer)}"):
        find_config(Path(name))
