from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tolerance import assert_another_order
from tests.training import budget_run
from tests.waiting import run_command, torchrun

from foretrain.distributed.world import World, resolve_device
from foretrain.errors import ConfigError
from foretrain.models.objective import LossConfig, Objective
from foretrain.run.train import train_run

pytestmark = pytest.mark.processes

SCRIPT = Path(__file__).with_name("two_processes.py")
UNEVEN = {"micro_batch_size": 3, "ema_decay": 0.9}
BAD = 8 * 6 + 4


def by_budget(folder: Path, **settings: Any) -> None:
    train_run(budget_run.config(folder, **settings), corpora=[budget_run.corpus()], world=World(), resume="auto")


@pytest.fixture(scope="module")
def pair(toy, tmp_path_factory):
    """(run folders, results of both ranks) of two gloo processes under torchrun, started once for all cases."""
    out = tmp_path_factory.mktemp("pair")
    toy.trainer(out / "elastic", **UNEVEN, max_steps=4).fit()
    by_budget(out / "budget", max_steps=2)
    done = run_command(torchrun(2, SCRIPT, out, out / "results"))
    assert done.returncode == 0, done.stdout[-3000:]
    return out, [json.loads((out / f"results.{rank}").read_text()) for rank in range(2)]


def curves(toy, folder: Path) -> dict[str, list[float]]:
    return {"loss": [loss for _, loss in toy.losses(folder)]}


def weights(toy, folder: Path) -> dict[str, list[torch.Tensor]]:
    return {name: [value] for name, value in toy.release(folder).items()}


def other_orders(toy, folder: Path, *, model: Any = None, **settings: Any) -> list[dict[str, list[float]]]:
    """Curves of the run in one process with micro-batches of other sizes, left in folders by-1, by-2 and by-8."""
    for size in (1, 2, 8):
        out, made = folder / f"by-{size}", None if model is None else model()
        toy.trainer(out, **{**settings, "micro_batch_size": size}, model=made).fit()
    return [curves(toy, out) for out in sorted(folder.glob("by-*"))]


def test_the_process_with_the_least_memory_decides_on_an_automatic_micro_batch(toy, pair, tmp_path):
    out, results = pair
    size = results[0]["auto"]
    assert results[1]["auto"] == size and 8 < size <= 16
    toy.trainer(tmp_path / "one", batch_size=64, max_steps=2, micro_batch_size=size).fit()
    assert [loss for _, loss in toy.losses(out / "auto")] == pytest.approx(
        [loss for _, loss in toy.losses(tmp_path / "one")], rel=1e-5
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [("train", UNEVEN), ("accumulate", {"micro_batch_size": 1}), ("validated", {"micro_batch_size": 4})],
)
def test_two_processes_equal_one_with_the_same_micro_batches(toy, pair, tmp_path, name, settings):
    toy.trainer(tmp_path / "one", **settings).fit()
    two, one = pair[0] / name, tmp_path / "one"
    orders = other_orders(toy, tmp_path, **settings)
    assert_another_order(curves(toy, two), curves(toy, one), orders)
    trained = (weights(toy, folder) for folder in (two, one))
    assert_another_order(*trained, [weights(toy, folder) for folder in tmp_path.glob("by-*")])


def test_a_profile_of_two_processes_changes_nothing_and_names_the_slowest(toy, pair):
    folder = pair[0] / "profile"
    assert toy.losses(folder) == toy.losses(pair[0] / "train")
    found = json.loads((folder / "profile" / "profile.json").read_text())
    assert len(found["ranks"]) == 2 and all(rank["exchange"]["mean_s"] > 0 for rank in found["ranks"])
    for rank in found["ranks"]:
        parts = math.fsum(times["mean_s"] for part, times in rank.items() if part != "step")
        assert parts == pytest.approx(rank["step"]["mean_s"], rel=1e-9)
    text = (folder / "profile" / "step-3.txt").read_text()
    assert re.search(r"above: rank 0\. Slowest: rank [01], \S+ ms a step", text)
    rates = {line["step"]: line["steps_per_s"] for line in toy.lines(folder)}
    assert [step for step, rate in rates.items() if rate is None] == [7, 8, 9, 10]


def test_a_resume_from_one_to_two_to_one_process_is_the_same_run(toy, pair, tmp_path):
    folder = pair[0] / "elastic"
    assert pair[1][0]["resume"] == 8
    toy.trainer(folder, **UNEVEN, resume="auto").fit()
    toy.trainer(tmp_path / "one", **UNEVEN).fit()
    assert_another_order(curves(toy, folder), curves(toy, tmp_path / "one"), other_orders(toy, tmp_path, **UNEVEN))


def test_a_token_budget_s_run_from_one_to_two_to_one_process_in_an_epoch_is_the_same_run(toy, pair, tmp_path):
    """The second part, in which one of two processes idles every other round, begins with a warm-up of all shapes."""
    folder = pair[0] / "budget"
    assert pair[1][0]["budget"] == 5
    by_budget(folder)
    by_budget(tmp_path)
    assert dict(toy.losses(folder)) == pytest.approx(dict(toy.losses(tmp_path)), rel=1e-6)
    log = (folder / "training.log").read_text()
    assert "warmed up for 6 shapes" in log
    assert "1 of 2 processes are idle in the last round of a step" in log


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_a_bad_batch_of_one_rank_is_dealt_with_by_all(toy, pair, tmp_path, policy):
    source = toy.Source(poison={BAD: math.inf})
    toy.trainer(tmp_path, **UNEVEN, source=source, on_nonfinite=policy).fit()
    two, one = (toy.lines(folder) for folder in (pair[0] / policy, tmp_path))
    assert [r.get("left_out") for r in two] == [r.get("left_out") for r in one]
    finite = [(a["loss"], b["loss"]) for a, b in zip(two, one, strict=True) if b["loss"] is not None]
    assert [a for a, _ in finite] == pytest.approx([b for _, b in finite], rel=1e-6)
    saved = [sorted(path.name for path in (folder / "nonfinite").iterdir()) for folder in (pair[0] / policy, tmp_path)]
    assert saved[0] == saved[1]


