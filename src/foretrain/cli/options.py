"""Choices, options and arguments that commands share, and the parsers of their text.

Imports neither torch, pandas nor numpy, so that the command line starts quickly.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foretrain.distributed.launchers import count_of_several, speaks
from foretrain.errors import ConfigError
from foretrain.processes import MOST_THREADS

_log = logging.getLogger(__name__)


class DrawsOver(StrEnum):
    """What a promotion's significance is tested over."""

    origins = "origins"
    items = "items"


class Device(StrEnum):
    """Device of the computation."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class DType(StrEnum):
    """Precision of the computation."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class OnBad(StrEnum):
    """Action of an import on a violated quality rule."""

    fix = "fix"
    drop = "drop"
    error = "error"


class Values(StrEnum):
    """Kind of the predicted and actual values."""

    price = "price"
    fraction = "fraction"
    percent = "percent"


class TrailingRows(StrEnum):
    """What newest rows without a target are."""

    future = "future"
    history = "history"
    drop = "drop"


class ForeignFormat(StrEnum):
    """Project whose config is translated."""

    kronos = "kronos"
    tsm_trainer = "tsm-trainer"


ModelArgument = Annotated[str, typer.Argument(help="A release or run folder, a hub id, or tiny, the model in the box.")]
ModelAndData = Annotated[
    list[str],
    typer.Argument(
        metavar="[MODEL] DATA",
        help="A release or run folder, or a hub id (default: tiny, the model in the box), and what to forecast: a file "
        "or folder of files as data import reads them, or a corpus.",
    ),
]
ModelOption = Annotated[str | None, typer.Option("--model", help="The model, if it is not given before the data.")]
BaselineSecondsOption = Annotated[
    float | None,
    typer.Option(min=1, help="Time of a statistical baseline for a task; one that needs more fails on it (600)."),
]
BatchSizeOption = Annotated[int, typer.Option(min=1, max=2**40, help="Rows per forward pass.")]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE", help="Memory of forecasting besides model and data: 2GB, 800MB, 1.5 (GB); default: no bound."
    ),
]
NumSamplesOption = Annotated[
    int | None, typer.Option(min=1, help="Sample paths of a forecast, for families that draw them.")
]
SortOption = Annotated[
    bool | None,
    typer.Option("--sort-quantiles/--no-sort-quantiles", help="Sort quantiles that cross (default: as recorded, yes)."),
]
RepairOption = Annotated[
    bool | None,
    typer.Option(
        "--repair-candles/--no-repair-candles",
        help="Let candles enclose open and close, without negative volumes or prices (default: as recorded, yes).",
    ),
]
BlankOption = Annotated[
    bool | None,
    typer.Option(
        "--blank-missing/--no-blank-missing",
        help="NaN for series without a value in the context (default: as recorded, yes).",
    ),
]
DrawSeedOption = Annotated[int, typer.Option(min=0, help="Seed of those draws.")]
RescaleOption = Annotated[
    bool | None,
    typer.Option(
        "--rescale/--no-rescale",
        help="Multiply rows that move too little for a constant of the model by a power of two (default: as trained).",
    ),
]
FamilyOptions = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="A forecast option of the family; repeatable.")
]
TokenizerOption = Annotated[
    str | None, typer.Option(help="Folder or hub id of the tokenizer, for a release that brings none.")
]
TrainedOnOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="CORPUS",
        help="A corpus on disk, or files, that models were trained on: flag tasks whose windows it holds; repeatable.",
    ),
]
NamedItemsOption = Annotated[
    str | None,
    typer.Option(metavar="A,B*", help="Items of --data to score: names and patterns, file:PATH, subset:NAME."),
]
PrecisionOption = Annotated[DType, typer.Option(help="Precision.")]
CsvSafeOption = Annotated[
    bool,
    typer.Option("--csv-safe", help="In CSV files put ' before texts that a spreadsheet would run (= + - @, tab)."),
]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU when there is one.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=MOST_THREADS, help="CPU threads per process (default: PyTorch's).")
]


def _windows_or_auto(text: str) -> int | Literal["auto"]:
    """Read a number of windows, 1 or more, or auto."""
    if text == "auto":
        return text
    if text.isascii() and text.isdecimal() and len(text) < 10 and int(text):
        return int(text)
    raise typer.BadParameter(f"{text[:40]!r} is neither a number of windows, 1 or more, nor auto.")


MicroBatchOption = Annotated[
    Any,  # int, auto or None
    typer.Option(
        parser=_windows_or_auto,
        metavar="INTEGER|auto",
        help="Windows per forward per process, or auto: as many as the memory holds (training.micro_batch_size).",
    ),
]
AccumulationOption = Annotated[
    int | None, typer.Option("--gradient-accumulation-steps", "--grad-accum", min=1, help="Micro-batches per step.")
]
TokenBudgetOption = Annotated[
    int | None, typer.Option(min=1, help="Steps x variates of a micro-batch (training.token_budget).")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print parameters, memory, time and disk, without training; 2 if refused.")
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="Print the resolved config, which the run folder has anyway.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG] [KEY=VALUE]...",
        help="A config, and settings that override it: a YAML file, or a shipped one by name (config list).",
    ),
]


# options of `foretrain train` that set a key of the config
_TRAIN_KEYS = {
    "model_id": "model.model_id",
    "random_init": "model.random_init",
    "context_length": "data.context_length",
    "prediction_length": "data.prediction_length",
    "max_train_series": "data.max_train_series",
    "max_steps": "training.max_steps",
    "token_budget": "training.token_budget.max_tokens_per_batch",
    "dtype": "training.dtype",
    "learning_rate": "optimizer.learning_rate",
    "output_dir": "output_dir",
    "seed": "seed",
    "device": "device",
    "threads": "threads",
}


