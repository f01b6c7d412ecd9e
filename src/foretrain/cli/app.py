"""The commands of `foretrain`. Each imports its code when called, so that `foretrain --help` is fast.

Errors for users are printed in one line with exit code 2. This module imports no torch, pandas or numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foretrain.cli.benchmark import benchmark
from foretrain.cli.compare import compare
from foretrain.cli.configs import config_app
from foretrain.cli.data import data_app
from foretrain.cli.evaluate import evaluate, score
from foretrain.cli.forecast import forecast
from foretrain.cli.launch import launch_app
from foretrain.cli.options import (
    AccumulationOption,
    Device,
    DryRunOption,
    DType,
    MicroBatchOption,
    Overrides,
    ThreadsOption,
    TokenBudgetOption,
    VerboseOption,
    config_and_overrides,
    prepare,
    require_single_process,
    train_flags,
)
from foretrain.cli.quick import quick
from foretrain.cli.reading import GroupedCommand
from foretrain.cli.runs import runs_app
from foretrain.cli.start import importing
from foretrain.cli.tune import tune_app
from foretrain.errors import ConfigError

app = typer.Typer(
    name="foretrain",
    help="Train, fine-tune, evaluate and use time-series foundation models; naive baselines beside every metric.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(launch_app, name="launch")
app.add_typer(runs_app, name="runs")
app.add_typer(tune_app, name="tune")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("runs/demo"),
    threads: ThreadsOption = None,
) -> None:
    """Generate data, import it, fine-tune the model in the box, compare it with naive forecasts and write a report."""
    require_single_process("demo")
    prepare(threads)
    from foretrain.cli.demo import run_demo

    run_demo(out)


@app.command()
def train(
    context: typer.Context,
    items: Overrides = None,
    config: Annotated[Path | None, typer.Option(help="The config, if not given as first argument.")] = None,
    model_id: Annotated[str | None, typer.Option(help="Start from this release or hub id (model.model_id).")] = None,
    random_init: Annotated[
        bool | None, typer.Option("--random-init/--no-random-init", help="Whether to start from random weights.")
    ] = None,
    context_length: Annotated[int | None, typer.Option(min=1, help="Steps of history (data.context_length).")] = None,
    prediction_length: Annotated[int | None, typer.Option(min=1, help="Steps ahead (data.prediction_length).")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps (training.max_steps).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak rate (optimizer.learning_rate).")] = None,
    per_device_train_batch_size: MicroBatchOption = None,
    gradient_accumulation_steps: AccumulationOption = None,
    token_budget: TokenBudgetOption = None,
    output_dir: Annotated[Path | None, typer.Option(help="The run folder (output_dir).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume from the newest intact checkpoint, if any.")] = False,
    resume_from_checkpoint: Annotated[Path | None, typer.Option(help="Resume from this checkpoint folder.")] = None,
    max_train_series: Annotated[int | None, typer.Option(min=1, help="Random subset (data.max_train_series).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data order, initial weights and dropout (seed).")] = None,
    device: Annotated[Device | None, typer.Option(help="Device to train on (device).")] = None,
    dtype: Annotated[DType | None, typer.Option(help="Precision of the forward pass (training.dtype).")] = None,
    threads: ThreadsOption = None,
    dry_run: DryRunOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train or fine-tune a model from a config. Ctrl-C saves a checkpoint and exits; --resume continues from it.

    If the config has stages, KEY=VALUE applies to the stages that do not set the key, stages.NAME.KEY=VALUE to one
    stage, and the flags that set keys of sections (--context-length to --dtype) override the key in all stages.
    """
    prepare(threads)  # options that set a key of the config are read from the context
    config, overrides = config_and_overrides(items, config)
    with importing():
        from foretrain.cli.train import BatchFlags, train_command
        from foretrain.models.checkpoints import checkpoint_at, what_instead

    if resume_from_checkpoint is not None:  # or a name of it, such as runs/x/latest
        found = checkpoint_at(resume_from_checkpoint)
        if found is None and (what := what_instead(resume_from_checkpoint)):
            raise ConfigError(f"{resume_from_checkpoint}: cannot be resumed from: {what}")
        resume_from_checkpoint = found or resume_from_checkpoint
    accepted = train_command(
        config,
        overrides,
        flags=train_flags(context.params),
        batch=BatchFlags(per_device_train_batch_size, gradient_accumulation_steps),
        resume=str(resume_from_checkpoint) if resume_from_checkpoint else ("auto" if resume else None),
        dry_run=dry_run,
        verbose=verbose,
    )
    if not accepted:
        raise typer.Exit(2)


app.command(cls=GroupedCommand)(quick)
app.command()(benchmark)
app.command()(compare)
app.command(cls=GroupedCommand)(evaluate)
app.command(cls=GroupedCommand)(score)
app.command(cls=GroupedCommand)(forecast)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder of a run (checkpoints/step-...).")],
    out: Annotated[Path, typer.Option(help="The release folder to create.")],
    ema: Annotated[
        bool, typer.Option("--ema", help="Export the averaged (EMA) weights instead of the raw ones.")
    ] = False,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write the adapter alone, in peft's format, not the merged weights.")
    ] = False,
) -> None:
    """Convert a training checkpoint to a release: config.json and weights in upstream's layout."""
    require_single_process("export")
    prepare(None)
    from foretrain.run.export import export_checkpoint

    export_checkpoint(checkpoint, out, ema=ema, adapter=adapter)
    content = "adapter" if adapter else "weights"
    typer.echo(f"wrote {out}: the {'averaged' if ema else 'raw'} {content} of {checkpoint}")


@app.command()
def doctor(
    folder: Annotated[Path, typer.Argument(help="Where runs are to be written.")] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say what to fix, and how; versions and devices, for a bug report. Exit code 1 if there is something to fix."""
    prepare(None)
    from foretrain.cli.doctor import examine

    report = examine(folder)
    typer.echo(report.json() if as_json else report.text())
    raise typer.Exit(1 if report.to_fix else 0)


def _version(show: bool) -> None:
    if show:
        from foretrain import __version__

        typer.echo(f"foretrain {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
