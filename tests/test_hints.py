from __future__ import annotations

import re

import pytest

from foretrain.config import build, rules
from foretrain.errors import ConfigError
from foretrain.hints import NAMES_ELSEWHERE, did_you_mean, elsewhere, missing_text, nearest
from foretrain.run.config import RunConfig

KNOWN = ("open", "close", "closed", "volume")


def test_the_nearest_known_name_is_offered():
    assert did_you_mean("clsoe", KNOWN) == "Did you mean 'close'?"
    assert did_you_mean("clse", KNOWN, most=2) == "Did you mean 'close' or 'closed'?"


def test_something_else_is_said_where_none_is_near():
    assert did_you_mean("turnover", KNOWN) == ""
    assert did_you_mean("turnover", KNOWN, "It has 4 columns.") == "It has 4 columns."
    assert did_you_mean("close", []) == ""


def test_the_cutoff_says_how_alike_a_name_must_be():
    assert nearest("vol", KNOWN) == ["volume"]
    assert nearest("vol", KNOWN, cutoff=0.9) == []


def test_a_name_of_another_project_is_told_by_ours_and_ours_exist():
    known = {key for key, _ in rules(RunConfig)}
    sections = {key.partition(".")[0] for key in known}
    for name, ours in NAMES_ELSEWHERE.items():
        keys = re.findall(r"\b(\w+(?:\.[\w*]+)+)", ours)
        assert keys or "--" in ours or "release/" in ours, name
        assert not [key for key in keys if key not in known and not any(k.startswith(f"{key}.") for k in known)], name
        assert name not in sections and not any(name == key.rpartition(".")[2] for key in known), name


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("gradient_checkpointing", "Here that is training.activation_checkpointing."),
        ("training.save_total_limit", "Here that is training.keep_last (and training.keep_best)."),
        ("training.bf16", "Here that is training.dtype: bfloat16 (or auto)."),
        ("optimizer.lr_scheduler_type", "Here that is optimizer.schedule.kind."),
        ("training.warmup_ratio", "It belongs elsewhere: optimizer.schedule.warmup_ratio."),
        ("learning_rate", "It belongs elsewhere: optimizer.learning_rate."),
        ("training.resume_from_checkpoint", "Here that is the flag --resume, or --resume-from-checkpoint FOLDER."),
        ("model.tokenizer", "Known here: "),
        ("training.max_stepz", "Did you mean 'max_steps'?"),
        ("adapter.nothing", "Known here: alpha, dropout, freeze_backbone, name, rank, targets, train_head."),
    ],
)
def test_an_unknown_key_names_the_setting_that_was_meant(key, hint):
    tree = {"model": {"family": "chronos2", "random_init": True}, "training": {"max_steps": 1}, "output_dir": "x"}
    tree |= {"data": {"corpora": [{"path": "x"}], "context_length": 32, "prediction_length": 8}, "adapter": {}}
    section, _, name = key.rpartition(".")
    (tree.setdefault(section, {}) if section else tree)[name] = 1
    with pytest.raises(ConfigError, match=rf"\n  {re.escape(f'{key}: unknown key. {hint}')}"):
        build(RunConfig, tree)


def test_a_name_of_many_sections_is_no_hint():
    assert elsewhere("name", ["a.name", "b.name", "c.name", "d.name"]) == elsewhere("nothing", ["a.b"]) == ""


def test_a_missing_file_is_told_with_its_like_and_with_a_missing_folder(tmp_path):
    (tmp_path / "sales.csv").touch()
    assert missing_text(tmp_path / "salse.csv").endswith(
        f"no such file or folder. Did you mean '{tmp_path}/sales.csv'?"
    )
    assert missing_text(tmp_path / "prices.csv").endswith("prices.csv: no such file or folder.")
    assert missing_text(tmp_path / "data" / "sales.csv").endswith(f"Its folder {tmp_path}/data does not exist either.")
