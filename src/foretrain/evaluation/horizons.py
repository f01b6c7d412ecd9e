"""Metrics of the steps within the horizon of training, and of those beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foretrain.evaluation import metrics
from foretrain.evaluation.baselines import EVERY_BASELINE
from foretrain.evaluation.scored import Scored


def horizon_parts(forecasters: Mapping[str, Scored], trained: int | None) -> list[dict[str, Any]]:
    """Return the pooled metrics of steps 1 to `trained` and of the later ones; nothing if there are no later ones.

    Each part has `steps` (first and last, from 1), `beyond_training`, and `pooled`, the metrics of the model, of the
    reference model if there is one, and of naive.
    """
    naive = forecasters["naive"]
    if trained is None or trained >= naive.horizon:
        return []
    shown = {who: scored for who, scored in forecasters.items() if who == "naive" or who not in EVERY_BASELINE}
    parts = []
    for first, end in ((0, trained), (trained, naive.horizon)):
        base = naive.steps(first, end)
        pooled = {}
        for who, scored in shown.items():
            part = scored.steps(first, end)
            pooled[who] = metrics.pooled(part) | {"skill_vs_naive": metrics.skill(part, base)}
        parts.append({"steps": [first + 1, end], "beyond_training": first > 0, "pooled": pooled})
    return parts


def part_label(part: Mapping[str, Any]) -> str:
    """Return the name of a part, for tables."""
    first, last = part["steps"]
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    return f"{steps} ({'beyond training' if part['beyond_training'] else 'as trained'})"
