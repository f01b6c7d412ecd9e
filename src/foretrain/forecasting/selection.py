"""Choice of a frame's columns: targets and covariates as the caller, the release's record or the family says."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from foretrain.data.importers.columns import corpus_name
from foretrain.errors import DataError
from foretrain.forecasting import checks
from foretrain.forecasting.covariates import column_of, is_numeric
from foretrain.forecasting.record import left_out_note, not_numbers_note, records_columns, trained_columns, unread_note
from foretrain.forecasting.request import FrameRequest
from foretrain.forecasting.rows import Names
from foretrain.models.base import Columns, Family
from foretrain.notes import Code, Note, warn
from foretrain.timeaxis.future import READ_TABLE

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameColumns:
    """The columns of a frame by role, in the order of a window's rows, and what is told about the choice.

    known: those with values in future_df; may_be_known: those recorded or named as known ahead, None = any. candle: the
    targets that make up a candle. ahead: name in future_df -> column of df.
    """

    targets: tuple[Any, ...]
    past: tuple[Any, ...]
    known: tuple[Any, ...]
    may_be_known: tuple[Any, ...] | None
    candle: tuple[str, ...]
    ahead: Mapping[Any, Any]
    notes: tuple[Note, ...] = ()


def frame_columns(
    df: pd.DataFrame,
    future_df: pd.DataFrame | None,
    request: FrameRequest,
    family: Family,
    trained: Mapping[str, Any],
    source: str = "df",
) -> FrameColumns:
    """Choose the columns of frames that have the request's id and time columns; trained: record.recorded_data.

    Raises DataError for columns that are missing or have two roles, ConfigError if a recorded target is missing.
    """
    names = [name for name in df.columns if name not in request.columns]
    coming = [] if future_df is None else [name for name in future_df.columns if name not in request.columns]
    choice = family.columns_of([str(name) for name in names], source)
    for role, wanted in (("past_covariates", request.past_covariates), ("known_covariates", request.known_covariates)):
        for name in wanted or ():
            if name not in names:
                raise DataError(f"{role}: {source} has no column {name!r}; its columns are {checks.columns_of(df)}.")
    for name in request.known_covariates or ():
        if name not in coming:
            where = "there is no future_df (--future)" if future_df is None else f"future_df has no column {name!r}"
            raise DataError(f"known_covariates: {name!r} needs its values ahead, and {where}. Add it, or leave it out.")
    if choice is None and not records_columns(trained):
        found = _without_record(df, names, coming, request, family.name)
        named = (*(request.past_covariates or ()), *(request.known_covariates or ()))
        if named and not family.reads_covariates:
            found = replace(found, notes=(unread_note(family.name, named),))
    else:
        ahead = [] if future_df is None else [name for name in coming if column_of(future_df, name).notna().any()]
        found = _by_record(df, names, coming, request, family, choice, trained, source, ahead)
    roles = [*found.targets, *found.past, *found.known]
    if len(set(roles)) < len(roles):
        twice = next(name for name in roles if roles.count(name) > 1)
        raise DataError(f"column {twice!r} has two roles among target, past and known covariates. Give it one.")
    return found


def _without_record(
    df: pd.DataFrame, names: Sequence[Any], coming: Sequence[Any], request: FrameRequest, family: str
) -> FrameColumns:
    """Take `target`, and every other column as a covariate; those of future_df are known ahead."""
    if request.target is None and "target" not in names and {*request.columns} <= {*df.columns}:
        raise DataError(
            f"df has no column 'target' and none that {family} forecasts by default among "
            f"{', '.join(map(repr, map(str, df.columns)))}. Name yours with target=, or rename it. {READ_TABLE}"
        )
    targets = ("target",) if request.target is None else tuple(request.target)
    past, known = request.past_covariates, request.known_covariates
    if known is None:
        taken, ahead = {*targets, *(past or ())}, set(coming)
        known = [name for name in names if name in ahead and name not in taken]
    if past is None:
        taken = {*targets, *known}
        past = [name for name in names if name not in taken]
    own = set(names)
    refused = [name for name in coming if name in targets or name not in own]  # by the checks of both frames
    may_be_known = None if request.known_covariates is None else tuple(known)
    ahead = {name: name for name in [*known, *refused]}
    return FrameColumns(targets, tuple(past), tuple(known), may_be_known, (), ahead)


def _by_record(
    df: pd.DataFrame,
    names: Sequence[Any],
    coming: Sequence[Any],
    request: FrameRequest,
    family: Family,
    choice: Columns | None,
    trained: Mapping[str, Any],
    source: str,
    given_ahead: Sequence[Any],
) -> FrameColumns:
    """Take the columns that an evaluation takes; given_ahead: those of coming that have values."""
    numeric = [name for name in names if is_numeric(checks.python_numbers(column_of(df, name), target=True))]
    found = trained_columns(
        names,
        numeric,
        family,
        choice,
        trained,
        target=request.target,
        past_covariates=request.past_covariates,
        known_covariates=request.known_covariates,
        source=source,
        whole=True,
        ahead=given_ahead,
    )
    targets = found.targets
    if targets is None:
        targets = tuple(name for name in numeric if name not in {*found.past, *found.known})
        ahead = [name for name in numeric if name in given_ahead]
        if not targets and ahead:  # by its own rule: what is known ahead is no target
            raise DataError(
                f"{source} has no column to forecast: {', '.join(map(repr, ahead))} has values ahead (future_df, "
                "--future), so it is a covariate. Name what to forecast (target, --target), and leave it out "
                "of those values."
            )
        if not targets:
            raise DataError(f"{source} has no column of numbers to forecast; its columns are {checks.columns_of(df)}.")
    ahead = _ahead(coming, [*found.known, *found.lacking], targets)
    known = tuple(name for name in found.known if name in ahead.values())
    closed = tuple(name for name in found.known if name not in known)
    used = {*targets, *found.past, *found.known}
    left_out = [name for name in names if name not in used]
    notes = found.notes(source)
    extra = [name for name in coming if name not in ahead]
    if choice is not None and (left_out or extra):
        read = ", ".join(str(name) for name in names if name in used)
        unread = [*left_out, *(name for name in extra if name not in left_out)]
        text = f"{family.name} reads {read} and no other columns; left out: {', '.join(map(repr, unread))}."
        notes.append(Note(Code.COLUMNS_LEFT_OUT, text, {"columns": len(unread)}))
    elif choice is None:
        untold = left_out if request.past_covariates is None else []  # else the caller has chosen
        if untold and trained.get("any_columns"):
            notes.append(not_numbers_note(source, untold))
            untold = []
        ahead_of = extra if request.known_covariates is None else []
        notes += [left_out_note(source, untold, ahead_of)] if untold or ahead_of else []
    candle = tuple(name for name in targets if choice is not None and name in choice.targets)
    return FrameColumns(targets, (*found.past, *closed), known, found.known, candle, ahead, tuple(notes))


def _ahead(coming: Sequence[Any], known: Sequence[Any], targets: Sequence[Any]) -> dict[Any, Any]:
    """Return the columns of future_df that are used or refused: name there -> column of df."""
    found = {name: name for name in coming if name in known or name in targets}
    rest = [name for name in coming if name not in found and isinstance(name, str)]
    for name in known:
        if name not in found.values() and (other := corpus_name(name, rest)) is not None:
            found[other] = name
    return found


def select_columns(
    df: pd.DataFrame,
    future_df: pd.DataFrame | None,
    request: FrameRequest,
    family: Family,
    trained: Mapping[str, Any],
    source: str = "df",
) -> tuple[pd.DataFrame, pd.DataFrame | None, Names, tuple[str, ...]]:
    """Return both frames with the chosen columns alone, in the order of a window's rows, their names, and the candle.

    Logs the notes of the choice, in which the frame is called source.
    """
    chosen = frame_columns(df, future_df, request, family, trained, source)
    for note in chosen.notes:
        warn(_log, note)
    wanted = [*request.columns, *chosen.targets, *chosen.past, *chosen.known]
    order = [name for name in wanted if name in df.columns]
    if order != list(df.columns):
        df = df.loc[:, order]
    if future_df is not None:
        kept = [name for name in future_df.columns if name in request.columns or name in chosen.ahead]
        future_df = future_df.loc[:, kept].rename(columns=lambda name: chosen.ahead.get(name, name))
    return df, future_df, Names(*request.columns, chosen.targets, chosen.may_be_known), chosen.candle
