"""`foretrain runs`: what the files of runs tell. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foretrain.cli.options import require_single_process
from foretrain.errors import ConfigError, DataError
from foretrain.hints import did_you_mean
from foretrain.reading import believing

if TYPE_CHECKING:
    from foretrain.run.curves import Curves
    from foretrain.training.run_record import RunRecord

runs_app = typer.Typer(help="Look at runs.", no_args_is_help=True)


@runs_app.callback()
def _group() -> None:
    """Look at runs."""


@runs_app.command("health")
def runs_health(
    run: Annotated[Path, typer.Argument(help="A run folder, or that of a pipeline with stages.")],
    step: Annotated[int | None, typer.Option(min=1, help="As of this step (default: the newest).")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a picture of it (.png, .svg, .pdf), with its alarms.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print the report on a run's health from its metrics.jsonl: loss, gradients, speed, data, scores; or draw it."""
    require_single_process("runs health")
    from foretrain.training.health import health, render
    from foretrain.training.journal import read_journal

    files = [folder / "metrics.jsonl" for folder in _with_journal(run)]
    found = {}
    for file in files:
        with believing(file, DataError, "Repair its lines."):
            found[file.parent] = health(read_journal(file), step, of=str(file))
    if out is not None:
        _draw_health(found, step, out)
    if as_json:
        tree = {str(folder): report for folder, report in found.items()}
        typer.echo(json.dumps(tree[str(run)] if run in found else tree, indent=1))
        return
    if out is not None:
        typer.echo(f"wrote {out}")
        return
    for folder, report in found.items():
        if folder != run:
            typer.echo(f"{folder}:")
        typer.echo(render(report))


def _draw_health(folders: Collection[Path], step: int | None, out: Path) -> None:
    """Draw the health of a run. Raises ConfigError for a pipeline of several stages."""
    from foretrain.evaluation.plots import check_picture, save, style
    from foretrain.forecasting.outputs import scratch_files
    from foretrain.run.health_picture import draw_health
    from foretrain.training.journal import read_journal

    if len(folders) > 1:
        raise ConfigError(f"--out draws one run. Name a stage: {', '.join(str(folder) for folder in folders)}.")
    (folder,) = folders
    check_picture(out)
    with scratch_files(out) as scratch, style():
        save(draw_health(read_journal(folder / "metrics.jsonl"), str(folder), step), scratch[out])


def _with_journal(run: Path) -> list[Path]:
    """Return the folders with a metrics.jsonl: the run's, or those of its stages. Raises DataError without one."""
    folders = [run, *sorted((run / "stages").glob("*"))]
    found = [folder for folder in folders if (folder / "metrics.jsonl").is_file()]
    if not found:
        what = "no such folder" if not run.is_dir() else "holds no metrics.jsonl, so no run has trained there"
        raise DataError(f"{run}: {what}. Name the output_dir of a run.")
    return found[:1] if found[0] == run else found