def test_a_loss_of_predictions_in_two_processes_is_that_of_one(toy, pair, tmp_path):
    def model():
        made = toy.Model()
        made.objective = Objective(LossConfig(name="huber", space="scaled", delta=0.3))
        return made

    toy.trainer(tmp_path / "one", **UNEVEN, model=model()).fit()
    orders = other_orders(toy, tmp_path, **UNEVEN, model=model)
    assert_another_order(curves(toy, pair[0] / "huber"), curves(toy, tmp_path / "one"), orders)
    toy.trainer(tmp_path / "own", **UNEVEN).fit()
    assert toy.losses(tmp_path / "own") != toy.losses(tmp_path / "one")


def test_muon_in_two_processes_is_resumed_bit_for_bit_and_close_to_one_process(toy, pair, tmp_path):
    """Muon orthogonalises in bfloat16: the last bit of a gradient may be a thousandth of a step, hence 1e-4."""
    assert [results["muon resumed"] for results in pair[1]] == [[5, 12]] * 2
    whole, parts = pair[0] / "muon", pair[0] / "muon parts"
    assert toy.losses(whole) == toy.losses(parts)
    assert all(torch.equal(toy.release(parts)[key], value) for key, value in toy.release(whole).items())
    toy.trainer(tmp_path, **UNEVEN, optimizer=toy.Optimizer(name="muon", learning_rate=1e-2)).fit()
    assert dict(toy.losses(whole)) == pytest.approx(dict(toy.losses(tmp_path)), rel=1e-4)


def test_all_ranks_stop_with_one_reason(pair):
    for rank in range(2):
        kind, text, _ = pair[1][rank]["stop"]
        assert (kind, text[:34]) == ("TrainingError", "step 7: the loss is not finite; it")


def test_a_folder_that_holds_a_run_is_refused_on_every_rank(pair):
    assert [results["held"][0] for results in pair[1]] == ["TrainingError"] * 2


def test_sigterm_to_one_rank_ends_all_of_them_at_the_same_step_with_a_checkpoint(toy, pair):
    assert [results["term"][2] for results in pair[1]] == [143, 143]
    steps = toy.steps(pair[0] / "term")
    assert len(steps) == 1
    assert steps[0] in (5, 6)  # the signal came while step 5 was prepared
    assert toy.losses(pair[0] / "term")[-1][0] == steps[0]


def test_a_full_disk_of_one_rank_stops_all_without_a_half_checkpoint(pair):
    for results in pair[1]:
        assert results["full"][0] == "TrainingError"
        assert "No space left on device" in results["full"][1]
    assert list((pair[0] / "full" / "checkpoints").iterdir()) == []


def test_two_processes_share_the_writing_of_a_checkpoint(pair):
    names = {path.name[:11] for path in (pair[0] / "train" / "checkpoints" / "step-00000012").glob("shard-*")}
    assert names == {"shard-00001", "shard-00002"}


def test_float16_starts_from_the_same_scale_on_all_ranks(toy, pair):
    assert [results["float16"] for results in pair[1]] == [12, 12]
    assert all(record["loss"] is not None for record in toy.lines(pair[0] / "float16"))


def test_collectives_do_what_their_names_say(pair):
    for rank, results in enumerate(pair[1]):
        assert results["sum"] == [3.0, 3.0]
        assert results["broadcast"] == "from 0"
        assert results["gather"] == [0, 1]
        assert results["error on rank 0"][:2] == ["DataError", "torn"]
        expected = ["DataError", "torn"] if rank else ["TrainingError", "another process of this run failed: torn"]
        assert results["error on rank 1"][:2] == expected


def test_a_world_of_one_needs_no_process_group():
    world = World.start("cpu")
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.gather_objects("a") == ["a"]
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("name", ["warp", "cuda" if not torch.cuda.is_available() else "mps"])
def test_a_device_that_is_not_there_is_an_error(name):
    with pytest.raises(ConfigError, match=r"device: .*[Cc]hoose auto"):
        resolve_device(name)


def test_activation_checkpointing_runs_blocks_twice_and_changes_no_loss(toy, tmp_path):
    models = {on: toy.Model(dropout=0.2) for on in (False, True)}
    for on, model in models.items():
        toy.trainer(tmp_path / str(on), model=model, activation_checkpointing=on).fit()
    assert [models[on].body[0].runs for on in (False, True)] == [12, 24]
    assert toy.losses(tmp_path / "True") == toy.losses(tmp_path / "False")


def test_compiled_blocks_run_instead_of_the_eager_ones_and_give_the_same_losses(toy, tmp_path):
    """About 15 s of a core: the C++ compiler is what is tested here."""
    models = {on: toy.Model() for on in (False, True)}
    for on, model in models.items():
        toy.trainer(tmp_path / str(on), model=model, compile=on, max_steps=4, checkpoint_every=None).fit()
    assert [models[on].body[0].runs for on in (False, True)] == [4, 0]
    eager, compiled = (dict(toy.losses(tmp_path / str(on))) for on in (False, True))
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert models[True].body[0]._compiled_call_impl is None  # as it was before
