"""`foretrain tune CONFIG`, and what looks at studies. Imports neither torch, pandas, numpy nor Optuna."""

from __future__ import annotations

import json
import os
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from foretrain.cli.options import (
    Overrides,
    config_and_overrides,
    dash_as_stdout,
    prepare,
    require_single_process,
    write_new_text,
)
from foretrain.cli.tune_compare import (
    holds_comparison,
    names_comparison,
    resume_comparison,
    search_comparison,
    show_comparison,
)
from foretrain.cli.tune_report import tune_lr_range, tune_probe, tune_report
from foretrain.errors import ConfigError, ForetrainError

if TYPE_CHECKING:
    from foretrain.tuning.config import TuneConfig
    from foretrain.tuning.records import TrialRecord
    from foretrain.tuning.study import StudyFolder

SEARCH = "search"  # the command that `foretrain tune CONFIG` is


class TuneGroup(TyperGroup):
    """A group of which a first word that is none of its commands begins a search: `foretrain tune CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, with the command put before those of a search."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [SEARCH, *args]
        return super().parse_args(ctx, args)


tune_app = typer.Typer(
    cls=TuneGroup,
    help="Search hyper-parameters: foretrain tune CONFIG [KEY=VALUE]... (its options: foretrain tune CONFIG --help).",
    no_args_is_help=True,
)
StudyArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study (output_dir).")]
WorkersOption = Annotated[int | None, typer.Option(min=1, max=256, help="Processes of this machine (workers).")]
TrialsOption = Annotated[int | None, typer.Option(min=1, max=100_000, help="Trials of the study (trials).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@tune_app.callback()
def _group() -> None:
    """Search hyper-parameters: foretrain tune CONFIG [KEY=VALUE]... (its options: foretrain tune CONFIG --help)."""


@tune_app.command(SEARCH, hidden=True)
def search(
    items: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="The config, if not given as first argument.")] = None,
    workers: WorkersOption = None,
    trials: TrialsOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the study in output_dir, if any, or join its workers.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the study and describe it, without a trial.")
    ] = False,
) -> None:
    """Search hyper-parameters of a run by the config of a study. Ctrl-C stops at checkpoints; --resume goes on."""
    from foretrain.run.shipped import TUNE
    from foretrain.tuning.config import load_study_config

    path, overrides = config_and_overrides(items, config, example="tune tune/quick trials=10", verb=TUNE)
    given = _given(workers=workers, trials=trials)
    if names_comparison(path):
        overrides += [(f"shared.{key}", value) for key, value in given]
        search_comparison(path, overrides, resume, dry_run, lambda study: _check(study, True), _run)
        return
    study = load_study_config(path, [*overrides, *given])
    _check(study, dry_run)
    if not dry_run:
        _run(study, resume)


@tune_app.command("resume")
def tune_resume(folder: StudyArgument, workers: WorkersOption = None, trials: TrialsOption = None) -> None:
    """Go on with a study that was stopped, or join its workers from this machine; --trials N lets it go on to N."""
    from foretrain.tuning.study import open_study

    given = _given(workers=workers, trials=trials)
    if holds_comparison(folder):
        resume_comparison(folder, given, lambda study: _check(study, True), _run)
        return
    config = open_study(folder).config.model_copy(update=dict(given))
    _check(config, False)
    _run(config, True)


@tune_app.command("show")
def tune_show(folder: StudyArgument, as_json: JsonOption = False) -> None:
    """Show a study: its trials, those at work, its workers, and the best trial beside the run as it stands."""
    require_single_process("tune show")
    from foretrain.tuning.leases import Leases
    from foretrain.tuning.study import open_study
    from foretrain.tuning.tables import history_lines

    if holds_comparison(folder):
        show_comparison(folder, as_json)
        return
    study = open_study(folder)
    records = study.records()
    if as_json:
        found = [record.model_dump(mode="json") for record in records]
        typer.echo(json.dumps(found, indent=1))
        return
    for line in history_lines(study, records, Leases(study.leases, "").holders()):
        typer.echo(line)


@tune_app.command("best")
def tune_best(
    folder: StudyArgument,
    trial: Annotated[int | None, typer.Option(min=0, help="Of this trial (default: the best).")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The config to write, never overwritten (default: print it).")
    ] = None,
) -> None:
    """Print the config of a run with the values of the best trial, and where they are from."""
    require_single_process("tune best")
    from foretrain.atomic import is_stream
    from foretrain.tuning.study import chosen, open_study

    study = open_study(folder)
    study.check_run()
    text = _best_yaml(study, chosen(study, trial))
    out = dash_as_stdout(out)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_new_text(out, text)
    if not is_stream(out):
        verb = "train" if study.config.task == "train" else "config show"
        typer.echo(f"wrote {out}" + (f"; foretrain {verb} {shlex.quote(str(out))}" if verb == "train" else ""))


tune_app.command("report")(tune_report)
tune_app.command("lr-range")(tune_lr_range)
tune_app.command("probe")(tune_probe)


def _given(**options: Any) -> list[tuple[str, Any]]:
    """Return the options that were given, as keys of a study."""
    return [(key, value) for key, value in options.items() if value is not None]


def _check(config: TuneConfig, describe: bool) -> None:
    """Refuse a study that cannot run; print what is known of it before its first trial."""
    require_single_process("tune")
    if find_spec("optuna") is None:
        raise ConfigError("tune: needs the package optuna; pip install 'foretrain[tune]'.")
    prepare(None)
    from foretrain.tuning.checks import check_study
    from foretrain.tuning.samplers import check_sampler

    check_sampler(config)
    for line in check_study(config):
        typer.echo(line)
    if describe:
        _describe(config)


def _run(config: TuneConfig, resume: bool) -> None:
    """Run a study to its end, or as far as it comes."""
    from foretrain.tuning.crew import Crew, CrewLost
    from foretrain.tuning.study import STORAGE, create_study
    from foretrain.tuning.tables import best_lines, state_line
    from foretrain.tuning.worker import open_optuna

    if config.storage is not None and "***@" in config.storage and STORAGE not in os.environ:
        raise ConfigError(f"storage: study.yaml keeps no account of the database. Set {STORAGE} to its whole URL.")
    study = create_study(config, resume)
    with study.claims.held():  # tables of a new database are made once
        open_optuna(study)
    try:
        Crew(study, config.workers, say=lambda line: typer.echo(line)).run()
    except CrewLost as lost:
        _save_tables(study)
        typer.echo(f"error: {lost}", err=True)
        raise typer.Exit(1) from None
    _save_tables(study)
    records = study.records()
    typer.echo(state_line(study, records))
    for line in best_lines(study, records):
        typer.echo(line)
    ended = sum(record.number >= 0 for record in records)
    place = shlex.quote(str(study.path))
    if ended < config.trials:
        typer.echo(
            f"{config.trials - ended} trials are left: foretrain tune resume {place}, unless the space has no more"
        )
    typer.echo(f"all trials: foretrain tune show {place}; the config of the best: foretrain tune best {place}")
    typer.echo(f"history, importance and pictures: foretrain tune report {place} --html")
    typer.echo(f"the winner beside the run and naive on the test part: foretrain tune report {place} --final")


def _save_tables(study: StudyFolder) -> None:
    """Write what programs read of all trials. What was found is in the folders of the trials if that cannot be."""
    from foretrain.tuning.losses import save_study_losses
    from foretrain.tuning.results import write_results

    for save in (save_study_losses, lambda one: write_results(one, one.records())):
        try:
            save(study)
        except (OSError, ForetrainError) as error:
            typer.echo(f"warning: a table of all trials cannot be written: {error}", err=True)


def _describe(config: TuneConfig) -> None:
    """Print what a study would do."""
    from foretrain.tuning.study import directions

    objectives = [f"{one.metric} ({way})" for one, way in zip(config.objectives, directions(config), strict=True)]
    typer.echo(f"study: {config.trials} trials of {config.run} in {config.output_dir}, {config.workers} at a time")
    typer.echo(f"objective: {', '.join(objectives)} on {config.folds.count} validation folds")
    typer.echo(f"sampler {config.sampler.kind}, pruner {config.pruner.kind}, seed {config.seed}")
    for key, parameter in config.space.items():
        rest = parameter.model_dump(exclude_defaults=True, exclude={"kind", "description"})
        typer.echo(f"  {key}: {parameter.kind} {' '.join(f'{name}={value}' for name, value in rest.items())}")


def _best_yaml(study: StudyFolder, record: TrialRecord) -> str:
    """Return the config of a trial, with its lineage in the first lines."""
    from foretrain.config import dump_yaml
    from foretrain.tuning.tables import figures

    config = study.config
    tree = study.run_tree(record.params) if config.task == "train" else dict(record.params)
    what = config.run if config.task == "train" else f"forecast options of {config.model}"
    shown = figures(study, record.values)
    lines = [
        f"{what} with the values of trial {record.number} of the study {study.path} ({study.hash}).",
        f"Validation: {shown}; chosen among {sum(one.number >= 0 for one in study.records())} trials.",
    ]
    return "".join(f"# {line}\n" for line in lines) + dump_yaml(tree)
