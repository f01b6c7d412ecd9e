"""What a test over items takes for independent: the items of a corpus, or clusters of them that a column names.

# N rows
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretrain.data.importers.columns import market_layout
from foretrain.data.splits import Selection
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.significance import (
    CLUSTERS,
    FEWEST_CLUSTERS,
    FEWEST_ITEMS,
    ITEMS,
    ORIGINS,
    Comparison,
    Draws,
    has_too_few_origins,
)
from foretrain.hints import did_you_mean
from foretrain.notes import Code, Note


def check_clusters(corpora: Sequence[Corpus], selections: Sequence[Selection], column: str | None) -> None:
    """Raise ConfigError if a corpus lacks the column that groups its items, or forecasts it."""
    if column is None:
        return
    for corpus, chosen in zip(corpora, selections, strict=True):
        if column not in corpus.columns:
            hint = did_you_mean(column, corpus.columns, cutoff=0.5)
            has = f"{corpus.name} has no column {column!r} (has {', '.join(corpus.columns)})."
            raise ConfigError(f"clusters: {has} {hint}".rstrip())
        if corpus.columns.index(column) in chosen.targets:
            raise ConfigError(f"clusters: column {column!r} would be forecast. Name the columns to forecast as target.")


def can_test_items(corpora: Sequence[Corpus], column: str | None, max_items: int | None = None) -> bool:
    """Return True if corpora have enough items, or clusters of them, for a test over them.

    max_items: only so many items are scored. Raises DataError if an item has no cluster, or several.
    """
    items = sum(corpus.num_series for corpus in corpora)
    if max_items is not None:
        items = min(items, max_items)
    if column is not None:
        return min(items, len(set(_clusters(corpora, column)))) >= FEWEST_CLUSTERS
    return items >= FEWEST_ITEMS and not any(holds_prices(corpus) for corpus in corpora)


def draws_of(backtest: Backtest, column: str | None) -> Draws | None:
    """Return the item or the cluster of every row; None for prices without clusters, whose items share every shock.

    The columns of an item are one draw. column: names the cluster of an item by its only value; items of several
    corpora with equal values are one cluster. Raises DataError if an item has none or several values.
    """
    panel = backtest.panel
    keys = [(corpus, series) for corpus, series, _ in backtest.item_keys.tolist()]
    if column is None:
        if backtest.naive.price.any() or any(holds_prices(corpus) for corpus in panel.corpora):
            return None
        return Draws(ITEMS, _numbered(keys)[backtest.naive.item])
    names = {key: _cluster(panel.corpora[key[0]], key[1], column) for key in dict.fromkeys(keys)}
    return Draws(CLUSTERS, _numbered([names[key] for key in keys])[backtest.naive.item])


def about_draws(
    backtest: Backtest, column: str | None, draws: Draws | None, comparisons: Sequence[Comparison]
) -> list[Note]:
    """Return notes on clusters that had no effect, and on prices that got no test over items."""
    first, items = comparisons[0], len(np.unique(backtest.item_keys[:, :2], axis=0))
    if column is not None and first.over == ORIGINS and first.method is not None:
        text = f"clusters {column!r} has no effect: the test is over {first.origins} forecast origins."
        return [Note(Code.SETTING_UNUSED, text, {"origins": first.origins})]
    if draws is None and has_too_few_origins(first) and items >= FEWEST_ITEMS:
        text = (
            f"No test over the {items:,} items: prices share shocks, so their errors at an origin are not independent. "
            f"Name a column that puts items with common shocks into one of {FEWEST_CLUSTERS} or more groups "
            "(--clusters COLUMN), or score more origins."
        )
        return [Note(Code.CLUSTERS_NEEDED, text, {"items": items})]
    return []


def holds_prices(corpus: Corpus) -> bool:
    """Return True if a corpus has price columns, or columns named as prices that nothing declares to be prices.

    The latter are those that an import takes for prices beside others: whole candles, close, adj_close and vwap.
    """
    columns = corpus.manifest.columns
    named = market_layout([column.name for column in columns], [column.categories is not None for column in columns])
    return bool(corpus.manifest.price_columns or named.prices)


def _clusters(corpora: Sequence[Corpus], column: str) -> list[str]:
    return [_cluster(corpus, series, column) for corpus in corpora for series in range(corpus.num_series)]


def _cluster(corpus: Corpus, series: int, column: str) -> str:
    """Return the only value of an item's column as text."""
    index = corpus.columns.index(column)
    values = np.unique(corpus.values(series)[index])
    values = values[np.isfinite(values)]
    categories = corpus.manifest.columns[index].categories
    names = [str(value) if categories is None else categories[int(value)] for value in values.tolist()]
    if len(names) != 1:
        what = f"several values ({', '.join(names[:3])}{', ...' if names[3:] else ''})" if names else "no value"
        raise DataError(
            f"clusters: item {corpus.item_id(series)!r} of {corpus.name} has {what} in column {column!r}. A column of "
            "clusters has one value an item, on every row or on some."
        )
    return names[0]


def _numbered(names: Sequence[object]) -> np.ndarray:
    """Return (len(names),) numbers, equal for equal names, in the order of their first appearance."""
    numbers = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)
