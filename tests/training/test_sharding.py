"""Models that are split over 2 and 4 gloo processes, beside the same runs in one process and in float64.

proofs/layouts.py does the same for all families, layouts and kinds of runs, and for more steps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests import forks
from tests.models import layouts, two_processes
from tests.models.zoo import ZOO, Zoo
from tests.tolerance import training_in_float64
from tests.training import sharded
from tests.waiting import DEADLINE, wait_until

from foretrain import load
from foretrain.distributed.world import World
from foretrain.errors import TrainingError
from foretrain.run.export import export_checkpoint
from foretrain.training.manifest import damage

pytestmark = pytest.mark.processes

FACTOR, MOST = 4, 1e-5  # times what one process in float32 differs from float64; and at most
FEWEST = 1e-7  # an eps of float32: a run whose losses are by luck nearer to float64 is no measure


class Processes:
    """The folder of all runs, and what the processes noted: results[processes][rank]."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[int, list[dict[str, Any]]] = {
            size: [json.loads((folder / f"results.{size}.{rank}").read_text()) for rank in range(size)]
            for size in (2, 4)
        }

    def both(self, name: str) -> Any:
        """Return a result that both of two processes have."""
        first, second = (results[name] for results in self.results[2])
        assert first == second
        return first


@pytest.fixture(scope="module")
def ran(toy, tmp_path_factory) -> Processes:
    """Two groups of processes, started once for all cases, and this process' leg of their relay."""
    folder = tmp_path_factory.mktemp("sharded")
    Zoo(folder / "parts")._part("kronos_tokenizer")  # before both read it
    process = forks.started("tests.training.sharded", folder, 2, 4)
    try:
        wait_until((folder / "fsdp 2.done").exists, process)
        sharded.relay_leg(folder / "relay", World(), "one")
        (folder / "one.done").touch()
        assert process.wait(timeout=DEADLINE) == 0, (folder / "forks.log").read_text()
    finally:
        forks.stop(process)
    return Processes(folder)


@pytest.fixture(scope="module")
def alone(toy, tmp_path_factory) -> dict[str, Path]:
    """Folders of the relay's runs in one process without a break, in float32 and in float64."""
    one, exact = (tmp_path_factory.mktemp(name) for name in ("one", "float64"))
    whole_run(one)
    with training_in_float64():
        whole_run(exact)
    return {"one": one, "float64": exact}


