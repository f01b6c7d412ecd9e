"""Optimizers with parameter groups by role: AdamW, Muon with AdamW, Adafactor, and those of pytorch_optimizer."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from foretrain.config import FieldRule, Section
from foretrain.errors import ConfigError, ModelError
from foretrain.hints import did_you_mean
from foretrain.models.base import ParameterRole, Trainable
from foretrain.training.combined import CombinedOptimizer
from foretrain.training.offload import OffloadedOptimizer
from foretrain.training.optimizer_state import RESERVED, allocate_state, state_numbers, state_tensors
from foretrain.training.schedule import ScheduleConfig

SHARDABLE = {
    "adamw",
    "muon",
    "lion",
}  # those whose steps on parts of the parameters are tested to be those on the whole
DECAYED = {"matrix", "head"}  # roles with weight decay; norms, biases and embeddings have none
TORCH_OPTIMIZERS = {  # {name: the settings that it uses besides those of every optimizer}; the others use `options`
    "adamw": {"betas", "eps", "fused"},
    "muon": {"betas", "eps", "fused"},  # for the AdamW of the parameters that are not for muon
    "adafactor": set[str](),
}
MUON_DEFAULTS = {"adjust_lr_fn": "match_rms_adamw"}
# Arguments of optimizers that `options` must not set: other settings control them, or a run cannot use them.
RESERVED_ARGUMENTS = {"params", "lr", "weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable"}


class OptimizerConfig(Section):
    """The optimizer and its schedule."""

    # adamw; muon (for matrices, with AdamW for embeddings, heads and parameters without two dimensions); adafactor; or
    # the name of an optimizer of pytorch_optimizer, such as lion, which needs the extra "optimizers"
    name: str = "adamw"
    # at the peak of the schedule. Muon's steps are scaled to the size of AdamW's, so that both use the same rate (arXiv
    # 2502.16982); options {adjust_lr_fn: original} disables the scaling.
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)  # adamw, and the AdamW of muon
    eps: float = Field(default=1e-8, gt=0)  # adamw, and the AdamW of muon
    # None = if torch has a fused kernel for the device. Checkpoints depend on the choice, so a resume cannot change it.
    fused: Annotated[bool | None, FieldRule(identity=False, on_resume="refused")] = None
    decay_all: bool = False  # decay norms, biases and embeddings too, as transformers' Trainer can
    # other arguments of the optimizer by name, such as muon's {momentum: 0.95, nesterov: true, ns_steps: 5} or lion's
    # {betas: [0.9, 0.99]}; an unknown one is an error that lists the known ones
    options: dict[str, Any] = Field(default_factory=dict)
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _reject_unused_keys(self) -> OptimizerConfig:
        defaults = {key: field.default for key, field in type(self).model_fields.items()}
        used = TORCH_OPTIMIZERS.get(self.name, set())
        unused = [key for key in ("betas", "eps", "fused") if key not in used and self._is_set(key)]
        if unused:
            raise ValueError(f"{unused[0]}: has no effect on {self.name}; remove it, or set options.{unused[0]}")
        if self.schedule.cycle_momentum and self.name != "adamw":
            raise ValueError(f"schedule.cycle_momentum has no effect on {self.name}; it moves AdamW's beta1")
        if self.schedule.cycle_momentum and self.betas[0] != defaults["betas"][0]:
            raise ValueError(f"betas: {self.betas[0]} has no effect, as schedule.cycle_momentum sets it; drop one")
        return self

    def _is_set(self, key: str) -> bool:
        return getattr(self, key) != type(self).model_fields[key].default


def build_optimizer(model: Trainable, config: OptimizerConfig, offloaded: bool = False) -> Optimizer:
    """Build the optimizer over every trainable parameter, grouped by weight decay and lr_factor.

    offloaded: its state is to be kept in the host's memory (offload.py). Raises ModelError if parameter_groups() does
    not name exactly the trainable parameters, and ConfigError for an unknown name or option, and for muon without a
    matrix.
    """
    if offloaded:
        return OffloadedOptimizer(build_optimizer(model, config))
    roles, trainable = _roles(model), {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        role = roles[name]
        for_muon = _is_for_muon(config, role, parameter)
        decayed = config.decay_all or role.role in DECAYED
        groups.setdefault((for_muon, decayed, role.lr_factor), []).append(parameter)

    def param_groups(for_muon: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0, "lr_factor": factor}
            for (is_for_muon, decayed, factor), parameters in groups.items()
            if is_for_muon == for_muon
        ]

    cls, devices = _optimizer_class(config.name), {p.device.type for p in trainable.values()}
    options, fused = _options(config, cls), devices <= {"cpu", "cuda", "mps"} if config.fused is None else config.fused
    adam = {"betas": config.betas, "eps": config.eps, "fused": fused}
    if config.name != "muon":
        return _create(config, cls, param_groups(False), options | (adam if config.name == "adamw" else {}))
    if not param_groups(True):
        raise ConfigError(
            "optimizer.name: muon is for matrices, and none is trained here (embeddings, heads and vectors use AdamW). "
            "Choose adamw."
        )
    if any(hasattr(p, "to_local") for p in trainable.values()):
        from foretrain.training.sharding import ShardedMuon as cls
    muon = _create(config, cls, param_groups(True), MUON_DEFAULTS | options)
    rest = [_create(config, torch.optim.AdamW, param_groups(False), adam)] if param_groups(False) else []
    return CombinedOptimizer([muon, *rest])


def _roles(model: Trainable) -> dict[str, ParameterRole]:
    roles = model.parameter_groups()
    wrong = sorted({name for name, p in model.named_parameters() if p.requires_grad} ^ set(roles))
    if wrong:
        raise ModelError(
            f"parameter_groups() of {type(model).__name__} must name every trainable parameter and no other; "
            f"it differs at {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}."
        )
    return roles


def _optimizer_class(name: str) -> type[Optimizer]:
    """Return the class of an optimizer. Raises ConfigError for an unknown name and for a missing extra."""
    classes: dict[str, type[Optimizer]] = {
        "adamw": torch.optim.AdamW, "muon": torch.optim.Muon, "adafactor": torch.optim.Adafactor
    }  # fmt: skip
    if name in classes:
        return classes[name]
    try:
        import pytorch_optimizer
    except ImportError:
        sentences = (f"optimizer.name: {name!r} is none of {', '.join(classes)}.", did_you_mean(name, classes))
        extra = "Others come with an extra: pip install 'foretrain[optimizers]'."
        raise ConfigError(" ".join(filter(None, (*sentences, extra)))) from None
    known = [*classes, *(other for other in pytorch_optimizer.get_supported_optimizers() if other not in classes)]
    if name not in known:
        hint = did_you_mean(name, known, f"Known: {', '.join(known)}.", most=3)
        raise ConfigError(f"optimizer.name: {name!r} is not known. {hint}")
    return pytorch_optimizer.load_optimizer(name)


def _options(config: OptimizerConfig, cls: type[Optimizer]) -> dict[str, Any]:
    """Return the options of the config, lists as tuples. Raises ConfigError for one that the optimizer lacks."""
    arguments = inspect.signature(cls.__init__).parameters.values()
    reserved = RESERVED_ARGUMENTS | (TORCH_OPTIMIZERS["adamw"] if config.name == "adamw" else set())
    by_name = [a.name for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    known = [name for name in by_name if name not in reserved | {"self"}]
    for option in config.options:
        if option not in known:
            hint = did_you_mean(option, known, f"Known: {', '.join(known) or 'none'}.")
            raise ConfigError(f"optimizer.options: {config.name} has no option {option!r}. {hint}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.options.items()}


def _create(
    config: OptimizerConfig, cls: type[Optimizer], groups: list[dict[str, Any]], options: dict[str, Any]
) -> Optimizer:
    """Create an optimizer of parameter groups. Raises ConfigError if its class rejects a value."""
    known = inspect.signature(cls.__init__).parameters
    if "params" not in known or "lr" not in known:
        raise ConfigError(f"optimizer.name: {config.name} takes no groups of parameters with a rate. Choose another.")
    if "weight_decay" not in known:
        if config._is_set("weight_decay") or config.decay_all:
            raise ConfigError(f"optimizer.weight_decay: {config.name} has none; leave weight_decay and decay_all out.")
        for group in groups:
            del group["weight_decay"]
    try:
        return cls(groups, lr=config.learning_rate, **options)  # pyright: ignore[reportCallIssue]
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"optimizer: {config.name} cannot be created so: {error}") from None


def check_optimizer(model: Trainable, config: OptimizerConfig, sharded: bool = False, offloaded: bool = False) -> None:
    """Raise ConfigError if a run with this optimizer cannot start or cannot be resumed exactly.

    Third-party optimizers are tested by a few steps on a small sample of parameters. model may be on "meta".
    sharded: its parameters will be split over processes. offloaded: its state is to be kept in the host's memory.
    """
    if sharded and config.name not in SHARDABLE:
        raise ConfigError(
            f"optimizer.name: {config.name} is not tested on parameters that are split over processes. Choose one of "
            f"{', '.join(sorted(SHARDABLE))}, or set training.parallel: ddp."
        )
    build_optimizer(model, config)
    try:
        with torch.random.fork_rng(devices=[]):
            reason = _check_roundtrip(config)
            apart = reason is None and offloaded and not _steps_parts_alike(config)
    except ConfigError:
        raise
    except Exception as error:  # any: the optimizer is other people's code
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if reason is not None:
        raise ConfigError(f"optimizer.name: {config.name} cannot train here: {reason}. Choose another.")
    if apart:
        raise ConfigError(
            f"training.offload_optimizer: the step of {config.name} on a part of the parameters is not its step on "
            "all of them. Choose another optimizer, or leave offload_optimizer out."
        )


class _Sample(nn.Module):
    """One parameter of each role."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("matrix", (6, 4)), ("embedding", (5, 4)), ("head", (4, 6)), ("vector", (4,))):
            self.register_parameter(name, nn.Parameter(torch.linspace(-1, 1, math.prod(shape)).reshape(shape)))

    def parameter_groups(self) -> dict[str, ParameterRole]:
        roles: Any = [name for name, _ in self.named_parameters()]
        return {role: ParameterRole(role) for role in roles}


