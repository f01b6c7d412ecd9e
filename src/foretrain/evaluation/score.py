"""`foretrain score`: metrics of third-party predictions with their units, naive beside them, and common mistakes.

# R rows of the file, S items
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.importers.report import counted
from foretrain.evaluation import metrics
from foretrain.evaluation.metrics import METRICS
from foretrain.evaluation.predictions import Predictions, read_predictions
from foretrain.evaluation.result import plain, relative
from foretrain.evaluation.scored import Array, Scored
from foretrain.evaluation.significance import Comparison, compare
from foretrain.evaluation.symbols import errors_by_symbol
from foretrain.notes import Code, Note, texts

FORMAT = 1
POINTS = ("pct_mae", "smape_pct", "direction_accuracy_share")
BANDS = ("wql", "coverage_80_share")
CONVENTION = "mean(model's loss - naive's loss) over its standard error: above 0 is worse than naive"
FRACTION = "mae_as_fraction_of_last_close"
IMPLAUSIBLE_PERCENT = 20.0  # above this, the error divided by 100 could be mistaken for a good one
CLAIM_TOLERANCE = 0.01  # relative; published figures are rounded
MAX_ITEMS = 40  # in the text; the JSON has all


@dataclass(frozen=True)
class Score:
    """The score of a file of predictions."""

    file: str
    pooled: dict[str, dict[str, Any]]  # metric -> unit, value, naive
    against_naive: Comparison
    per_item: list[dict[str, Any]]
    medians: dict[str, float]  # over items
    look_alikes: dict[str, float]  # other figures that are often mistaken for pct_mae
    claims: list[str]  # what each published error is
    traps: list[Note]  # likely misreadings of these figures
    notes: list[Note]
    counts: dict[str, int]
    dates: tuple[str, str]

    @property
    def headline(self) -> str:
        """The verdict, and the error relative to naive's."""
        skill = self.pooled["skill_vs_naive"]["value"]
        error, naive = (self.pooled["pct_mae"][key] for key in ("value", "naive"))
        times = f"{1.0 - skill:.3g} times" if skill < -1.0 else relative(skill)
        how = "" if math.isnan(skill) else f" Its mean absolute error is {times} naive's:"
        return (
            f"{self.file}: {self.against_naive.verdict}.{how} {_figure(error)} against {_figure(naive)} percent of the "
            "last close."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the score as JSON data; NaN becomes None."""
        return plain(
            {
                "format": FORMAT,
                "headline": self.headline,
                **{key: value for key, value in self.__dict__.items() if key != "against_naive"},
                "traps": texts(self.traps),
                "notes": texts(self.notes),
                "dm": {**asdict(self.against_naive), "convention": CONVENTION},
            }
        )

    def save(self, folder: Path) -> list[Path]:
        """Write score.json and score.md; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / "score.json").write_text(text, encoding="utf-8")
        (folder / "score.md").write_text(self.markdown(), encoding="utf-8")
        return [folder / "score.json", folder / "score.md"]

    def markdown(self) -> str:
        """Return the score as Markdown that is readable as plain text."""
        counts, dm = self.counts, self.against_naive
        pooled = [
            [name, entry["unit"], _figure(entry["value"]), _figure(entry["naive"])]
            for name, entry in self.pooled.items()
        ]
        items = [[_figure(v) if isinstance(v, float) else str(v) for v in e.values()] for e in self.per_item]
        medians = ", ".join(f"{name} {_figure(value)}" for name, value in self.medians.items())
        more = [f"{len(items) - MAX_ITEMS:,} more items are in score.json."] if len(items) > MAX_ITEMS else []
        parts = [
            f"# {self.headline}",
            f"{counted(counts['forecasts'], 'forecast')} of {counted(counts['items'], 'item')}, "
            f"{counted(counts['scored_steps'], 'step')}, made at {counted(dm.origins, 'origin')}, "
            f"{self.dates[0]} to {self.dates[1]}.",
            _table(["metric", "unit", "predictions", "naive"], pooled),
            f"Diebold-Mariano statistic {_figure(dm.statistic)}{_freedom(dm)}, p {_figure(dm.p_value)}, lag {dm.lag}: "
            f"{dm.verdict}. "
            f"({CONVENTION}.)",
            *(f"**Claim:** {text}" for text in self.claims),
            *(f"**Trap:** {text}" for text in texts(self.traps)),
            *(f"Note: {text}." for text in texts(self.notes)),
            _table(list(self.per_item[0]), items[:MAX_ITEMS]),
            *more,
            f"Medians over items: {medians}. Prices are never averaged over items.",
        ]
        return "\n\n".join(parts) + "\n"


