"""AdamW with groups by the role of a parameter."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from foretrain.config import Section
from foretrain.errors import ModelError
from foretrain.models.base import Trainable
from foretrain.training.schedule import ScheduleConfig

DECAYED = {"matrix", "head"}  # norms, biases and embeddings are left alone


class OptimizerConfig(Section):
    """The optimizer and its schedule."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0)  # at the peak of the schedule
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    fused: bool | None = None  # None = where torch has a fused kernel for the device
    decay_all: bool = False  # decay norms, biases and embeddings too, in one group, as transformers' Trainer can
    schedule: ScheduleConfig = ScheduleConfig()

    @model_validator(mode="after")
    def _only_what_counts(self) -> OptimizerConfig:
        if self.schedule.cycle_momentum and self.betas[0] != type(self).model_fields["betas"].default[0]:
            raise ValueError(f"betas: {self.betas[0]} has no effect, as schedule.cycle_momentum rules it; drop one")
        return self


def build_optimizer(model: Trainable, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over every trainable parameter, grouped by decay and lr_factor.

    Raises ModelError when parameter_groups() leaves out a trainable parameter or names one that is none.
    """
    roles = model.parameter_groups()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted(set(trainable) ^ set(roles))
    if wrong:
        raise ModelError(
            f"parameter_groups() of {type(model).__name__} must name every trainable parameter and no other; "
            f"it differs at {', '.join(wrong[:5])}{' ...' if len(wrong) > 5 else ''}."
        )
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in trainable.items():
        decayed = config.decay_all or roles[name].role in DECAYED
        groups.setdefault((decayed, roles[name].lr_factor), []).append(parameter)
    arguments: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0, "lr_factor": factor}
        for (decayed, factor), parameters in groups.items()
    ]
    devices = {p.device.type for p in trainable.values()}
    fused = devices <= {"cpu", "cuda", "mps"} if config.fused is None else config.fused
    return torch.optim.AdamW(arguments, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, beta1: float | None = None) -> None:
    """Give every group the learning rate times its own lr_factor, and beta1 where the schedule rules it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if beta1 is not None:
            group["betas"] = (beta1, group["betas"][1])
