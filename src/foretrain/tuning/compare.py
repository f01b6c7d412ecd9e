"""Several studies, one after the other, that end in one table: searches of families beside each other.

compare.yaml    the config
compare.json    what naive scores on the windows that all studies share
STUDY/          the folder of each study
comparison.json the table
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from foretrain.atomic import replacing_file, write_json, write_text
from foretrain.config import Section, apply_overrides, build, dump_yaml, override_of, read_yaml
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.scored import Array
from foretrain.evaluation.validation import Validation
from foretrain.models import family
from foretrain.reading import read_object
from foretrain.run.build import build_model, open_source
from foretrain.run.config import RunConfig
from foretrain.run.shipped import TUNE, find_config
from foretrain.tuning.candidates import fold_configs, metric_key
from foretrain.tuning.config import TuneConfig, load_study_config
from foretrain.tuning.edges import block_of, with_pruned
from foretrain.tuning.forecasting import open_fold
from foretrain.tuning.losses import losses_table, matrix_of, read_losses
from foretrain.tuning.records import DEFAULT_TRIAL, LOSSES, TrialRecord
from foretrain.tuning.selection import SelectedEdge, selected_edge
from foretrain.tuning.study import COMPARE, StudyFolder, directions, open_study, ranked

SHARED = "shared"
_NAIVE, _TABLE = "compare.json", "comparison.json"
_ROWS = ("fold", "cutoff", "corpus", "item", "target", "steps")
_Edges = tuple[SelectedEdge | None, SelectedEdge | None]  # over naive, and over the run as it stands
_CLOSE = 1e-5  # naive's losses are computed in single precision


class CompareConfig(Section):
    """The config of a comparison, saved as output_dir/compare.yaml."""

    output_dir: str
    studies: tuple[str, ...] = Field(min_length=2)  # configs of studies, shipped or files
    shared: dict[str, Any] = Field(default_factory=dict)  # keys that all of them get, such as trials or set.data.items


@dataclass(frozen=True)
class StudyRow:
    """A study in the table.

    best, default, naive: the first objective, None if there is none. over_naive, over_default: edges of the best in
    mean scaled error, None without a best or without the other one. p_naive: one-sided, corrected for the choice among
    the trials of all studies; p_default: among those of this one.
    """

    study: str
    trials: int
    trial: int | None
    best: float | None
    default: float | None
    naive: float | None
    over_naive: float | None
    p_naive: float | None
    over_default: float | None
    p_default: float | None
    reason: str | None


@dataclass(frozen=True)
class StudyTable:
    """The table: its rows, the best first; trials and dates that the p-values count."""

    metric: str
    rows: tuple[StudyRow, ...]
    trials: int
    dates: int


def is_comparison(path: Path) -> bool:
    """Whether the config in a file is one of a comparison."""
    return "studies" in read_yaml(path)


def load_comparison(path: Path, overrides: Sequence[str | tuple[str, Any]] = ()) -> CompareConfig:
    """Read the config of a comparison; in `shared`, dots belong to the key. Raises ConfigError."""
    tree = apply_overrides(read_yaml(path), ())
    for override in overrides:
        key, value = override_of(override)
        section, _, rest = key.partition(".")
        if section == SHARED and rest and isinstance(tree.get(SHARED) or {}, dict):
            tree[SHARED] = {**(tree.get(SHARED) or {}), rest: value}
        else:
            tree = apply_overrides(tree, [(key, value)])
    return build(CompareConfig, tree, source=str(path))


def studies_of(config: CompareConfig) -> dict[str, TuneConfig]:
    """Return the studies of a comparison by their names, each in its folder of output_dir.

    Raises ConfigError for two of one name, and for studies that do not have the same objectives.
    """
    found: dict[str, TuneConfig] = {}
    for given in config.studies:
        path, name = find_config(Path(given), TUNE)[0], _name(given)
        if name in found:
            raise ConfigError(f"studies: two are called {name}, which names the folder of each. Rename a file.")
        if is_comparison(path):
            raise ConfigError(f"studies: {given} is itself a comparison. Name its studies.")
        own = [*config.shared.items(), ("output_dir", str(Path(config.output_dir) / name))]
        found[name] = load_study_config(path, own)
    (first, reference), *others = found.items()
    for name, study in others:
        if study.objectives != reference.objectives:
            raise ConfigError(
                f"studies: {first} and {name} have other objectives, and one table needs one figure. Give them in "
                "shared: {objectives: [{metric: val_wql}]}."
            )
    return found


def _name(given: str) -> str:
    """Return the name of a study's folder: that of its config, tune/toto or mine/toto.yaml."""
    return Path(given).name.removesuffix(".yaml")