def score_file(
    path: Path,
    *,
    columns: Mapping[str, str | None] | None = None,
    values: str | None = None,
    claimed_percent: Sequence[float] = (),
    reading: Mapping[str, Any] | None = None,
) -> Score:
    """Score a file of predictions beside naive, which repeats the last close.

    Arguments and errors as in read_predictions. claimed_percent: errors published as percent; `claims` says what each
    one is.
    """
    found = read_predictions(path, columns, values, reading)
    points, naive = found.points, found.naive
    pooled = _pooled(found)
    error = pooled["pct_mae"]["value"]
    look_alikes = _look_alikes(found, error)
    return Score(
        file=path.name,
        pooled=pooled,
        against_naive=compare(points, naive, "naive"),
        per_item=_per_item(found),
        medians=_medians(_per_item(found)),
        look_alikes=look_alikes,
        claims=_claims(claimed_percent, error, look_alikes),
        traps=_traps(error, look_alikes),
        notes=[*found.notes, *_notes(found)],
        counts={
            "items": len(points.items),
            "forecasts": len(points),
            "scored_steps": int(np.isfinite(points.target).sum()),
            "longest_forecast_steps": points.horizon,
        },
        dates=found.dates,
    )


def _pooled(found: Predictions) -> dict[str, dict[str, Any]]:
    ours, theirs = metrics.pooled(found.points), metrics.pooled(found.naive)
    theirs["direction_accuracy_share"] = math.nan  # naive predicts no direction
    table = {name: (ours[name], theirs[name]) for name in POINTS}
    if found.bands is not None:
        bands = metrics.pooled(found.bands)
        table |= {"wql": (bands["wql"], metrics.pooled(_with_levels(found.naive, found.bands))["wql"])}
        if math.isfinite(bands["coverage_80_share"]):
            table["coverage_80_share"] = (bands["coverage_80_share"], math.nan)
    table["skill_vs_naive"] = (metrics.skill(found.points, found.naive), 0.0)
    return {
        name: {"unit": METRICS[name].unit, "value": value, "naive": other} for name, (value, other) in table.items()
    }


def _with_levels(naive: Scored, bands: Scored) -> Scored:
    """Return naive at the levels of bands: a point forecast is the same at every level."""
    return bands.forecast(np.repeat(naive.median[:, :, None], len(bands.levels), 2))


def _per_item(found: Predictions) -> list[dict[str, Any]]:
    points, naive = found.points, found.naive
    ours, theirs = errors_by_symbol(points), errors_by_symbol(naive)
    skill = metrics.skill_per_item(points, naive)
    forecasts = np.bincount(points.item, minlength=len(points.items))
    entries = []
    for k, name in enumerate(points.items):
        entry: dict[str, Any] = {"item": name, "forecasts": int(forecasts[k])}
        if found.has_prices:
            entry |= {"price_mae": float(ours["mae"][k]), "naive_price_mae": float(theirs["mae"][k])}
            entry["price_median_error"] = _median_error(points, k)
        entry |= {"pct_mae": float(ours["pct_mae"][k]), "naive_pct_mae": float(theirs["pct_mae"][k])}
        entries.append(entry | {"skill_vs_naive": float(skill[k])})
    return entries


def _median_error(points: Scored, item: int) -> float:
    """Return the median absolute error of an item, in units of its price."""
    rows = points.item == item
    errors = np.abs(points.target[rows] - points.median[rows])
    return float(np.nanmedian(errors)) if np.isfinite(errors).any() else math.nan


