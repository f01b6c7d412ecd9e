"""What the ancestors of a run saw: recorded by every kind of run, and judged when their folders are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.cli.test_app import foretrain as command
from tests.models.zoo import ZOO
from tests.test_old_runs import copy_of

import foretrain
from foretrain.config import build
from foretrain.data.importers import import_corpus
from foretrain.data.splits import Origin
from foretrain.data.store import Corpus
from foretrain.distributed.world import World
from foretrain.evaluation.gate import judge
from foretrain.evaluation.overlap import ABOUT_TRAINING, check_overlap
from foretrain.evaluation.reference import OTHER, ReferenceModel
from foretrain.evaluation.tasks import evaluate
from foretrain.forecasting.ancestry import Ancestry
from foretrain.forecasting.parents import with_ancestry, with_parts
from foretrain.notes import Code, codes
from foretrain.run.config import RunConfig
from foretrain.run.dry_run import describe_run, describe_stages
from foretrain.run.export import export_checkpoint
from foretrain.run.pipeline import run_stages
from foretrain.run.promotion import open_reference
from foretrain.run.stages import Draft, StagesConfig
from foretrain.run.train import train_run

CONTEXT, HORIZON = 24, 6


def write_bars(folder: Path, rows: int) -> None:
    """CSV files of three items' hourly candles."""
    folder.mkdir(exist_ok=True)
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    for k, item in enumerate("abc"):
        close = 100 * np.exp(np.random.default_rng(k).standard_normal(400)[:rows].cumsum() / 100)
        bars = {"timestamp": stamps, "open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
        pd.DataFrame(bars).to_csv(folder / f"{item}.csv", index=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bars")
    write_bars(folder / "in", 200)
    import_corpus([folder / "in"], folder / "bars")
    return folder / "bars"


def sections(corpus: Path, start: Path | str | None = None, name: str = "linear", **changes: Any) -> dict[str, Any]:
    """The sections of a run of two steps from random weights, or from a release."""
    made: dict[str, Any] = {
        "model": {"family": name, **(ZOO[name].section if start is None else {"model_id": str(start)})},
        "data": {"corpora": [{"path": str(corpus)}], "context_length": CONTEXT, "prediction_length": HORIZON},
        "training": {"max_steps": 2, "batch_size": 2, "tensorboard": False},
    }
    for key, value in changes.items():
        made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
    return made


def config(folder: Path, *arguments: Any, **changes: Any) -> RunConfig:
    tree = {**sections(*arguments, **changes), "output_dir": str(folder), "threads": 1, "device": "cpu"}
    return build(RunConfig, tree)


def train(folder: Path, *arguments: Any, **changes: Any) -> Path:
    """Train a run and return its release."""
    train_run(config(folder, *arguments, **changes))
    return folder / "release"


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "release.json").read_text())


def rules(folder: Path) -> dict[str, int]:
    """Which ancestors a release records, and the test steps of each."""
    return {rule["by"]: rule["test_steps"] for rule in facts(folder)["ancestry"]["corpora"]}


def caught(release: Path, corpus: Path) -> str:
    """Whose training saw the window that starts 20 steps before the end of an item, in the words of the alarm."""
    opened = Corpus.open(corpus)
    note = check_overlap(facts(release), [opened], [[Origin(0, opened.length(0) - 20)]])[0]
    assert note.code == Code.TRAINING_SAW_WINDOWS
    return note.text.partition("inside the data that ")[2].partition(" was trained on")[0]