def release_format(run: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return what a loader reads before the numbers: config.json, and names, types and sizes of all tensors."""
    with safe_open(run / "release" / "model.safetensors", "pt") as file:
        parts = {name: (p.get_dtype(), p.get_shape()) for name in file.keys() for p in [file.get_slice(name)]}  # noqa: SIM118
        return (run / "release" / "config.json").read_text(), dict(file.metadata() or {}), parts


def whole_run(folder: Path) -> None:
    for name, keywords in sharded.variants().items():
        sharded.Kit.trainer(folder / name, **keywords, max_steps=sharded.STEPS).fit()
    sharded.adapter_run(folder / "adapter", World(), sharded.STEPS)


def assert_near_float64(found: Path, one: Path, exact: Path) -> None:
    found_losses, one_losses, exact_losses = map(layouts.losses, (found, one, exact))
    away = layouts.away(found_losses, exact_losses)
    assert away <= min(MOST, FACTOR * max(layouts.away(one_losses, exact_losses), FEWEST))


@pytest.fixture(scope="module")
def references(ran, tmp_path_factory) -> Callable[[str, str, int], tuple[Path, Path]]:
    """Returns the folders of a family's run in one process, in float32 and in float64; each runs once."""

    @cache
    def made(name: str, kind: str, count: int) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("reference")
        tree = layouts.case(Zoo(ran.folder / "parts"), name, kind, count, sharded.FAMILY_STEPS)
        layouts.run(tree, folder / "one", World())
        layouts.run_in_float64(tree, folder / "float64")
        return folder / "one", folder / "float64"

    return made


@pytest.mark.parametrize(("layout", "name", "kind", "count"), sharded.FAMILY_RUNS)
def test_a_family_trains_in_a_layout_as_in_one_process(ran, references, layout, name, kind, count):
    one, exact = references(name, kind, count)
    found = ran.folder / "families" / layout / layouts.folder_of(name, kind, count)
    assert_near_float64(found, one, exact)
    assert release_format(found) == release_format(one)
    if ZOO[name].forecasts:
        load(str(found))


@pytest.mark.parametrize("name", ["adamw", "adapter"])
def test_a_relay_of_layouts_is_the_run_of_one_process(ran, alone, name):
    """DDP 4, FSDP 2, one process and HSDP 2x2, each of which continues from the checkpoint of the one before."""
    relay = ran.folder / "relay" / name
    assert len(layouts.losses(relay)) == sharded.STEPS
    assert_near_float64(relay, alone["one"] / name, alone["float64"] / name)


def test_a_relay_of_layouts_with_muon_is_close_to_the_run_of_one_process(ran, alone):
    """Muon orthogonalises in bfloat16: the last bit of a gradient may be a thousandth of a step, hence 1e-4."""
    found, one = (layouts.losses(folder / "muon") for folder in (ran.folder / "relay", alone["one"]))
    assert found == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout, names in sharded.IN_PARTS.items() for name in names]
)
def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one_of_its_layout(toy, ran, layout, name):
    whole, parts = (ran.folder / layout / part / name for part in ("whole", "parts"))
    assert layouts.losses(whole) == layouts.losses(parts)
    assert len(layouts.losses(whole)) == sharded.STEPS
    for key, value in toy.release(whole).items():
        assert torch.equal(toy.release(parts)[key], value), key