def train_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what options of `foretrain train` set, by the key of the config; values holds all options by name."""
    given = {key: values[name] for name, key in _TRAIN_KEYS.items() if values[name] is not None}
    return {key: str(value) if isinstance(value, Path | StrEnum) else value for key, value in given.items()}


def config_and_overrides(
    items: list[str] | None,
    config: Path | None,
    example: str = "train chronos2/test training.max_steps=50",
    verb: str = "train",
) -> tuple[Path, list[str | tuple[str, Any]]]:
    """Return the config file, given or shipped, and the overrides among a verb's arguments; says which file it is where
    another could have been meant. Raises ConfigError, which shows the example."""
    from foretrain.notes import warn
    from foretrain.run.shipped import SEE_LIST, find_config

    overrides: list[str | tuple[str, Any]] = []
    for position, item in enumerate(items or []):
        if "=" in item and not os.path.isfile(item):  # Path raises for a setting longer than a file's name
            overrides.append(item)
            continue
        if position == 0 and config is None:
            config = Path(item)
            continue
        raise ConfigError(f"{item!r}: expected section.key=value (one config is taken, as first argument).")
    if config is None:
        raise ConfigError(f"no config given; for example: foretrain {example}. {SEE_LIST}")
    from foretrain.foreign import refuse_foreign

    found, note = find_config(config, verb)
    if note is not None and speaks(os.environ):
        warn(_log, note)
    refuse_foreign(found)
    return found, overrides


def model_and_data(items: list[str], model: str | None) -> tuple[str | None, Path]:
    """Return the model, None if none is named, and the data among a verb's arguments. Raises ConfigError."""
    *models, data = items
    models += [] if model is None else [model]
    if len(models) > 1:
        raise ConfigError(f"{' '.join(items)}: give one model, before the data or by --model, and one file or folder.")
    _check_order(models, data)
    return (models or [None])[0], Path(data)


def _check_order(models: list[str], data: str) -> None:
    """Raise ConfigError if two files are named, or the data are called like a model in the box and do not exist."""
    from foretrain.models.shipped import shipped

    files = [name for name in models if Path(name).is_file()]
    if data in shipped() and not Path(data).exists():
        raise ConfigError(f"{data}: is a model, which comes before the data: {data} {' '.join(files) or 'DATA'}.")
    if files and Path(data).is_file():
        raise ConfigError(f"{files[0]} {data}: give one file, or a folder of files; a model is a folder too.")


def comma_list(text: str | None) -> tuple[str, ...] | None:
    """Return the items of a comma-separated list; None stays None."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text is not None else None


def pairs(items: list[str] | None, flag: str, example: str) -> dict[str, str]:
    """Return the KEY=VALUE items of a repeatable flag. Raises ConfigError for other items and for repeated keys."""
    found: dict[str, str] = {}
    for item in items or []:
        key, sep, text = item.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"{flag} {item!r}: give KEY=VALUE, for example {flag} {example}.")
        if key.strip() in found:
            raise ConfigError(f"{flag} {item!r}: {key.strip()} is given twice; give it once.")
        found[key.strip()] = text
    return found


def given_options(context: typer.Context, names: Iterable[str]) -> set[str]:
    """Return those of the named parameters of a verb that stand on its command line."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


def forecast_settings(items: list[str] | None) -> dict[str, Any]:
    """Return the items of --option, their values parsed as YAML."""
    from foretrain.config import parse_scalar

    return {key: parse_scalar(text) for key, text in pairs(items, "--option", "temperature=0.8").items()}


def level_list(text: str | None) -> tuple[float, ...] | None:
    """Parse comma-separated quantile levels; None stays None. Raises ConfigError."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--quantile-levels {text!r}: give numbers separated by commas, such as 0.1,0.5,0.9."
        ) from None
    if not found or not all(0 < level < 1 for level in found) or len(set(found)) < len(found):
        raise ConfigError(f"--quantile-levels {text!r}: levels lie between 0 and 1, each given once.")
    return found


def prepare(threads: int | None) -> None:
    """Set environment variables that torch reads when it is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve every other process of the machine
    if count_of_several(os.environ):  # of a process that is gone torch prints C++ frames; we print a line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def write_new_text(out: Path, text: str) -> None:
    """Write a new file, or into a stream. Raises ConfigError if the file exists or cannot be written."""
    from foretrain.atomic import create_text

    try:
        create_text(out, text)
    except FileExistsError:
        raise ConfigError(f"{out}: exists, and is not overwritten. Name another file with --out.") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error}). Name another file.") from None


def dash_as_stdout(path: Path | None) -> Path | None:
    """Return /dev/stdout for -, as other programs call it, and every other path as it is."""
    return Path("/dev/stdout") if path == Path("-") else path


@contextmanager
def spoken_beside(*files: Path | None) -> Iterator[None]:
    """While entered, print to stderr what would be printed to stdout, if one of the files is stdout."""
    from foretrain.atomic import open_descriptor

    if any(open_descriptor(file) == 1 for file in files if file is not None):
        with redirect_stdout(sys.stderr):
            yield
        return
    yield


def require_single_process(verb: str) -> None:
    """Raise ConfigError if there are several processes: each would do, and write, the same."""
    if found := count_of_several(os.environ):
        raise ConfigError(
            f"{verb} works in one process, and {found[0]}={found[1][:20]} says that there are more. Call it without "
            f"torchrun, mpirun or srun (or unset {found[0]}); train and benchmark MODEL run in several processes."
        )