def test_a_leak_is_found_through_two_generations_whose_folders_are_gone(corpus: Path, tmp_path: Path, capsys):
    oldest = train(tmp_path / "oldest", corpus, data={"test_steps": 6})
    parent = train(tmp_path / "parent", corpus, oldest, data={"test_steps": 60})
    child = train(tmp_path / "child", corpus, parent, data={"test_steps": 60})
    shutil.rmtree(tmp_path / "oldest")
    shutil.rmtree(tmp_path / "parent")
    assert rules(child) == {"model": 60, "model.model": 6} and facts(child)["ancestry"]["known"]
    for alias in ("best_model", "hf_export"):
        assert facts(tmp_path / "child" / alias) == facts(child)

    command("evaluate", child, "--data", corpus)
    shown = capsys.readouterr().out
    assert "1 window per item instead of 20: the training of its parent model's parent model held out the" in shown
    assert "NO FAIR TEST" not in shown

    model = foretrain.load(child, device="cpu").model
    against = ReferenceModel(OTHER, "another", model)
    found = evaluate(
        model, Corpus.open(corpus), prediction_length=HORIZON, test_steps=60, against=against, release=facts(child)
    )
    assert found.headline.startswith("NO FAIR TEST, the training of its parent model's parent model saw these windows.")
    promotion = judge(found, require_significance=False).to_dict()
    assert not promotion["promoted"] and promotion["objections"][0]["code"] == Code.TRAINING_SAW_WINDOWS
    assert promotion["reason"].startswith("the training of its parent model's parent model saw these windows")
    assert promotion["codes"][0]["counts"]["generation"] == 2


def test_an_adapter_and_its_merged_release_record_their_base(corpus: Path, tmp_path: Path):
    pytest.importorskip("peft")
    base = train(tmp_path / "base", corpus, data={"test_steps": 6})
    merged = train(tmp_path / "lora", corpus, base, adapter={"rank": 2}, data={"test_steps": 30})
    for folder in (merged, tmp_path / "lora" / "adapters" / "lora"):
        assert rules(folder) == {"model": 6}
    child = train(tmp_path / "child", corpus, merged, data={"test_steps": 40})
    shutil.rmtree(tmp_path / "base")
    assert rules(child) == {"model": 30, "model.model": 6}
    assert caught(child, corpus) == "its parent model's parent model"
    assert caught(tmp_path / "lora" / "adapters" / "lora", corpus) == f"its parent model ({base})"


def test_a_predictor_records_its_tokenizer_also_if_it_lies_inside_a_release(corpus: Path, tmp_path: Path):
    tokenizer = train(tmp_path / "reader", corpus, None, "kronos_tokenizer", data={"test_steps": 6})
    model = {**ZOO["kronos"].section, "tokenizer": str(tokenizer)}
    parent = train(tmp_path / "writer", corpus, None, "kronos", model=model, data={"test_steps": 30})
    shutil.rmtree(tmp_path / "reader")
    assert rules(parent) == {"tokenizer": 6} and caught(parent, corpus) == f"its tokenizer ({tokenizer})"
    child = train(tmp_path / "child", corpus, parent, "kronos", data={"test_steps": 40})
    assert rules(child) == {"model": 30, "tokenizer": 6, "model.tokenizer": 6} and facts(child)["ancestry"]["known"]
    other = {**ZOO["kronos"].section, "tokenizer": str(parent / "tokenizer")}
    from_scratch = train(tmp_path / "scratch", corpus, None, "kronos", model=other)
    assert rules(from_scratch) == {"tokenizer": 6}, "of the release that it was found in, the tokenizer alone is used"


def staged(folder: Path, corpus: Path) -> StagesConfig:
    first = {"name": "first", **sections(corpus, data={"test_steps": 6})}
    second = {"name": "second", **sections(corpus, "stage:first", data={"test_steps": 60})}
    tree = {"stages": [first, second], "output_dir": str(folder), "threads": 1, "device": "cpu"}
    found = Draft.of(tree).build()
    assert isinstance(found, StagesConfig)
    return found


