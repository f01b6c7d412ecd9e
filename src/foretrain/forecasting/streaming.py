"""Streams of frames: rows are appended to a model's KV cache, forecasts have the format of forecast_df.

# N items, V rows of a window (targets, then the covariates of the first frame), k new rows, H horizon, Q levels
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.adapters.layers import merged
from foretrain.data.windows import stack_windows
from foretrain.errors import DataError
from foretrain.forecasting.batching import log_tallies
from foretrain.forecasting.covariates import are_dates, clock
from foretrain.forecasting.finish import ForecastList, finished, without_values
from foretrain.forecasting.frame import (
    FrameTask,
    check_candles,
    following_stamps,
    read_appended_rows,
    read_frame,
    with_item_column,
)
from foretrain.forecasting.record import Facts, beyond_training, recorded_options
from foretrain.forecasting.request import FrameRequest, Output
from foretrain.forecasting.rows import Names, filled_rows
from foretrain.forecasting.tables import check_names, tables_of
from foretrain.models import resolved
from foretrain.models.base import Streams
from foretrain.models.output import OutputSettings
from foretrain.models.request import DECILES
from foretrain.notes import Code, Note, counted, warn

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

MAX_STAMPS = 5000  # newest time stamps stored per item, from which the next ones are inferred
CHECKED = 200  # newest rows that tell if an item skips bars of its calendar
SAMPLE = 500  # cells of a first frame's time column that tell how text in later frames is read


class FrameStream:
    """The items of a frame with a model's cache of them; created by Predictor.stream.

    All items are in one batch, so the device's memory must hold the caches of all of them.
    """

    def __init__(
        self,
        model: Streams,
        df: pd.DataFrame,
        names: Names,
        candle: tuple[str, ...],
        context_length: int,
        facts: Facts,
        *,
        freq: str | None,
        calendar: str | None,
        max_context: int | None,
        re_anchor_every: int | None,
        output: OutputSettings,
    ) -> None:
        """max_context and re_anchor_every as for Streams.stream; candle: the targets that make up a candle; output: the
        settings of forecasts that set none; facts: the record of training."""
        self._model, self._family, self._output = model, model.family, output
        self._names, self._candle, self._freq, self._calendar, self._facts = names, candle, freq, calendar, facts
        task = read_frame(df, 1, names=names, freq=freq, calendar=calendar, trailing_rows="history")
        self._ids, self._first = task.item_ids, task.windows
        self._rows = replace(names, target=task.windows[0].names)
        self._times = [stamps[-MAX_STAMPS:] for stamps in task.history()]
        self._dates = self._timed and are_dates(task.times)
        self._sample = df[names.timestamp].iloc[:: max(1, len(df) // SAMPLE)]
        stacked = stack_windows(task.windows, 1, context_length)
        self._empty = without_values(stacked)  # (R,) True for targets without any value so far
        with merged(model):
            self._stream = model.stream(stacked, max_context=max_context, re_anchor_every=re_anchor_every)

    def append(self, df: pd.DataFrame) -> None:
        """Append rows of any of the items, later than all earlier ones; columns as in the first frame.

        Empty cells are filled from earlier rows. With freq, and in a market that never closes, steps without a row are
        rows of missing values. With a calendar, rows that skip bars of it are refused, unless the item skipped some
        before; trading hours that were inferred may have a holiday, so skipped bars are only reported. Raises DataError
        for unknown items, missing columns, rows that are not later, rows after a hole, and stamps of another kind; the
        stream is then unchanged.
        """
        if not len(df):
            return
        df, _ = with_item_column(df, None, self._names)
        values, times = read_appended_rows(df, self._rows, self._ids, self._sample)
        joined = [
            _join_stamps(before, stamps, item)
            for before, stamps, item in zip(self._times, times, self._ids, strict=True)
        ]
        values, times, joined = self._without_holes(values, times, joined)
        windows = [
            replace(
                first,
                context=rows,
                future=None,
                context_times=clock(stamps, dates=self._dates) if self._timed else None,
                future_times=None,
            )
            for first, rows, stamps in zip(self._first, values, times, strict=True)
        ]
        stacked = stack_windows(windows, 1)
        with merged(self._model):
            self._stream.append(stacked, counts=[rows.shape[1] for rows in values])
        self._times = [stamps[-MAX_STAMPS:] for stamps in joined]
        self._empty &= without_values(stacked)

    def forecast_df(
        self,
        prediction_length: int,
        quantile_levels: Sequence[float] = DECILES,
        *,
        output: Output = "long",
        sort_quantiles: bool | None = None,
        repair_candles: bool | None = None,
        blank_missing: bool | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> pd.DataFrame:
        """Forecast the rows that follow, in the format of Predictor.forecast_df; the stream does not change.

        options are the family's; their defaults are the stream's (Kronos: mode="rolling"), then the recorded ones.
        Sampled paths depend on how many rows were appended. Raises the errors of forecast_df.
        """
        given = FrameRequest(
            prediction_length=prediction_length,
            quantile_levels=quantile_levels,
            num_samples=num_samples,
            seed=seed,
            options={**recorded_options(self._facts), **self._stream.defaults, **options},
            outputs=(output,),
            sort_quantiles=sort_quantiles,
            repair_candles=repair_candles,
            blank_missing=blank_missing,
        )
        given = given.changed(**given.output_settings(self._output).model_dump())
        request = resolved(given, self._family)
        check_candles(request.outputs, self._candle, self._family)
        check_names(request, self._names, self._candle)
        for note in beyond_training(self._facts, request.prediction_length):
            warn(_log, note)
        following = following_stamps(
            self._times, self._ids, request.prediction_length, self._freq, self._calendar
        ).times
        ahead = clock(following, dates=self._dates).reshape(len(self._ids), -1) if self._timed else None
        with merged(self._model):
            wanted = request.changed(quantile_levels=request.levels_with_median)
            found = self._stream.forecast(wanted, future_times=ahead)
        log_tallies(found.notes)
        drawn = {name: getattr(found, name) for name in ("quantiles", "mean", "samples")}  # a stream draws paths
        parts = finished({name: x.float().cpu().numpy() for name, x in drawn.items()}, self._empty, wanted)
        self._warn_of_empty_targets(bool(request.blank_missing))
        ends = np.cumsum([window.num_targets for window in self._first])[:-1]
        lists = {name: np.split(values, ends) for name, values in parts.items()}
        task = FrameTask(self._first, self._names, self._ids, following, request.prediction_length, self._candle)
        return tables_of(task, ForecastList(**lists, notes=found.notes), request, self._family)[output]

    def _warn_of_empty_targets(self, blanked: bool) -> None:
        rows = [(item, name) for item, names in zip(self._ids, self._targets, strict=True) for name in names]
        empty = [row for row, is_empty in zip(rows, self._empty, strict=True) if is_empty]
        if not empty:
            return
        items = len({item for item, _ in empty})
        text = f"{items:,} item(s), first {empty[0][0]!r}, have no value of {empty[0][1]!r} so far; "
        code = Code.NOTHING_TO_FORECAST_FROM if blanked else Code.COLUMN_EMPTY
        text += "the forecast is NaN." if blanked else "the forecast of such a column is meaningless."
        warn(_log, Note(code, text, {"items": items}))

    def _without_holes(self, values: list[Any], times: list[Any], joined: list[Any]) -> tuple[Any, Any, Any]:
        """Return the appended values (V, k) and stamps (k,) of each item, with the holes before and among them filled.

        joined: the stamps that the stream then has. Raises DataError for a hole that freq does not fill.
        """
        before = [len(all_stamps) - len(new) for all_stamps, new in zip(joined, times, strict=True)]
        grids: dict[int, Any] = {}
        if self._freq is not None and self._timed:
            grids = {i: self._freq for i, stamps in enumerate(times) if len(stamps)}
        elif any(_has_hole(stamps, count) for stamps, count in zip(joined, before, strict=True)):
            try:
                grids = following_stamps(joined, self._ids, 1, None, self._calendar).grids
            except DataError as error:
                raise DataError(f"rows are missing between the stream and the appended rows: {error}") from None
        if self._timed and self._freq is None:
            for i, count in enumerate(before):
                if i not in grids and len(times[i]) and _has_hole(joined[i], count):
                    self._tell_skipped(joined[i][:count], joined[i][count:], self._ids[i])
        for i, freq in grids.items():
            values[i], times[i] = filled_rows(values[i], joined[i], before[i], self._ids[i], freq)
            joined[i] = joined[i][: before[i]].append(times[i])
        return values, times, joined

    def _tell_skipped(self, before: Any, stamps: Any, item: Any) -> None:
        """Log a note on stamps of the calendar, or of the trading hours of an item so far, that appended rows skip.

        Raises DataError if a calendar has them and the item has skipped none before.
        """
        coming = self._coming(before, len(stamps), until=stamps[-1])
        skipped = coming[~coming.isin(stamps)]
        if not len(skipped):
            return
        what = f"item {item!r}: {counted(len(skipped), 'bar')} from {skipped[0]} on"
        if self._calendar is not None and self._skips_nothing(before):
            raise DataError(
                f"rows are missing between the stream and the appended rows: {what}, by the calendar {self._calendar}. "
                "Append them first, as rows without values if there are none."
            )
        text = (
            f"{what} of its trading hours {'is' if len(skipped) == 1 else 'are'} not among the appended rows; the "
            "stream goes on without, as on a holiday."
        )
        warn(_log, Note(Code.BARS_MISSING, text, {"items": 1, "bars": len(skipped)}))

    def _coming(self, before: Any, count: int, until: Any) -> Any:
        """Return the stamps that follow an item's, up to a time: `count` of them or more are computed at once."""
        while True:
            found = following_stamps([before], [self._ids[0]], count, None, self._calendar).times
            if found[-1] >= until:
                return found[found <= until]
            count *= 2

    def _skips_nothing(self, before: Any) -> bool:
        """Return True if the newest rows of an item are all that its calendar has."""
        count = min(CHECKED, len(before) // 2)
        older = before[: len(before) - count]
        return len(older) > 1 and np.array_equal(self._coming(older, count, before[-1]), before[-count:])

    @property
    def _targets(self) -> list[tuple[str, ...]]:
        """Names of the targets of each item."""
        return [window.names[: window.num_targets] for window in self._first]

    @property
    def _timed(self) -> bool:
        return self._first[0].context_times is not None


def _has_hole(stamps: Any, before: int) -> bool:
    """Return True if a step to one of the new stamps, those from `before` on, is unlike the earlier ones."""
    ticks = stamps if isinstance(stamps, np.ndarray) else stamps.asi8
    steps = np.diff(ticks[max(before - 1, 0) :])
    usual = np.diff(ticks[:before]).min() if before > 1 else None
    return usual is None or bool((steps != usual).any())


def _join_stamps(before: Any, stamps: Any, item: Any) -> Any:
    """Append new stamps to an item's and return the newest ones. Raises DataError if they are not later."""
    if not len(stamps):
        return before
    steps = isinstance(before, np.ndarray)
    if isinstance(stamps, np.ndarray) != steps or (not steps and (before.tz is None) != (stamps.tz is None)):
        raise DataError(f"item {item!r}: its stamps are of another kind ({stamps[0]!r}) than before ({before[-1]!r}).")
    if stamps[0] <= before[-1]:
        raise DataError(f"item {item!r}: a row at {stamps[0]} is not later than {before[-1]}; append only new rows.")
    if steps:
        return np.concatenate((before, stamps))
    return before.append(stamps if before.tz is None else stamps.tz_convert(before.tz))
