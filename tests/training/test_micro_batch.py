"""`micro_batch_size: auto`. What a device has left is replaced by a number; the trials are real."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.two_processes import cases
from tests.models.zoo import ZOO, Zoo

from foretrain.config import build, read_yaml
from foretrain.distributed.world import World
from foretrain.errors import ConfigError, TrainingError
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig, config_hash
from foretrain.run.train import train_run
from foretrain.training import micro_batch
from foretrain.training.auto import settle
from foretrain.training.journal import read_journal
from foretrain.training.loader import _check_generated
from foretrain.training.micro_batch import _balanced, _calculated, _largest, _Trial, find
from foretrain.training.optimizer import OptimizerConfig
from foretrain.training.settings import TrainingConfig

CPU = torch.device("cpu")


class Counting:
    """Makes a toy whose forward pass changes a buffer and draws, as a batch norm and a dropout do."""

    def __new__(cls, toy):
        class Model(toy.Model):
            def __init__(self) -> None:
                super().__init__(dropout=0.2)
                self.register_buffer("passes", torch.zeros(()))

            def predict(self, batch):
                self.passes += 1
                return super().predict(batch)

        return Model()


@pytest.fixture
def room(monkeypatch):
    """A function that sets the bytes that micro-batches may take on a device."""

    def leave(size: int) -> None:
        monkeypatch.setattr(micro_batch, "available", lambda device: int(size / micro_batch.SHARE["cpu"]) + 1)

    return leave


def needed(model: Any, source: Any, config: TrainingConfig, optimizer: OptimizerConfig, size: int) -> int:
    """Return the bytes that a run with micro-batches of a size takes, as they are calculated."""
    with _Trial(model, source, config, CPU) as trial:
        return int(1.3 * trial.elsewhere(size)) + micro_batch._kept(model, config, optimizer, World())


# -- the search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "room", "found"),
    [(32, 10**6, 32), (32, 100, 10), (32, 160, 16), (32, 5, 0), (7, 70, 7), (7, 69, 4), (100, 640, 50), (1, 10, 1)],
)
def test_the_largest_size_that_fits_divides_a_step_into_the_fewest_rounds(limit, room, found):
    asked = []

    def need(size: int) -> int | None:
        asked.append(size)
        return 10 * size if size <= 64 else None  # as a GPU that has no more

    size, taken = _largest(limit, need, room)
    assert taken == 10 * size <= room or size == 0
    if size:
        assert -(-limit // size) == -(-limit // max(found, 1)) or found == size
    else:
        assert found == 0
    assert max(asked) <= limit and len(asked) <= limit.bit_length() + 1 + micro_batch.REFINEMENTS


def test_rounds_of_a_step_are_equal():
    assert [_balanced(100, windows) for windows in (100, 99, 64, 50, 33)] == [100, 50, 50, 50, 25]


def test_larger_sizes_are_calculated_from_small_ones_and_never_measured_beyond_the_room():
    asked = []

    def measure(size: int) -> int:
        asked.append(size)
        return 1000 + 10 * size

    need = _calculated(measure, 4096, 10**6, gradients=100)
    assert asked == [1, 2, 4] and need(3) == 1040
    assert 1000 + 10 * 4096 <= (need(4096) or 0) <= 1.3 * (1000 + 10 * 4096)
    asked.clear()
    need = _calculated(measure, 4096, 2500, gradients=100)  # two windows might take more than that
    assert asked == [1] and need(1) == 1010 and need(2) >= 2020


def test_growth_with_the_square_of_the_windows_is_calculated_as_such():
    need = _calculated(lambda size: size**2, 4096, 10**9, gradients=1)
    assert 4096**2 <= (need(4096) or 0) <= 1.2 * 4096**2


# -- one process -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Fail unless weights, buffers, gradients, attributes of modules and random states stay as they are."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = [set(vars(module)) for module in model.modules()]
    states = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]
    yield
    assert torch.equal(torch.get_rng_state(), states[0])
    assert [random.getstate(), np.random.get_state()[1].tolist()] == states[1:]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters()) and model.training
    assert [set(vars(module)) for module in model.modules()] == attributes


@pytest.mark.parametrize("checkpointing", ["off", "selective", "full"])
def test_a_trial_leaves_no_trace(toy, checkpointing):
    model, config = Counting(toy).train(), TrainingConfig(max_steps=1, activation_checkpointing=checkpointing)
    with unchanged(model):
        assert find(model, toy.Source(), config, OptimizerConfig(), World()).windows == config.batch_size
    assert float(model.passes) == 0


def test_losses_and_weights_are_those_of_the_same_number_given_by_hand(toy, tmp_path, room):
    settings = {"ema_decay": 0.9, "batch_size": 64, "max_steps": 3}
    config = toy.config(micro_batch_size="auto", **settings)
    room(needed(Counting(toy).train(), toy.Source(), config, OptimizerConfig(), 16))
    for name, size in (("auto", "auto"), ("hand", 16)):
        toy.trainer(tmp_path / name, model=Counting(toy), micro_batch_size=size, **settings).fit()
    assert toy.losses(tmp_path / "auto") == toy.losses(tmp_path / "hand")
    hand = toy.release(tmp_path / "hand")
    assert all(torch.equal(value, hand[name]) for name, value in toy.release(tmp_path / "auto").items())
    log = (tmp_path / "auto" / "training.log").read_text()
    assert "auto: training.micro_batch_size 16 (" in log and "16 per process and forward x 4 accumulation" in log


def test_the_found_number_is_saved_and_a_resumed_run_keeps_it(toy, tmp_path, room):
    settings = {"micro_batch_size": "auto", "batch_size": 64}
    room(needed(toy.Model(), toy.Source(), toy.config(**settings), OptimizerConfig(), 16))
    toy.trainer(tmp_path, **settings, max_steps=2).fit()
    assert read_yaml(tmp_path / "config.yaml")["training"]["micro_batch_size"] == 16
    room(10**9)
    trainer = toy.trainer(tmp_path, **settings, max_steps=3, resume="auto")
    trainer.fit()
    assert trainer.plan.micro_batch_size == 16
    assert "auto: training.micro_batch_size 16 (as the run began)" in (tmp_path / "training.log").read_text()
    saved = read_yaml(tmp_path / "config.yaml")["training"]
    config, lines = settle(
        toy.config(**settings), World(), saved=saved
    )  # before the first checkpoint config.yaml has it
    assert config.micro_batch_size == 16 and lines == ["auto: training.micro_batch_size 16 as the run began"]


def test_less_room_than_one_window_needs_is_an_error_that_says_what_to_do(toy, tmp_path, room):
    room(100)
    with pytest.raises(TrainingError, match=r"not even one window fits into .*activation_checkpointing=full"):
        toy.trainer(tmp_path, micro_batch_size="auto").fit()


def test_a_split_model_of_which_whole_weights_leave_no_room_takes_one_window(toy, room):
    class Two(World):
        def gather_objects(self, value):
            return [value, value]

    room(100)
    config = TrainingConfig(max_steps=1, parallel="fsdp")
    found = find(toy.Model(), toy.Source(), config, OptimizerConfig(), Two(size=2))
    assert found.windows == 1 and "split ones may" in found.how


def test_processes_take_what_all_of_them_hold_and_no_more_than_their_share(toy):
    class Two(World):
        def gather_objects(self, value):
            return [value, None if value is None else value._replace(windows=3)]

    config = TrainingConfig(max_steps=1, batch_size=16)
    assert find(toy.Model(), toy.Source(), config, OptimizerConfig(), Two(size=2)).windows == 3  # 8 in 3 rounds
    assert find(toy.Model(), toy.Source(), config, OptimizerConfig(), World(size=4), alone=True).windows == 4


def test_a_gpu_without_enough_memory_is_a_size_that_does_not_fit(toy):
    """The allocator's error is raised by a patched forward pass."""
    model, config = toy.Model(), TrainingConfig(max_steps=1)
    real = model.forward

    def forward(batch):
        if len(batch["context"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(batch)

    model.forward = forward
    with _Trial(model, toy.Source(), config, CPU) as trial:
        assert trial._fits(4) and not trial._fits(8)
        model.forward = lambda batch: real({**batch, "context": batch["context"][:, :1]})
        with pytest.raises(RuntimeError, match="shape"):
            trial._fits(1)


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Configs of every family, of steps of 64 windows, with auto."""
    found = dict(cases(Zoo(tmp_path_factory.mktemp("parts"))))
    training = {"max_steps": 2, "batch_size": 64, "micro_batch_size": "auto"}
    return {name: {**found[f"{name}-full"], "training": found[f"{name}-full"]["training"] | training} for name in ZOO}


@pytest.mark.parametrize("name", ZOO)
def test_a_trial_of_any_family_leaves_no_trace_and_finds_what_fits(trees, tmp_path, room, name):
    config, source = open_source(build(RunConfig, {**trees[name], "output_dir": str(tmp_path)}))
    model = build_model(config).train()
    room(needed(model, source, config.training, config.optimizer, 16))
    with unchanged(model):
        found = find(model, source, config.training, config.optimizer, World())
    assert 10 < found.windows < 20


def test_kronos_trains_as_with_the_same_number_given_by_hand(trees, tmp_path, room):
    """Its table of tokens is written before the trial, in which it is read."""
    tree = trees["kronos"]
    tree = {**tree, "model": tree["model"] | {"token_cache": True}, "training": tree["training"] | {"batch_size": 12}}
    losses, size = list[list[float]](), "auto"
    for folder in ("auto", "hand"):
        tree["training"] |= {"micro_batch_size": size}
        with contextlib.redirect_stdout(io.StringIO()):
            train_run(build(RunConfig, {**tree, "output_dir": str(tmp_path / folder)}), world=World())
        size = read_yaml(tmp_path / folder / "config.yaml")["training"]["micro_batch_size"]
        records = read_journal(tmp_path / folder / "metrics.jsonl")
        losses.append([record["loss"] for record in records if record["kind"] == "train"])
    assert losses[0] == losses[1] and len(losses[0]) == 2 and size == 12


def test_compiled_blocks_are_compiled_after_the_trial_alone(toy, tmp_path, monkeypatch):
    """Of the shape that is trained on, so that neither graphs nor their limit know of the trial."""
    seen = []
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: seen.append(find_done[:]))
    find_done: list[int] = []
    real = micro_batch._Trial.__exit__

    def exit_(self, *error):
        find_done.append(1)
        real(self, *error)

    monkeypatch.setattr(micro_batch._Trial, "__exit__", exit_)
    toy.trainer(tmp_path, micro_batch_size="auto", compile=True).fit()
    assert seen == [[1], [1]] and plain is not torch.nn.Module.compile


# -- settings --------------------------------------------------------------------------------------------------------


def test_auto_is_no_part_of_a_run_s_identity():
    def hashed(size: Any) -> str:
        tree = {"model": {"family": "chronos2", "random_init": True}, "output_dir": "x"}
        tree["data"] = {"corpora": [{"path": "x"}], "context_length": 32, "prediction_length": 8}
        return config_hash(RunConfig.model_validate({**tree, "training": {"max_steps": 1, "micro_batch_size": size}}))

    assert hashed("auto") == hashed(4) == hashed(None)


def test_auto_beside_what_makes_batches_itself_is_refused():
    with pytest.raises(ValueError, match=r"no effect beside token_budget, whose .*max_tokens_per_batch \(auto too\)"):
        TrainingConfig(max_steps=1, micro_batch_size="auto", token_budget={})
    with pytest.raises(ConfigError, match=r"training.micro_batch_size: no effect beside data.generated"):
        _check_generated(TrainingConfig(max_steps=1, micro_batch_size="auto"))


@pytest.mark.parametrize("value", ["some", 0, 1.5])
def test_another_word_or_number_is_refused_in_one_line(value):
    with pytest.raises(ValueError, match=", or auto"):
        TrainingConfig(max_steps=1, micro_batch_size=value)