def check_windows(studies: dict[str, TuneConfig]) -> dict[str, float]:
    """Return naive's figures on the validation windows, which all studies share.

    Raises ConfigError if they do not: scores on other windows, or by other scales or quantiles, cannot be compared.
    """
    first, *others = studies
    table, levels, figures = _naive(studies[first])
    for name in others:
        own, own_levels, _ = _naive(studies[name])
        what = _difference(table, own) or ("other quantile levels" if own_levels != levels else None)
        if what is not None:
            raise ConfigError(
                f"studies: {first} and {name} are scored on {what}, so their figures cannot be compared. Give both "
                "the same by `shared`: set.data.corpora, set.data.prediction_length, set.data.min_context, "
                "set.data.validation_from and test_from, set.evaluation.num_windows, set.evaluation.target, folds."
            )
    return figures


def create_comparison(config: CompareConfig, naive: dict[str, float], resume: bool) -> None:
    """Create the folder of a comparison, or with resume go on in it. Raises ConfigError."""
    path = Path(config.output_dir)
    if (path / COMPARE).is_file():
        if not resume:
            raise ConfigError(
                f"{path}: holds a comparison. Go on with it by --resume (or foretrain tune resume {path}), or name a "
                "new folder: output_dir=..."
            )
        if (before := open_comparison(path)).studies != config.studies:
            raise ConfigError(
                f"{path}: the comparison there is of {', '.join(before.studies)}. Name a new folder: output_dir=..."
            )
    elif path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"{path}: holds no comparison, but other files. Name a new folder in output_dir.")
    path.mkdir(parents=True, exist_ok=True)
    with replacing_file(path / _NAIVE) as scratch:
        write_json(scratch, {"format": 1, "naive": naive})
    with replacing_file(path / COMPARE) as scratch:
        write_text(scratch, dump_yaml(config))


def open_comparison(path: Path) -> CompareConfig:
    """Return the config of the comparison in a folder, with output_dir as the folder is named here."""
    return build(CompareConfig, read_yaml(path / COMPARE), source=str(path / COMPARE)).model_copy(
        update={"output_dir": str(path)}
    )


def compare_studies(path: Path) -> StudyTable:
    """Return the table of the studies in a folder that have begun, and write comparison.json.

    Raises DataError if trials were scored on different windows, and ConfigError if no study has begun.
    """
    names = [_name(given) for given in open_comparison(path).studies]
    folders = {name: open_study(path / name) for name in names if (path / name / "study.yaml").is_file()}
    if not folders:
        raise ConfigError(f"{path}: none of its studies has begun. foretrain tune resume {path}.")
    naive = read_object(path / _NAIVE).get("naive", {})
    edges, trials, dates = _edges(folders)
    config = next(iter(folders.values())).config
    metric, way = config.objectives[0].metric, directions(config)[0]
    rows = [_row(name, folder, naive.get(metric), edges.get(name, (None, None))) for name, folder in folders.items()]
    sign = -1.0 if way == "maximize" else 1.0
    rows.sort(key=lambda row: math.inf if row.best is None else sign * row.best)
    found = StudyTable(metric, tuple(rows), trials, dates)
    with replacing_file(path / _TABLE) as scratch:
        write_json(scratch, {"format": 1, **asdict(found)})
    return found


def comparison_lines(found: StudyTable) -> list[str]:
    """Return the table in lines of text, and what its figures mean."""
    head = (
        "study",
        "trials",
        f"best {found.metric}",
        "trial",
        "default",
        "naive",
        "over naive",
        "p",
        "over default",
        "p",
    )
    body = [
        (
            row.study, str(row.trials), _shown(row.best), "-" if row.trial is None else str(row.trial),
            _shown(row.default), _shown(row.naive), _share(row.over_naive), _shown(row.p_naive, 3),
            _share(row.over_default), _shown(row.p_default, 3),
        )
        for row in found.rows
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [
        "  ".join(f"{cell:{w}}" for cell, w in zip(cells, widths, strict=True)).rstrip() for cells in (head, *body)
    ]
    reasons = dict.fromkeys(row.reason for row in found.rows if row.reason is not None)
    return [
        *lines,
        f"Figures are of the validation that chose the best, {found.dates} dates. Edges are in mean scaled error, p is "
        f"one-sided: over naive it counts the choice among all {found.trials} trials, pruned ones added one by one; "
        "over the run as it stands (default) that among the trials of the study.",
        *(f"no p: {reason}" for reason in reasons),
    ]


def _shown(value: float | None, digits: int = 5) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1%}"


