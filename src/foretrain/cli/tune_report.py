"""`foretrain tune report`, `lr-range` and `probe`. Imports neither torch, pandas, numpy nor Optuna."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretrain.cli.options import Overrides, config_and_overrides, prepare, require_single_process
from foretrain.errors import ConfigError, DataError

if TYPE_CHECKING:
    from foretrain.tuning.records import TrialRecord
    from foretrain.tuning.study import StudyFolder

PAGE = "report.html"
ConfigOption = Annotated[Path | None, typer.Option(help="The config, if not given as first argument.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def tune_report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study (output_dir).")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of the pictures (default: report in the folder of the study)."),
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help=f"Write {PAGE} too, a page that stands alone, with the pictures inside.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for programs; draws only with --out or --html.")
    ] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Open the test part: the winner beside the default, naive and zero-shot.")
    ] = False,
    trial: Annotated[
        int | None, typer.Option(min=0, help="The edge, or the final table, of this trial (default: of the best).")
    ] = None,
) -> None:
    """Report on a study: history, which keys mattered, the best beside the default, their edge with the choice counted.

    Draws history, importance, candidates, slices, Pareto front and learning curves, and writes
    full_optimization_results.json into the folder of the study.
    """
    require_single_process("tune report")
    from foretrain.tuning.study import open_study

    study = open_study(folder)
    if final:
        if out is not None or html:
            raise ConfigError("--final: opens the test part and draws nothing. Leave --out and --html out.")
        from foretrain.cli.tune_final import report_final

        report_final(study, trial, as_json)
        return
    from foretrain.tuning.report import study_facts, study_lines

    records = study.records()
    facts = study_facts(study, records, trial)
    written = list[str]()
    if not as_json or out is not None or html:
        written = _write(study, records, facts, out or study.path / "report", html)
    if as_json:
        typer.echo(json.dumps(facts, indent=1, allow_nan=False))
        return
    for line in study_lines(facts):
        typer.echo(line)
    typer.echo("")
    for line in written:
        typer.echo(line)


def _write(study: StudyFolder, records: list[TrialRecord], facts: dict[str, Any], out: Path, html: bool) -> list[str]:
    """Write pictures, page and results; return lines that say where. Raises DataError."""
    from foretrain.tuning.losses import save_study_losses
    from foretrain.tuning.records import LOSSES
    from foretrain.tuning.report_page import study_page
    from foretrain.tuning.report_pictures import PICTURES, pictures
    from foretrain.tuning.results import RESULTS, write_results

    _check_folder(out)
    drawn = pictures(study, records, facts)
    files: dict[Path, bytes] = {out / f"{name}.png": data for name, data in drawn.items()}
    if html:
        files[out / PAGE] = study_page(facts, drawn).encode()
    _write_together(files)
    for name in PICTURES:  # of an earlier report, which would be taken for this one's
        if name not in drawn:
            (out / f"{name}.png").unlink(missing_ok=True)
    lines = [f"wrote {out}: {', '.join(path.name for path in files)}" if files else "no picture: no trial has a value"]
    for name, save in (
        (RESULTS, lambda: write_results(study, records, facts)),
        (LOSSES, lambda: save_study_losses(study)),
    ):
        try:
            lines.append(f"wrote {save()}")
        except (OSError, DataError) as error:  # a study that may be read alone, or a trial whose losses are gone
            lines.append(f"{study.path / name}: cannot be written ({error})")
    return lines


def _check_folder(out: Path | None) -> None:
    """Raise ConfigError for a folder that is a file."""
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file. Name a folder.")


def _write_together(files: dict[Path, bytes]) -> None:
    """Write files of one folder, which is made; all of them or none. Raises DataError."""
    from foretrain.forecasting.outputs import scratch_files

    for folder in {path.parent for path in files}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"--out {folder}: cannot be made ({error.strerror or error}). Name another folder."
            ) from None
    with scratch_files(*files) as scratch:
        for path, data in files.items():
            scratch[path].write_bytes(data)


def _named(path: Path) -> str:
    """Return a config as a command names it: a shipped one without its folder."""
    from foretrain.run.shipped import config_folder

    folder = config_folder()
    return (
        path.relative_to(folder).with_suffix("").as_posix() if path.is_relative_to(folder) else shlex.quote(str(path))
    )


def tune_lr_range(
    items: Overrides = None,
    config: ConfigOption = None,
    low: Annotated[float, typer.Option("--from", help="The first rate.")] = 1e-6,
    high: Annotated[float, typer.Option("--to", help="The last rate.")] = 1e-1,
    steps: Annotated[int, typer.Option(help="Steps of the test.")] = 200,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write lr-range.png, .csv and .json into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the learning rate of a config: train some steps while the rate grows, and look where the loss falls.

    The weights of the test are thrown away, and validation and test parts are not read.
    """
    require_single_process("tune lr-range")
    path, overrides = config_and_overrides(items, config, example="tune lr-range debug")
    prepare(None)
    from foretrain.evaluation.plots import png
    from foretrain.tuning.lr_range import check_range, draw_range, range_lines, run_range
    from foretrain.tuning.report_pictures import with_palette
    from foretrain.tuning.short_run import one_run, to_stderr

    check_range(low, high, steps)
    _check_folder(out)
    found = run_range(one_run(path, overrides), low, high, steps, to_stderr())
    if out is not None:
        drawn, facts = png(draw_range, found, _named(path)), json.dumps(found.facts(), indent=1)
        assert drawn is not None
        _write_together(
            {
                out / "lr-range.png": with_palette(drawn),
                out / "lr-range.csv": found.csv().encode(),
                out / "lr-range.json": facts.encode(),
            }
        )
    if as_json:
        typer.echo(json.dumps(found.facts(), indent=1))
        return
    for line in range_lines(found, _named(path)):
        typer.echo(line)
    if out is not None:
        typer.echo(f"wrote {out}: lr-range.png, lr-range.csv, lr-range.json")


def tune_probe(
    items: Overrides = None,
    config: ConfigOption = None,
    steps: Annotated[int, typer.Option(min=10, help="Steps of the probe.")] = 200,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write probe.png and probe.json into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a config trains, by its first steps: loss, gradients, clipping, speed, memory, time of the whole run.

    The weights are thrown away, and the test part is not read. Exit code 1 if it does not train.
    """
    require_single_process("tune probe")
    path, overrides = config_and_overrides(items, config, example="tune probe debug")
    prepare(None)
    from foretrain.evaluation.plots import png
    from foretrain.run.health_picture import draw_health
    from foretrain.tuning.probe import FAILS, probe_lines, run_probe
    from foretrain.tuning.report_pictures import with_palette
    from foretrain.tuning.short_run import one_run, to_stderr

    _check_folder(out)
    found = run_probe(one_run(path, overrides), steps, to_stderr())
    if out is not None:
        drawn = png(draw_health, found.records, f"probe of {_named(path)}") if found.health is not None else None
        files = {out / "probe.json": json.dumps(found.facts(), indent=1).encode()}
        files |= {} if drawn is None else {out / "probe.png": with_palette(drawn)}
        _write_together(files)
    if as_json:
        typer.echo(json.dumps(found.facts(), indent=1))
    else:
        for line in probe_lines(found):
            typer.echo(line)
        if out is not None:
            typer.echo(f"wrote {out}")
    if found.verdict == FAILS:
        raise typer.Exit(1)
