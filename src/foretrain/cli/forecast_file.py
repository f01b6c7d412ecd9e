"""`foretrain forecast`: the series of a file or corpus, their forecasts, and pictures of them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import is_stream
from foretrain.cli.commands import load_model, progress_bar, set_threads
from foretrain.cli.messages import naming_flags_that_take_less
from foretrain.errors import ConfigError, DataError
from foretrain.reading import resolved

if TYPE_CHECKING:
    from foretrain.data.frames import OpenedData
    from foretrain.forecasting.predictor import Predictor
    from foretrain.forecasting.request import FrameRequest, Output
    from foretrain.forecasting.selection import FrameColumns

_log = logging.getLogger(__name__)


def forecast_file(
    model: str | None,
    path: Path,
    request: FrameRequest,
    *,
    reading: Mapping[str, Any] | None = None,
    choose_horizon: bool = False,
    out: Path | None = None,
    future: Path | None = None,
    tokenizer: str | None = None,
    candles: Path | None = None,
    paths: Path | None = None,
    plot: Path | None = None,
    csv_safe: bool = False,
    device: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
) -> None:
    """`foretrain forecast`: forecast the series of a file or corpus, write the forecasts and plot them.

    The requested files determine the outputs of the request; reading are options of an import. Without a model the one
    in the box forecasts; choose_horizon: the request's prediction_length is not the user's, so the rows of `future`
    count, else the model's or the data's. Without `out` the quantiles and a picture are written into new files, named
    after the data.
    """
    unnamed: list[Path] = []
    if out is None:
        out, drawn = unnamed = _new_files(path, "-forecast.csv", "-forecast.png")
        plot = plot or drawn
    wanted: dict[Output, Path | None] = {"long": out, "candles": candles, "paths": paths}
    files: dict[Output, Path] = {output: file for output, file in wanted.items() if file is not None}
    _check_outputs({"--out": out, "--candles": candles, "--paths": paths, "--plot": plot}, (path, future))
    set_threads(threads)
    from foretrain.data.frames import is_corpus, open_input, read_future
    from foretrain.data.importers.report import counted
    from foretrain.evaluation.plots import check_picture
    from foretrain.forecasting.outputs import save_table, scratch_files
    from foretrain.forecasting.predictor import Predictor
    from foretrain.forecasting.record import listed, with_names
    from foretrain.models.shipped import default_model, default_note
    from foretrain.notes import warn
    from foretrain.run.opening import openable

    pictures = () if plot is None else (check_picture(plot),)
    how, levels = dict(reading or {}), tuple(request.quantile_levels)
    own = {name: value for name, value in how.items() if name != "freq"} if is_corpus(path) else how
    with progress_bar("reading") as advance:
        opened = open_input(path, progress=advance, **own)
    frame = opened.frame()
    ahead = None if future is None else read_future(future, opened, **how)
    if model is None:
        warn(_log, default_note("forecasts", "name another: foretrain forecast MODEL DATA"))
    loaded = load_model(openable(model or default_model()), tokenizer, device, dtype)
    predictor = Predictor(loaded.model, with_names(loaded.facts, opened.column_meant))
    if choose_horizon:
        request = request.changed(prediction_length=horizon_of(predictor, opened, ahead))
    request = request.changed(**columns_of(request, predictor, opened))
    columns = predictor.columns(frame, request, ahead, str(path))
    target = columns.targets
    draws_candles = plot is not None and draws_as_candles(columns)
    bands = candle_levels(levels) if draws_candles else []
    count, lines = opened.corpus.num_series, list[str]()
    request = request.changed(
        quantile_levels=(*levels, *bands),
        outputs=[output for output in wanted if output in files or (output == "candles" and draws_candles)],
    )
    with scratch_files(*files.values(), *pictures, new=unnamed) as places:
        less = naming_flags_that_take_less(
            batch_size=request.batch_size,
            context_length=request.context_length,
            num_samples=request.num_samples,
            dtype=dtype,
            max_memory=request.max_memory,
        )
        with less, errors_of_files(path, future):
            tables = predictor.forecast_tables(frame, request, ahead, str(path))
        opened.check_intact()
        for output, file in files.items():
            table = tables[output].drop(columns=[str(level) for level in bands] if output == "long" else [])
            save_table(table, places[file], csv_safe=csv_safe)
            facts = f"{len(table):,} rows, {counted(count, 'item')}, {counted(request.prediction_length, 'step')}"
            lines.append(f"wrote {file}: {facts} of {listed(target)}")
        for file in pictures:
            shown = _draw(frame, tables, places[file], draws_candles)
            lines.append(f"picture: {file}{which_drawn(shown, count, columns, draws_candles)}")
    kinds = ((columns.known, "known ahead"), (columns.past, "without values ahead"))
    used = [f"{listed(names)} {kind}" for names, kind in kinds if names]
    print("\n".join([*lines, *([f"covariates: {'; '.join(used)}"] if used else [])]))


def _new_files(data: Path, *endings: str) -> list[Path]:
    """Return files in the current folder, called like the data, of which none exists: sales-forecast.csv, or
    sales-2-forecast.csv."""
    stem = stem_of(data)
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    found = ([Path(name + ending) for ending in endings] for name in names)
    for files in found:
        if not any(file.exists() for file in files):
            return files
    raise ConfigError(f"{stem}{endings[0]}: 999 such files exist; delete some, or name another file with --out.")


def stem_of(data: Path) -> str:
    """Return what files made from the data are called: sales of sales.csv.gz."""
    place = resolved(data)
    return (place.with_suffix("") if place.suffix.lower() == ".gz" else place).stem or "data"


def horizon_of(predictor: Predictor, opened: OpenedData, ahead: Any) -> int:
    """Return the steps of a forecast that names none: the rows ahead of an item, else the model's or the data's."""
    from foretrain.forecasting.record import default_horizon
    from foretrain.notes import warn

    if ahead is not None:  # items with another number of rows are refused later
        return max([1, *map(int, ahead["item_id"].value_counts())])
    horizon, notes = default_horizon(predictor.facts, opened.corpus.frequency)
    for note in notes:
        warn(_log, note)
    return horizon


def columns_of(request: FrameRequest, predictor: Predictor, opened: OpenedData) -> dict[str, Any]:
    """Return the request's columns as the corpus calls them; the usual target if neither record nor family has one."""
    roles = ("target", "past_covariates", "known_covariates")
    given = {role: names for role in roles if (names := getattr(request, role)) is not None}
    found = {role: opened.columns_meant(names) for role, names in given.items()}
    if "target" not in found and not predictor.chooses_columns(opened.corpus.columns):
        found["target"] = (opened.usual_target(),)
    return found


