"""Script of test_sharding.py for torchrun: every case in one start of 2 processes, and of 4. Argument: a folder."""

from __future__ import annotations

import copy
import gc
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tests.models import layouts
from tests.models.contract import check_contract
from tests.models.zoo import ZOO, Zoo
from tests.training import budget_run
from tests.training.conftest import Kit
from tests.training.two_processes import SelfTerminating, disk_of_rank_1_is_full, result_of
from tests.waiting import end, wait_until
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from foretrain.distributed.world import World, local
from foretrain.models.base import Batch, ParameterRole, TrainingPrediction
from foretrain.training import offload
from foretrain.training.offload import OffloadedOptimizer
from foretrain.training.optimizer import OptimizerConfig
from foretrain.training.step import Updater
from foretrain.training.trainer import ValidationResult

UNEVEN = {"micro_batch_size": 2, "batch_size": 10}  # 5 micro-batches: processes idle in the last round
FSDP, HSDP = {"parallel": "fsdp"}, {"parallel": "hsdp", "shard_size": 2}
# runs in two parts, beside the whole ones: {layout: variants}
IN_PARTS = {
    "fsdp 2": ("adamw", "muon", "adapter"),
    "ddp 4": ("adamw",),
    "fsdp 4": ("adapter",),
    "hsdp 2x2": ("adamw", "muon"),
}
BAD = 10 * 6 + 4
STEPS = 8
LION = OptimizerConfig(name="lion", learning_rate=1e-3)
TOY = {**UNEVEN, "ema_decay": 0.9, "max_steps": STEPS}
# of every family once in each layout: (layout, family, kind, micro-batches); models/test_two_processes.py has DDP
FAMILY_STEPS = 3
FAMILY_RUNS = [
    (layout, name, kind, 5)
    for layout, kind in (("fsdp 2", "adapter"), ("fsdp 4", "full"), ("hsdp 2x2", "full"))
    for name in ZOO
]
# relay: {leg: (processes, settings, steps at its end)}
RELAY: dict[str, tuple[int, dict[str, Any], int]] = {
    "ddp 4": (4, {"parallel": "ddp"}, 2),
    "fsdp 2": (2, FSDP, 4),
    "one": (1, {}, 6),
    "hsdp 2x2": (4, HSDP, STEPS),
}


class Narrow(Kit.Model):
    """A toy with parameters of fewer rows than there are processes."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.gain = nn.Parameter(torch.ones(1, self.last.out_features))
        self.shift = nn.Parameter(torch.linspace(-0.1, 0.1, 12).reshape(3, 4))

    def predict(self, batch: Batch) -> TrainingPrediction:
        found = super().predict(batch)
        return replace(found, point=found.point * self.gain + self.shift.sum(0))

    def parameter_groups(self) -> dict[str, ParameterRole]:
        return {name: ParameterRole("matrix" if p.dim() > 1 else "vector") for name, p in self.named_parameters()}


def variants() -> dict[str, dict[str, Any]]:
    """Return the keywords of the trainers of a relay, by name; each call makes new models."""
    return {
        "adamw": {**UNEVEN, "model": Narrow(dropout=0.2), "ema_decay": 0.9},
        "muon": {**UNEVEN, "model": Narrow(), "optimizer": OptimizerConfig(name="muon", learning_rate=1e-2)},
    }


def adapter_run(folder: Path, world: World, steps: int, **training: Any) -> None:
    """Train the adapter of a linear model with averages, or resume it."""
    tree = layouts.case(Zoo(folder.parent / "parts"), "linear", "adapter", 5, steps)
    tree["training"] |= {"ema_decay": 0.9, **training}
    tree["optimizer"]["schedule"] = {"kind": "constant"}  # which does not depend on the number of steps
    layouts.run(tree, folder, world, resume="auto")


def relay_leg(out: Path, world: World, leg: str) -> None:
    """Run one leg of the relay of all variants; all processes call it."""
    _, settings, steps = RELAY[leg]
    for name, keywords in variants().items():
        trainer = Kit.trainer(out / name, world=world, **{**keywords, **settings}, max_steps=steps, resume="auto")
        trainer.fit()
    adapter_run(out / "adapter", world, steps, **settings)


def in_parts(out: Path, world: World, layout: str) -> None:
    """Run a layout's variants to their end at once, and in two parts."""
    settings, out = layouts.LAYOUTS[layout][1], out / layout
    for name in IN_PARTS[layout]:
        if name == "adapter":
            adapter_run(out / "whole" / name, world, STEPS, **settings)
            for steps in (4, STEPS):
                adapter_run(out / "parts" / name, world, steps, **settings)
            continue
        keywords = {**variants()[name], **settings}
        Kit.trainer(out / "whole" / name, world=world, **keywords, max_steps=STEPS).fit()
        for steps in (4, STEPS):
            keywords["model"] = variants()[name]["model"]
            Kit.trainer(out / "parts" / name, world=world, **keywords, max_steps=steps, resume="auto").fit()