def test_the_checkpoint_of_a_sharded_run_is_whole_and_its_damage_is_found(toy, ran, tmp_path):
    """Each process writes its parts of tensors; the files are hashed, and one process reads them."""
    run = ran.folder / "fsdp 4" / "whole" / "adapter"
    checkpoint = run / "checkpoints" / f"step-{sharded.STEPS:08d}"
    assert {path.name[:11] for path in checkpoint.glob("shard-*")} == {f"shard-0000{rank}" for rank in (1, 2, 3, 4)}
    assert damage(checkpoint) is None
    export_checkpoint(checkpoint, tmp_path / "exported", ema=True)
    exported, released = (tmp_path / "exported", run / "release")
    weights = load_file(exported / "model.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in toy.release(run).items())
    series = [[math.sin(t / 3) for t in range(two_processes.CONTEXT)]]
    forecasts = [load(str(place)).forecast(series, 6)[0] for place in (exported, released, checkpoint)]
    assert all((forecast == forecasts[0]).all() for forecast in forecasts)
    part = sorted(checkpoint.glob("shard-00003-*"))[0]
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    assert "sha256" in str(damage(checkpoint))
    with pytest.raises(TrainingError, match=part.name):
        export_checkpoint(checkpoint, tmp_path / "other")


@pytest.mark.parametrize("kind", layouts.KINDS)
@pytest.mark.parametrize("name", ZOO)
def test_every_entry_of_a_family_reads_whole_weights_whoever_calls_it_how_often(ran, name, kind):
    assert [results[f"contract {name} {kind}"] for results in ran.results[2]] == [[], []]


def test_a_split_model_trains_with_an_automatic_micro_batch_as_with_its_number(toy, ran):
    """All 5 windows that a step of 10 has for one of two processes: the trial is made before the model is split."""
    assert ran.both("auto") == [[8, "max_steps", 8]] * 2
    found = [toy.losses(ran.folder / f"micro {size}") for size in ("auto", 5)]
    assert found[0] == found[1]


def test_nothing_of_fsdp_is_left_after_a_run_and_the_model_can_be_trained_again(ran):
    assert [results["left"] for results in ran.results[2]] == [[], []]
    assert ran.both("again") == [8, "max_steps", 8]


@pytest.mark.parametrize(("size", "name", "share"), [(2, "shares", 1 / 2), (4, "shares", 1 / 4), (4, "copies", 1 / 2)])
def test_a_process_holds_its_share_of_weights_gradients_and_optimizer_state_between_steps(ran, size, name, share):
    """The toy's parameters of 1 and 3 rows are whole, or larger parts, on some processes."""
    for results in ran.results[size]:
        assert results[name].keys() == {"weights", "gradients", "optimizer", "average"}
        for held in results[name].values():
            assert share * 0.9 < held < share * 1.1


def test_the_end_of_a_run_gathers_the_weights_once(ran):
    """One whole copy is held, beside this process' half of one that is split."""
    for results in ran.results[2]:
        assert results["gathered"] == 1


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_batch_of_one_process_is_dealt_with_by_all(toy, ran, tmp_path, policy):
    source = toy.Source(poison={sharded.BAD: math.inf})
    toy.trainer(tmp_path, **sharded.TOY, source=source, on_nonfinite=policy).fit()
    two, one = (toy.lines(folder) for folder in (ran.folder / policy, tmp_path))
    assert [line.get("left_out") for line in two] == [line.get("left_out") for line in one]
    finite = [(a["loss"], b["loss"]) for a, b in zip(two, one, strict=True) if b["loss"] is not None]
    assert [a for a, _ in finite] == pytest.approx([b for _, b in finite], rel=1e-6)


def test_a_value_that_is_not_finite_stops_all_processes(ran):
    for results in ran.results[2]:
        kind, text, _ = results["stop"]
        assert (kind, "step 7: the loss is not finite" in text) == ("TrainingError", True)


def test_a_model_that_an_error_left_split_is_refused(ran):
    kind, text, _ = ran.both("still split")
    assert (kind, text[:44]) == ("TrainingError", "this model is still split over the processes")


def test_bfloat16_trains_a_sharded_model_as_one_process_does(toy, ran, tmp_path):
    toy.trainer(tmp_path, **sharded.TOY, dtype="bfloat16").fit()
    assert dict(toy.losses(ran.folder / "bfloat16")) == pytest.approx(dict(toy.losses(tmp_path)), rel=1e-2)


def test_float16_scales_the_loss_of_a_sharded_model_as_of_a_whole_one(toy, ran):
    """With two processes on both sides: the first scale depends on how many micro-batches they share."""
    found, whole = (dict(toy.losses(ran.folder / name)) for name in ("float16", "float16 ddp"))
    assert found == pytest.approx(whole, rel=1e-3)


def test_lion_steps_on_parts_as_on_the_whole(toy, ran, tmp_path):
    toy.trainer(tmp_path, **sharded.TOY, optimizer=sharded.LION).fit()
    assert dict(toy.losses(ran.folder / "lion")) == pytest.approx(dict(toy.losses(tmp_path)), rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon", "lion"])
def test_split_state_in_the_hosts_memory_has_the_bits_of_state_on_the_device(toy, ran, name):
    """It was there in steps 1 to 3, was not in 4 to 6, and was again: the files hold the same tensors."""
    whole = ran.folder / name if name == "lion" else ran.folder / "fsdp 2" / "whole" / name
    apart = ran.folder / "apart" / name
    assert toy.losses(apart) == toy.losses(whole)
    shards = sorted((whole / "checkpoints" / f"step-{sharded.STEPS:08d}").glob("shard-*"))
    assert len(shards) >= 2 * 3  # of two processes: weights, averages and state
    for shard in shards:
        found, expected = (load_file(run / shard.relative_to(whole)) for run in (apart, whole))
        assert found.keys() == expected.keys()
        assert [key for key, value in expected.items() if not torch.equal(found[key], value)] == []


@pytest.mark.parametrize("name", ["selective", "full", "first"])
def test_settings_that_save_memory_or_time_change_no_loss(toy, ran, tmp_path, name):
    model = sharded.Narrow() if name == "first" else toy.Model()
    toy.trainer(tmp_path, **sharded.TOY, model=model).fit()
    assert dict(toy.losses(ran.folder / name)) == pytest.approx(dict(toy.losses(tmp_path)), rel=1e-6)


def test_validation_reads_averages_and_early_stopping_releases_the_best(toy, ran, tmp_path):
    assert ran.both("patience") == [6, "patience", 4]
    validated = {"validate_every": 2, "evaluate": sharded.validating(World(), lambda step: abs(step - 4.0))}
    toy.trainer(tmp_path, **sharded.TOY, **validated, validate_first=True, patience=1).fit()
    two, one = (toy.lines(folder, "validation") for folder in (ran.folder / "patience", tmp_path))
    assert [line["sum"] for line in two] == pytest.approx([line["sum"] for line in one], rel=1e-5)
    for key, value in toy.release(tmp_path).items():
        torch.testing.assert_close(toy.release(ran.folder / "patience")[key], value, rtol=1e-4, atol=1e-6)


def test_validation_metrics_are_those_of_one_process_and_a_gate_follows_the_run(toy, ran, tmp_path):
    sharded.validated_run(tmp_path / "alone", World(), gate=False)
    two, one = (toy.lines(folder, "validation") for folder in (ran.folder / "gated", tmp_path / "alone"))
    assert [line["step"] for line in two] == [0, 2, 4]
    for line, other in zip(two, one, strict=True):
        numbers = {key: value for key, value in other.items() if key.startswith("val_")}
        assert {key: line[key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
    facts = json.loads((ran.folder / "gated" / "release" / "release.json").read_text())
    assert facts["promotion"]["promoted"] is False  # there is one origin


def test_sigterm_to_one_process_ends_both_with_a_checkpoint_to_continue_from(toy, ran, tmp_path):
    assert [results["term"][2] for results in ran.results[2]] == [143, 143]
    assert ran.both("resumed") == [8, "max_steps", 8]
    toy.trainer(tmp_path, **sharded.TOY).fit()
    assert dict(toy.losses(ran.folder / "term")) == pytest.approx(dict(toy.losses(tmp_path)), rel=1e-6)


def test_a_full_disk_of_one_process_stops_both_without_a_half_checkpoint(ran):
    for results in ran.results[2]:
        assert results["full disk"][0] == "TrainingError"
        assert "No space left on device" in results["full disk"][1]
    assert list((ran.folder / "full disk" / "checkpoints").iterdir()) == []


def test_a_token_budget_is_warmed_up_and_trained_on_shards(ran, toy, tmp_path):
    from tests.training import budget_run

    from foretrain.run.train import train_run

    assert ran.both("budget") == 3
    config = budget_run.config(tmp_path, max_steps=3, budget={"warmup": True})
    train_run(config, corpora=[budget_run.corpus()], world=World())
    assert "warmed up for 6 shapes" in (ran.folder / "budget" / "training.log").read_text()
    assert dict(toy.losses(ran.folder / "budget")) == pytest.approx(dict(toy.losses(tmp_path)), rel=1e-6)


def test_what_cannot_be_split_is_refused_before_anything_is_written(ran):
    kind, text, _ = ran.both("adafactor")
    assert (kind, "adafactor is not tested on parameters that are split" in text) == ("ConfigError", True)
    for results in ran.results[4]:
        assert results["three"][:2] == [
            "ConfigError",
            "training.shard_size: 3 does not divide the 4 processes of this run. Set training.shard_size to a divisor, "
            "such as the number of GPUs of a node.",
        ]
    assert not (ran.folder / "3").exists()