def _medians(entries: list[dict[str, Any]]) -> dict[str, float]:
    found = {}
    for name in ("pct_mae", "naive_pct_mae", "skill_vs_naive"):
        values = [entry[name] for entry in entries if math.isfinite(entry[name])]
        found[name] = float(np.median(values)) if values else math.nan
    return found


def _look_alikes(found: Predictions, error: float) -> dict[str, float]:
    """Return figures that are sometimes published as a percent error but are something else."""
    actual, predicted = found.returns
    moved = np.isfinite(actual) & np.isfinite(predicted) & (actual != 0)
    mape = float(np.mean(np.abs(predicted[moved] - actual[moved]) / np.abs(actual[moved]))) if moved.any() else math.nan
    return {
        FRACTION: error / 100.0,
        "mape_of_returns_pct": 100.0 * mape,
        "mape_of_returns_as_fraction": mape,
    }


def _claims(claimed: Sequence[float], error: float, look_alikes: Mapping[str, float]) -> list[str]:
    """Return what each error published as percent is."""
    truth, found = f"{_figure(error)} percent of the last close", list[str]()
    for claim in claimed:
        names = [name for name, value in look_alikes.items() if _equal(claim, value)]
        if _equal(claim, error):
            what = "is right: the mean absolute error in percent of the last close."
        elif not names:
            what = f"is not a known figure. The error is {truth}."
        elif names[0] == FRACTION:
            what = f"is a fraction with a percent sign. The error is {truth}."
        else:
            what = f"is a MAPE of returns, not an error of prices. The error is {truth}."
        found.append(f"{claim:g} % {what}")
    return found


def _equal(claim: float, value: float) -> bool:
    return abs(claim - value) <= CLAIM_TOLERANCE * abs(value)


def _traps(error: float, look_alikes: Mapping[str, float]) -> list[Note]:
    found, returns = list[Note](), look_alikes["mape_of_returns_pct"]
    if error >= IMPLAUSIBLE_PERCENT:
        fraction = look_alikes[FRACTION]
        text = (
            f"as a fraction of the last close the error is {_figure(fraction)}; printed as {_figure(fraction)} % it "
            f"would look a hundred times smaller than it is, {_figure(error)} %."
        )
        found.append(Note(Code.FRACTION_AS_PERCENT, text, {"fraction": fraction, "percent": error}))
    if returns > 200.0:
        text = (
            f"a MAPE of returns would be {_figure(returns)} percent here, and is 100 for naive on any data: it divides "
            "by returns, which are small. It says nothing about the error or the level of prices."
        )
        found.append(Note(Code.MAPE_OF_RETURNS, text, {"percent": returns}))
    return found


def _notes(found: Predictions) -> list[Note]:
    notes = list[Note]()
    points = found.points
    if (unscaled := int((~np.isfinite(points.error_scale)).sum())) > 0:
        text = f"{unscaled:,} forecasts without a last close above 0 are left out of percentages, skill and test"
        notes.append(Note(Code.NO_LAST_CLOSE, text, {"forecasts": unscaled}))
    if (unknown := int((~np.isfinite(found.returns[0])).sum())) > 0:
        text = f"{unknown:,} rows without an actual value are not scored"
        notes.append(Note(Code.NO_ACTUAL, text, {"rows": unknown}))
    if found.bands is not None and (crossed := _crossed(found.bands)) > 0:
        text = f"quantiles cross in {crossed:.1%} of the steps and are scored unsorted"
        notes.append(Note(Code.QUANTILES_CROSSED, text, {"share": crossed}))
    return notes


def _crossed(bands: Scored) -> float:
    asked: Array = np.stack([bands.at(level) for level in bands.scored_levels or ()], 2)
    return float((np.diff(asked, axis=2) < 0).any(2).mean())


def _table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _freedom(found: Comparison) -> str:
    return "" if found.degrees_of_freedom is None else f" ({found.degrees_of_freedom} degrees of freedom)"


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "n/a"
