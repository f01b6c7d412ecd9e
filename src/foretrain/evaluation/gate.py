"""Promotion gate: a fine-tuned model must beat the weights it started from and naive, on data it never saw.

If the data have a season, it must also beat the baseline that repeats it: on data with a week, naive is no test.

A lower error alone would promote half of the models that learnt nothing: of two equal forecasters one is always
slightly ahead. So by default the Diebold-Mariano test must also say "better"; without significance the metrics decide,
and the verdicts are reported. A test over items, at origins too few for that test, says nothing about other origins, so
it counts only where it is asked for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foretrain.evaluation.metrics import METRICS
from foretrain.evaluation.overlap import used_by
from foretrain.evaluation.reference import Promotion
from foretrain.evaluation.result import joined
from foretrain.evaluation.significance import ITEMS, ORIGINS
from foretrain.notes import Code, Note, records, texts

if TYPE_CHECKING:
    from foretrain.evaluation.result import EvaluationResult


def judge(result: EvaluationResult, *, require_significance: bool = True, promote_over: str = ORIGINS) -> Promotion:
    """Compare a model with the reference model, naive and the baselines that repeat a season found in the data.

    The model is promoted if its error (pct_mae for prices, else mase) is below all of them on windows that were used
    neither for training nor for choosing its weights and, with require_significance, all verdicts are "better": those
    of the test over origins or, with promote_over "items" and too few origins, of the test over items (or clusters).
    """
    assert result.reference is not None
    others = (str(result.reference["key"]), "naive", *result.season_baselines)
    metric = "pct_mae" if result.prices else "mase"
    figures = {who: result.pooled[who][metric] for who in ("model", *others)}
    tests = {test.against: test for test in result.comparisons if test.against in others}
    objections = list[Note]()
    if who := used_by(result.warnings, Code.TRAINING_SAW_WINDOWS):
        objections.append(Note(Code.TRAINING_SAW_WINDOWS, f"{who} saw these windows"))
    if who := used_by(result.warnings, Code.VALIDATION_SAW_WINDOWS):
        part = "the validation part" if who == "training" else f"the validation part of {who}"
        text = f"these windows are in {part}, which chose its weights"
        objections.append(Note(Code.VALIDATION_SAW_WINDOWS, text))
    if used_by(result.warnings, Code.BEFORE_TRAINING_CUTOFF):
        text = "windows start before the last day that the published weights it was made from may have seen"
        objections.append(Note(Code.BEFORE_TRAINING_CUTOFF, text))
    below = []
    for who in others:
        name, test = result.labels.get(who, who.replace("_", " ")), tests[who]
        shown = f"{name}'s {_figure(figures[who])}"
        if not figures["model"] < figures[who]:
            text = f"its {metric} {_figure(figures['model'])} is not below {shown} ({test.verdict})"
            objections.append(Note(Code.NOT_BELOW, text))
        elif require_significance and not (test.significant and test.statistic < 0):
            text = f"its {metric} {_figure(figures['model'])} is below {shown}, but {test.verdict}"
            objections.append(Note(Code.NOT_SIGNIFICANT, text, {"origins": test.origins}))
        elif require_significance and test.over != ORIGINS and promote_over != ITEMS:
            text = (
                f"its {metric} {_figure(figures['model'])} is below {shown}, but only {test.verdict}; "
                "a test over items promotes with promote_over items"
            )
            objections.append(Note(Code.OVER_ITEMS_ONLY, text, {"origins": test.origins, test.over: test.count}))
        below.append(f"{shown} ({test.verdict})")
    reason = "; ".join(texts(objections)) or f"its {metric} {_figure(figures['model'])} is below {joined(below)}"
    dates = [result.data[0].get(key) for key in ("scored_from", "scored_to")]
    return Promotion(
        promoted=not objections,
        reason=reason,
        metric=metric,
        unit=METRICS[metric].unit,
        figures={who: value if math.isfinite(value) else None for who, value in figures.items()},
        verdicts={who: tests[who].verdict for who in others},
        require_significance=require_significance,
        against=result.reference,
        metrics={name: _entry(result, name) for name in METRICS if name in result.pooled["model"]},
        windows=result.counts["windows"],
        origins=result.counts["origins"],
        data=[{key: entry[key] for key in ("name", "fingerprint", "provenance")} for entry in result.data],
        date_range=[str(date) for date in dates] if all(dates) else None,
        warnings=result.warning_texts,
        command=result.command,
        codes=records(result.warnings),
        promote_over=promote_over,
        tests={who: tests[who].facts for who in others},
        objections=tuple(objections),
    )


def _entry(result: EvaluationResult, metric: str) -> dict[str, float | str | None]:
    value = result.shown("model", metric)
    return {"value": value if math.isfinite(value) else None, "unit": METRICS[metric].unit}


def _figure(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "n/a"
