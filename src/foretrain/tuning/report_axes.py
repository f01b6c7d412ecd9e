"""Axes of the keys of a search space in pictures: where a value stands, and which marks an axis has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foretrain.evaluation.plots import short
from foretrain.tuning.space import CategoricalParameter, FloatParameter, IntParameter, SearchSpace, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ABSENT = -0.1  # height of a conditional key that a candidate does not have
_JITTER = (0.0, 0.09, -0.09, 0.18, -0.18, 0.045, -0.045, 0.135, -0.135)  # of points at one choice, by trial


@dataclass(frozen=True)
class KeyAxis:
    """The axis of a key.

    choices: of a categorical one, else (). low, high: of a number, the default's value among them. log: by powers.
    whole: only whole numbers. has_gap: the key is conditional.
    """

    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    has_gap: bool = False

    @property
    def absent(self) -> float:
        """The height of a candidate without this key; NaN for one that always has it."""
        return _ABSENT if self.has_gap else math.nan

    def at(self, value: Value, trial: int = 0) -> float | None:
        """Return where a value stands on an axis in its own unit; None for what it does not hold.

        Choices stand at 0, 1, ..., trials of one choice a little apart.
        """
        if self.choices:
            places = [k for k, choice in enumerate(self.choices) if _same(choice, value)]
            return places[0] + _JITTER[trial % len(_JITTER)] if places else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return float(value)

    def height(self, value: Value) -> float:
        """Return a value's height from 0 to 1; NaN for what the axis does not hold."""
        at = self.at(value)
        if at is None:
            return math.nan
        if self.choices:
            return at / (len(self.choices) - 1) if len(self.choices) > 1 else 0.5
        low, high = self._scaled(self.low), self._scaled(self.high)
        return (self._scaled(at) - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Return heights and texts: of the choices, or of both ends and of round values between them."""
        if self.choices:
            found = [(self.height(choice), _text(choice)) for choice in self.choices]
        else:
            found = [(self.height(value), f"{value:g}") for value in self._marks()]
        return [*found, *([(_ABSENT, "not used")] if self.has_gap else [])]

    def apply(self, ax: Axes) -> None:
        """Give a panel whose x axis is of this key its scale, limits and ticks."""
        from matplotlib import ticker

        if self.choices:
            ax.set_xticks(range(len(self.choices)), [short(_text(choice), 16) for choice in self.choices])
            ax.set_xlim(-0.5, len(self.choices) - 0.5)
            return
        if self.log:
            ax.set_xscale("log")
            decades = math.log10(self.high / self.low) if self.high > self.low else 0.0
            ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1.5 else (1.0,)))
            ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_formatter(ticker.NullFormatter())
            grown = max(1.05, (self.high / self.low) ** 0.04)
            ax.set_xlim(self.low / grown, self.high * grown)
            return
        ax.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=self.whole, steps=[1, 2, 2.5, 5, 10]))
        margin = 0.04 * (self.high - self.low) or 0.5
        ax.set_xlim(self.low - margin, self.high + margin)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value

    def _marks(self) -> list[float]:
        """Return both ends, and between them powers of ten or the middle."""
        if self.high <= self.low:
            return [self.low]
        if self.log:
            powers = [10.0**k for k in range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
            inner = [p for p in powers if 0.1 < self.height(p) < 0.9]
            return [self.low, *inner[:: max(1, -(-len(inner) // 3))], self.high]
        middle = (self.low + self.high) / 2
        return [self.low, *([] if self.whole and middle != round(middle) else [middle]), self.high]


def axes_of(space: SearchSpace, defaults: Mapping[str, Value]) -> dict[str, KeyAxis]:
    """Return the axis of each key, wide enough for the value of the run as it stands too."""
    return {key: _axis(parameter, defaults.get(key)) for key, parameter in space.parameters.items()}


def _axis(parameter: FloatParameter | IntParameter | CategoricalParameter, default: Value) -> KeyAxis:
    gap = bool(parameter.when)
    if isinstance(parameter, CategoricalParameter):
        return KeyAxis(choices=parameter.choices, has_gap=gap)
    known: list[Any] = [parameter.low, parameter.high]
    number = None if isinstance(default, bool | str) else default
    if number is not None and math.isfinite(number) and (number > 0 or not parameter.log):
        known.append(number)
    whole = isinstance(parameter, IntParameter)
    return KeyAxis(low=min(known), high=max(known), log=parameter.log, whole=whole, has_gap=gap)


def _same(choice: Value, value: Value) -> bool:
    return choice == value and isinstance(choice, bool) == isinstance(value, bool)


def _text(choice: Value) -> str:
    return (
        {None: "none", True: "yes", False: "no"}[choice]
        if choice is None or isinstance(choice, bool)
        else (f"{choice:g}" if isinstance(choice, float) else str(choice))
    )