def test_a_stage_records_the_earlier_ones_and_says_before_it_starts_what_they_saw(corpus: Path, tmp_path: Path):
    planned = describe_stages(staged(tmp_path / "run", corpus), World())
    run_stages(staged(tmp_path / "run", corpus))
    shutil.rmtree(tmp_path / "run" / "stages" / "01-first" / "release")
    assert rules(tmp_path / "run" / "release") == {"model": 6}
    assert caught(tmp_path / "run" / "release", corpus).startswith("its parent model (")
    log = (tmp_path / "run" / "stages" / "02-second" / "training.log").read_text()
    text = "data.test_steps is 60, but the training of its parent model"
    for found in ("\n".join(planned), log):
        assert text in found and "held out the newest 6 steps of bars alone: only these are a fair test" in found
    assert text not in (tmp_path / "run" / "stages" / "01-first" / "training.log").read_text()


def test_a_run_that_tests_on_what_its_parent_saw_says_so_before_it_starts(corpus: Path, tmp_path: Path):
    base = train(tmp_path / "base", corpus, data={"test_steps": 4})
    lines = describe_run(config(tmp_path / "run", corpus, base, data={"test_steps": 60}), World())
    assert f"the training of its parent model ({base}) held out the newest 4 steps of bars alone" in lines[-1]
    assert "no window of 6 steps is a fair test, and the run will not be promoted" in lines[-1]
    fair = describe_run(config(tmp_path / "run", corpus, base, data={"test_steps": 4}), World())
    assert not any("fair test" in line for line in fair)


def test_the_gate_of_a_run_refuses_what_its_parent_saw_and_stores_the_code(corpus: Path, tmp_path: Path):
    base = train(tmp_path / "base", corpus, data={"test_steps": 4})
    settings = {"data": {"test_steps": 60}, "evaluation": {"promotion": True, "require_significance": False}}
    promotion = facts(train(tmp_path / "run", corpus, base, **settings))["promotion"]
    assert not promotion["promoted"]
    assert promotion["reason"].startswith(f"the training of its parent model ({base}) saw these windows")
    for found in (promotion["objections"][0], promotion["codes"][0]):
        assert found["code"] == Code.TRAINING_SAW_WINDOWS
    assert promotion["codes"][0]["counts"] == {"windows": 27, "scored": 30, "test_steps_needed": 60, "generation": 1}


def test_validation_on_what_a_parent_saw_is_reported_before_a_run_starts(corpus: Path, tmp_path: Path):
    base = train(tmp_path / "base", corpus, data={"test_steps": 6, "validation_steps": 0})
    settings = {"training": {"validate_every": 1}, "data": {"test_steps": 6}}
    lines = describe_run(config(tmp_path / "run", corpus, base, **settings), World())
    assert "data.validation_steps is 6" in lines[-1] and "held out the newest 6 steps of bars alone" in lines[-1]


def test_a_reference_that_saw_the_windows_is_reported_as_favoured(corpus: Path, tmp_path: Path):
    narrow, wide = (train(tmp_path / f"{k}", corpus, data={"test_steps": k}) for k in (6, 60))

    def compared(release: Path, other: Path) -> dict[str, Any]:
        model = foretrain.load(release, device="cpu").model
        against = open_reference(str(other), str(release), model)
        settings = {"prediction_length": HORIZON, "against": against, "release": facts(release)}
        found = evaluate(model, Corpus.open(corpus), **settings).to_dict()
        return {entry["code"]: entry["counts"] for entry in found["codes"]}

    found = compared(wide, narrow)
    assert found[Code.REFERENCE_SAW_WINDOWS] == {"windows": 24} and Code.TRAINING_SAW_WINDOWS not in found
    assert Code.REFERENCE_SAW_WINDOWS not in compared(narrow, wide)


def test_a_tokenizer_named_for_an_evaluation_counts_instead_of_the_release_s_own(corpus: Path, zoo, tmp_path: Path):
    (tmp_path / "official").mkdir()
    zoo.built("kronos").save_release(tmp_path / "official")
    official = tmp_path / "official" / "tokenizer"
    tokenizer = train(tmp_path / "reader", corpus, official, "kronos_tokenizer", data={"test_steps": 6})
    found = with_parts({}, {"tokenizer": {"asked": str(tokenizer)}})
    opened = Corpus.open(corpus)
    notes = check_overlap(found, [opened], [[Origin(0, opened.length(0) - 30)]])
    assert [note.code for note in notes] == [Code.TRAINING_SAW_WINDOWS, Code.TRAINING_UNKNOWN]
    assert f"its tokenizer ({tokenizer})" in notes[0].text
    assert found["ancestry"]["unknown"] == ["tokenizer.model"]


