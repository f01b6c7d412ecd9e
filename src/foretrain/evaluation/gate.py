"""Is a fine-tuned model worth using? Only if it beats the weights it started from and naive, on time it never saw.

Lower error alone would promote every second model that learnt nothing: of two equal forecasters one is always a little
ahead. So by default the Diebold-Mariano test must say "better" too; without it the figures decide, and the verdicts
stand beside them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from foretrain.evaluation.metrics import METRICS
from foretrain.notes import Code, Note, texts

if TYPE_CHECKING:
    from foretrain.evaluation.result import EvaluationResult
    from foretrain.models.base import Forecaster

ZERO_SHOT = "zero_shot"  # the weights that training started from
OTHER = "other_model"  # any other model


class Rival(NamedTuple):
    """A model scored on the same windows as the one that is evaluated."""

    key: str  # ZERO_SHOT or OTHER, under which its figures are found
    name: str  # where it comes from: a folder, a hub id, "random weights (seed 42)"
    model: Forecaster
    hash: str | None = None  # of its release
    options: Any = None  # its family's forecast options

    def describe(self) -> dict[str, str | None]:
        """What a report says of it."""
        return {"key": self.key, "name": self.name, "hash": self.hash}


@dataclass(frozen=True)
class Promotion:
    """Whether a model beats its rival and naive, and the figures that say so. Plain data, fit for JSON."""

    promoted: bool
    reason: str
    metric: str  # of figures; the unit of a mean error that may be pooled over items
    unit: str
    figures: dict[str, float | None]  # model, rival and naive
    verdicts: dict[str, str]  # of Diebold-Mariano tests for the model, against rival and naive
    require_significance: bool
    against: dict[str, str | None]  # Rival.describe
    windows: int
    origins: int
    data: list[dict[str, Any]]  # name, fingerprint and provenance of what was scored
    date_range: list[str] | None  # first and last time that was scored
    warnings: list[str]
    command: str | None
    objections: tuple[Note, ...] = ()  # why it is not promoted, in the order of reason; not part of the JSON

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        found = asdict(self)
        del found["objections"]
        return found

    @property
    def headline(self) -> str:
        """The outcome in a sentence."""
        return f"{'Promoted' if self.promoted else 'NOT PROMOTED'}: {self.reason}."


def judge(result: EvaluationResult, *, require_significance: bool = True) -> Promotion:
    """Compare a model with its rival and with naive.

    It is promoted where its error (pct_mae for prices, else mase) is below both on windows that neither trained it nor
    chose its weights and, with require_significance, both Diebold-Mariano verdicts are "better".
    """
    assert result.rival is not None
    others = (str(result.rival["key"]), "naive")
    metric = "pct_mae" if result.prices else "mase"
    figures = {who: result.pooled[who][metric] for who in ("model", *others)}
    tests = {test.against: test for test in result.comparisons if test.against in others}
    objections = list[Note]()
    if result.overlaps_training:
        objections.append(Note(Code.TRAINING_SAW_WINDOWS, "training saw these windows"))
    if result.chose_the_weights:
        text = "these windows lie in the validation part, which chose its weights"
        objections.append(Note(Code.VALIDATION_SAW_WINDOWS, text))
    below = []
    for who in others:
        name, test = who.replace("_", " "), tests[who]
        told = f"{name}'s {_figure(figures[who])}"
        if not figures["model"] < figures[who]:
            text = f"its {metric} {_figure(figures['model'])} is not below {told} ({test.verdict})"
            objections.append(Note(Code.NOT_BELOW, text))
        elif require_significance and not (test.significant and test.statistic < 0):
            text = f"its {metric} {_figure(figures['model'])} is below {told}, but {test.verdict}"
            objections.append(Note(Code.NOT_SIGNIFICANT, text, {"origins": test.origins}))
        below.append(f"{told} ({test.verdict})")
    reason = "; ".join(texts(objections)) or f"its {metric} {_figure(figures['model'])} is below {' and '.join(below)}"
    dates = [result.data[0].get(key) for key in ("scored_from", "scored_to")]
    return Promotion(
        promoted=not objections,
        reason=reason,
        metric=metric,
        unit=METRICS[metric].unit,
        figures={who: value if math.isfinite(value) else None for who, value in figures.items()},
        verdicts={who: tests[who].verdict for who in others},
        require_significance=require_significance,
        against=result.rival,
        windows=result.counts["windows"],
        origins=result.counts["origins"],
        data=[{key: entry[key] for key in ("name", "fingerprint", "provenance")} for entry in result.data],
        date_range=[str(date) for date in dates] if all(dates) else None,
        warnings=result.warning_texts,
        command=result.command,
        objections=tuple(objections),
    )


def differences(result: EvaluationResult) -> dict[str, dict[str, Any]]:
    """{metric: unit, what is better, value of model, rival and naive, and difference = model - rival}."""
    assert result.rival is not None
    rival = str(result.rival["key"])
    table = {}
    for name, metric in METRICS.items():
        if name not in result.pooled["model"]:
            continue
        values = {who: result.pooled[who][name] for who in ("model", rival, "naive")}
        table[name] = {
            "unit": metric.unit,
            "better": metric.better,
            **values,
            "difference": values["model"] - values[rival],
        }
    return table


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "n/a"