def _row(name: str, folder: StudyFolder, naive: float | None, edges: _Edges) -> StudyRow:
    records = folder.records()
    best = _best(folder, records)
    default = next((one.values for one in records if one.number == DEFAULT_TRIAL), None)
    return StudyRow(
        name,
        sum(one.number != DEFAULT_TRIAL for one in records),
        None if best is None else best.number,
        None if best is None or best.values is None else best.values[0],
        None if default is None else default[0],
        naive,
        None if edges[0] is None else edges[0].edge,
        None if edges[0] is None else edges[0].p_value,
        None if edges[1] is None else edges[1].edge,
        None if edges[1] is None else edges[1].p_value,
        None if edges[0] is None else edges[0].reason,
    )


def _best(folder: StudyFolder, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Return the best trial by the first objective alone."""
    able = ranked([r.model_copy(update={"values": r.values and r.values[:1]}) for r in records], folder.directions[:1])
    return able[0] if able else None


def _edges(folders: dict[str, StudyFolder]) -> tuple[dict[str, _Edges], int, int]:
    """Return the edges of each study's best, the number of trials that they are chosen among, and of dates."""
    tables = dict[tuple[str, int], pa.Table]()
    for name, folder in folders.items():
        records = folder.records()
        defaults = [one for one in records if one.number == DEFAULT_TRIAL and one.state == "complete"]
        for record in [*ranked(records, folder.directions), *defaults]:
            tables[name, record.number] = read_losses(folder.trial(record.number) / LOSSES)
    trials = [key for key in tables if key[1] != DEFAULT_TRIAL]
    if not trials:
        return {}, 0, 0
    first = tables[trials[0]]
    for table in tables.values():
        if (what := _difference(first, table)) is not None:
            raise DataError(f"trials of these studies were scored on {what}, so their losses cannot be compared.")
    matrix = matrix_of(dict(enumerate(tables.values())))
    column = {key: number for number, key in enumerate(tables)}
    block, found = block_of(next(iter(folders.values())).config, first), dict[str, _Edges]()
    pruned = {name: sum(one.state == "pruned" for one in folder.records()) for name, folder in folders.items()}
    for name, folder in folders.items():
        if (best := _best(folder, folder.records())) is None:
            continue
        winner, own = (name, best.number), [key for key in trials if key[0] == name]
        default = column.get((name, DEFAULT_TRIAL))

        def edge(reference: Array, among: list[tuple[str, int]], lost: int, winner: Any = winner) -> SelectedEdge:
            values = matrix.values[:, [column[key] for key in among]]
            return with_pruned(selected_edge(values, reference, among.index(winner), block=block), lost)

        found[name] = (
            edge(matrix.naive, trials, sum(pruned.values())),
            None if default is None else edge(matrix.values[:, default], own, pruned[name]),
        )
    return found, len(trials) + sum(pruned.values()), len(matrix.naive)


def _naive(config: TuneConfig) -> tuple[pa.Table, tuple[float, ...], dict[str, float]]:
    """Return naive's losses on a study's windows, the quantile levels, and its figures, means over the folds."""
    tables, figures, levels = list[pa.Table](), list[dict[str, float]](), ()
    with tempfile.TemporaryDirectory(prefix="foretrain-") as scratch:
        for fold, own in fold_configs(config, {}, Path(scratch)):
            validation = open_fold(config, own, fold)[1] if config.task == "forecast" else _validation(own)
            backtest, levels = validation.backtest, own.evaluation.quantile_levels
            tables.append(losses_table(backtest, backtest.naive, fold.number))
            figures.append(validation.figures(backtest.naive))
    names = [key for key in (metric_key(one) for one in config.objectives) if key in figures[0]]
    means = {name: math.fsum(one[name] for one in figures) / len(figures) for name in names}
    return pa.concat_tables(tables), levels, means


def _validation(own: RunConfig) -> Validation:
    """Return what scores the forecasts of a run that trains, on its validation windows."""
    resolved, source = open_source(own)
    data, corpora, selections = source.validation_data()
    return Validation(
        resolved.evaluation.model_copy(update={"loss": False}),
        data,
        model=build_model(resolved),
        family=family(resolved.model.family),
        corpora=corpora,
        selections=selections,
        seed=resolved.seed,
    )


def _difference(one: pa.Table, other: pa.Table) -> str | None:
    """Return how the rows of two tables of losses differ, None if they are the same windows in the same scale."""
    first, second = (table.sort_by([(name, "ascending") for name in _ROWS]) for table in (one, other))
    if not first.select(_ROWS).equals(second.select(_ROWS)):
        windows = [
            len({*zip(*(table.column(name).to_pylist() for name in _ROWS), strict=True)}) for table in (one, other)
        ]
        return f"different windows ({windows[0]:,} and {windows[1]:,} rows of item, target and origin)"
    pair = [table.column("naive").to_numpy() for table in (first, second)]
    return None if np.allclose(*pair, rtol=_CLOSE, atol=0) else "the same windows with other scales of errors"