def _check_roundtrip(config: OptimizerConfig) -> str | None:
    """Return why an optimizer cannot train here, None if it can.

    Its state must survive a checkpoint, and its steps must depend on the learning rate.
    """
    sample: Any = _Sample()
    optimizer = build_optimizer(sample, config)
    if hasattr(optimizer, "eval"):
        return "it needs a call of its eval() before every validation"
    _dummy_steps(sample, optimizer, range(3))
    tensors = state_tensors(sample, optimizer)
    if clash := RESERVED & {name.partition(".")[0] for name in tensors}:
        return f"its state {clash.pop()!r} has a name that checkpoints reserve"
    other = copy.deepcopy(sample)
    resumed = build_optimizer(other, config)
    try:
        numbers = json.loads(json.dumps(state_numbers(sample, optimizer), allow_nan=False))
    except (TypeError, ValueError) as error:
        return f"it keeps state that a checkpoint cannot hold ({error})"
    allocate_state(other, resumed, numbers, {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    for name, tensor in state_tensors(other, resumed).items():
        tensor.copy_(tensors[name])
    for model, its_optimizer in ((sample, optimizer), (other, resumed)):
        _dummy_steps(model, its_optimizer, range(3, 6))
    if not all(torch.equal(a, b) for a, b in zip(sample.parameters(), other.parameters(), strict=True)):
        return "it keeps state that a checkpoint does not hold, so a resumed run would differ from an uninterrupted one"
    set_rates(optimizer, 0.0)
    _dummy_steps(sample, optimizer, range(6, 7))
    if not all(torch.equal(a, b) for a, b in zip(sample.parameters(), other.parameters(), strict=True)):
        return "it changes weights at a learning rate of 0, so it follows no schedule"
    return None


def _steps_parts_alike(config: OptimizerConfig) -> bool:
    """Return whether steps of one parameter at a time give the weights and the state of steps of all, bit for bit."""
    found = []
    for apart in (False, True):
        sample: Any = _Sample()
        optimizer = build_optimizer(sample, config)
        optimizer = OffloadedOptimizer(optimizer, most=1) if apart else optimizer
        try:
            _dummy_steps(sample, optimizer, range(4))
        except Exception:  # any: the optimizer is other people's code, which steps all parameters at once
            return False
        tensors = {**sample.state_dict(), **state_tensors(sample, optimizer)}
        found.append((tensors, json.dumps(state_numbers(sample, optimizer), sort_keys=True)))
    (whole, numbers), (parts, its_numbers) = found
    same = whole.keys() == parts.keys() and all(torch.equal(value, parts[name]) for name, value in whole.items())
    return same and numbers == its_numbers


def _dummy_steps(model: nn.Module, optimizer: Optimizer, steps: Iterable[int]) -> None:
    for step in steps:
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def state_size(model: Trainable, config: OptimizerConfig) -> int:
    """Return how many numbers an optimizer stores; for those of the extra an estimate, two per trainable weight."""
    roles, size = _roles(model), 0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        if config.name == "adafactor":
            size += p.numel() // p.shape[-1] + p.numel() // p.shape[-2] if p.dim() > 1 else p.numel()
        else:
            size += p.numel() * (1 if _is_for_muon(config, roles[name], p) else 2)
    return size


def _is_for_muon(config: OptimizerConfig, role: ParameterRole, parameter: Tensor) -> bool:
    return config.name == "muon" and role.role == "matrix" and parameter.dim() == 2


def set_rates(optimizer: Optimizer, lr: float, beta1: float | None = None) -> None:
    """Set the learning rate of every group to lr times its lr_factor, and beta1 if it is given."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if beta1 is not None:
            group["betas"] = (beta1, group["betas"][1])
