"""Losses of a trial for each item and forecast origin of its folds, and the matrix of dates x trials of a study.

A loss is what tests of significance compare: the mean scaled error of a row's steps (evaluation.significance). Windows
of one origin start at the same instant; without a calendar they are equally far from their series' end, and `cutoff`
is then minus that many steps.

# N rows (one target of one window), T origins, K trials
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foretrain.atomic import replacing_file
from foretrain.data.store import Corpus
from foretrain.errors import DataError
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.metrics import scaled_errors
from foretrain.evaluation.scored import Array, Ints, Scored
from foretrain.reading import believing
from foretrain.tuning.records import LOSSES
from foretrain.tuning.study import StudyFolder

SCHEMA = pa.schema(
    [
        ("fold", pa.int32()),
        ("cutoff", pa.int64()),  # microseconds of the first forecast step, or minus the steps to the series' end
        ("corpus", pa.string()),
        ("item", pa.string()),
        ("target", pa.string()),
        ("steps", pa.int32()),  # that were scored
        ("loss", pa.float64()),
        ("naive", pa.float64()),
    ]
)
_ROW = ("fold", "cutoff", "corpus", "item", "target")


@dataclass(frozen=True)
class LossMatrix:
    """Mean scaled losses of trials at the forecast origins of all folds, in the order of time."""

    values: Array  # (T, K)
    naive: Array  # (T,)
    cutoffs: Ints  # (T,)
    folds: Ints  # (T,)
    trials: tuple[int, ...]  # (K,) numbers


def losses_table(backtest: Backtest, scored: Scored, fold: int) -> pa.Table:
    """Return the losses of a model on the rows of a validation; rows without a scale or a truth are left out."""
    naive, panel = backtest.naive, backtest.panel
    use = np.isfinite(scored.target) & np.isfinite(scored.error_scale)[:, None]
    steps = use.sum(1)
    kept = np.flatnonzero(steps)

    def mean(one: Scored) -> Array:
        return np.where(use, scaled_errors(one), 0.0).sum(1)[kept] / steps[kept]

    keys = backtest.item_keys[scored.item]  # (N, 3) corpus, series, target
    cutoffs = _cutoffs(panel.corpora, keys, scored.cutoff)
    corpora, items, targets = list[str](), list[str](), list[str]()
    for corpus, series, target in keys[kept].tolist():
        corpora.append(panel.name(corpus))
        items.append(panel.corpora[corpus].item_id(series))
        targets.append(panel.corpora[corpus].columns[panel.selections[corpus].targets[target]])
    columns = [np.full(len(kept), fold), cutoffs[kept], corpora, items, targets, steps[kept], mean(scored), mean(naive)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _cutoffs(corpora: Sequence[Corpus], keys: Ints, cutoffs: Ints) -> Ints:
    """Return (N,) times of the first forecast steps; where a corpus has no calendar, minus the steps to the ends.

    keys: (N, 3) corpus, series, target. The windows of a family that reads no times have none.
    """
    dated = all(corpus.manifest.time != "steps" for corpus in corpora)
    found: dict[tuple[int, int, int], int] = {}
    for corpus, series, cutoff in {(*key[:2], cut) for key, cut in zip(keys.tolist(), cutoffs.tolist(), strict=True)}:
        times = corpora[corpus].times_slice(series, cutoff, cutoff + 1) if dated else None
        found[corpus, series, cutoff] = cutoff - corpora[corpus].length(series) if times is None else int(times[0])
    return np.array(
        [found[(*key[:2], cut)] for key, cut in zip(keys.tolist(), cutoffs.tolist(), strict=True)], np.int64
    )


def write_losses(table: pa.Table, path: Path) -> None:
    """Write a table of losses, which appears complete."""
    with replacing_file(path) as scratch:
        pq.write_table(table, scratch, compression="zstd")


def read_losses(path: Path) -> pa.Table:
    """Read a table of losses. Raises DataError."""
    remedy = "Restore it, or delete its folder."
    try:
        with believing(path, DataError, remedy):
            table = pq.read_table(path)
            for field in SCHEMA:
                column = table.column(field.name)  # a KeyError where it is missing or there twice
                if column.type != field.type or column.null_count:
                    raise TypeError(f"{field.name} is {column.type} with {column.null_count} empty cells")
    except OSError as error:
        raise DataError(f"{path}: is no table of losses ({' '.join(str(error).split())}). {remedy}") from None
    return table


def study_losses(folders: Mapping[int, Path]) -> pa.Table:
    """Return the losses of trials, folder by number, as one table with a first column `trial`. Raises DataError."""
    parts = []
    for number, folder in folders.items():
        table = read_losses(folder / LOSSES)
        parts.append(table.add_column(0, "trial", pa.array(np.full(len(table), number), pa.int32())))
    empty = pa.schema([("trial", pa.int32()), *SCHEMA]).empty_table()
    return pa.concat_tables(parts) if parts else empty


def save_study_losses(study: StudyFolder) -> Path:
    """Write losses.parquet of a study, of all its complete trials, and return its path. Raises DataError."""
    complete = [record.number for record in study.records() if record.state == "complete"]
    table = study_losses({number: study.trial(number) for number in complete})
    with study.claims.held():  # the searches of two machines may end together
        write_losses(table, study.path / LOSSES)
    return study.path / LOSSES


def loss_matrix(folders: Mapping[int, Path]) -> LossMatrix:
    """Return the matrix of trials, folder by number.

    Raises DataError without a trial, for one whose losses are not of the same rows as those of the others, and for
    losses that are not finite.
    """
    return matrix_of({number: read_losses(folder / LOSSES) for number, folder in folders.items()})


def matrix_of(tables: Mapping[int, pa.Table]) -> LossMatrix:
    """Return the matrix of tables of losses by the number of their trial. Raises DataError as loss_matrix does."""
    if not tables:
        raise DataError("no trial has ended with losses, so there is nothing to compare.")
    ordered = {number: table.sort_by([(name, "ascending") for name in _ROW]) for number, table in tables.items()}
    first_number, first = next(iter(ordered.items()))
    if not len(first):
        raise DataError(f"trial {first_number} has no losses: no window has a scale to measure errors by.")
    for number, table in ordered.items():
        if not table.select([*_ROW, "steps"]).equals(first.select([*_ROW, "steps"])):
            raise DataError(
                f"trials {first_number} and {number} were scored on different windows, so their losses cannot be "
                "compared. Leave out of the space what changes windows, such as data.prediction_length."
            )
    pairs = np.stack([first.column(name).to_numpy() for name in ("cutoff", "fold")])
    origins, group = np.unique(pairs, axis=1, return_inverse=True)
    group, steps = group.reshape(-1), first.column("steps").to_numpy()
    weights = np.bincount(group, steps)

    def means(table: pa.Table, column: str) -> Array:
        return np.bincount(group, table.column(column).to_numpy() * steps) / weights

    values = np.stack([means(table, "loss") for table in ordered.values()], axis=1)
    if not np.isfinite(values).all():
        broken = [number for number, row in zip(ordered, values.T, strict=True) if not np.isfinite(row).all()]
        raise DataError(f"trial {broken[0]} has losses that are not finite, so it cannot be compared.")
    return LossMatrix(values, means(first, "naive"), origins[0], origins[1], tuple(ordered))