def test_a_model_with_another_tokenizer_is_judged_by_what_that_one_saw(corpus: Path, tmp_path: Path, capsys):
    wide, narrow = (
        train(tmp_path / f"reader{steps}", corpus, None, "kronos_tokenizer", data={"test_steps": steps})
        for steps in (60, 6)
    )
    model = {**ZOO["kronos"].section, "tokenizer": str(wide)}
    clean = train(tmp_path / "writer", corpus, None, "kronos", model=model, data={"test_steps": 60})
    swapped = foretrain.load(clean, device="cpu", tokenizer=narrow)
    swapped.save(tmp_path / "swapped")
    arguments = ("evaluate", clean, "--data", corpus, "--against", "zero-shot", "--num-windows", 3, "--split", "all")
    command(*arguments, "--tokenizer", narrow)
    shown = capsys.readouterr().out
    assert f"NO FAIR TEST, the training of its tokenizer ({narrow}) saw these windows." in shown
    assert "not recorded: " in shown and "promotion" not in facts(clean)
    command(*arguments, "--tokenizer", wide)
    assert "NO FAIR TEST" not in capsys.readouterr().out and "promotion" in facts(clean)
    shutil.rmtree(tmp_path / "reader6")
    assert rules(tmp_path / "swapped") == {"tokenizer": 6}
    assert caught(tmp_path / "swapped", corpus) == f"its tokenizer ({narrow})"
    child = train(tmp_path / "child", corpus, tmp_path / "swapped", "kronos", data={"test_steps": 60})
    assert rules(child)["model.tokenizer"] == 6 and caught(child, corpus) == "its tokenizer"
    unread = foretrain.load(clean, device="cpu", tokenizer=clean / "tokenizer").facts
    assert Ancestry.read(unread) == Ancestry.read(foretrain.load(clean, device="cpu").facts), "the same one inside it"


def test_an_adapter_of_another_program_is_judged_by_what_its_base_saw(corpus: Path, tmp_path: Path):
    pytest.importorskip("peft")
    base = train(tmp_path / "base", corpus, data={"test_steps": 6})
    train(tmp_path / "lora", corpus, base, adapter={"rank": 2}, data={"test_steps": 30})
    adapter = tmp_path / "lora" / "adapters" / "lora"
    (adapter / "release.json").unlink()
    foretrain.load(adapter, device="cpu").save(tmp_path / "saved")
    opened = Corpus.open(corpus)
    for found in (foretrain.load(adapter, device="cpu").facts, facts(tmp_path / "saved")):
        notes = check_overlap(found, [opened], [[Origin(0, opened.length(0) - 20)]])
        assert [note.code for note in notes] == [Code.TRAINING_SAW_WINDOWS, Code.TRAINING_UNKNOWN]
        assert f"its parent model ({base})" in notes[0].text


def test_resume_and_export_keep_the_ancestry_that_the_run_started_with(corpus: Path, tmp_path: Path):
    base = train(tmp_path / "base", corpus, data={"test_steps": 6})
    settings: dict[str, Any] = {"max_steps": 4, "checkpoint_every": 2, "keep_last": 3, "ema_decay": 0.5}
    straight = facts(train(tmp_path / "straight", corpus, base, training=settings))
    train(tmp_path / "run", corpus, base, training={**settings, "max_steps": 2})
    without = {key: value for key, value in facts(base).items() if key not in ("corpora", "ancestry")}
    (base / "release.json").write_text(json.dumps(without))
    train_run(config(tmp_path / "run", corpus, base, training=settings), resume="auto")
    resumed = facts(tmp_path / "run" / "release")
    assert resumed == straight and resumed["weights"] == "ema" and resumed["ancestry"]["known"]
    export_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000002", tmp_path / "out", ema=True)
    assert facts(tmp_path / "out")["ancestry"] == straight["ancestry"]


