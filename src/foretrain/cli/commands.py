"""What the commands on data, evaluations and scores do: read input, call the library, print and write results."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import new_folder
from foretrain.cli.messages import naming_flags_that_take_less
from foretrain.errors import ConfigError, DataError
from foretrain.printing import BESIDE_PRINTABLE, without_secrets

if TYPE_CHECKING:
    from foretrain.evaluation.result import EvaluationResult
    from foretrain.evaluation.score import Score
    from foretrain.forecasting.predictor import Predictor

_log = logging.getLogger(__name__)


def import_data(paths: Sequence[Path], out: Path, **settings: Any) -> None:
    """`foretrain data import`: write a corpus and print what was found, fixed and dropped."""
    from foretrain.data.importers import import_corpus

    with progress_bar("importing") as advance:
        report = import_corpus(paths, out, progress=advance, command=command_line(), **settings)
    print(report.text())


def preview_files(
    paths: Sequence[Path],
    *,
    out: Path | None = None,
    update: bool = False,
    provenance: str = "real",
    **reading: Any,
) -> None:
    """`foretrain data import --dry-run`: print what would be read."""
    from foretrain.data.importers.preview import preview_text

    with progress_bar("reading") as advance:
        text = preview_text(paths, out=out, update=update, provenance=provenance, progress=advance, **reading)
    print(text)


def generate_data(
    config: Path, overrides: Sequence[str | tuple[str, Any]], out: Path, *, num_series: int, workers: int
) -> None:
    """`foretrain data generate`: write series of a mixture into a new corpus folder and print a summary."""
    from foretrain.config import apply_overrides, build, read_yaml
    from foretrain.data.synthetic.mixture import Mixture
    from foretrain.data.synthetic.to_disk import write_corpus

    mixture = build(Mixture, apply_overrides(read_yaml(config), overrides), source=str(config))
    with progress_bar("generating") as advance:
        manifest = write_corpus(
            mixture,
            out,
            num_series,
            workers=workers,
            command=command_line(),
            progress=lambda done, total: advance(done, total, "series"),
        )
    print(f"wrote {out}: {manifest.num_series:,} synthetic series, {manifest.num_rows:,} rows")


def inspect_data(path: Path, reading: Mapping[str, Any], *, plot: Path | None = None, verify: bool = False) -> None:
    """`foretrain data inspect`: print a summary of a corpus and plot it, or print what would be read from files."""
    from foretrain.data.frames import is_corpus
    from foretrain.data.inspection import inspect_text, plot_corpus
    from foretrain.data.store import Corpus
    from foretrain.data.verification import version

    if not is_corpus(path):
        if path.exists() and (verify or plot is not None):
            raise ConfigError(f"{path}: is no corpus; --verify and --plot apply to corpora. Import it first.")
        preview_files([path], **reading)
        return
    if reading:
        raise ConfigError(f"{path}: is a corpus; the options of reading files do not apply. Leave them out.")
    if verify:
        verify_corpora([path])
    while True:
        before = version(path)
        corpus = Corpus.open(path)
        text = inspect_text(corpus)
        corpus.check_unchanged()
        if version(path) == before:  # else an update exchanged the folder before its quality.json was read
            break
    print(text)
    if plot is not None:
        plot_corpus(corpus, plot)
        print(f"picture: {plot}")


def verify_corpora(folders: Sequence[Path]) -> None:
    """`foretrain data verify`: compare every shard of corpora with its hash, and say at what rate."""
    from foretrain.data.frames import is_corpus
    from foretrain.data.verification import verify_folder

    for folder in folders:
        if not is_corpus(folder):
            raise ConfigError(f"{folder}: is no corpus. Only what `foretrain data import` makes has hashes.")
        began = time.perf_counter()
        with progress_bar("comparing") as advance:
            size = verify_folder(folder, advance)
        took = max(time.perf_counter() - began, 1e-9)
        print(f"{folder}: every shard has its recorded hash ({size / 1e6:,.1f} MB, {size / took / 1e9:.1f} GB/s)")


def evaluate_model(
    model: str,
    data: Path,
    *,
    reading: Mapping[str, Any] | None = None,
    prediction_length: int | None = None,
    split: str = "test",
    target: Sequence[str] | None = None,
    past_covariates: Sequence[str] | None = None,
    known_covariates: Sequence[str] | None = None,
    items: Sequence[str] | None = None,
    context_length: int | None = None,
    quantile_levels: Sequence[float] | None = None,
    baselines: Sequence[str] | None = None,
    baseline_seconds: float | None = None,
    cross_learning: bool = False,
    options: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    against: str | None = None,
    require_significance: bool = True,
    promote_over: str = "origins",
    clusters: str | None = None,
    out: Path | None = None,
    csv_safe: bool = False,
    device: str = "auto",
    dtype: str = "float32",
    threads: int | None = None,
    **settings: Any,
) -> EvaluationResult:
    """`foretrain evaluate`: score a model and the baselines; print the table, write the report into `out`.

    Defaults are the values of training, if release.json records them; settings are further arguments of
    evaluation.tasks.evaluate. With `against`, a reference model is scored too, and the result states whether the model
    is promoted. If the reference is zero-shot (the weights that training started from), release.json records it too.
    """
    if split not in ("test", "validation", "all"):
        raise ConfigError(f"--split {split!r}: choose test, validation or all.")
    if cross_learning:
        raise ConfigError("--cross-learning: batch composition would then be part of the model. Leave it out.")
    if out is not None:
        check_new_folder(out)
    settings |= _baseline_settings(baselines, baseline_seconds)
    set_threads(threads)
    from foretrain.data.frames import open_input
    from foretrain.evaluation.columns import evaluation_columns
    from foretrain.evaluation.gate import judge
    from foretrain.evaluation.items import scored_items
    from foretrain.evaluation.report import print_result
    from foretrain.evaluation.tasks import evaluate
    from foretrain.forecasting.parents import with_ancestry
    from foretrain.forecasting.record import (
        default_horizon,
        recorded_data,
        unlike_release,
        with_names,
        with_recorded_options,
    )
    from foretrain.models import family, forecast_options
    from foretrain.models.request import DECILES
    from foretrain.run.opening import openable
    from foretrain.run.promotion import open_reference

    with progress_bar("reading") as advance:
        opened = open_input(data, progress=advance, **(reading or {}))
    model = openable(model)
    predictor = load_model(model, tokenizer, device, dtype)
    model_family = family(predictor.model.family)
    release = with_names(predictor.facts, opened.column_meant)
    release = with_ancestry(release)
    chosen_horizon, of_horizon = default_horizon(release, opened.corpus.frequency)
    roles = {"target": target, "past_covariates": past_covariates, "known_covariates": known_covariates}
    named = {role: opened.columns_meant(names) for role, names in roles.items() if names is not None}
    selection, notes = evaluation_columns(opened.corpus, model_family, recorded_data(release), **named)
    chosen = forecast_options(model_family, with_recorded_options(release, options))
    some = None if items is None else scored_items(items, [opened.corpus], release)
    less = naming_flags_that_take_less(
        batch_size=settings.get("batch_size", 256),
        context_length=context_length,
        num_samples=settings.get("num_samples"),
        dtype=dtype,
        max_memory=settings.get("max_memory"),
    )
    with less, progress_bar("forecasting") as advance:
        result = evaluate(
            predictor.model,
            opened.corpus,
            selection=selection,
            prediction_length=prediction_length or chosen_horizon,
            split=split,  # type: ignore[arg-type]
            items=some,
            context_length=context_length,
            quantile_levels=tuple(quantile_levels or DECILES),
            options=chosen,
            against=None if against is None else open_reference(against, model, predictor.model, chosen),
            clusters=None if clusters is None else opened.columns_meant([clusters])[0],
            name=model,
            release=release,
            command=command_line(),
            notes=notes if prediction_length else [*of_horizon, *notes],
            progress=lambda done: advance(done, None, "windows"),
            **settings,
        )
    opened.check_intact()
    if against is not None:
        promotion = judge(result, require_significance=require_significance, promote_over=promote_over)
        result = replace(result, promotion=promotion)
    print_result(result)
    changes = unlike_release(release, predictor.model, {**settings, **named, "context_length": context_length}, chosen)
    _save_result(result, model, predictor.facts, changes, out, csv_safe=csv_safe)
    return result


def _baseline_settings(names: Sequence[str] | None, seconds: float | None) -> dict[str, Any]:
    """Return the arguments of evaluation.tasks.evaluate; raises ConfigError before anything is read."""
    from foretrain.evaluation.baselines import STATISTICAL
    from foretrain.evaluation.statistical import check_names

    check_names(names or ())
    if seconds is not None and not any(name in STATISTICAL for name in names or ()):
        raise ConfigError(
            f"--baseline-seconds: has no effect without one of {', '.join(STATISTICAL)} in --baselines. Leave it out."
        )
    given = {"compare": names, "baseline_seconds": seconds}
    return {name: value for name, value in given.items() if value is not None}


def _save_result(
    result: EvaluationResult,
    model: str,
    loaded: Mapping[str, Any],
    changes: Sequence[str],
    out: Path | None,
    *,
    csv_safe: bool,
) -> None:
    """Write the report, and record the promotion in the release.json of a local release.

    Only a comparison with the zero-shot reference is recorded, not one with another model, and not that of a release
    with another tokenizer than its own, or with settings that its forecasts do not have. A result on corpora unknown to
    the run does not replace a recorded one. Releases in the hub's cache are never changed.

    loaded: the record of the model that was scored. changes: result of record.unlike_release.
    """
    from foretrain.evaluation.reference import ZERO_SHOT
    from foretrain.evaluation.report import write_report
    from foretrain.models.hub import facts_of, release_in
    from foretrain.run.promotion import record

    if out is not None:
        _write_folder(out, lambda folder: write_report(result, folder, csv_safe=csv_safe))
    promotion, release = result.promotion, release_in(Path(model).expanduser())
    if promotion is None or promotion.against["key"] != ZERO_SHOT or not (release / "release.json").is_file():
        return
    if result.settings.get("items", ["trained"]) != ["trained"]:
        print(f"not recorded: {release / 'release.json'} is unchanged; it was scored on some items alone (--items)")
        return
    facts = facts_of(release)
    for role, part in (facts.get("parents") or {}).items():
        if role != "model" and loaded["parents"][role].get("hash") != part.get("hash"):
            print(f"not recorded: {release / 'release.json'} is unchanged; it was scored with another {role}")
            return
    if changes:
        print(
            f"not recorded: {release / 'release.json'} is unchanged; it was scored with {', '.join(changes)}, which "
            "its forecasts have only where that is given to them too"
        )
        return
    own = {entry[key] for entry in facts.get("corpora", ()) for key in ("name", "fingerprint")}
    unknown = [entry["name"] for entry in promotion.data if own.isdisjoint((entry["name"], entry["fingerprint"]))]
    if "promotion" in facts and unknown:
        print(f"not recorded: {release / 'release.json'} is unchanged; the run did not use corpus {unknown[0]!r}")
        return
    if record(release, promotion):
        print(f"recorded in {release / 'release.json'}: {'promoted' if promotion.promoted else 'not promoted'}")


def load_model(model: str, tokenizer: str | None, device: str, dtype: str) -> Predictor:
    """Load a model as the options of a command say."""
    from foretrain.forecasting.predictor import load
    from foretrain.run.opening import openable

    parts: dict[str, Any] = {"tokenizer": openable(tokenizer)} if tokenizer else {}
    return load(model, device=None if device == "auto" else device, dtype=dtype, **parts)


def score_predictions(
    path: Path, *, reading: Mapping[str, Any] | None = None, out: Path | None = None, **settings: Any
) -> Score:
    """`foretrain score`: score the predictions in a file, print the result and write it into `out`.

    settings are further arguments of evaluation.score.score_file.
    """
    if out is not None:
        check_new_folder(out)
    from foretrain.evaluation.score import score_file

    how = dict(reading or {})
    roles = {"item": how.pop("id_column", None), "timestamp": how.pop("timestamp_column", None)}
    columns = {role: name for role, name in roles.items() if name is not None}
    columns |= {"item" if role == "item_id" else role: name for role, name in how.pop("column", {}).items()}
    score = score_file(path, columns=columns, reading=how, **settings)
    print(score.markdown(), end="")
    if out is not None:
        _write_folder(out, score.save)
    return score


def _write_folder(out: Path, write: Callable[[Path], Sequence[Path]]) -> None:
    """Let a function write the files of a new folder, which appears when it has, and name them. DataError if it cannot.

    write takes the folder and returns the files that it wrote.
    """
    try:
        with new_folder(out) as scratch:  # DataError if the folder appears meanwhile
            names = [path.relative_to(scratch) for path in write(scratch)]
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"{out}: cannot be written ({why}). Nothing is there; free space or name another.") from None
    for name in names:
        print(f"wrote {out / name}")


def check_new_folder(out: Path) -> None:
    """Raise ConfigError if a folder cannot be created or is not empty; called before any work is done."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; choose another folder or remove it.")
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            folder.rmdir()
    except OSError as error:
        raise ConfigError(f"{out}: cannot be created ({error.strerror or error}); choose another folder.") from None


def set_threads(threads: int | None) -> None:
    """Set the CPU threads of this process, also if torch is already imported. Raises ConfigError."""
    if threads is not None:
        import torch

        from foretrain.processes import MOST_THREADS

        if not 1 <= threads <= MOST_THREADS:
            raise ConfigError(f"threads: {threads} is not between 1 and {MOST_THREADS:,}.")
        torch.set_num_threads(threads)


def command_line() -> str:
    """Return the command as typed, but for secrets, for reports and manifests."""
    program = os.path.basename(sys.argv[0]) or "foretrain"
    words = ["foretrain" if program.startswith("foretrain") else program, *map(without_secrets, sys.argv[1:])]
    return shlex.join(words)


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Yield a function (done, total, text) that updates a progress bar on a terminal and does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total=None, text="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, **BESIDE_PRINTABLE) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total=None, text="": bar.update(
            task, completed=done, total=total, description=f"{title} {text}".strip()
        )
