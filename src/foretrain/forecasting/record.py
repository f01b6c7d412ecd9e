"""The record of a release (release.json): the columns and lengths that forecast and evaluate use by default.

Both choose by trained_columns, trained_context and beyond_training, so that a forecast is what was scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from foretrain.data.importers.columns import corpus_name
from foretrain.errors import ConfigError, ModelError
from foretrain.models import forecast_options
from foretrain.models.base import Columns, Family, Forecaster
from foretrain.models.output import recorded_output
from foretrain.models.request import check_context_length
from foretrain.models.types import ForecastOptions
from foretrain.notes import Code, Note, counted
from foretrain.timeaxis.frequency import USUAL_HORIZON, Frequency

Facts = Mapping[str, Any]  # the contents of a release.json; {} = nothing is known

_ROLES = ("target", "scored", "past_covariates", "known_covariates")
_LENGTHS = ("context_length", "prediction_length")
USUAL_TARGETS = ("target", "y")
_SHOWN = 3  # columns named in a note
_NOT_JUDGED = "no validation of this training judged the steps {first:,} to {last:,}, which may be much worse."
_NOT_READ = "this training showed it no longer history, and no validation judged one."


@dataclass(frozen=True)
class TrainedColumns:
    """The columns of a forecast by role, in the order of a window's rows.

    targets None = every numeric column that is no covariate. lacking: recorded covariates that the data lack.
    unlearnt: the model saw no covariates in training. unread: the family that drops them, "" = none.
    """

    targets: tuple[str, ...] | None
    past: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    unlearnt: bool = False
    unread: str = ""

    def notes(self, source: str) -> list[Note]:
        """Return notes on recorded covariates that the data lack, and on those that say nothing to the model."""
        notes, covariates = list[Note](), (*self.past, *self.known)
        if self.lacking:
            columns = listed(self.lacking, _SHOWN)
            text = f"{source} has no {columns}, which the model was trained with; it forecasts without."
            notes.append(Note(Code.COLUMNS_UNLIKE_TRAINING, text, {"columns": len(self.lacking)}))
        if self.unread and covariates:
            notes.append(unread_note(self.unread, covariates))
        elif self.unlearnt and covariates:
            text = (
                f"the model was trained on series without covariates, so these hardly change its forecasts: "
                f"{listed(covariates, _SHOWN)}. Fine-tune it with them."
            )
            notes.append(Note(Code.COVARIATES_NOT_LEARNT, text, {"columns": len(covariates)}))
        return notes


def unread_note(family: str, covariates: Sequence[Any]) -> Note:
    """Return the note on covariates of a family that reads none."""
    text = f"{family} reads no covariates, so these change nothing: {listed(covariates, _SHOWN)}."
    return Note(Code.COVARIATES_UNREAD, text, {"columns": len(covariates)})


def recorded_data(facts: Facts) -> Mapping[str, Any]:
    """Return the columns and lengths of training; {} if they are not recorded.

    single_rows is added if a record of pretraining shows that every window had one row. Raises ModelError for a record
    that a hand has changed to something else than names and lengths.
    """
    found = facts.get("data")
    if not isinstance(found, Mapping):
        return {}
    kinds = {
        **dict.fromkeys(_ROLES, ("a list of names", _are_names)),
        **dict.fromkeys(_LENGTHS, ("a whole number of at least 1", _is_length)),
        "categories": (
            "lists of texts by column",
            lambda c: isinstance(c, Mapping) and all(map(_are_names, c.values())),
        ),
        "longest_trained": ("lengths by name", lambda c: isinstance(c, Mapping)),
    }
    for key, (kind, fits) in kinds.items():
        value = found.get(key)
        if value is not None and not fits(value):
            raise ModelError(f"release.json: data.{key} is {value!r}, not {kind}. Restore the file, or remove it.")
    return {**found, "single_rows": True} if _of_single_rows(facts) else found


def _of_single_rows(facts: Facts) -> bool:
    """Return True if the recipe of a pretrained model (tools/pack_pretrained.py) draws no groups of series."""
    try:
        recipe = facts["pretraining"]["recipe"]
        stream = recipe["config"]["data"].get("generated") or {}
        groups = [mixture.get("layout") for mixture in recipe["mixtures"].values()] if not stream else []
        rows = [one["targets"] + one["past"] + one["known"] for one in stream.get("layouts") or ()]
    except (AttributeError, KeyError, TypeError):  # no such record, or one of another shape, which tells nothing
        return False
    return not any(groups) and max(rows, default=1) == 1


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def records_columns(trained: Mapping[str, Any]) -> bool:
    """Return True if the recorded data say which columns to use (a target of None = all that are numeric)."""
    return "target" in trained or bool(trained.get("any_columns"))


def with_names(facts: Facts, meant: Callable[[str], str | None]) -> dict[str, Any]:
    """Return the facts with each recorded column under the name that a data source has for it, if it has the column."""
    trained = recorded_data(facts)
    renamed: dict[str, Any] = {
        role: [meant(name) or name for name in trained[role]] for role in _ROLES if trained.get(role)
    }
    if trained.get("categories"):
        renamed["categories"] = {meant(name) or name: order for name, order in trained["categories"].items()}
    return {**facts, "data": {**trained, **renamed}} if renamed else dict(facts)


def trained_columns(
    names: Sequence[str],
    numeric: Sequence[str],
    family: Family,
    choice: Columns | None,
    trained: Mapping[str, Any],
    *,
    target: Sequence[str] | None = None,
    past_covariates: Sequence[str] | None = None,
    known_covariates: Sequence[str] | None = None,
    source: str,
    whole: bool = False,
    ahead: Sequence[Any] = (),
) -> TrainedColumns:
    """Return the columns that a forecast or an evaluation of a source uses.

    Recorded names are found by the rules of imports (Close/Last is close), whatever the order of the source's columns.

    Args:
        names: columns of the source; `numeric` those of numbers.
        family: the model's family; `choice` its own choice among the columns.
        trained: the columns of training (recorded_data); {} if unknown.
        target: None takes the columns scored while training, else those trained on, else those that the family scores,
            else every numeric column.
        past_covariates: None takes those of training, and for a family that chooses columns also the targets of
            training (or the family's) that are not among the targets now, if the source has them.
        known_covariates: None takes those of training.
        source: name of the source, for messages.
        whole: a family that chooses columns forecasts all of them by default, not only those that are scored.
        ahead: columns whose values ahead are given.

    A record that says any_columns is of a model that was pretrained on series without names. The columns ahead are
    known covariates; if targets are given, or a column is called "target" or "y", all others are past covariates.

    Raises ConfigError if the source lacks a recorded target.
    """
    unread = "" if family.reads_covariates else family.name
    if trained.get("any_columns"):
        usual = next(((name,) for name in USUAL_TARGETS if name in numeric), None)
        chosen = _any_columns(names, target or usual, past_covariates, known_covariates, ahead)
        return replace(chosen, unlearnt=bool(trained.get("single_rows")), unread=unread)
    given = target is not None
    lacking: list[str] = []
    if target is None:
        recorded = trained.get("scored") or trained.get("target")
        target = _targets(recorded, names, source) if recorded else (choice.scored if choice else None)
    own = set(target) if given and target is not None else set()
    if known_covariates is None:
        known, missing = _found(trained.get("known_covariates"), names)
        known, lacking = [name for name in known if name not in {*own, *(past_covariates or ())}], [*lacking, *missing]
    else:
        known = list(known_covariates)
    if past_covariates is None:
        past, missing = _found(trained.get("past_covariates"), names)
        past, lacking = [name for name in past if name not in {*own, *known}], [*lacking, *missing]
    else:
        past = list(past_covariates)
    pooled = past_covariates is None and target is not None and (choice is not None or not given)
    every = whole and choice is not None and not given
    if pooled or every:
        pool, missing = _pool(names, numeric, family, choice, trained, source)
        lacking += missing
        if every:
            target = [name for name in pool if name not in {*past, *known}]
        past += [name for name in pool if name not in {*(target or ()), *past, *known}]
    targets = None if target is None else tuple(target)
    return TrainedColumns(targets, tuple(past), tuple(known), tuple(lacking), unread=unread)


def _any_columns(
    names: Sequence[str],
    target: Sequence[str] | None,
    past: Sequence[str] | None,
    known: Sequence[str] | None,
    ahead: Sequence[Any],
) -> TrainedColumns:
    if known is None:
        known = [name for name in names if name in ahead and name not in {*(target or ()), *(past or ())}]
    if past is None:
        past = [] if target is None else [name for name in names if name not in {*target, *known}]
    return TrainedColumns(None if target is None else tuple(target), tuple(past), tuple(known))


def _pool(
    names: Sequence[str],
    numeric: Sequence[str],
    family: Family,
    choice: Columns | None,
    trained: Mapping[str, Any],
    source: str,
) -> tuple[Sequence[str], list[str]]:
    """Return the targets of training, or the columns that would be, and those of them that the source lacks."""
    recorded = trained.get("target")
    if not recorded:
        return (choice.targets if choice else numeric), []
    if choice is None:
        return _targets(recorded, names, source), []
    found, lacking = _found(recorded, names)
    if lacking and not family.columns(found):  # candles work without a volume
        return choice.targets, lacking
    return found, lacking


def _targets(recorded: Sequence[str], names: Sequence[str], source: str) -> list[str]:
    found, lacking = _found(recorded, names)
    if lacking:
        raise ConfigError(
            f"{source}: has no column {lacking[0]!r}, a target that the model was trained on (it has "
            f"{', '.join(map(repr, names)) or 'none'}). Rename yours, or name what to forecast: --target, target=."
        )
    return found


def _found(wanted: Iterable[str] | None, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the columns that recorded names mean, and the names that mean none."""
    own, text = set(names), [name for name in names if isinstance(name, str)]
    meant = {name: name if name in own else corpus_name(name, text) for name in wanted or ()}
    return [found for found in meant.values() if found is not None], [name for name in meant if meant[name] is None]


def trained_categories(trained: Mapping[str, Any], names: Sequence[Any]) -> dict[Any, tuple[str, ...]] | None:
    """Return the categories of training, in the order of their codes, of the columns of a source that have some.

    None if training recorded no categories at all, as earlier versions.
    """
    recorded = trained.get("categories")
    if recorded is None or len(trained.get("target") or ()) == 1:  # windows of one target hold no codes
        return None
    found = {name: _found([name], names)[0] for name in recorded}
    return {columns[0]: tuple(recorded[name]) for name, columns in found.items() if columns}


def category_note(
    name: Any, own: Sequence[Any] | None, unseen: Sequence[Any], trained: Sequence[str] | None
) -> Note | None:
    """Return a note if the codes of a covariate are not those of training, so that they mean little to the model.

    own: its categories in the data, None = it holds numbers; unseen: those of them that training lacked; trained: the
    categories of training, None = it had none.
    """
    if own is None and trained is not None:
        text = f"column {name!r} holds numbers here and categories in training ({listed(trained)}); these are no codes."
    elif own is not None and trained is None:
        text = (
            f"column {name!r} holds text, for which training recorded no categories (it had numbers, or too many "
            "texts): the codes are numbered in this data, and the model never saw them."
        )
    elif own and unseen and trained is not None:
        text = (
            f"column {name!r}: {len(unseen):,} of {len(own):,} categories are not among those of training, so they say "
            f"nothing: {listed(unseen)} (training had {listed(trained)})."
        )
    else:
        return None
    return Note(Code.CATEGORIES_UNLIKE_TRAINING, text, {"categories": len(unseen), "of": len(own or ())})


def left_out_note(source: str, columns: Sequence[Any], ahead: Sequence[Any]) -> Note:
    """Return the note on columns of a source, and of its rows known ahead, that training did not use."""
    parts = [
        f"{where} has {counted(len(names), 'column')} that the model was not trained with, left out: "
        f"{listed(names, _SHOWN)}"
        for where, names in ((source, columns), ("future_df", ahead))
        if names
    ]
    way = (
        "To use them, name all covariates: past_covariates= (--past-covariates), or known_covariates= "
        "(--known-covariates) with their values ahead."
    )
    return Note(Code.COLUMNS_LEFT_OUT, f"{'; '.join(parts)}. {way}", {"columns": len(columns), "ahead": len(ahead)})


def not_numbers_note(source: str, columns: Sequence[Any]) -> Note:
    """Return the note on columns that are left out where every column of numbers is forecast."""
    text = (
        f"{source}: every column of numbers is forecast, and {listed(columns, _SHOWN)} left out. Name what to forecast "
        "(--target, target=), and all other columns are its covariates."
    )
    return Note(Code.COLUMNS_LEFT_OUT, text, {"columns": len(columns), "ahead": 0})


def not_given_note(known: Sequence[Any]) -> Note:
    """Return the note on recorded known covariates whose values ahead are not given."""
    text = (
        f"the model was trained and is scored with {listed(known, _SHOWN)} known ahead, and these values are not "
        "given: this forecast is made without them, so it is not the one that an evaluation scores. Give the rows to "
        "forecast as future_df (--future)."
    )
    return Note(Code.KNOWN_COVARIATES_NOT_GIVEN, text, {"columns": len(known)})


def listed(values: Iterable[Any], most: int = 5) -> str:
    """Return the first values, or names, for a message."""
    every = [value.item() if isinstance(value, np.generic) else value for value in values]
    return ", ".join(map(repr, every[:most])) + (", ..." if len(every) > most else "")


def recorded_options(facts: Facts) -> dict[str, Any]:
    """Return the forecast options that a run was validated with, {} = the family's defaults.

    Raises ModelError for a record that a hand has changed to something else than options by name.
    """
    found = facts.get("options") or {}
    if not isinstance(found, Mapping):
        raise ModelError(f"release.json: options is {found!r}, not options by name. Restore the file, or remove it.")
    return dict(found)


def with_recorded_options(facts: Facts, given: Mapping[str, Any] | ForecastOptions | None) -> Any:
    """Return the options of a forecast: the recorded ones with those that are given by name; a whole set stays."""
    return given if isinstance(given, ForecastOptions) else {**recorded_options(facts), **(given or {})}


def unlike_release(facts: Facts, model: Forecaster, given: Mapping[str, Any], options: ForecastOptions) -> list[str]:
    """Return the names of the settings of an evaluation that forecasts of the release do not have by default.

    given: arguments by name, None = not given. Only columns, context_length, rescale and output settings count: others
    change no forecast, or its draws alone. options: the forecast options, recorded ones included.
    """
    trained = recorded_data(facts)
    usual: dict[str, Any] = {role: list(trained[role]) for role in _ROLES if trained.get(role) is not None}
    usual |= recorded_output(facts).model_dump() | {"rescale": model.rescales}
    usual["context_length"] = trained_context(facts, model, None)
    asked = {name: given[name] for name in usual if given.get(name) is not None}
    found = [name for name, value in asked.items() if (list(value) if name in _ROLES else value) != usual[name]]
    return found if options == forecast_options(model.family, recorded_options(facts)) else [*found, "options"]


def trained_context(facts: Facts, model: Forecaster, asked: int | None) -> int | None:
    """Return the context length of a forecast: what is asked for, else that of training, at most the model's longest.

    None if neither is known.
    """
    length = recorded_data(facts).get("context_length")
    if asked is not None or not isinstance(length, int):
        return asked
    return min(length, model.max_context_length)


def trained_horizon(facts: Facts) -> int | None:
    """Return the steps ahead that a model was trained for, None if they are not recorded."""
    length = recorded_data(facts).get("prediction_length")
    return length if isinstance(length, int) else None


def default_horizon(facts: Facts, frequency: Frequency | None) -> tuple[int, list[Note]]:
    """Return the steps ahead of a forecast or an evaluation that names none, and a note if nothing recorded them.

    They are those of training. Of a model that was not trained for one horizon (any_columns) or records none, they are
    usual ones of the data's frequency.
    """
    length = trained_horizon(facts)
    if length is not None and not recorded_data(facts).get("any_columns"):
        return length, []
    steps = USUAL_HORIZON if frequency is None else frequency.usual_horizon
    usual = "" if frequency is None else f", which is usual at a frequency of {frequency.alias}"
    text = f"no horizon is given, so it is {steps} steps{usual}; --prediction-length sets another."
    return steps, [Note(Code.DEFAULT_HORIZON, text, {"prediction_length": steps})]


def trained_window(facts: Facts, model: Forecaster) -> int | None:
    """Return the steps of a window of training, with its horizon, at most what the model reads; None if unknown."""
    context, horizon = recorded_data(facts).get("context_length"), trained_horizon(facts)
    if horizon is None or not isinstance(context, int):
        return None
    return min(context + horizon, model.max_context_length)


def beyond_window(facts: Facts, model: Forecaster, max_context: int | None) -> list[Note]:
    """Return a note if the rolling window of a stream is longer than the windows of training."""
    window = trained_window(facts, model)
    if max_context is None or window is None or max_context <= window:
        return []
    text = f"max_context {max_context:,} is beyond the {window:,} steps of a window of training: {_NOT_READ}"
    return [Note(Code.CONTEXT_BEYOND_TRAINING, text, {"max_context": max_context, "trained": window})]


def beyond_training(
    facts: Facts, prediction_length: int, context_length: int | None = None, rows: int | None = None
) -> list[Note]:
    """Return notes if a forecast has a longer horizon, or reads more context, than training recorded.

    rows: those of the longest context that is read; a longer context_length has no effect. Raises ConfigError for an
    impossible context_length.
    """
    trained, notes = recorded_data(facts), list[Note]()
    longest = trained.get("longest_trained") or {}
    context_length = check_context_length(context_length)
    read = None if context_length is None else min(context_length, context_length if rows is None else rows)
    for key, asked, code, why in (
        ("prediction_length", prediction_length, Code.HORIZON_BEYOND_TRAINING, _NOT_JUDGED),
        ("context_length", read, Code.CONTEXT_BEYOND_TRAINING, _NOT_READ),
    ):
        length = trained.get(key)
        if not isinstance(length, int) or asked is None or asked <= length:
            continue
        shown = prediction_length if key == "prediction_length" else context_length
        counts = {key: shown, "trained": length}
        earlier = longest.get(key)
        more = f" (an earlier training of it with {earlier:,})" if isinstance(earlier, int) and earlier > length else ""
        text = f"{key} {shown:,} is beyond the {length:,} steps that the model was trained for{more}: "
        notes.append(Note(code, text + why.format(first=length + 1, last=shown), counts))
    return notes
