"""What a server may know of a study: names and values that could say whose data it is are replaced before they leave.

Metrics of one corpus or task (val_wql/NAME, TASK/wql) lose that name, and choices that may name a file, column, item
or model get numbers. Free text leaves as it was written: guidance, and the description of a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from foretrain.tuning.adviser.records import PastTrial
from foretrain.tuning.space import Candidate, CategoricalParameter, SearchSpace, Value

_METRIC = re.compile(r"[A-Za-z0-9_.]{1,60}")
_WORD = re.compile(r"[A-Za-z0-9_+-]{1,40}")  # no point, slash or blank: no file, folder, hub id or address
# sections of a run whose texts are names of places and of what is in them
_NAMING = ("data", "output_dir", "evaluation", "evaluators", "synthetic", "parents")
_NAMING_WORDS = frozenset(
    (
        *("path", "paths", "file", "files", "folder", "dir", "url", "model_id", "id", "tokenizer"),
        *("item", "items", "column", "columns", "target", "name", "names", "corpus", "tag", "tags"),
        *("from", "start", "date"),
    )
)
CURVE_POINTS = 12


def public_metrics(names: Sequence[str]) -> list[str]:
    """Return the objectives' names without those of corpora and tasks."""
    corpora, tasks, found = dict[str, str](), dict[str, str](), list[str]()
    for place, name in enumerate(names, 1):
        if name.startswith("val_"):
            metric, _, corpus = name.partition("/")
            shown = f"{metric}/{corpora.setdefault(corpus, f'corpus-{len(corpora) + 1}')}" if corpus else metric
        else:
            task, _, metric = name.rpartition("/")
            shown = f"{tasks.setdefault(task, f'task-{len(tasks) + 1}')}/{metric}" if task else metric
        found.append(shown if _METRIC.fullmatch(metric) else f"objective-{place}")
    return found


class Disguise:
    """Translates candidates and conditions between a search space and what a server is told of it."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._shown: dict[str, dict[Value, str]] = {}
        for key, parameter in space.parameters.items():
            if isinstance(parameter, CategoricalParameter) and _may_name(key, parameter.choices):
                texts = [choice for choice in parameter.choices if isinstance(choice, str)]
                self._shown[key] = {text: f"choice-{number}" for number, text in enumerate(texts, 1)}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of a candidate."""
        schema = self._space.json_schema()
        for key, shown in self._shown.items():
            branch = schema["properties"][key]
            for node in (branch, *branch.get("anyOf", ())):
                if "enum" in node:
                    node["enum"] = [self._show(shown, value) for value in node["enum"]]
        return schema

    def scales(self) -> dict[str, str]:
        """Return how values of numeric keys are spaced, where that is not evenly and without gaps."""
        found = {}
        for key, parameter in self._space.parameters.items():
            if isinstance(parameter, CategoricalParameter):
                continue
            if parameter.log:
                found[key] = "logarithmic"
            elif parameter.step not in (None, 1):
                found[key] = f"steps of {parameter.step:g} from {parameter.low:g}"
        return found

    def conditions(self) -> dict[str, dict[str, tuple[Value, ...]]]:
        """Return the values of other keys with which conditional keys exist."""
        return {
            key: {
                other: tuple(self._show(self._shown.get(other, {}), value) for value in values)
                for other, values in parameter.when.items()
            }
            for key, parameter in self._space.parameters.items()
            if parameter.when
        }

    def hide(self, candidate: Mapping[str, Value]) -> Candidate:
        """Return a candidate as the server is told of it: keys of the space alone."""
        return {
            key: self._show(self._shown.get(key, {}), value) for key, value in candidate.items() if key in self._space
        }

    def reveal(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """Return a proposal of the server with the space's own choices; what is none of them stays as it is."""
        back = {key: {label: value for value, label in shown.items()} for key, shown in self._shown.items()}
        return {
            key: back[key].get(value, value) if key in back and isinstance(value, str) else value
            for key, value in candidate.items()
        }

    def trial(self, trial: PastTrial) -> PastTrial:
        """Return a trial as the server is told of it: values and a thinned curve, and no message of a failure."""
        return trial.model_copy(update={"params": self.hide(trial.params), "curve": _thinned(trial.curve)})

    @staticmethod
    def _show(shown: Mapping[Value, str], value: Value) -> Value:
        return shown.get(value, value) if isinstance(value, str) else value


def _may_name(key: str, choices: Sequence[Value]) -> bool:
    """Return whether choices of text may name a place or a thing in the user's data."""
    texts = [choice for choice in choices if isinstance(choice, str)]
    parts = key.split(".")
    by_key = parts[0] in _NAMING or not _NAMING_WORDS.isdisjoint(parts)
    return bool(texts) and (by_key or not all(_WORD.fullmatch(text) for text in texts))


def _thinned(curve: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Return about evenly spaced points of a curve, its first and last among them."""
    if len(curve) <= CURVE_POINTS:
        return tuple(curve)
    places = [round(k * (len(curve) - 1) / (CURVE_POINTS - 1)) for k in range(CURVE_POINTS)]
    return tuple(curve[place] for place in places)


def told(history: Sequence[PastTrial], limit: int, directions: Sequence[str]) -> list[PastTrial]:
    """Return the trials that a server is told of, in their order: half of them the best, the others the newest."""
    if len(history) <= limit:
        return list(history)
    sign = -1 if directions[0] == "maximize" else 1
    scored = [trial for trial in history if trial.values and trial.feasible is not False]
    best = sorted(scored, key=lambda trial: (sign * trial.values[0], trial.number) if trial.values else (0.0, 0))
    kept = {trial.number for trial in best[: (limit + 1) // 2]}
    for trial in reversed(history):
        if len(kept) >= limit:
            break
        kept.add(trial.number)
    return [trial for trial in history if trial.number in kept]