def offloaded(out: Path, world: World) -> None:
    """Run variants in parts that keep the optimizer's state in the host's memory in turns, as if a CPU's were another.

    Beside in_parts' whole runs of fsdp 2, and the run "lion".
    """
    with mock.patch.multiple(offload, APART={"cpu"}, PART=128):
        for name in ("adamw", "muon", "lion"):
            for steps, on in ((3, True), (6, False), (STEPS, True)):
                keywords = ({"lion": {**TOY, "optimizer": LION}} | variants())[name]
                keywords |= {**FSDP, "offload_optimizer": on, "max_steps": steps}
                run = Kit.trainer(out / "apart" / name, world=world, **keywords, resume="auto")
                run.fit()
                assert isinstance(run.optimizer, OffloadedOptimizer) == on


def validated_run(folder: Path, world: World, gate: bool, **training: Any) -> None:
    """Train a small model with validations of forecasts and, if asked for, a gate at the end."""
    tree = layouts.case(Zoo(folder.parent / "parts"), "linear", "full", 5, 4)
    tree["data"] |= {"validation_steps": 6, "test_steps": 6}
    tree["training"] |= {"validate_every": 2, "validate_first": True, "ema_decay": 0.9, **training}
    layouts.run(tree | {"evaluation": {"promotion": gate, "batch_size": 4}}, folder, world)


def held(trainer: Any) -> dict[str, float]:
    """Train and return the largest share of all numbers that this process held between steps."""
    shares: dict[str, float] = {}
    real = Updater._apply

    def note(name: str, tensors: list[Tensor]) -> None:
        whole = sum(tensor.numel() for tensor in tensors)
        shares[name] = max(shares.get(name, 0.0), sum(local(tensor).numel() for tensor in tensors) / whole)

    def apply(updater: Updater, gradients: list[Tensor], *rest: Any) -> None:
        real(updater, gradients, *rest)
        note("gradients", gradients)
        note("weights", list(trainer.model.parameters()))
        states = [value for state in updater.optimizer.state.values() for value in state.values()]
        note("optimizer", [value for value in states if value.dim()])
        note("average", list(trainer.ema.weights.values()))

    with mock.patch.object(Updater, "_apply", apply):
        trainer.fit()
    return shares