FolderArgument = Annotated[Path, typer.Argument(help="The folder that holds the folders of runs.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or that of a pipeline with stages.")]
RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders; a stage has one too.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@runs_app.command("list")
def runs_list(
    folder: FolderArgument = Path("runs"),
    tag: Annotated[str | None, typer.Option(metavar="TAG", help="Only runs with this tag.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of a folder: model, state, best metric and where, time, tags. Updates checkpoint_registry.json."""
    require_single_process("runs list")
    from foretrain.run.promoted import run_in_use
    from foretrain.run.registry import NAME, read_entries, refresh
    from foretrain.run.run_tables import by_time, list_lines
    from foretrain.training.run_record import read_run, runs_in

    records, notes = [], list[str]()
    for place in runs_in(folder):
        try:
            records.append(read_run(place))
        except DataError as error:
            notes.append(str(error))
    notes += [problem for record in records for one in (record, *record.stages) for problem in one.problems]
    try:
        entries, more = refresh(folder, records)
        notes += more
    except (OSError, DataError) as error:  # a folder to read alone, another writer, a registry of a newer format
        entries = {}
        with suppress(OSError, DataError):
            entries = read_entries(folder)
        why = f"cannot be written: {error.strerror or error}" if isinstance(error, OSError) else f"not updated: {error}"
        notes.append(f"{folder / NAME}: {why}")
    tags = {str(folder / path): entry["tags"] for path, entry in entries.items()}
    with suppress(OSError, DataError):
        if (used := run_in_use(folder)) is not None:
            tags[str(folder / used)] = ["(in use)", *tags.get(str(folder / used), [])]
    if tag is not None:
        records = [r for r in records if any(tag in tags.get(str(one.folder), ()) for one in (r, *r.stages))]
    for note in notes:
        typer.echo(f"warning: {note}", err=True)
    if as_json:
        found = [{**record.facts(), "tags": tags.get(str(record.folder), [])} for record in by_time(records)]
        typer.echo(json.dumps(found, indent=1))
        return
    of = f" with the tag {tag!r}" if tag is not None else ""
    typer.echo("\n".join(list_lines(records, tags)) or f"{folder}: holds no run{of}")


@runs_app.command("show")
def runs_show(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show a run: settings, newest line, trend, validations, checkpoints with the best, release, what to do next."""
    require_single_process("runs show")
    from foretrain.run.registry import tags_of
    from foretrain.run.run_tables import show_facts, show_lines

    record = _read(run)
    try:
        tags = tags_of(run)
    except DataError as error:
        typer.echo(f"warning: {error}", err=True)
        tags = []
    facts = show_facts(record, tags)
    typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(show_lines(record, facts)))


@runs_app.command("compare")
def runs_compare(
    runs: RunsArgument,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Rank by this metric (default: the one that chose all weights).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs: settings that differ, metrics side by side, and an order where one metric can tell it."""
    require_single_process("runs compare")
    from foretrain.run.run_tables import compare_facts, compare_lines

    records = _read_several(runs, "compare", least=2)
    known = list(dict.fromkeys(name for record in records for name in record.metrics))
    if metric is not None and metric not in known:
        raise ConfigError(f"--metric {metric!r}: none of the runs has it. {did_you_mean(metric, known, _known(known))}")
    facts = compare_facts(records, metric)
    typer.echo(json.dumps(facts, indent=1) if as_json else "\n".join(compare_lines(facts)))


@runs_app.command("plot")
def runs_plot(
    runs: RunsArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a picture (.png, .svg, .pdf); without it, bars.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Metric of validations (default: the one that chooses weights)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show training loss and a validation metric by step, of one or several runs."""
    require_single_process("runs plot")
    from foretrain.run.curves import MOST, chosen_metric, curve_facts, curve_lines, curves_of

    if len(runs) > MOST:
        raise ConfigError(f"runs plot: {len(runs)} runs could not be told apart. Name up to {MOST}.")
    records = _read_several(runs, "plot", least=1)
    chosen = chosen_metric(records, metric)
    curves = [curves_of(record, chosen) for record in records]
    if out is not None:
        _draw(records, curves, chosen, out)
    if as_json:
        typer.echo(json.dumps(curve_facts(curves, chosen), indent=1))
    elif out is None:
        typer.echo("\n".join(curve_lines(curves, chosen)))
    else:
        typer.echo(f"wrote {out}")


@runs_app.command("tag")
def runs_tag(
    run: RunArgument,
    tags: Annotated[list[str], typer.Argument(metavar="TAG...", help="Tags to add.")],
    remove: Annotated[bool, typer.Option("--remove", help="Remove these tags.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add tags to a run, or remove them, in checkpoint_registry.json of the folder that holds it."""
    require_single_process("runs tag")
    from foretrain.run.registry import change_tags

    _read(run)
    now = change_tags(run, () if remove else tags, tags if remove else ())
    typer.echo(json.dumps({"run": str(run), "tags": now}) if as_json else f"{run}: {_known(now) or 'no tags'}")


NoteOption = Annotated[str | None, typer.Option("--note", metavar="TEXT", help="A line for the history.")]


@runs_app.command("promote")
def runs_promote(
    run: RunArgument,
    force: Annotated[bool, typer.Option("--force", help="Also a run that its gate did not promote.")] = False,
    note: NoteOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put the release of a run in use in the folder that holds it, if its gate promoted it."""
    require_single_process("runs promote")
    from foretrain.run.promoted import promote

    done = promote(_read(run), force=force, note=note)
    by = "forced" if done["forced"] else "promoted by its gate"
    typer.echo(json.dumps(done) if as_json else f"{run}: in use ({by}), hash {done['sha256'][:12]}")


@runs_app.command("rollback")
def runs_rollback(folder: FolderArgument = Path("runs"), note: NoteOption = None, as_json: JsonOption = False) -> None:
    """Take the newest promotion in a folder of runs back: the release before it is in use again."""
    require_single_process("runs rollback")
    from foretrain.run.promoted import rollback

    left, back = rollback(folder, note=note)
    said = f"{folder}: {back['run']} is in use again, in the place of {left['run']}"
    typer.echo(json.dumps({"left": left, "in_use": back}) if as_json else said)


@runs_app.command("promoted")
def runs_promoted(
    folder: FolderArgument = Path("runs"),
    history: Annotated[bool, typer.Option("--history", help="Every promotion and rollback.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the path of the release in use, for `foretrain forecast "$(foretrain runs promoted)" my.csv`."""
    require_single_process("runs promoted")
    from foretrain.run.promoted import history_lines, in_use
    from foretrain.run.registry import read_promotions

    if history:
        found = read_promotions(folder)
        typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(history_lines(folder)) or "no promotions")
        return
    release = in_use(folder)
    typer.echo(json.dumps({"release": str(release)}) if as_json else str(release))


def _draw(records: list[RunRecord], curves: list[Curves], metric: str | None, out: Path) -> None:
    from foretrain.evaluation.plots import check_picture, save, style
    from foretrain.forecasting.outputs import scratch_files
    from foretrain.run.curves import draw_curves

    check_picture(out)
    with scratch_files(out) as scratch, style():
        save(draw_curves(records, curves, metric), scratch[out])


def _read(run: Path) -> RunRecord:
    """Return the record of a run; warns of its files that cannot be read. Raises DataError if it is no run."""
    from foretrain.training.run_record import read_run

    record = read_run(run)
    for one in (record, *record.stages):
        for problem in one.problems:
            typer.echo(f"warning: {problem}", err=True)
    return record


def _read_several(runs: list[Path], verb: str, least: int) -> list[RunRecord]:
    """Return the records of different single runs. Raises ConfigError for too few, twice the same, and pipelines."""
    if len({path.absolute() for path in runs}) < max(least, len(runs)):
        raise ConfigError(f"runs {verb}: name {'two or more ' if least > 1 else ''}different runs.")
    records = [_read(run) for run in runs]
    for record in records:
        if record.pipeline:
            stages = ", ".join(str(stage.folder) for stage in record.stages)
            raise ConfigError(f"{record.folder}: is a pipeline. Name a stage of it: {stages or 'none has started'}.")
    return records


def _known(names: list[str]) -> str:
    return ", ".join(names)
