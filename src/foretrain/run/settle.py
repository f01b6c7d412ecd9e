"""What settings of the command line do to settings of the config file that they exclude, or that no longer fit them.

Both given in the file, or both at the command line, stay an error: building the config reports it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from foretrain.notes import Code, Note
from foretrain.training.settings import TrainingConfig

Changes = list[tuple[str, Any]]
# Settings that exclude each other, by side: key -> the value that stands for "not set".
_SIDES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"training.max_steps": None}, {"training.epochs": None}),
    (
        {
            "training.batch_size": TrainingConfig.model_fields["batch_size"].default,
            "training.micro_batch_size": None,
        },
        {"training.token_budget": None},
    ),
    ({"data.corpora": []}, {"data.generated": None}),
    ({"model.model_id": None}, {"model.random_init": False}),
)
_PHASES = tuple(f"optimizer.schedule.{name}" for name in ("warmup_steps", "stable_steps", "decay_steps"))
_USUAL_WARMUP = 10  # a warm-up is a tenth of a run whose length in the config is unknown


def settled(
    sections: Mapping[str, Any], given: Collection[str], file: Mapping[str, Any], saved: Mapping[str, Any] | None = None
) -> tuple[Changes, list[Note]]:
    """Return the changes of a run's sections that its command line implies, and a note on each.

    Args:
        sections: file and command line merged.
        given: dotted keys of the command line.
        file: the sections as the file alone has them.
        saved: the config that the run folder holds, of a run that is resumed.
    """
    sides = (*_SIDES, *_of_corpora(sections))
    found: list[tuple[Changes, str]] = [
        *(drop for a, b in sides for drop in (*_dropped(sections, given, a, b), *_dropped(sections, given, b, a))),
        *_fitted_phases(sections, given, file, saved),
    ]
    return [pair for changes, _ in found for pair in changes], [Note(Code.SETTING_REPLACED, text) for _, text in found]


def value_at(tree: Any, key: str) -> Any:
    """Return the value at a dotted key of nested mappings and lists; None if there is none."""
    for part in key.split("."):
        if isinstance(tree, list):
            tree = tree[int(part)] if part.isdigit() and int(part) < len(tree) else None
        else:
            tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _of_corpora(sections: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the sides of each entry of data.corpora: a folder, or series that are generated in its place."""
    corpora = value_at(sections, "data.corpora")
    places = [f"data.corpora.{number}" for number in range(len(corpora) if isinstance(corpora, list) else 0)]
    return [({f"{place}.path": None}, {f"{place}.synthetic": None}) for place in places]


def _is_given(key: str, given: Collection[str]) -> bool:
    """Return True if the command line sets a key, a part of it, or a section that holds it."""
    return any(f"{other}.".startswith(f"{key}.") or f"{key}.".startswith(f"{other}.") for other in given)


def _dropped(
    sections: Mapping[str, Any], given: Collection[str], chosen: Mapping[str, Any], others: Mapping[str, Any]
) -> list[tuple[Changes, str]]:
    """Return, as a list of one or none, how `others` of the file make way for `chosen` of the command line."""

    def present(side: Mapping[str, Any]) -> list[str]:
        values = {key: value_at(sections, key) for key in side}
        return [key for key, absent in side.items() if values[key] is not None and values[key] != absent]

    by = [key for key in present(chosen) if _is_given(key, given)]
    out = present(others)
    if not by or not out or any(_is_given(key, given) for key in out):
        return []
    names = " and ".join(_shown(key, value_at(sections, key)) for key in out)
    return [([(key, others[key]) for key in out], f"{by[0]} takes the place of the config's {names}.")]


def _shown(key: str, value: Any) -> str:
    return f"{key} {value}" if isinstance(value, int | float | str) and not isinstance(value, bool) else key


def _fitted_phases(
    sections: Mapping[str, Any], given: Collection[str], file: Mapping[str, Any], saved: Mapping[str, Any] | None
) -> list[tuple[Changes, str]]:
    """Return, as a list of one or none, the phases of the schedule that fit a shorter run than the file's.

    A resumed run keeps those that it began with, since they may not change.
    """
    if any(_is_given(key, given) for key in _PHASES):
        return []
    steps = value_at(sections, "training.max_steps")
    phases = {key: value for key in _PHASES if isinstance(value := value_at(sections, key), int)}
    if saved is not None:
        began = {key: value_at(saved, key) for key in phases}
        less = all(isinstance(began[key], int) and began[key] <= phases[key] for key in phases) and began != phases
        return [(list(began.items()), f"{_differences(phases, began)}, as the run began.")] if less else []
    if not isinstance(steps, int) or not _is_given("training.max_steps", given) or sum(phases.values()) <= steps:
        return []
    before = value_at(file, "training.max_steps")
    if not isinstance(before, int) or before < sum(phases.values()):
        before = sum(phases.values()) if _PHASES[2] in phases else _USUAL_WARMUP * sum(phases.values())
    fitted = {key: max(value * steps // before, min(value, 1)) for key, value in phases.items()}
    for key in _PHASES[1::-1]:  # of very short runs the parts that need not be there
        if key in fitted and sum(fitted.values()) > steps:
            fitted[key] = max(steps - (sum(fitted.values()) - fitted[key]), 0)
    why = f"the config's {'phases are' if len(phases) > 1 else 'warm-up is'} longer than the run's {steps:,} steps"
    return [(list(fitted.items()), f"{_differences(phases, fitted)}, since {why}.")]


def _differences(before: Mapping[str, int], after: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {before[key]:,} -> {after[key]:,}" for key in before if before[key] != after[key])