def gathering(trainer: Any) -> float:
    """Train and return how many numbers whole weights hold when the last one has been gathered, in copies of the model.

    Of the weights with two dimensions, without what other models in this process hold.
    """
    real, waiting, held = DTensor.full_tensor, sum(1 for _ in trainer.model.parameters()), 0
    shapes = {p.shape for p in trainer.model.parameters() if p.dim() > 1}

    def live() -> dict[int, int]:
        gc.collect()
        found = [x for x in gc.get_objects() if type(x) in (Tensor, nn.Parameter) and x.shape in shapes]
        storages = [x.untyped_storage() for x in found]
        return {storage._cdata: storage.nbytes() // 4 for storage in storages}

    def full(tensor: DTensor, **kwargs: Any) -> Tensor:
        nonlocal waiting, held
        result, waiting = real(tensor, **kwargs), waiting - 1
        if not waiting:
            held = sum(size for storage, size in live().items() if storage not in others)
        return result

    others = live().keys() - {p.untyped_storage()._cdata for p in trainer.model.parameters()}
    with mock.patch.object(DTensor, "full_tensor", full):
        trainer.fit()
    return held / sum(p.numel() for p in trainer.model.parameters() if p.dim() > 1)


def left_of_fsdp(model: nn.Module, plain: nn.Module) -> list[str]:
    """Return what distinguishes a model that was sharded from one that was not."""
    found = []
    for (name, module), (_, other) in zip(model.named_modules(), plain.named_modules(), strict=True):
        if type(module) is not type(other) or isinstance(module, FSDPModule):
            found.append(f"{name}: {type(module)}")
        if vars(module).keys() != vars(other).keys():
            found.append(f"{name}: {vars(module).keys() ^ vars(other).keys()}")
        hooks = [key for key, value in vars(module).items() if key.endswith("_hooks") and value]
        found += [f"{name}: {key}" for key in hooks]
    copied = copy.deepcopy(model)
    for (name, value), other in zip(model.state_dict().items(), copied.state_dict().values(), strict=True):
        if type(value) is not Tensor or not torch.equal(value, other):
            found.append(f"{name}: {type(value)}")
    return found + [name for name, p in model.named_parameters() if type(p) is not nn.Parameter]


def validating(world: World, scores: Callable[[int], float]) -> Any:
    """Return a validation in which each process makes another number of forward passes, by another method each."""

    def evaluate(model: Any, step: int) -> ValidationResult:
        batch = model.collate(Kit.Source().windows(0, 6))
        sums = [float(model.predict(batch).point.sum()) for _ in range(1 + 2 * world.rank)]
        sums += [float(model(batch).total) for _ in range(world.rank)]
        del sums[1:]
        assert len(set(world.gather_objects(sums[0]))) == 1
        return ValidationResult({"loss": scores(step), "sum": sums[0]})

    return evaluate


def toy_cases(out: Path, world: World) -> dict[str, Any]:
    """Run what a sharded run must do beside its steps, in two processes; return results by name."""

    def trainer(name: str, **settings: Any) -> Any:
        return Kit.trainer(out / name, world=world, **{**TOY, **FSDP, **settings})

    def fit(name: str, **settings: Any) -> Any:
        result = trainer(name, **settings).fit()
        return [result.step, result.stopped_by, result.release_step]

    poison = Kit.Source(poison={BAD: float("inf")})
    validated = {"validate_every": 2, "evaluate": validating(world, lambda step: abs(step - 4.0))}
    trained, stopped = Narrow(), Narrow()
    results = {
        "skip": fit("skip", source=poison, on_nonfinite="skip"),
        "rollback": fit("rollback", source=poison, on_nonfinite="rollback"),
        "stop": result_of(lambda: fit("stop", source=poison, model=stopped)),
        "still split": result_of(lambda: trainer("stop", model=stopped, resume="auto")),
        "float16": fit("float16", dtype="float16"),
        "bfloat16": fit("bfloat16", dtype="bfloat16"),
        "lion": fit("lion", optimizer=LION),
        "float16 ddp": fit("float16 ddp", dtype="float16", parallel="ddp"),
        "patience": fit("patience", **validated, validate_first=True, patience=1),
        "full": fit("full", activation_checkpointing="full", reshard_after_forward=False),
        "term": result_of(lambda: fit("term", source=SelfTerminating(10 * 4 + 2), prefetch=0, checkpoint_every=None)),
        "full disk": disk_of_rank_1_is_full(world, out / "full disk", **FSDP),
        "resumed": fit("term", resume="auto"),
        "gathered": gathering(trainer("selective", activation_checkpointing="selective", prefetch=2)),
        "shares": held(trainer("first", model=trained)),
        "left": left_of_fsdp(trained, Narrow()),
        "again": fit("again", model=trained),
        "auto": [fit(f"micro {size}", micro_batch_size=size, model=Narrow()) for size in ("auto", 5)],
        "budget": layouts.train_run(
            budget_run.config(out / "budget", max_steps=3, budget={"warmup": True}, **FSDP),
            corpora=[budget_run.corpus()],
            world=world,
        )[1].step,
    }
    validated_run(out / "gated", world, gate=True, **FSDP)
    offloaded(out, world)
    results["adafactor"] = result_of(lambda: fit("adafactor", optimizer=OptimizerConfig(name="adafactor")))
    return results


def main() -> None:
    """Run the cases of this number of processes. The legs of the relay wait for those before them."""
    out = Path(sys.argv[1])
    world = World.start("cpu", threads=1)
    zoo, results = Zoo(out / "parts"), dict[str, Any]()

    def leg(name: str, after: str | None = None) -> None:
        if after is not None:
            world.on_main(lambda: wait_until((out / f"{after}.done").exists))
        relay_leg(out / "relay", world, name)
        world.on_main((out / f"{name}.done").touch)

    if world.size == 4:
        leg("ddp 4")
        in_parts(out, world, "ddp 4")
        in_parts(out, world, "fsdp 4")
        in_parts(out, world, "hsdp 2x2")
        results["shares"] = held(Kit.trainer(out / "shares 4", world=world, model=Narrow(), **{**TOY, **FSDP}))
        results["copies"] = held(Kit.trainer(out / "copies", world=world, model=Narrow(), **{**TOY, **HSDP}))
        results["three"] = result_of(lambda: Kit.trainer(out / "3", world=world, parallel="hsdp", shard_size=3).fit())
        layouts.run_layouts(zoo, out / "families", world, FAMILY_STEPS, FAMILY_RUNS)
        leg("hsdp 2x2", after="one")
    else:
        in_parts(out, world, "fsdp 2")
        leg("fsdp 2", after="ddp 4")
        results |= toy_cases(out, world)
        for name in ZOO:
            for kind in layouts.KINDS:
                results[f"contract {name} {kind}"] = check_contract(zoo, name, kind, world)
        layouts.run_layouts(zoo, out / "families", world, FAMILY_STEPS, FAMILY_RUNS)
    (out / f"results.{world.size}.{world.rank}").write_text(json.dumps(results))
    world.barrier()
    world.close()
    end()


if __name__ == "__main__":
    main()
