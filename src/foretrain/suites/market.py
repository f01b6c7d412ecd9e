"""The market suites: candles of the user in the tasks of definitions/market-*.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.evaluation.scored import Array
from foretrain.suites.contamination import OwnData
from foretrain.suites.covariates import covariates_of
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.raw_files import BenchmarkSeries
from foretrain.suites.score import TaskData, part_of

MARKET = "market-"  # what names of market suites begin with
PRICES = ("open", "high", "low", "close")
_ALIASES = {"vol": "volume", "amt": "amount", "turnover": "amount"}


class CandleRows(NamedTuple):
    """The candles of all items: names of the rows of a corpus by column."""

    corpus: Corpus
    rows: dict[str, int]
    origin: str


def candles_of(corpus: Corpus, origin: str) -> CandleRows:
    """Return the candle columns of a corpus, named in any case. Raises DataError if a price is missing."""
    rows: dict[str, int] = {}
    for row, column in enumerate(corpus.manifest.columns):
        name = column.name.strip().lower()
        if column.kind == "numeric":
            rows.setdefault(_ALIASES.get(name, name), row)
    missing = [name for name in PRICES if name not in rows]
    if missing:
        raise DataError(f"{origin}: has no column {missing[0]!r}; market suites need {', '.join(PRICES)}. Rename it.")
    return CandleRows(
        corpus, {name: row for name, row in rows.items() if name in (*PRICES, "volume", "amount")}, origin
    )


def market_data(task: BenchmarkTask, candles: CandleRows, chosen: Sequence[int] | None = None) -> TaskData:
    """Return the targets of a market task and its other candle columns as covariates, of all items or the chosen ones.

    Raises DataError for a price that is not above 0: errors in percent of it would mean nothing.
    """
    rule, rows, corpus = task.definition, candles.rows, candles.corpus
    targets, series, others = rule.targets or (), list[BenchmarkSeries](), list[dict[str, Array]]()
    numbers = range(corpus.num_series) if chosen is None else chosen
    for item in numbers:
        values, times = np.array(corpus.values(item), np.float64), corpus.times(item)
        stamps = None if times is None else np.asarray(times, np.int64).astype("datetime64[us]")
        name, prices = corpus.item_id(item), values[[rows[price] for price in PRICES]]
        if (prices <= 0).any():
            raise DataError(f"{candles.origin}: item {name!r} has prices that are not above 0. Mend or leave it out.")
        series.append(BenchmarkSeries(name, targets, values[[rows[target] for target in targets]], stamps))
        others.append({column: values[rows[column]] for column in rule.past_covariates if column in rows})
    own, covariates = OwnData(corpus, tuple(numbers)), covariates_of(rule, series, others, {})
    return TaskData(series, candles.origin, covariates, own, part_of(corpus, chosen))
