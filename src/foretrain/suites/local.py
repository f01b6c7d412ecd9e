"""The suite `local`: a corpus or files of the user as one task, by the rules that the field's suites have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.evaluation.panel import corpus_season
from foretrain.models.request import DECILES
from foretrain.suites.contamination import OwnData
from foretrain.suites.definition import BenchmarkTask, Hub, SuiteDefinition, TaskDefinition
from foretrain.suites.naive import NORMAL
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.score import TaskData, part_of

LOCAL = "local"
_METRICS = (
    "MASE[0.5]",
    "mean_weighted_sum_quantile_loss",
    "ND[0.5]",
    "MSE[mean]",
    "RMSE[mean]",
    "MAE[0.5]",
    "sMAPE[0.5]",
)
_SHORT = {"MASE[0.5]": "MASE", "mean_weighted_sum_quantile_loss": "WQL", "ND[0.5]": "WAPE"}


def local_task(corpus: Corpus, horizon: int, windows: int, seasonality: int | None = None) -> BenchmarkTask:
    """Return the task of a corpus: its newest windows, a horizon apart; gluonts' metrics; the season of its frequency.

    A history must be a step longer than a season, so that seasonal naive has an error to take its intervals from.
    """
    season = seasonality or corpus_season(corpus)
    rule = TaskDefinition(
        horizon=horizon,
        freq="" if corpus.frequency is None else corpus.frequency.alias,
        seasonality=season,
        num_windows=windows,
        min_context=season + 1,
        dataset=corpus.name,
    )
    suite = SuiteDefinition(
        title="series of the user",
        origin="here",
        licence="the user's",
        hub=Hub(repository=f"{LOCAL}/{corpus.name}", layout="parquet"),
        rule="fev",
        baseline=NORMAL,
        metrics_of="gluonts",
        metrics={_SHORT.get(name, name): name for name in _METRICS},
        eval_metric="WQL",
        quantile_levels=DECILES,
        published="",
        tasks={corpus.name: rule},
    )
    return BenchmarkTask(corpus.name, LOCAL, suite, rule)


def local_data(corpus: Corpus, origin: str, chosen: Sequence[int] | None = None) -> TaskData:
    """Return every numeric column of every item, or of the chosen ones, as a series of its own.

    Raises DataError without a numeric column.
    """
    rows = [row for row, column in enumerate(corpus.manifest.columns) if column.kind == "numeric"]
    if not rows:
        raise DataError(f"{origin}: has no column of numbers.")
    names, found, items = tuple(corpus.columns[row] for row in rows), list[BenchmarkSeries](), list[int]()
    for item in range(corpus.num_series) if chosen is None else chosen:
        times, values = corpus.times(item), np.array(corpus.values(item), np.float64)[rows]
        stamps = None if times is None else np.asarray(times, np.int64).astype("datetime64[us]")
        series = BenchmarkSeries(corpus.item_id(item), names, values, stamps)
        found += [series] if len(rows) == 1 else series.split()
        items += [item] * (len(found) - len(items))
    return TaskData(found, origin, own=OwnData(corpus, tuple(items)), part=part_of(corpus, chosen))
