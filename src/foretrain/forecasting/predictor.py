"""`foretrain.load` and Predictor: forecasts of arrays and pandas frames with a loaded model.

# N items, V variates, T steps, H horizon, Q levels
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foretrain.adapters.files import open_folder
from foretrain.adapters.layers import merged
from foretrain.atomic import new_folder, write_json
from foretrain.data.windows import FloatArray, Window, stack_windows
from foretrain.errors import ConfigError, ModelError
from foretrain.forecasting.batching import clip_context, forecast_with_warnings, plan
from foretrain.forecasting.finish import ForecastList
from foretrain.forecasting.frame import complete_frames, open_frame, with_market_names
from foretrain.forecasting.inputs import read_inputs
from foretrain.forecasting.joint import check_ends
from foretrain.forecasting.parents import loaded_facts
from foretrain.forecasting.record import (
    beyond_training,
    beyond_window,
    recorded_data,
    records_columns,
    trained_context,
    trained_window,
    with_recorded_options,
)
from foretrain.forecasting.request import FrameRequest, Output, TrailingRows
from foretrain.forecasting.selection import FrameColumns, frame_columns, select_columns
from foretrain.forecasting.streaming import FrameStream
from foretrain.forecasting.tables import check_names, tables_of
from foretrain.models import family, resolved
from foretrain.models.base import Embeds, Forecaster, ForecastRequest, Streams, Trainable, move
from foretrain.models.hub import resolve
from foretrain.models.memory import memory_bytes
from foretrain.models.output import OutputSettings, recorded_output
from foretrain.models.request import DECILES
from foretrain.notes import Code, told, warn

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    path_or_hub_id: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    offline: bool = False,
    **parts: str | os.PathLike[str],
) -> Predictor:
    """A predictor from a release folder, a run folder (its release/), an adapter folder or a Hugging Face hub id.

    Args:
        path_or_hub_id: a folder that exists, or `owner/name`. foretrain.load also takes a checkpoint of a run
            (`runs/x/checkpoints/step-500`, `runs/x/latest`, `runs/x/best`) and writes its release into its folder.
        device: "cpu", "cuda", ...; None = the first GPU if there is one.
        dtype: of the weights: float32, bfloat16 or float16. Lower ones cost accuracy.
        revision: branch, tag or commit on the hub.
        offline: use what was downloaded before, touch no network.
        **parts: what the model is made of besides, each a folder or hub id, such as tokenizer="owner/name". A release
            that was written here brings its parts along.

    Raises:
        ModelError: no such folder, no or unknown config.json, damaged or unfitting weights, hub out of reach, a part
            that the family does not have, a model that makes no forecasts.
        ConfigError: an impossible device or dtype.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    where = _device(device)
    asked = str(path_or_hub_id)
    made_of = {name: str(part) for name, part in parts.items()}
    folder = resolve(asked, revision, offline)
    model = _that_forecasts(open_folder(folder, asked, offline, made_of), asked)
    facts = loaded_facts(folder, made_of, asked)
    return Predictor(model.to(device=where, dtype=DTYPES[dtype]).eval(), facts)


