"""`foretrain quick`: from a file to a fine-tuned model, its verdict beside naive, and a forecast, in minutes."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.cli.quick_words import (
    Chosen,
    Job,
    QuickResult,
    Settings,
    forecast_command,
    name_of,
    outcome,
    summary,
    weights_of,
)
from foretrain.errors import ConfigError, DataError, ForetrainError, Interrupted
from foretrain.reading import read_object

if TYPE_CHECKING:
    from foretrain.data.store import Corpus
    from foretrain.evaluation.result import EvaluationResult

_log = logging.getLogger(__name__)

STATE, FORMAT = "quick.json", 1
FEW_STEPS = 30
SCORED_ITEMS = 10  # where the series are many, as many times those of a validation while training
FREE = ("threads", "device", "csv_safe")  # settings that may differ where an interrupted command is continued


def quick_command(
    path: Path,
    settings: Settings,
    *,
    reading: Mapping[str, Any] | None = None,
    out: Path | None = None,
    name: str | None = None,
    command: str | None = None,
) -> QuickResult:
    """Fine-tune, judge, forecast and report into a new folder.

    name: what messages call the data, if the file merely carries a frame. command: what the report calls it.
    """
    from foretrain.training.lock import RunLock

    begun = time.monotonic()
    job = replace(_open(path, settings, dict(reading or {}), name), command=command)
    folder = _folder(out, job)
    with RunLock(folder), _begun(job, folder), _continuable(folder):
        corpus = _corpus(job, folder)
        trains = job.start.parts is not None and job.start.parts.trains
        chosen = _trained(job, folder, corpus) if trains else _zero_shot(job, folder)
        result = _judge(job, folder, corpus, chosen)
        if chosen.validation is None and result is not None:
            from foretrain.run.quick import naive_forecasters, preferred

            chosen = replace(chosen, beside=preferred(result, naive_forecasters(result)))
        tables, files = _forecast(job, folder, chosen, chosen.validation or result)
        found = outcome(job, chosen, result)
        _write_state(job, folder, finished=True, **found)
    lines = summary(job, folder, chosen, result)
    print("\n".join(["", *lines, *files, f"took        {time.monotonic() - begun:.0f} s"]))
    return QuickResult(folder, "\n".join(lines), found, *tables)


# Before anything is written


def _open(path: Path, settings: Settings, reading: dict[str, Any], name: str | None) -> Job:
    """Open file and model and check the forecast that the command ends with, so that no error comes after training.

    Raises DataError, ConfigError and ModelError.
    """
    from foretrain.cli.commands import load_model, progress_bar, set_threads
    from foretrain.cli.forecast_file import columns_of, errors_of_files, horizon_of
    from foretrain.data.frames import is_corpus, open_input, read_future
    from foretrain.forecasting.frame import open_frame
    from foretrain.forecasting.predictor import Predictor
    from foretrain.forecasting.record import recorded_data, with_names
    from foretrain.forecasting.request import FrameRequest
    from foretrain.models import family
    from foretrain.models.shipped import default_model
    from foretrain.notes import Code
    from foretrain.run.opening import openable
    from foretrain.run.quick import Start, check_start, context_of
    from foretrain.run.quick_parts import only_a_test_part, three_parts

    if not math.isfinite(settings.minutes):
        raise ConfigError(f"--minutes {settings.minutes}: give a number of minutes, such as 2.")
    set_threads(settings.threads)
    asked = openable(settings.model or default_model())
    unnamed = "" if settings.model else ", as no --model is named"
    loaded = load_model(asked, settings.tokenizer, settings.device, "float32")
    place, path = path, Path(name or path)
    _say(f"1/5 read {path}; start from {name_of(asked)}{unnamed}")
    how = {name: value for name, value in reading.items() if name != "freq"} if is_corpus(place) else reading
    with progress_bar("reading") as advance:
        opened = open_input(place, progress=advance, **how)
    frame, source = opened.frame(), str(path)
    ahead = None if settings.future is None else read_future(settings.future, opened, **reading)
    predictor = Predictor(loaded.model, with_names(loaded.facts, opened.column_meant))
    request = FrameRequest(prediction_length=1, target=settings.target, freq=reading.get("freq"))
    request = request.changed(**columns_of(request, predictor, opened))
    lengths = opened.corpus.lengths
    with errors_of_files(path, settings.future):
        columns = predictor.columns(frame, request, ahead, source)
    trailing = _trailing(frame, columns, lengths)
    unobserved = int(trailing.min()) if len(trailing) else 0
    if ahead is None and len(trailing) == len(lengths) and settings.prediction_length in (None, unobserved):
        frame, ahead = _split(frame, columns, lengths, trailing, source)
    horizon = settings.prediction_length or horizon_of(predictor, opened, ahead)
    request = request.changed(prediction_length=horizon)
    if horizon >= lengths.max():
        raise DataError(
            f"{path}: prediction_length {horizon:,} is not shorter than the data: the longest of its "
            f"{len(lengths):,} series has {lengths.max():,} rows. Give a shorter --prediction-length, or more rows."
        )
    with _own_ways(), errors_of_files(path, settings.future), _without(Code.COVARIATES_NOT_LEARNT):  # training changes
        columns = predictor.columns(frame, request, ahead, source)
        kind, trained = family(predictor.model.family), recorded_data(predictor.facts)
        task = open_frame(frame, request, kind, ahead, trained, source)
    sizes = (lengths, horizon, context_of(predictor), unobserved)
    parts = three_parts(*sizes) or only_a_test_part(*sizes)
    start = Start(asked, settings.tokenizer, predictor, columns, request.target, parts, settings.learning_rate)
    if parts is not None and parts.trains:
        check_start(start)
    return Job(path, settings, reading, opened, frame, ahead, start, request, task, unobserved, name is not None)


def _trailing(frame: Any, columns: Any, lengths: Any) -> Any:
    """Return the newest rows without a target of each series that has any target."""
    import numpy as np

    from foretrain.run.quick_parts import trailing_rows

    numeric = [name for name in columns.targets if name in frame and frame[name].dtype.kind in "iuf"]
    return trailing_rows(np.asarray(np.isfinite(frame[numeric].to_numpy(np.float64)).any(1)), lengths)


def _split(frame: Any, columns: Any, lengths: Any, trailing: Any, source: str) -> tuple[Any, Any]:
    """Return the rows with a target, and as the rows known ahead the newest ones of each series if they have no target,
    are equally many, and have covariates; else the frame and None.

    Then these columns are known ahead in training too, as if they came in a file of their own.
    """
    import numpy as np

    from foretrain.data.frames import ITEM_ID, TIMESTAMP
    from foretrain.notes import Code, Note, counted, warn

    count = int(trailing[0])
    if not count or (trailing != count).any():
        return frame, None
    ends = np.cumsum(lengths)
    is_ahead = np.arange(len(frame)) >= np.repeat(ends - count, lengths)
    rows = frame[is_ahead]
    known = [name for name in (*columns.past, *columns.known) if name in rows and rows[name].notna().any()]
    varying = [name for name in known if (frame.groupby(ITEM_ID)[name].nunique() > 1).any()]
    if not varying or not rows[varying].notna().any(axis=1).all():
        return frame, None
    text = (
        f"{source}: the newest {counted(count, 'row')} of every series have no target, so they are the steps to "
        f"forecast; known ahead are {', '.join(map(str, known))}."
    )
    warn(_log, Note(Code.NEWEST_ROWS_AS_FUTURE, text, {"rows": len(rows), "columns": len(known)}))
    return frame[~is_ahead], rows[[ITEM_ID, TIMESTAMP, *known]]


def _folder(out: Path | None, job: Job) -> Path:
    """Return the folder: `out`, or a new one that is named after the file, or that of an equal command that was
    interrupted. Raises ConfigError if `out` holds anything else."""
    from foretrain.cli.commands import check_new_folder
    from foretrain.cli.forecast_file import stem_of

    asked = [out] if out is not None else [Path(f"{stem_of(job.path)}-quick{n}") for n in ("", *_numbers())]
    for folder in asked:
        if _is_continued(folder, job):
            _say(f"continue in {folder}, where this command was interrupted")
            return folder
        if out is not None or not folder.exists() or _is_left(folder):
            if not _is_begun(folder):
                check_new_folder(folder)
            return folder
    raise ConfigError(f"{asked[0]}: 999 such folders exist; delete some, or name another with --out.")


def _is_begun(folder: Path) -> bool:
    """Return True for a folder that holds a lock alone, and scratch files: its command runs, or ended before it wrote
    anything."""
    from foretrain.training.run_record import LOCK

    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(names) and all(name == LOCK or name.startswith(".tmp-") for name in names)


def _is_left(folder: Path) -> bool:
    """Return True for a folder of a command that ended before it wrote anything, as on a full disk."""
    from foretrain.locks import is_held
    from foretrain.training.run_record import LOCK

    return folder.is_dir() and (_is_begun(folder) or not any(folder.iterdir())) and not is_held(folder / LOCK)


@contextmanager
def _begun(job: Job, folder: Path) -> Iterator[None]:
    """Record the command in its folder, of which this process is the only writer now. Raises ConfigError if another
    command has written there since the folder was chosen."""
    if not _is_continued(folder, job):
        if not _is_begun(folder):
            raise ConfigError(f"{folder}: another command wrote it meanwhile. Choose another folder.")
        _write_state(job, folder, finished=False)
    yield


def _numbers() -> list[str]:
    return [f"-{number}" for number in range(2, 1000)]


def _is_continued(folder: Path, job: Job) -> bool:
    """Return True if a folder holds an unfinished command with the same settings and data."""
    try:
        state = read_object(folder / STATE)
        return not state["finished"] and _identity(state) == _identity(_state(job))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # also if it is not what this command wrote
        return False


def _identity(state: Mapping[str, Any]) -> dict[str, Any]:
    settings = {name: value for name, value in state["settings"].items() if name not in FREE}
    return {"settings": settings, "data": state["data"], "format": state["format"]}


def _state(job: Job) -> dict[str, Any]:
    data = {"path": str(job.path), "fingerprint": job.opened.corpus.fingerprint}
    return {"format": FORMAT, "settings": job.settings.record(), "data": data}


def _write_state(job: Job, folder: Path, *, finished: bool, **more: Any) -> None:
    from foretrain.atomic import replacing_file, write_json
    from foretrain.evaluation.result import plain

    with replacing_file(folder / STATE) as scratch:
        write_json(scratch, plain({**_state(job), "finished": finished, **more}))


@contextmanager
def _continuable(folder: Path) -> Iterator[None]:
    """Say after an interruption how to continue; delete the folder if an error comes before there is a run."""
    from foretrain.atomic import remove

    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        print(f"the same command continues in {folder}", file=sys.stderr)
        raise
    except ForetrainError:
        if not (folder / "run" / "config.yaml").exists():
            remove(folder)
        raise


# The steps of the command


def _corpus(job: Job, folder: Path) -> Corpus:
    """Return the corpus in the folder, which is written first; that of the command if it was one."""
    from foretrain.atomic import copy_folder, new_folder
    from foretrain.data.store import Corpus

    own = job.opened.corpus
    if job.opened.report is None:
        return own
    assert own.path is not None
    place = folder / "corpus" / own.name
    if not place.exists():
        with new_folder(place) as scratch:
            copy_folder(own.path, scratch)
    found = Corpus.open(place)
    found.origin = job.path
    return found


def _trained(job: Job, folder: Path, corpus: Corpus) -> Chosen:
    """Train, and return what the validation part says."""
    from foretrain.cli.commands import load_model, progress_bar
    from foretrain.run.config import load_config
    from foretrain.run.quick import naive_forecasters, preferred, score
    from foretrain.run.train import train_run

    run, parts, settings = folder / "run", job.start.parts, job.settings
    assert parts is not None
    config = load_config(run / "config.yaml") if (run / "config.yaml").is_file() else _plan(job, run, corpus)
    steps = config.training.max_steps or 0
    limit = f"{settings.minutes:g} minute{'s' * (settings.minutes != 1)}"
    _say(f"3/5 fine-tune {weights_of(job.start)}: at most {steps:,} steps or {limit}, in {run}")
    moved = {"output_dir": str(run), "device": settings.device, "threads": settings.threads}
    _, found = train_run(config.model_copy(update=moved), resume="auto")
    before = _first_validation(run, config.training.best_metric)
    tuned = found.release_step > 0
    name = f"fine-tuned {job.base}" if tuned else job.base
    predictor = load_model(str(run / "release"), None, settings.device, "float32")
    _say("4/5 compare with naive forecasts on the validation part, then once on the test part")
    few = config.evaluation.max_items
    most = None if few is None else SCORED_ITEMS * few
    with progress_bar("validation part") as advance:
        result = score(
            predictor,
            corpus,
            parts,
            "validation",
            name=name,
            max_items=most,
            progress=lambda done: advance(done, None, "windows"),
        )
    naive = naive_forecasters(result)
    scores = None if before is None or found.best is None else (before, found.best)
    return Chosen(
        name,
        tuned,
        main=preferred(result),
        beside=preferred(result, naive),
        validation=result,
        metric=config.training.best_metric.removeprefix("val_"),
        scores=scores,
        step=found.release_step,
        lost=found.best_step if found.release_step != found.best_step else None,
        most_items=most,
    )


def _plan(job: Job, run: Path, corpus: Corpus) -> Any:
    """Return the config of the run: its steps fit the minutes, as a rehearsal measures them."""
    from foretrain.cli.commands import progress_bar
    from foretrain.notes import counted
    from foretrain.run.quick import first_config, paced, rehearse
    from foretrain.run.quick_parts import pace

    settings, parts = job.settings, job.start.parts
    assert parts is not None
    _say("2/5 rehearse a few steps, to see how many fit")
    where = {"seed": settings.seed, "device": settings.device, "threads": settings.threads}
    config = first_config(job.start, corpus.path or Path(corpus.name), run, **where)
    with progress_bar("rehearsing"):
        measured = rehearse(config, 0.0) if settings.max_steps else rehearse(config)
    found = pace(measured, settings.minutes, corpus.num_series, parts.validation_origins, settings.max_steps)
    few = ", which hardly changes a model: give more --minutes" if found.steps < FEW_STEPS else ""
    if settings.max_steps is None:
        print(f"a step takes {1000 * measured.step:.0f} ms, so {counted(found.steps, 'step')} fit{few}")
    return paced(config, measured, found, settings.minutes)


def _zero_shot(job: Job, folder: Path) -> Chosen:
    """Release the model as it is, because the series are too short to train on."""
    from foretrain.atomic import remove
    from foretrain.run.quick import context_of
    from foretrain.run.quick_parts import rows_for_three_parts

    needed = rows_for_three_parts(job.horizon, context_of(job.start.predictor))
    _say(
        f"zero-shot only: the longest series has {job.rows:,} rows, and to train, validate and test on {job.horizon:,} "
        f"steps takes {needed:,}; fewer steps (--prediction-length {max(1, job.rows // 4)}) would do"
    )
    remove(folder / "release")
    job.start.predictor.save(folder / "release")
    return Chosen(job.base, tuned=False)


def _judge(job: Job, folder: Path, corpus: Corpus, chosen: Chosen) -> EvaluationResult | None:
    """Score what was chosen on the test part and write the report; None if there is no room for a window.

    The release of a run appears in the folder afterwards, with the outcome of its gate in its record.
    """
    from foretrain.atomic import copy_folder, replacing_file, replacing_folder
    from foretrain.cli.commands import load_model, progress_bar
    from foretrain.evaluation.gate import judge
    from foretrain.evaluation.report import write_report
    from foretrain.run.promotion import open_reference, record
    from foretrain.run.quick import score

    parts, settings = job.start.parts, job.settings
    if parts is None:
        return None
    own = folder / ("run/release" if parts.trains else "release")
    predictor = load_model(str(own), None, settings.device, "float32")
    with progress_bar("test part") as advance:
        result = score(
            predictor,
            corpus,
            parts,
            "test",
            max_items=chosen.most_items,
            name=chosen.name,
            target=job.request.target,
            columns=None if parts.trains else job.start.columns,
            against=open_reference("zero-shot", str(own), predictor.model) if chosen.tuned else None,
            command=job.command,
            progress=lambda done: advance(done, None, "windows"),
        )
    if chosen.tuned:
        result = replace(result, promotion=judge(result))
        record(own, result.promotion)  # type: ignore[arg-type]
    with replacing_folder(folder / "evaluation") as scratch:
        write_report(result, scratch, csv_safe=settings.csv_safe)
    with replacing_file(folder / "report.html") as place:
        shutil.copyfile(folder / "evaluation" / "report.html", place)
    if parts.trains:
        with replacing_folder(folder / "release") as scratch:
            copy_folder(own, scratch)
    return result


def _forecast(
    job: Job, folder: Path, chosen: Chosen, result: EvaluationResult | None
) -> tuple[tuple[Any, Any], list[str]]:
    """Forecast after the end of the file by the release, and by the best naive forecast, and draw both.

    Returns both tables, and lines on the files.
    """
    from foretrain.cli.commands import load_model
    from foretrain.cli.forecast_file import candle_levels, columns_of, draws_as_candles, errors_of_files, which_drawn
    from foretrain.forecasting.outputs import save_table, scratch_files
    from foretrain.forecasting.predictor import Predictor
    from foretrain.forecasting.record import with_names
    from foretrain.run.quick import context_of, naive_table

    _say("5/5 forecast the steps after the end")
    loaded = load_model(str(folder / "release"), None, job.settings.device, "float32")
    predictor = Predictor(loaded.model, with_names(loaded.facts, job.opened.column_meant))
    target = job.settings.target
    request = job.request.changed(target=target)
    request = request.changed(**columns_of(request, predictor, job.opened))
    columns, levels = job.start.columns, request.quantile_levels
    candles = draws_as_candles(columns)
    bands = candle_levels(levels) if candles else []
    request = request.changed(quantile_levels=(*levels, *bands), outputs=("long", "candles") if candles else ("long",))
    frame = job.frame
    with errors_of_files(job.path, job.settings.future):
        tables = predictor.forecast_tables(frame, request, job.ahead, str(job.path))
    table = tables["long"].drop(columns=[str(level) for level in bands])
    beside = naive_table(job.task, table, chosen.beside, result, context_of(predictor))
    files = [folder / name for name in ("forecast.csv", "naive.csv", "forecast.png")]
    names = [chosen.label(who, result) for who in ("model", chosen.beside)]
    with scratch_files(*files) as places:
        save_table(table, places[files[0]], csv_safe=job.settings.csv_safe)
        save_table(beside, places[files[1]], csv_safe=job.settings.csv_safe)
        both = (table, names[0]), (beside, names[1])
        shown = _draw(frame, tables, both, places[files[2]], naive_first=chosen.main != "model")
    part = which_drawn(shown, job.opened.corpus.num_series, columns, candles)
    lines = [
        f"forecast    {files[0]} ({names[0]}), {files[1]} ({names[1]}), picture {files[2]}{part}",
        f"again       {forecast_command(job, folder)}",
    ]
    return (table, beside), lines


def _draw(
    frame: Any, tables: Mapping[Any, Any], both: Sequence[tuple[Any, str]], place: Path, *, naive_first: bool
) -> int:
    """Draw the model's forecast and the naive one, each with its name, and return the number of panels: candles of the
    model if it makes them, else the fan of the one that is preferred."""
    from foretrain.evaluation.candles import plot_candles
    from foretrain.evaluation.plots import plot_forecast

    if "candles" in tables:
        return plot_candles(frame, tables["candles"], tables["long"], place, beside=both[1])
    first, other = reversed(both) if naive_first else both
    return plot_forecast(frame, first[0], place, name=f"{first[1]} (median)", beside=other)


def _first_validation(run: Path, metric: str) -> float | None:
    """Return the validation metric of the weights before the first step."""
    from foretrain.training.journal import read_journal

    lines = [line for line in read_journal(run / "metrics.jsonl") if line.get("kind") == "validation"]
    return next((line.get(metric) for line in lines if line["step"] == 0), None)


@contextmanager
def _own_ways() -> Iterator[None]:
    """Say what to do with rows without a target by the options of this command."""
    from foretrain.forecasting.rows import WAYS

    try:
        yield
    except DataError as error:
        ours = "Give that number as --prediction-length, or leave these rows out of the file"
        raise DataError(str(error).replace(f"Otherwise say what they are: {WAYS}", ours)) from None


@contextmanager
def _without(code: str) -> Iterator[None]:
    """While entered, do not log notes of a code about the columns of a frame."""
    logger = logging.getLogger("foretrain.forecasting.selection")

    def is_other(record: logging.LogRecord) -> bool:
        return getattr(record, "code", None) != code

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
