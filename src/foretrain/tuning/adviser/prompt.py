"""A request put into words: the messages of a chat, and the strict schema of its answer."""

from __future__ import annotations

import json
from typing import Any

from foretrain.tuning.adviser.records import PastTrial, SuggestionRequest

NAME = "hyperparameter_suggestions"

SYSTEM = (
    "You plan the next trials of a hyper-parameter search. You see the objective, the search space and the trials so "
    "far. Weigh settings that did well against regions that nobody has tried, and learn from trials that failed or "
    "were pruned. Every proposal keeps the bounds and choices of the space and differs from all trials and from your "
    "other proposals. Where a key of the space has no meaning beside your other values, set it to null. "
    "Answer with one JSON object of the given schema and with nothing else."
)


def messages(request: SuggestionRequest) -> list[dict[str, str]]:
    """Return the messages of the chat."""
    parts = ["Objective: " + "; ".join(f"{goal.direction} {goal.name}" for goal in request.objectives)]
    if request.guidance.strip():
        parts.append(f"Guidance of the user:\n{request.guidance.strip()}")
    parts.append(f"Search space, as the JSON schema of one proposal:\n{_compact(request.hyperparam_schema)}")
    if request.scales:
        parts.append("Scales:\n" + "\n".join(f"{key}: {scale}" for key, scale in request.scales.items()))
    if request.conditions:
        lines = [f"{key} exists only with {_compact(when)}" for key, when in request.conditions.items()]
        parts.append("Conditions:\n" + "\n".join(lines))
    trials = [_compact(_line(trial)) for trial in request.history]
    parts.append("Trials so far, one a line:\n" + ("\n".join(trials) if trials else "none"))
    parts.append(f"Propose exactly {request.n} in the array `suggestions`.")
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n\n".join(parts)}]


def response_format(request: SuggestionRequest, *, bounds: bool) -> dict[str, Any]:
    """Return the strict schema of an answer: an object with an array of n candidates.

    bounds: with limits of numbers and of the array's length, which some servers refuse; they are checked here anyway.
    """
    array: dict[str, Any] = {"type": "array", "items": request.hyperparam_schema}
    if bounds:
        array |= {"minItems": request.n, "maxItems": request.n}
    else:
        array["items"] = _without_bounds(request.hyperparam_schema)
    schema = {
        "type": "object",
        "properties": {"suggestions": array},
        "required": ["suggestions"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": NAME, "strict": True, "schema": schema}}


def _line(trial: PastTrial) -> dict[str, Any]:
    line: dict[str, Any] = {"trial": trial.number, "state": trial.state, "params": trial.params}
    if trial.values is not None:
        line["values"] = [_short(value) for value in trial.values]
    if trial.feasible is False:
        line["feasible"] = False
    if trial.curve:
        line["curve"] = [[step, _short(value)] for step, value in trial.curve]
    return line


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _without_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a candidate without limits of numbers."""

    def bare(node: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in node.items() if key not in ("minimum", "maximum")}
        return kept | {"anyOf": [bare(branch) for branch in node["anyOf"]]} if "anyOf" in node else kept

    return schema | {"properties": {key: bare(node) for key, node in schema["properties"].items()}}


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