class Predictor:
    """A loaded model that forecasts arrays and frames.

    facts are the release's record of its training (release.json) and of parts that it was loaded with, {} if there is
    none: its columns and its context are the defaults of forecasts of frames, as they are those of `foretrain
    evaluate`.
    """

    def __init__(self, model: Forecaster, facts: Mapping[str, Any] | None = None) -> None:
        self.model, self.facts = model, dict(facts or {})

    @property
    def network(self) -> nn.Module:
        """The PyTorch module of the network, with upstream's parameter and argument names."""
        return self.model.network

    @property
    def output(self) -> OutputSettings:
        """What is done to forecasts of frames by default: the output settings of the release, else all."""
        return recorded_output(self.facts)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.model.parameters()).device

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a release (config.json, model.safetensors) that upstream's loader opens; on failure nothing is left.

        Logs a note if the model has a setting that upstream lacks, so that its library gives other forecasts. The facts
        are written beside it, as release.json.

        Raises ModelError if path exists already or cannot be written, DataError if it appears meanwhile.
        """
        path = Path(path)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ModelError(f"{path}: exists already; choose another folder or remove it.")
        try:
            with new_folder(path) as scratch, merged(self.model):
                self.model.save_release(scratch)
                if self.facts:
                    write_json(scratch / "release.json", self.facts)
        except OSError as error:
            raise ModelError(f"{path}: cannot be written ({error}).") from None
        for note in self.model.release_notes():
            warn(_log, note)

    def forecast(
        self,
        inputs: Any,
        prediction_length: int,
        quantile_levels: Sequence[float] = DECILES,
        *,
        batch_size: int = 256,
        max_memory: int | str | None = None,
        context_length: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        sort_quantiles: bool = False,
        repair_candles: bool = False,
        blank_missing: bool = False,
        rescale: bool | None = None,
        **options: Any,
    ) -> list[FloatArray]:
        """Return quantile forecasts, one (targets, H, Q) array per item, in the order of inputs.

        They are as the model gives them; forecast_df sorts and repairs them.

        Args:
            inputs: a (N, V, T) array; a list of (T,) or (V, T) arrays; a list of dicts with `target`,
                `past_covariates`, `future_covariates`; or a list of Window.
            prediction_length: H, in steps.
            quantile_levels: between 0 and 1.
            batch_size: rows (variates and covariates) per forward pass.
            max_memory: bytes, or text such as "2GB", that the forecast may take besides model and inputs; it is then
                computed in pieces, with equal results up to rounding. None = no bound.
            context_length: newest steps to use; None = as many as in training, or as the model can read if that is not
                recorded.
            num_samples: number of sample paths, for families that draw them.
            seed: seed of the sample paths.
            sort_quantiles, repair_candles, blank_missing: as for forecast_df, but False by default.
            rescale: see ForecastRequest.
            **options: options of the family, such as cross_learning=True.

        Raises:
            DataError: malformed inputs.
            ConfigError: impossible or unknown options.
        """
        request = ForecastRequest(
            prediction_length=prediction_length,
            quantile_levels=quantile_levels,
            batch_size=batch_size,
            max_memory=memory_bytes(max_memory),
            context_length=context_length,
            num_samples=num_samples,
            seed=seed,
            rescale=rescale,
            options=options,
            sort_quantiles=sort_quantiles,
            repair_candles=repair_candles,
            blank_missing=blank_missing,
        )
        windows = _windows_of(inputs, request.prediction_length)
        return self._forecast(windows, self._with_options(request), keep_samples=False).quantiles

    def forecast_paths(
        self,
        inputs: Any,
        prediction_length: int,
        *,
        batch_size: int = 256,
        max_memory: int | str | None = None,
        context_length: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        repair_candles: bool = False,
        blank_missing: bool = False,
        rescale: bool | None = None,
        **options: Any,
    ) -> list[FloatArray]:
        """Return sample paths, one (targets, S, H) array per item, in the order of inputs; arguments as for forecast.

        Raises ConfigError if the family draws no paths, and the errors of forecast.
        """
        request = ForecastRequest(
            prediction_length=prediction_length,
            quantile_levels=(0.5,),
            batch_size=batch_size,
            max_memory=memory_bytes(max_memory),
            context_length=context_length,
            num_samples=num_samples,
            seed=seed,
            rescale=rescale,
            options=options,
            repair_candles=repair_candles,
            blank_missing=blank_missing,
        )
        windows = _windows_of(inputs, request.prediction_length)
        found = self._forecast(windows, self._with_options(request), keep_samples=True)
        if found.samples is None:
            raise ConfigError(f"{self.model.family} draws no sample paths; use forecast, which returns quantiles.")
        return found.samples

    def forecast_df(
        self,
        df: pd.DataFrame,
        prediction_length: int,
        quantile_levels: Sequence[float] = DECILES,
        future_df: pd.DataFrame | None = None,
        context_length: int | None = None,
        batch_size: int = 256,
        cross_learning: bool = False,
        *,
        id_column: str = "item_id",
        timestamp_column: str = "timestamp",
        target: str | Sequence[str] | None = None,
        past_covariates: str | Sequence[str] | None = None,
        known_covariates: str | Sequence[str] | None = None,
        freq: str | None = None,
        calendar: str | None = None,
        output: Output = "long",
        aggregate: str | Sequence[str] = (),
        sort_quantiles: bool | None = None,
        repair_candles: bool | None = None,
        blank_missing: bool | None = None,
        trailing_rows: TrailingRows | None = None,
        allow_unequal_ends: bool = False,
        num_samples: int | None = None,
        seed: int = 0,
        rescale: bool | None = None,
        max_memory: int | str | None = None,
        **options: Any,
    ) -> pd.DataFrame:
        """Forecast the items of a frame; return a frame.

        Args:
            df: one row per item and time stamp, in any order. Of a model with a record (facts) the columns are those of
                training, found by the rules of imports (Close/Last is close), and a note names the others, which are
                left out; of any other model all columns besides id, time and target are covariates. Text and booleans
                are categorical. A frame of a single series needs no id column; its item is "item".
                Candle families read open, high, low, close and, if present, volume and amount, and nothing else.
                Values are taken as they are typed; stamps as text are read as `foretrain data import` reads them. What
                only the reader of a file can decide is refused: `foretrain.read_table(FILE)` makes a frame of a file.
            prediction_length: H, in steps.
            quantile_levels: between 0 and 1.
            future_df: covariates known ahead: H rows per item at the stamps that follow, any of df's covariate columns
                (those recorded as known ahead, of a model with a record; a note tells if they are not given).
                If the stamps are inferred from trading hours, future_df may have others, e.g. around a holiday.
                If each frame holds a single series and one of them has no ids, they are the same series. True, 1, 1.0,
                "1" and "TRUE" are one value of a category; values that the history lacks are named in a note.
            context_length: newest steps to use; None = as many as in training, or as the model can read if that is not
                recorded.
            batch_size: rows (targets and covariates) per forward pass.
            cross_learning: let all items of a batch attend to each other; forecasts then depend on the batch. Items
                that end at different times are refused, for the earlier ones would see later values of the others.
            id_column: column of the item ids.
            timestamp_column: column of the time stamps, of periods (their first instants), or of whole numbers that
                count steps.
            target: column or columns to forecast; None = those that an evaluation scores if the model has a record, all
                of a candle for candle families, else "target".
            past_covariates, known_covariates: columns to use instead of the recorded ones (without a record: instead of
                all others, and of those in future_df); () = none.
            freq: pandas alias of the frequency, on whose grid the rows are put, with rows of missing values between;
                older spellings (H, 5T) too. M, Q and Y keep the rows' day of the period. None = inferred from the
                stamps of each item: their frequency, or the trading hours and days of its newest bars.
            calendar: exchange whose sessions the stamps follow, with holidays and half days: a name known to the
                package exchange_calendars (XNYS, NYSE, XSHG, CMES, 24/7, ...; extra `market`).
            output: "long"; "candles", the mean of the sampled candles; or "paths", every sampled path.
            aggregate: further columns of "long", aggregated from the sampled paths: names such as trimmed_mean_10 or
                mean_quantile_mix_0.15_0.3, listed in forecasting/aggregate.py.
            sort_quantiles: sort quantiles that cross; `predictions` is then the sorted median. None, here and below, =
                as the release records (Predictor.output), else True.
            repair_candles: let high and low of sampled candles enclose open and close, and let no volume and amount be
                below 0, nor a price of an item whose prices were always above 0 in df; for candle families.
            blank_missing: give NaN for a series without a value in the context.
            trailing_rows: what the newest rows without any target are: "future", the steps to forecast, whose
                covariates are known; "history", so that the forecast begins after them; "drop", left out. None =
                the future if every item has exactly H of them, each with a covariate; history if none has a
                covariate, or if there is a future_df. Both give a note; anything else is refused.
            allow_unequal_ends: with cross_learning, forecast items of which some end before others; a note says so.
            num_samples: number of sample paths, for families that draw them.
            seed: seed of the sample paths.
            rescale: see ForecastRequest.
            max_memory: as for forecast.
            **options: options of the family; missing ones as the release records (those of the run's evaluation), else
                the family's defaults.

        Returns:
            long: columns id, timestamp, target_name, predictions (the median), mean if the family draws paths, one per
            aggregate, and str(level) per level; rows by item in order of first appearance, target, step.
            candles: id, timestamp and a column each for open, high, ...; rows by item and step. paths: id, timestamp,
            sample (0, 1, ...) and a column per target; rows by item, sample and step.

        Raises:
            DataError: a missing column, text among numbers, duplicate rows, a series with holes or without regular
                stamps or trading hours, rows off the grid of freq, stamps that are not the calendar's, a future_df
                that does not fit, a column that has the name of one of the forecast's.
            ConfigError: impossible or unknown options, calendars or outputs; candles of a family that has none.
        """
        request = FrameRequest(
            prediction_length=prediction_length,
            quantile_levels=quantile_levels,
            context_length=context_length,
            batch_size=batch_size,
            max_memory=memory_bytes(max_memory),
            num_samples=num_samples,
            seed=seed,
            rescale=rescale,
            options=options | ({"cross_learning": True} if cross_learning else {}),
            id_column=id_column,
            timestamp_column=timestamp_column,
            target=target,
            past_covariates=past_covariates,
            known_covariates=known_covariates,
            freq=freq,
            calendar=calendar,
            outputs=(output,),
            aggregates=aggregate,
            sort_quantiles=sort_quantiles,
            repair_candles=repair_candles,
            blank_missing=blank_missing,
            trailing_rows=trailing_rows,
            allow_unequal_ends=allow_unequal_ends,
        )
        return self.forecast_tables(df, request, future_df)[output]

    def forecast_tables(
        self, df: pd.DataFrame, request: FrameRequest, future_df: pd.DataFrame | None = None, source: str = "df"
    ) -> dict[Output, pd.DataFrame]:
        """Return every output of the request, in the format of forecast_df, from one forecast; notes on the columns
        call the frame source."""
        name, options = self.model.family, with_recorded_options(self.facts, request.options)
        request = request.changed(**request.output_settings(self.output).model_dump(), options=options)
        task = open_frame(df, request, family(name), future_df, recorded_data(self.facts), source)
        check_names(request, task.names, task.candle)
        joint = resolved(request, name).mixes_items
        check_ends(task.item_ids, task.ends, joint=joint, allowed=request.allow_unequal_ends)
        with_median = request.changed(quantile_levels=request.levels_with_median)
        found = self._forecast(task.windows, with_median, keep_samples=request.needs_paths)
        return tables_of(task, found, request, name)

    def _with_options(self, request: ForecastRequest) -> ForecastRequest:
        return request.changed(options=with_recorded_options(self.facts, request.options))

    def _forecast(self, windows: Sequence[Window], request: ForecastRequest, *, keep_samples: bool) -> ForecastList:
        """Forecast with the recorded context if the request sets none; log notes on lengths beyond training."""
        rows = min(max((window.context.shape[1] for window in windows), default=0), self.model.max_context_length)
        notes = beyond_training(self.facts, request.prediction_length, request.context_length, rows)
        for note in notes:
            warn(_log, note)
        request = request.changed(context_length=trained_context(self.facts, self.model, request.context_length))
        with told(Code.HORIZON_UNROLLED, notes):
            return forecast_with_warnings(self.model, windows, request, keep_samples=keep_samples)

    def stream(
        self,
        df: pd.DataFrame,
        *,
        context_length: int | None = None,
        id_column: str = "item_id",
        timestamp_column: str = "timestamp",
        target: str | Sequence[str] | None = None,
        freq: str | None = None,
        calendar: str | None = None,
        max_context: int | None = None,
        re_anchor_every: int | None = None,
    ) -> FrameStream:
        """Return a stream: it reads df once, then rows are appended and forecast without reading df again.

        Args:
            df, id_column, timestamp_column, target, freq, calendar: as for forecast_df.
            context_length: newest rows of df to read; None = as many as in training, or as the model can read if
                that is not recorded.
            max_context: rows in the model's context, a rolling window; None = those of a window of training, with its
                horizon, or the model's own limit if they are not recorded.
            re_anchor_every: recompute the cache from the newest max_context rows after this many rows; None = never.

        Raises the errors of forecast_df, and ModelError if the family has no streams.
        """
        if not isinstance(self.model, Streams):
            raise ModelError(f"{self.model.family} has no streams; use forecast_df on all rows.")
        request = FrameRequest(
            prediction_length=1, id_column=id_column, timestamp_column=timestamp_column, target=target
        )
        df, _ = complete_frames(df, None, request)
        df = with_market_names(df, request, family(self.model.family))
        df, _, names, candle = select_columns(df, None, request, family(self.model.family), recorded_data(self.facts))
        lengths = beyond_training(self.facts, 1, context_length, min(len(df), self.model.max_context_length))
        for note in [*lengths, *beyond_window(self.facts, self.model, max_context)]:
            warn(_log, note)
        if max_context is None:
            max_context = trained_window(self.facts, self.model)
        return FrameStream(
            self.model,
            df,
            names,
            candle,
            clip_context(self.model, trained_context(self.facts, self.model, context_length)),
            self.facts,
            freq=freq,
            calendar=calendar,
            max_context=max_context,
            re_anchor_every=re_anchor_every,
            output=self.output,
        )

    def columns(
        self, df: pd.DataFrame, request: FrameRequest, future_df: pd.DataFrame | None = None, source: str = "df"
    ) -> FrameColumns:
        """Return the columns that a forecast of a frame uses, whose notes it would log; errors name the source.

        Raises DataError and ConfigError as forecast_df does.
        """
        return frame_columns(df, future_df, request, family(self.model.family), recorded_data(self.facts), source)

    def chooses_columns(self, names: Sequence[str]) -> bool:
        """Return True if the record or the family says which of these columns are forecast."""
        return records_columns(recorded_data(self.facts)) or family(self.model.family).columns(names) is not None

    def embed(
        self, inputs: Any, *, batch_size: int = 256, context_length: int | None = None
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Return embeddings of series, and the loc and scale (V, 1) that normalised each, as CPU tensors.

        An item's embedding is (V, patches + 2, D): its context patches, the REG token and one empty forecast patch.
        Batches are filled in input order and padded on the left, so an item shorter than the longest of its batch has
        leading patches without data, whose states are meaningless: index from the end. inputs are arrays, as for
        forecast, without covariates. Raises ModelError if the family has no embeddings.
        """
        model = self.model
        if not isinstance(model, Embeds):
            raise ModelError(f"{self.model.family} has no embeddings.")
        windows = _windows_of(inputs, 1)
        longest = clip_context(self.model, context_length)
        embeddings: list[Tensor] = []
        statistics: list[tuple[Tensor, Tensor]] = []
        with merged(self.model), torch.inference_mode():
            for batch in plan(windows, batch_size, longest, self.model.bucket_length, together=True):
                chosen = [windows[i] for i in batch.windows]
                rows = self.model.collate(stack_windows(chosen, 1, longest))
                hidden, loc, scale = (x.float().cpu() for x in model.embed(move(rows, self.device)))
                counts = [window.num_targets for window in chosen]
                embeddings += hidden.split(counts)
                statistics += zip(loc.split(counts), scale.split(counts), strict=True)
        return embeddings, statistics


def _windows_of(inputs: Any, prediction_length: int) -> Sequence[Window]:
    if isinstance(inputs, Sequence) and len(inputs) > 0 and isinstance(inputs[0], Window):
        return inputs
    return read_inputs(inputs, prediction_length)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"device {str(device)!r} cannot be used here ({reason}); use cpu.") from None
    return chosen


def _that_forecasts(model: Trainable, asked: str) -> Forecaster:
    if not isinstance(model, Forecaster):
        raise ModelError(
            f"{asked}: holds a {model.family}, which makes no forecasts; it is a part of other models. Load one of "
            "those, and name this one if it does not bring its own: load(PREDICTOR, tokenizer=...)."
        )
    return model
