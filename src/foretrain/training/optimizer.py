"""Optimizers with groups by the role of a parameter: AdamW, Muon beside AdamW, Adafactor, and those of an extra."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from foretrain.config import FieldRule, Section
from foretrain.errors import ConfigError, ModelError
from foretrain.hints import did_you_mean
from foretrain.models.base import ParameterRole, Trainable
from foretrain.training.optimizer_state import RESERVED, allocate_state, state_numbers, state_tensors
from foretrain.training.schedule import ScheduleConfig

DECAYED = {"matrix", "head"}  # norms, biases and embeddings are left alone
OWN = {  # torch's, and which of the settings that not every optimizer has rule which; for others `options` do
    "adamw": {"betas", "eps", "fused"},
    "muon": {"betas", "eps", "fused"},  # of the AdamW beside it
    "adafactor": set[str](),
}
MUON_DEFAULTS = {"adjust_lr_fn": "match_rms_adamw"}
# Arguments of optimizers that are no options: settings of their own rule them, or no run could use them.
TAKEN = {"params", "lr", "weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable"}


class OptimizerConfig(Section):
    """The optimizer and its schedule."""

    # adamw; muon (matrices, with AdamW for embeddings, heads, vectors and whatever has not two dimensions); adafactor;
    # or any of pytorch_optimizer's by its name, such as lion, which needs the extra "optimizers"
    name: str = "adamw"
    # At the peak of the schedule. Muon's steps are scaled to have the size of AdamW's, so that one rate serves both
    # (arXiv 2502.16982); options {adjust_lr_fn: original} takes that back.
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)  # adamw, and the AdamW of muon
    eps: float = Field(default=1e-8, gt=0)  # adamw, and the AdamW of muon
    # None = where torch has a fused kernel for the device. A checkpoint holds the choice: a resume cannot change it.
    fused: Annotated[bool | None, FieldRule(identity=False, on_resume="refused")] = None
    decay_all: bool = False  # decay norms, biases and embeddings too, in one group, as transformers' Trainer can
    # The optimizer's other arguments under its own names, such as muon's {momentum: 0.95, nesterov: true, ns_steps: 5}
    # or lion's {betas: [0.9, 0.99]}; an unknown one is an error that lists them.
    options: dict[str, Any] = Field(default_factory=dict)
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _only_what_counts(self) -> OptimizerConfig:
        defaults = {key: field.default for key, field in type(self).model_fields.items()}
        idle = [k for k in ("betas", "eps", "fused") if k not in OWN.get(self.name, set()) and self._set(k)]
        if idle:
            raise ValueError(
                f"{idle[0]}: has no effect on {self.name}; remove it, or give its own as options.{idle[0]}"
            )
        if self.schedule.cycle_momentum and self.name != "adamw":
            raise ValueError(f"schedule.cycle_momentum has no effect on {self.name}; it moves AdamW's beta1")
        if self.schedule.cycle_momentum and self.betas[0] != defaults["betas"][0]:
            raise ValueError(f"betas: {self.betas[0]} has no effect, as schedule.cycle_momentum rules it; drop one")
        return self

    def _set(self, key: str) -> bool:
        return getattr(self, key) != type(self).model_fields[key].default


class CombinedOptimizer(Optimizer):
    """Several optimizers of disjoint parameters as one: their groups and their states are this one's."""

    def __init__(self, parts: Iterable[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        first = 0
        for part in self.parts:
            count = len(part.param_groups)
            part.param_groups = self.param_groups[first : first + count]
            part.state = self.state
            first += count

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer's."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """One step of each. No closure: they would not see one loss."""
        assert closure is None
        for part in self.parts:
            part.step()


def build_optimizer(model: Trainable, config: OptimizerConfig) -> Optimizer:
    """The optimizer over every trainable parameter, grouped by decay and lr_factor.

    Raises ModelError when parameter_groups() leaves out a trainable parameter or names one that is none, ConfigError
    for a name or an option that there is not, and where muon finds no matrix.
    """
    roles, trainable = _roles(model), {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        role = roles[name]
        orthogonal = _is_for_muon(config, role, parameter)
        decayed = config.decay_all or role.role in DECAYED
        groups.setdefault((orthogonal, decayed, role.lr_factor), []).append(parameter)

    def arguments(orthogonal: bool) -> list[dict[str, Any]]:
        return [
            {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0, "lr_factor": factor}
            for (which, decayed, factor), parameters in groups.items()
            if which == orthogonal
        ]

    kind, devices = _kind(config.name), {p.device.type for p in trainable.values()}
    options, fused = _options(config, kind), devices <= {"cpu", "cuda", "mps"} if config.fused is None else config.fused
    adam = {"betas": config.betas, "eps": config.eps, "fused": fused}
    if config.name != "muon":
        return _made(config, kind, arguments(False), options | (adam if config.name == "adamw" else {}))
    if not arguments(True):
        raise ConfigError(
            "optimizer.name: muon is for matrices, and none is trained here (embeddings, heads and vectors are "
            "AdamW's). Choose adamw."
        )
    muon = _made(config, kind, arguments(True), MUON_DEFAULTS | options)
    rest = [_made(config, torch.optim.AdamW, arguments(False), adam)] if arguments(False) else []
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


def _kind(name: str) -> type[Optimizer]:
    """The class of an optimizer. Raises ConfigError for an unknown name and for a missing extra."""
    own: dict[str, type[Optimizer]] = {
        "adamw": torch.optim.AdamW, "muon": torch.optim.Muon, "adafactor": torch.optim.Adafactor
    }  # fmt: skip
    if name in own:
        return own[name]
    try:
        import pytorch_optimizer
    except ImportError:
        words = (f"optimizer.name: {name!r} is none of {', '.join(own)}.", did_you_mean(name, own))
        extra = "Others come with an extra: pip install 'foretrain[optimizers]'."
        raise ConfigError(" ".join(filter(None, (*words, extra)))) from None
    known = [other for other in pytorch_optimizer.get_supported_optimizers() if other not in own]
    if name not in known:
        every = [*own, *known]
        hint = did_you_mean(name, every, f"Known: {', '.join(every)}.", most=3)
        raise ConfigError(f"optimizer.name: {name!r} is not known. {hint}")
    return pytorch_optimizer.load_optimizer(name)


def _options(config: OptimizerConfig, kind: type[Optimizer]) -> dict[str, Any]:
    """The given options, lists as tuples. Raises ConfigError for one that the optimizer has not."""
    arguments = inspect.signature(kind.__init__).parameters.values()
    taken = TAKEN | (OWN["adamw"] if config.name == "adamw" else set())
    known = [a.name for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY) and a.name not in taken]
    known.remove("self")
    for option in config.options:
        if option not in known:
            hint = did_you_mean(option, known, f"Known: {', '.join(known) or 'none'}.")
            raise ConfigError(f"optimizer.options: {config.name} has no option {option!r}. {hint}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.options.items()}


def _made(
    config: OptimizerConfig, kind: type[Optimizer], groups: list[dict[str, Any]], options: dict[str, Any]
) -> Optimizer:
    """An optimizer of parameter groups. Raises ConfigError where its own code refuses a value."""
    known = inspect.signature(kind.__init__).parameters
    if "params" not in known or "lr" not in known:
        raise ConfigError(f"optimizer.name: {config.name} takes no groups of parameters with a rate. Choose another.")
    if "weight_decay" not in known:
        if config._set("weight_decay") or config.decay_all:
            raise ConfigError(f"optimizer.weight_decay: {config.name} has none; leave weight_decay and decay_all out.")
        for group in groups:
            del group["weight_decay"]
    try:
        return kind(groups, lr=config.learning_rate, **options)  # pyright: ignore[reportCallIssue]
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"optimizer: {config.name} cannot be had so: {error}") from None


def check_optimizer(model: Trainable, config: OptimizerConfig) -> None:
    """Raise ConfigError where a run with this optimizer could not begin, or where a resumed one would not be the run
    that it goes on with; model may be on "meta".

    A few steps on a small sample of parameters show it, since nothing else is known of optimizers by other people.
    """
    build_optimizer(model, config)
    try:
        with torch.random.fork_rng(devices=[]):
            reason = _check_roundtrip(config)
    except ConfigError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    if reason is not None:
        raise ConfigError(f"optimizer.name: {config.name} cannot train here: {reason}. Choose another.")


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
    """What keeps an optimizer from training as this trainer does; None where nothing does."""
    sample: Any = _Sample()
    optimizer = build_optimizer(sample, config)
    if hasattr(optimizer, "eval"):
        return "it wants to be told of every validation"
    _dummy_steps(sample, optimizer, range(3))
    tensors = state_tensors(sample, optimizer)
    if clash := RESERVED & {name.partition(".")[0] for name in tensors}:
        return f"a checkpoint has another use for the name of its state {clash.pop()!r}"
    other = copy.deepcopy(sample)
    resumed = build_optimizer(other, config)
    try:
        numbers = json.loads(json.dumps(state_numbers(sample, optimizer), allow_nan=False))
    except (TypeError, ValueError) as error:
        return f"it keeps state that a checkpoint cannot hold ({error})"
    allocate_state(other, resumed, numbers, {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    for name, tensor in state_tensors(other, resumed).items():
        tensor.copy_(tensors[name])
    for model, which in ((sample, optimizer), (other, resumed)):
        _dummy_steps(model, which, range(3, 6))
    if not all(torch.equal(a, b) for a, b in zip(sample.parameters(), other.parameters(), strict=True)):
        return "it keeps state that a checkpoint does not hold, so a resumed run would not go on as if uninterrupted"
    set_rates(optimizer, 0.0)
    _dummy_steps(sample, optimizer, range(6, 7))
    if not all(torch.equal(a, b) for a, b in zip(sample.parameters(), other.parameters(), strict=True)):
        return "it changes weights at a learning rate of 0, so it follows no schedule"
    return None


def _dummy_steps(model: nn.Module, optimizer: Optimizer, steps: Iterable[int]) -> None:
    for step in steps:
        torch.manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()


def state_size(model: Trainable, config: OptimizerConfig) -> int:
    """Numbers that an optimizer keeps of a model's trainable weights; of those of the extra a guess, two a weight."""
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
    """Give every group the learning rate times its own lr_factor, and beta1 where the schedule rules it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if beta1 is not None:
            group["betas"] = (beta1, group["betas"][1])