def test_a_release_is_known_on_its_corpus_after_an_update(tmp_path: Path):
    write_bars(tmp_path / "in", 200)
    import_corpus([tmp_path / "in"], tmp_path / "bars")
    base = train(tmp_path / "base", tmp_path / "bars", data={"test_steps": 6, "validation_steps": 6})
    write_bars(tmp_path / "in", 230)
    import_corpus([tmp_path / "in"], tmp_path / "bars", update=True)
    child = train(tmp_path / "child", tmp_path / "bars", base, data={"test_steps": 36})
    assert rules(child) == {"model": 6}
    model, opened = foretrain.load(base, device="cpu").model, Corpus.open(tmp_path / "bars")
    found = evaluate(model, opened, prediction_length=HORIZON, release=facts(base))
    assert found.counts["windows"] == 3 * (30 + 6) // HORIZON
    assert not codes(found.warnings) & set(ABOUT_TRAINING), "rows that came later are no other data"
    for steps, code in ((42, Code.VALIDATION_SAW_WINDOWS), (48, Code.TRAINING_SAW_WINDOWS)):
        wider = evaluate(
            model, opened, prediction_length=HORIZON, test_steps=steps, num_windows=8, release=facts(child)
        )
        assert wider.warnings[0].code == code


def test_official_weights_leave_the_ancestry_unknown_and_block_nothing(corpus: Path, zoo, tmp_path: Path):
    official = tmp_path / "official"
    official.mkdir()
    zoo.built("linear").save_release(official)
    child = train(tmp_path / "child", corpus, official, data={"test_steps": 60})
    assert facts(child)["ancestry"] == {"known": False, "unknown": ["model"], "corpora": []}
    model, opened = foretrain.load(child, device="cpu").model, Corpus.open(corpus)
    against = ReferenceModel(OTHER, "another", model)
    found = evaluate(model, opened, prediction_length=HORIZON, num_windows=10, against=against, release=facts(child))
    assert Code.ANCESTRY_UNKNOWN in codes(found.warnings) and not found.overlaps_training
    assert not codes(judge(found).objections) & {Code.TRAINING_SAW_WINDOWS, Code.VALIDATION_SAW_WINDOWS}
    assert f"not recorded what its parent model ({official}) was trained on" in " ".join(found.remarks)


def test_a_release_of_an_older_version_is_judged_by_its_parents_folders_while_they_are_there(tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of("toto", tmp_path))
    older = facts(Path("lora/release"))
    assert "ancestry" not in older
    found = Ancestry.read(with_ancestry(older))
    assert [(rule.by, rule.test_steps) for rule in found.seen] == [("model", 12)] and not found.unknown
    shutil.rmtree("finished")
    found = with_ancestry(older)
    assert found["ancestry"] == {"known": False, "unknown": ["model"], "corpora": []}
    opened = Corpus.open("corpus")
    notes = check_overlap(found, [opened], [[Origin(0, opened.length(0) - 6)]])
    assert codes(notes) == {Code.ANCESTRY_UNKNOWN}


def test_a_run_from_a_release_of_an_older_version_records_it_and_what_it_came_from(tmp_path, monkeypatch):
    monkeypatch.chdir(copy_of("toto", tmp_path))
    tree = {
        **sections(Path("corpus"), Path("lora/release"), "toto"),
        "output_dir": "child", "threads": 1, "device": "cpu",
    }  # fmt: skip
    train_run(build(RunConfig, tree))
    assert rules(Path("child/release")) == {"model": 12} and facts(Path("child/release"))["ancestry"]["known"]
