"""A learning-rate range test: the rate grows by the same factor in every step of a short training, and the course of
the loss says from which rate on the weights learn, and from which on they are lost (Smith, Cyclical learning rates for
training neural networks, WACV 2017, section 3.3, with a growth that is even in the logarithm).

# n steps, w steps of a window
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from foretrain.errors import ConfigError
from foretrain.run.config import RunConfig
from foretrain.training.schedule import ScheduleConfig
from foretrain.tuning.short_run import ShortRun, short_run, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

FEWEST_STEPS = 30
_WINDOW, _NARROWEST = 8, 7  # a window is an eighth of the steps, and no less than 7
_ERRORS = 3.0  # standard errors by which the steepest slope must be below 0
_BELOW = 10.0  # the suggestion is so many times below the rate of the lowest loss
_NOISES = 6.0  # deviations above the lowest loss that count as lost, if the loss did not fall by more
SCHEMA = 1


@dataclass(frozen=True)
class RateRange:
    """What a range test found. Rates are None where there is none, which `words` says.

    Attributes:
        rates, losses: (n,) of the steps whose loss was finite.
        norms: (n,) norms of the gradients before clipping.
        smooth: (n - w + 1,) mean of the losses in a window; its middles are at `middles` (indices of steps).
        suggestion: a tenth of `lowest`, the usual distance from where the loss begins to rise.
        steepest: rate where the loss falls steepest in the logarithm of the rate. Of random weights that is where they
            begin to learn, which is far below the best rate.
        lowest: rate at the lowest smooth loss.
        diverged: rate from which on the loss is back where it began, or not finite.
    """

    rates: Floats
    losses: Floats
    norms: Floats
    middles: npt.NDArray[np.int64]
    smooth: Floats
    suggestion: float | None
    steepest: float | None
    lowest: float | None
    diverged: float | None
    words: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON data."""
        return {
            "schema": SCHEMA,
            "suggestion": self.suggestion,
            "steepest": self.steepest,
            "lowest": self.lowest,
            "diverged": self.diverged,
            "words": list(self.words),
            "from": float(self.rates[0]),
            "to": float(self.rates[-1]),
            "steps": [
                {"step": row[0], "lr": row[1], "loss": row[2], "smooth": row[3], "grad_norm": row[4]}
                for row in self.rows()
            ],
        }

    def rows(self) -> list[tuple[int, float, float, float | None, float | None]]:
        """Return (step, rate, loss, smooth loss, norm of the gradient) of each step; None where it is not known."""
        smooth = dict(zip(self.middles.tolist(), self.smooth.tolist(), strict=True))
        norms = [value if math.isfinite(value) else None for value in self.norms.tolist()]
        columns = zip(self.rates.tolist(), self.losses.tolist(), norms, strict=True)
        return [(k + 1, rate, loss, smooth.get(k), norm) for k, (rate, loss, norm) in enumerate(columns)]

    def csv(self) -> str:
        """Return the same as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("step", "lr", "loss", "smooth_loss", "grad_norm"))
        writer.writerows(("" if cell is None else cell for cell in row) for row in self.rows())
        return text.getvalue()


def run_range(config: RunConfig, low: float, high: float, steps: int, say: Callable[[str], None]) -> RateRange:
    """Train a config for some steps while the rate grows from low to high, and return what its loss tells.

    Raises ConfigError for a range that is none, too few steps, and losses that are not finite from the first on.
    """
    check_range(low, high, steps)
    schedule = ScheduleConfig(kind="exponential", min_lr_ratio=low / high)
    training = {"max_steps": steps, "epochs": None, "log_every": 1, "ema_decay": None}
    short = shortened(
        config,
        {**training, "validate_every": None, "validate_first": False},
        optimizer=config.optimizer.model_copy(update={"learning_rate": high, "schedule": schedule}),
    )
    return range_of(short_run(short, steps, say))


def check_range(low: float, high: float, steps: int) -> None:
    """Raise ConfigError for a range that is none, and too few steps."""
    if not 0 < low < high < math.inf:
        raise ConfigError(f"--from {low:g} --to {high:g}: give 0 < from < to.")
    if steps < FEWEST_STEPS:
        raise ConfigError(f"--steps {steps}: a range test takes {FEWEST_STEPS} or more.")


def range_of(run: ShortRun) -> RateRange:
    """Return what the lines of a range test tell. Raises ConfigError for too few steps with a finite loss."""
    known = [line for line in run.lines if line.get("loss_mean") is not None and line.get("lr")]
    width = max(_NARROWEST, len(run.lines) // _WINDOW) | 1
    if len(known) < 2 * width:
        raise ConfigError(
            f"the loss is finite in {len(known)} steps, too few to tell a rate. Begin with a lower rate: --from."
        )
    rates, losses, norms = (
        np.array([line.get(name) if line.get(name) is not None else math.nan for line in known], np.float64)
        for name in ("lr", "loss_mean", "grad_norm_mean")
    )
    return read_range(rates, losses, norms, width, lost=run.nonfinite is not None)


def read_range(rates: Floats, losses: Floats, norms: Floats, width: int, *, lost: bool) -> RateRange:
    """Return what losses (n,) at growing rates (n,) tell.

    width: steps of a window, odd. lost: whether a loss that is not finite ended the test.

    A window holds a least-squares line of the loss over the logarithm of the rate; its slope has the error of
    independent residuals. Losses far above the first ones are clipped, as one of them would take over its windows.
    """
    first = losses[:width]
    noise = float(np.median(np.abs(np.diff(losses[: len(losses) // 2])))) / (0.6745 * math.sqrt(2))
    fall = max(float(np.median(first) - _running(losses, width).min()), _NOISES * noise)
    clipped = np.minimum(losses, np.median(first) + 2 * fall)
    x = np.log10(rates)
    smooth, slope, error = _lines(x, clipped, width)
    middles = np.arange(width // 2, len(losses) - width // 2)
    bottom = int(np.argmin(smooth))
    above = np.flatnonzero(smooth[bottom:] > smooth[bottom] + max(float(smooth[0] - smooth[bottom]), _NOISES * noise))
    diverged = float(rates[middles[bottom + above[0]]]) if len(above) else float(rates[-1]) if lost else None
    steepest = int(np.argmin(slope[: bottom + 1]))
    words = list[str]()
    falls = slope[steepest] < -_ERRORS * error[steepest]
    fastest = float(rates[middles[steepest]]) if falls else None
    lowest = float(rates[middles[bottom]]) if falls else None
    suggestion = None if lowest is None else lowest / _BELOW
    if not falls:
        words.append("no suggestion: at no rate does the loss fall by more than its noise; give more --steps")
    elif suggestion is not None and suggestion < rates[0]:
        words.append("the suggestion is below the first rate; begin with a lower one (--from)")
    elif bottom == len(smooth) - 1:
        words.append("the loss still falls at the last rate; give a higher --to before the suggestion is believed")
    if diverged is None and falls and bottom < len(smooth) - 1:
        words.append("the loss does not diverge up to the last rate; a higher --to would show where it does")
    return RateRange(rates, losses, norms, middles, smooth, suggestion, fastest, lowest, diverged, tuple(words))


def _running(values: Floats, width: int) -> Floats:
    """Return the medians of windows, which single losses do not move."""
    return np.median(np.lib.stride_tricks.sliding_window_view(values, width), axis=1)


def _lines(x: Floats, y: Floats, width: int) -> tuple[Floats, Floats, Floats]:
    """Return mean, slope and its error of the least-squares line in each window of x and y (n,), (n - w + 1,) each."""
    xs, ys = (np.lib.stride_tricks.sliding_window_view(values, width) for values in (x, y))
    apart = xs - xs.mean(1, keepdims=True)
    spread, mean = (apart**2).sum(1), ys.mean(1)
    slope = (apart * ys).sum(1) / spread
    rest = ys - mean[:, None] - slope[:, None] * apart
    return mean, slope, np.sqrt((rest**2).sum(1) / (width - 2) / spread)


def range_lines(found: RateRange, config: str) -> list[str]:
    """Return what a range test found as lines of a terminal; config: as the user named it."""
    from foretrain.run.run_tables import WIDTH
    from foretrain.training.health import sparkline, thinned

    lines = [
        f"rate {found.rates[0]:.3g} to {found.rates[-1]:.3g} in {len(found.rates)} steps",
        f"smooth loss  {sparkline(thinned(_for_bars(found), WIDTH))}  {found.smooth[0]:.4g} at first, "
        f"{found.smooth.min():.4g} at its lowest",
    ]
    if found.suggestion is not None:
        lines += [
            f"steepest fall at {found.steepest:.2g}, lowest loss at {found.lowest:.2g}"
            + ("" if found.diverged is None else f", lost from {found.diverged:.2g} on"),
            f"suggestion {found.suggestion:.2g}, a tenth of the rate of the lowest loss; try: "
            f"foretrain train {config} optimizer.learning_rate={found.suggestion:.2g}",
        ]
    elif found.diverged is not None:
        lines.append(f"lost from {found.diverged:.2g} on")
    return [*lines, *found.words]


def _for_bars(found: RateRange) -> list[float]:
    """Return the smooth loss up to where it is above its start by as much as it fell: the rest would flatten it."""
    top = 2 * found.smooth[0] - found.smooth.min()
    return np.minimum(found.smooth, top).tolist()


def draw_range(found: RateRange, name: str) -> Figure:
    """Draw loss and gradient norm over the rate. Call it inside plots.style()."""
    from matplotlib import ticker

    from foretrain.evaluation.plots import INK, PAST, figure, one_legend, short
    from foretrain.run.curves import COLORS, logarithmic

    drawn, axes = figure(8.6, 6.0, 2)
    top, below = axes[:, 0]
    top.plot(found.rates, found.losses, color=PAST, lw=0.8, alpha=0.5, label="loss of a step")
    top.plot(found.rates[found.middles], found.smooth, color=COLORS[0], lw=2.2, label="smooth loss")
    fall = max(float(found.smooth[0] - found.smooth.min()), 4 * float(np.std(found.losses[: len(found.middles) // 4])))
    top.set_ylim(found.smooth.min() - 0.25 * fall, found.smooth[0] + 0.35 * fall)
    marks = (
        (found.suggestion, "suggestion", COLORS[1], "-"),
        (found.steepest, "steepest fall", COLORS[3], (0, (8, 2, 2, 2))),
        (found.lowest, "lowest loss", COLORS[2], (0, (5, 2))),
        (found.diverged, "lost from here on", INK, (0, (1, 1.5))),
    )
    for ax in (top, below):
        for rate, label, color, dash in marks:
            if rate is not None:
                text = f"{label}: {rate:.2g}" if ax is top else None
                ax.axvline(rate, color=color, ls=dash, lw=1.6, label=text, zorder=3)
    below.plot(found.rates, found.norms, color=COLORS[0], lw=0.9)
    logarithmic(below, [value for value in found.norms.tolist() if math.isfinite(value)])
    for ax in (top, below):
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(ticker.LogLocator(numticks=12))
        ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(ticker.NullFormatter())
        ax.set_xlim(found.rates[0], found.rates[-1])
    below.sharex(top)
    top.tick_params(labelbottom=False)
    top.set_title(f"Learning-rate range test of {short(name, 50)}", loc="left")
    top.set_ylabel("training loss")
    below.set_ylabel("gradient norm")
    below.set_xlabel("learning rate (grows by the same factor in every step)")
    one_legend(drawn, [top], {}, most=3)
    return drawn
