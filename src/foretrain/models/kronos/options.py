"""Forecast options of Kronos."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from foretrain.errors import ConfigError
from foretrain.models.types import ForecastOptions

NUM_SAMPLES = 20  # default number of sample paths, enough for deciles


@dataclass(frozen=True)
class KronosOptions(ForecastOptions):
    """Options for sampling candles.

    Attributes:
        temperature: divides the logits; 0 = always the likeliest token.
        top_k: keep the k likeliest tokens; 0 = all. top_k=1 is greedy.
        top_p: then keep the likeliest ones that together reach this probability; 1 = all.
        mode: what happens once context and forecast exceed max_context. "exact" recomputes the shifted window for every
            bar, as upstream does; "rolling" keeps the KV cache, whose entries depend on bars that left the window.
        max_context: bars the predictor attends to; None = the model's own. Statistics and tokens use the whole context.
        re_anchor_every: with mode "rolling", recompute the window after this many generated bars.
        compat: upstream's behaviour, for comparisons: draws from torch's global generator for all rows jointly, top_p
            ignored if top_k is given, and at most max_context bars.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.9
    mode: Literal["exact", "rolling"] = "exact"
    max_context: int | None = None
    re_anchor_every: int | None = None
    compat: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)!r}, {what}"
            for name, fits, what in (
                ("temperature", _number(self.temperature) and self.temperature >= 0, "give a number of at least 0"),
                ("top_k", _whole(self.top_k) and self.top_k >= 0, "give a whole number, 0 for all tokens"),
                ("top_p", _number(self.top_p) and 0 < self.top_p <= 1, "give a number above 0 and at most 1"),
                ("mode", self.mode in ("exact", "rolling"), "choose exact or rolling"),
                ("max_context", _positive(self.max_context), "it counts bars and is at least 1"),
                ("re_anchor_every", _positive(self.re_anchor_every), "it counts bars and is at least 1"),
            )
            if not fits
        ]
        if self.re_anchor_every is not None and self.mode == "exact":
            problems.append("re_anchor_every has no effect in mode exact; choose mode rolling or leave it out")
        if problems:
            raise ConfigError("Kronos options: " + "; ".join(problems) + ".")

    @property
    def greedy(self) -> bool:
        """True if every token is the likeliest one, so that nothing is sampled."""
        return self.temperature == 0 or self.top_k == 1


def sample_counts(num_samples: int | None, options: KronosOptions) -> tuple[int, int]:
    """Return the number of paths to generate and to return; greedy paths are all equal, so 1 is generated.

    Raises ConfigError if num_samples is below 1.
    """
    if num_samples is not None and num_samples < 1:
        raise ConfigError(f"num_samples is {num_samples}; it counts sample paths and is at least 1.")
    if options.greedy:
        return 1, num_samples or 1
    count = num_samples or NUM_SAMPLES
    return count, count


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # numpy's numbers too


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _positive(value: object) -> bool:
    return value is None or (_whole(value) and value >= 1)  # type: ignore[operator]
