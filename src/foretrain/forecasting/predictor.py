"""`foretrain.load`: a model that takes and gives arrays or pandas frames.

# N items, V variates, T steps, H horizon, Q levels
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from foretrain.adapters.files import ADAPTER_FILE, open_adapter
from foretrain.adapters.layers import merged
from foretrain.atomic import new_folder
from foretrain.data.windows import FloatArray, Window, stack_windows
from foretrain.errors import ConfigError, ModelError
from foretrain.forecasting.batching import clip_context, forecast_with_warnings, plan
from foretrain.forecasting.frame import open_frame, select_columns
from foretrain.forecasting.inputs import read_inputs
from foretrain.forecasting.request import FrameRequest, Output
from foretrain.forecasting.streaming import FrameStream
from foretrain.forecasting.tables import sort_levels, tables_of
from foretrain.models import families, family
from foretrain.models.base import Columns, Embeds, Forecaster, ForecastRequest, Streams, Trainable, move
from foretrain.models.config_json import read_config_json
from foretrain.models.hub import resolve
from foretrain.models.request import DECILES

if TYPE_CHECKING:
    import pandas as pd

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
        path_or_hub_id: a folder that exists, or `owner/name`.
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
    model = _open(path_or_hub_id, revision, offline, {name: str(part) for name, part in parts.items()})
    return Predictor(model.to(device=where, dtype=DTYPES[dtype]).eval())


class Predictor:
    """A loaded model with forecasts for arrays and frames."""

    def __init__(self, model: Forecaster) -> None:
        self.model = model

    @property
    def network(self) -> nn.Module:
        """The tensor-level module, with upstream's parameter and argument names."""
        return self.model.network

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a release (config.json, model.safetensors) that upstream's own loader opens; all of it or nothing.

        Raises ModelError when path exists already or cannot be written.
        """
        path = Path(path)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise ModelError(f"{path}: exists already; choose another folder or remove it.")
        try:
            with new_folder(path) as scratch, merged(self.model):
                self.model.save_release(scratch)
        except OSError as error:
            raise ModelError(f"{path}: cannot be written ({error}).") from None

    def forecast(
        self,
        inputs: Any,
        prediction_length: int,
        quantile_levels: Sequence[float] = DECILES,
        *,
        batch_size: int = 256,
        context_length: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        sort_quantiles: bool = False,
        **options: Any,
    ) -> list[FloatArray]:
        """Quantile forecasts, one (targets, H, Q) array an item, in the order of inputs.

        Args:
            inputs: a (N, V, T) array; a list of (T,) or (V, T) arrays; a list of dicts with `target`,
                `past_covariates`, `future_covariates`; or a list of Window.
            prediction_length: H, in steps.
            quantile_levels: between 0 and 1.
            batch_size: rows (variates and covariates) of one pass.
            context_length: newest steps to look at; None = as many as the model can.
            num_samples: sample paths, for families that draw them.
            seed: of those draws.
            sort_quantiles: put crossing quantiles in order.
            **options: the family's own, such as cross_learning=True.

        Raises:
            DataError: malformed inputs.
            ConfigError: impossible or unknown options.
        """
        request = ForecastRequest(
            prediction_length=prediction_length,
            quantile_levels=quantile_levels,
            batch_size=batch_size,
            context_length=context_length,
            num_samples=num_samples,
            seed=seed,
            options=options,
        )
        windows = _windows_of(inputs, request.prediction_length)
        found = forecast_with_warnings(self.model, windows, request, keep_samples=False).quantiles
        return [sort_levels(values, request.quantile_levels) for values in found] if sort_quantiles else found

    def forecast_paths(
        self,
        inputs: Any,
        prediction_length: int,
        *,
        batch_size: int = 256,
        context_length: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[FloatArray]:
        """Sampled futures, one (targets, S, H) array an item, in the order of inputs; arguments as for forecast.

        Raises ConfigError where the family draws no paths, and what forecast raises.
        """
        request = ForecastRequest(
            prediction_length=prediction_length,
            quantile_levels=(0.5,),
            batch_size=batch_size,
            context_length=context_length,
            num_samples=num_samples,
            seed=seed,
            options=options,
        )
        windows = _windows_of(inputs, request.prediction_length)
        found = forecast_with_warnings(self.model, windows, request, keep_samples=True)
        if found.samples is None:
            raise ConfigError(f"{self.model.family} draws no sample paths; use forecast, which gives its quantiles.")
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
        freq: str | None = None,
        calendar: str | None = None,
        output: Output = "long",
        aggregate: str | Sequence[str] = (),
        sort_quantiles: bool = False,
        num_samples: int | None = None,
        seed: int = 0,
        **options: Any,
    ) -> pd.DataFrame:
        """Forecast of a frame as a frame.

        Args:
            df: one row an item and time stamp, in any order; columns besides id, time and target are covariates, text
                and booleans among them categorical. A frame of a single series needs no id column; its item is "item".
                Families of candles read open, high, low, close and, where there, volume and amount, nothing else.
            prediction_length: H, in steps.
            quantile_levels: between 0 and 1.
            future_df: covariates known ahead: H rows an item at the stamps that follow, any of df's covariate columns.
                Where those stamps come from trading hours, it may set others, for example around a holiday.
            context_length: newest steps to look at; None = as many as the model can.
            batch_size: rows (targets and covariates) of one pass.
            cross_learning: let all items of a batch inform each other; forecasts then depend on the batch.
            id_column: column of the items' names.
            timestamp_column: column of the time stamps, or of whole numbers that count steps.
            target: column or columns to forecast; None = the candle's, for families of candles, else "target".
            freq: pandas alias of the frequency; None = found from the stamps of each item: their frequency, or the
                trading hours and days that its newest bars keep.
            calendar: exchange whose sessions the stamps follow, holidays and half days included, by a name of the
                package exchange_calendars (XNYS, NYSE, XSHG, CMES, 24/7, ...; extra `market`).
            output: "long"; "candles", the mean of the sampled candles; or "paths", every sampled path.
            aggregate: further columns of "long" from the sampled paths, each by a name such as trimmed_mean_10 or
                mean_quantile_mix_0.15_0.3; all of them are in forecasting/aggregate.py.
            sort_quantiles: put crossing quantiles in order.
            num_samples: sample paths, for families that draw them.
            seed: of those draws.
            **options: the family's own.

        Returns:
            long: columns id, timestamp, target_name, predictions (the median), mean where the family draws paths, one
            of each aggregate, and str(level) of each level; rows by item in order of first appearance, target, step.
            candles: id, timestamp and a column each of open, high, ...; rows by item and step. paths: id, timestamp,
            sample (0, 1, ...) and a column of each target; rows by item, sample and step.

        Raises:
            DataError: a missing column, text among numbers, duplicate rows, a series without regular stamps or trading
                hours, stamps that are not the calendar's, a future_df that does not fit.
            ConfigError: impossible or unknown options, calendars or outputs, and candles of a family without.
        """
        request = FrameRequest(
            prediction_length=prediction_length,
            quantile_levels=quantile_levels,
            context_length=context_length,
            batch_size=batch_size,
            num_samples=num_samples,
            seed=seed,
            options=options | ({"cross_learning": True} if cross_learning else {}),
            id_column=id_column,
            timestamp_column=timestamp_column,
            target=target,
            freq=freq,
            calendar=calendar,
            outputs=(output,),
            aggregates=aggregate,
            sort_quantiles=sort_quantiles,
        )
        return self.forecast_tables(df, request, future_df)[output]

    def forecast_tables(
        self, df: pd.DataFrame, request: FrameRequest, future_df: pd.DataFrame | None = None
    ) -> dict[Output, pd.DataFrame]:
        """Every output that the request names, each as forecast_df gives it, of one forecast."""
        kind, asked = self.model.family, request.changed(quantile_levels=request.levels_with_median)
        task = open_frame(df, request, family(kind), future_df)
        found = forecast_with_warnings(self.model, task.windows, asked, keep_samples=request.needs_paths)
        return tables_of(task, found, request, kind)

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
        """Series that grow: read df once, then append rows and forecast without reading it again.

        Args:
            df, id_column, timestamp_column, target, freq, calendar: as for forecast_df.
            context_length: newest rows of df to read; None = as many as the model can.
            max_context: rows the model goes on looking at; None = its own. Longer series roll.
            re_anchor_every: read the newest max_context rows anew after so many appended ones; None = never.

        Raises what forecast_df raises, and ModelError where the family cannot follow growing series.
        """
        if not isinstance(self.model, Streams):
            raise ModelError(f"{self.model.family} cannot follow growing series; use forecast_df on all rows.")
        chosen = (target,) if isinstance(target, str) else target
        df, _, names, candle = select_columns(
            df, None, (id_column, timestamp_column), chosen, family(self.model.family)
        )
        return FrameStream(
            self.model,
            df,
            names,
            candle,
            clip_context(self.model, context_length),
            freq=freq,
            calendar=calendar,
            max_context=max_context,
            re_anchor_every=re_anchor_every,
        )

    def columns(self, names: Sequence[str], source: str = "df") -> Columns | None:
        """What the family forecasts by itself of columns with these names, None where it leaves the choice to you.

        Raises DataError, naming the source, where they are not those that the family needs.
        """
        return family(self.model.family).columns_of(names, source)

    def embed(
        self, inputs: Any, *, batch_size: int = 256, context_length: int | None = None
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Embeddings of series, and the loc and scale (V, 1) by which each was normalised, as CPU tensors.

        An item's embedding is (V, patches + 2, D): its context patches, the REG token and one empty forecast patch.
        Batches are filled in input order and padded on the left, so an item shorter than the longest of its batch has
        leading patches without data, whose states mean nothing: count from the end. inputs are arrays, as for
        forecast, without covariates. Raises ModelError when the family has no embeddings.
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
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"device {str(device)!r} cannot be used here ({reason}); use cpu.") from None
    return where


def _open(
    path_or_hub_id: str | os.PathLike[str], revision: str | None, offline: bool, parts: dict[str, str]
) -> Forecaster:
    asked = str(path_or_hub_id)
    folder = resolve(asked, revision, offline)
    if folder.is_file():
        raise ModelError(f"{folder}: is a file; give the folder that holds config.json and model.safetensors.")
    if (folder / ADAPTER_FILE).exists():
        return _that_forecasts(open_adapter(folder, offline, parts, _open), asked)
    raw = read_config_json(folder / "config.json")
    for candidate in families():
        if candidate.matches(raw):
            return _that_forecasts(candidate.load(folder, origin=asked, offline=offline, **parts), asked)
    kind = raw.get("model_type") or ", ".join(map(str, raw.get("architectures") or [])) or "unnamed"
    raise ModelError(
        f"{folder}: its config.json describes a model ({kind}) of none of the families known here "
        f"({', '.join(f.name for f in families())})."
    )


def _that_forecasts(model: Trainable, asked: str) -> Forecaster:
    if not isinstance(model, Forecaster):
        raise ModelError(
            f"{asked}: holds a {model.family}, which makes no forecasts; it is a part of other models. Load one of "
            "those, and name this one if it does not bring its own: load(PREDICTOR, tokenizer=...)."
        )
    return model
