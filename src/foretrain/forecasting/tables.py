"""Forecasts as pandas frames: long with quantiles, or wide with candles or every sampled path.

# N items, V targets, S samples, H horizon, Q levels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foretrain.data.windows import FloatArray
from foretrain.errors import ConfigError, DataError
from foretrain.forecasting.aggregate import aggregate
from foretrain.forecasting.finish import ForecastList
from foretrain.forecasting.frame import FrameTask
from foretrain.forecasting.request import FrameRequest, Output
from foretrain.forecasting.rows import Names

if TYPE_CHECKING:
    import pandas as pd


def check_names(request: FrameRequest, names: Names, candle: Sequence[str]) -> None:
    """Raise DataError if a table of the request would have two columns of one name."""
    levels = [str(level) for level in request.quantile_levels]
    for output in request.outputs:
        own = {"long": ["target_name", "predictions", "mean", *request.aggregates, *levels], "paths": ["sample"]}
        columns = [*own.get(output, []), *(() if output == "long" else candle or names.target)]
        for name, argument in ((names.item_id, "id_column"), (names.timestamp, "timestamp_column")):
            if name in columns:
                raise DataError(
                    f"{argument}={name!r}: the forecast has a column of that name itself. Rename yours with df.rename."
                )
        if len(set(columns) - {"mean"}) < len([name for name in columns if name != "mean"]):
            twice = next(name for name in columns if columns.count(name) > 1 and name != "mean")
            raise DataError(
                f"the forecast would have two columns named {twice!r}; rename the target or ask for it once."
            )


def tables_of(task: FrameTask, found: ForecastList, request: FrameRequest, family: str) -> dict[Output, pd.DataFrame]:
    """Return the requested output tables of a forecast whose quantiles are at request.levels_with_median.

    "paths" has the targets that make up a candle, or all targets if none do; aggregates of the paths are columns of
    "long". Raises ConfigError for paths of a family that draws none.
    """
    levels, all_levels, candle = request.quantile_levels, request.levels_with_median, task.candle
    median = all_levels.index(0.5)
    tables: dict[Output, pd.DataFrame] = {}
    for output in request.outputs:
        if output == "long":
            point = [values[..., median] for values in found.quantiles]
            quantiles = [values[..., : len(levels)] for values in found.quantiles]
            points = {} if found.mean is None else {"mean": found.mean}
            for name in request.aggregates:
                points[name] = aggregate(_require_drawn(found.samples, family, name), name)
            tables[output] = long_table(task, quantiles, point, levels, points)
        elif output == "candles":
            tables[output] = candle_table(task, _require_drawn(found.mean, family, output), candle)
        else:
            paths = _require_drawn(found.samples, family, output)
            tables[output] = path_table(task, paths, candle or task.names.target)
    return tables


def _require_drawn(found: list[FloatArray] | None, family: str, what: str) -> list[FloatArray]:
    if found is None:
        raise ConfigError(f"{what}: {family} draws no sample paths; it has quantiles only.")
    return found


def long_table(
    task: FrameTask,
    quantiles: Sequence[FloatArray],
    point: Sequence[FloatArray],
    levels: Sequence[float],
    points: Mapping[str, Sequence[FloatArray]] | None = None,
) -> pd.DataFrame:
    """Return columns id, timestamp, target_name, predictions, one per entry of points, and str(level) per level.

    quantiles are (V, H, Q), point and points (V, H) per item; rows are ordered by item, target and step.
    """
    import pandas as pd

    targets, horizon = len(task.names.target), task.prediction_length
    table = np.stack(quantiles)  # (N, V, H, Q)
    count = len(table)
    order = np.arange(count * horizon).reshape(count, 1, horizon)
    rows = np.broadcast_to(order, (count, targets, horizon)).ravel()
    columns: dict[str, Any] = {
        task.names.item_id: task.item_ids.repeat(targets * horizon),
        task.names.timestamp: task.stamps[rows],
        "target_name": np.tile(np.repeat(np.array(task.names.target, dtype=object), horizon), count),
        "predictions": np.stack(point).ravel(),
    }
    columns.update({name: np.stack(values).ravel() for name, values in (points or {}).items()})
    columns.update({str(level): table[..., i].ravel() for i, level in enumerate(levels)})
    return pd.DataFrame(columns)


def candle_table(task: FrameTask, mean: Sequence[FloatArray], columns: Sequence[str]) -> pd.DataFrame:
    """Return columns id, timestamp and the mean (V, H per item) of the named targets; rows by item and step."""
    import pandas as pd

    values = np.stack(mean)  # (N, V, H)
    table: dict[str, Any] = {
        task.names.item_id: task.item_ids.repeat(task.prediction_length),
        task.names.timestamp: task.stamps,
    }
    table.update({name: values[:, task.names.target.index(name)].ravel() for name in columns})
    return pd.DataFrame(table)


def path_table(task: FrameTask, samples: Sequence[FloatArray], columns: Sequence[str]) -> pd.DataFrame:
    """Return columns id, timestamp, sample (from 0) and the named targets; rows by item, sample and step.

    samples are (V, S, H) per item.
    """
    import pandas as pd

    values = np.stack(samples)  # (N, V, S, H)
    count, _, paths, horizon = values.shape
    steps = np.broadcast_to(np.arange(count * horizon).reshape(count, 1, horizon), (count, paths, horizon)).ravel()
    table: dict[str, Any] = {
        task.names.item_id: task.item_ids.repeat(paths * horizon),
        task.names.timestamp: task.stamps[steps],
        "sample": np.tile(np.repeat(np.arange(paths), horizon), count),
    }
    table.update({name: values[:, task.names.target.index(name)].ravel() for name in columns})
    return pd.DataFrame(table)