@contextmanager
def errors_of_files(path: Path, future: Path | None) -> Iterator[None]:
    """Name the files in errors about frames, without the advice to read them by read_table, which was done."""
    from foretrain.timeaxis.future import READ_TABLE

    try:
        yield
    except DataError as error:
        text = str(error).replace(f" {READ_TABLE}", "")
        for frame, file in (("df", path), ("future_df", future)):
            if file is not None:
                text = re.sub(rf"(?<!['\".])\b{frame}\b(?!['\"=\[]|\.\w| \(--)", lambda _, file=file: str(file), text)
        raise DataError(text) from None


def draws_as_candles(columns: FrameColumns) -> bool:
    """Return True if a forecast of these columns is drawn as candles."""
    from foretrain.evaluation.candles import candle_columns

    return bool(columns.candle) and candle_columns([*map(str, columns.targets)]) is not None


def candle_levels(levels: Sequence[float]) -> list[float]:
    """Return the levels that a candle chart draws, without those of `levels`."""
    from foretrain.evaluation.candles import BANDS

    return [level for band in BANDS for level in band if level not in levels]


def which_drawn(shown: int, items: int, columns: FrameColumns, candles: bool) -> str:
    """Return how many of the items, or of their targets, a picture shows; "" for all."""
    total, kind = (items, "items") if candles else (items * len(columns.targets), "series")
    return f" (the first {shown} of {total:,} {kind})" if shown < total else ""


def _draw(history: Any, tables: Mapping[Output, Any], path: Path, candles: bool) -> int:
    """Plot a forecast to a file; return the number of panels."""
    from foretrain.evaluation.candles import plot_candles
    from foretrain.evaluation.plots import plot_forecast

    if candles:
        return plot_candles(history, tables["candles"], tables["long"], path)
    return plot_forecast(history, tables["long"], path)


def _check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[Path | None]) -> None:
    """Raise ConfigError for an output that is a folder, has a wrong suffix, or is another file of this call."""
    used = {os.path.realpath(path): "an input file" for path in inputs if path is not None}
    for flag, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"{flag} {path}: is a folder; name a file.")
        if flag != "--plot" and path.suffix.lower() not in (".csv", ".parquet") and not is_stream(path):
            raise ConfigError(f"{flag} {path}: name a .csv or .parquet file.")
        place = os.path.realpath(path)
        if place in used:
            raise ConfigError(f"{flag} {path}: is {used[place]}; name another file.")
        used[place] = f"the file of {flag}"
