"""The verbs `foretrain launch mpirun` and `launch slurm`, which start `foretrain train` on several hosts.

Imports neither torch, pandas nor numpy, so that the command line starts quickly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foretrain.cli.options import config_and_overrides, prepare, require_single_process, train_flags

launch_app = typer.Typer(help="Train on several hosts: by mpirun, or as a job of SLURM.", no_args_is_help=True)
_TRAIN_WORDS: dict[str, Any] = {"ignore_unknown_options": True}  # they are train's, which checks them

Words = Annotated[
    list[str],
    typer.Argument(metavar="CONFIG [KEY=VALUE | OPTION OF TRAIN]...", help="As for foretrain train."),
]


@launch_app.command("mpirun", context_settings=_TRAIN_WORDS)
def launch_mpirun(
    context: typer.Context,
    words: Words,
    hostfile: Annotated[Path, typer.Option(help="Lines of HOST [slots=N], as for mpirun.")],
    np: Annotated[
        int | None, typer.Option("--np", min=1, help="Processes in all, which fill the slots in order.")
    ] = None,
    ranks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processes on each host (default: its slots).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the command, and start nothing.")] = False,
) -> None:
    """Train on the hosts of a hostfile by Open MPI's mpirun."""
    require_single_process("launch mpirun")
    from foretrain.cli.hostfile import compose, places, read_hostfile, run

    check_words(context, words)
    command = compose(places(read_hostfile(hostfile), hostfile, np, ranks_per_node), words)
    run(command, dry_run=dry_run)


@launch_app.command("slurm", context_settings=_TRAIN_WORDS)
def launch_slurm(
    context: typer.Context,
    words: Words,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")],
    time: Annotated[str, typer.Option(help="Most time of one start: 24:00:00, 2-00:00:00 or minutes.")],
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs of a node, a process each.")] = 0,
    tasks_per_node: Annotated[
        int | None, typer.Option(min=1, help="Processes of a node (default: its GPUs, or 1).")
    ] = None,
    cpus_per_task: Annotated[int | None, typer.Option(min=1, help="CPUs of a process, and its threads.")] = None,
    partition: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    account: Annotated[str | None, typer.Option(help="As for sbatch.")] = None,
    job_name: Annotated[str | None, typer.Option(help="As for sbatch (default: the config's name).")] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="One more, such as --sbatch=--qos=high; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write (default: JOB-NAME.sbatch).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    submit: Annotated[bool, typer.Option("--submit", help="Also submit it by sbatch.")] = False,
) -> None:
    """Write an sbatch file that trains, saves a checkpoint before its time is up, and goes on in a new start."""
    require_single_process("launch slurm")
    from foretrain.cli.sbatch import BatchJob, check_resume, submit_job, write_job

    parsed = check_words(context, words)
    check_resume(parsed)
    job = BatchJob(
        nodes=nodes,
        tasks=tasks_per_node or gpus_per_node or 1,
        time=time,
        gpus=gpus_per_node,
        cpus=cpus_per_task,
        partition=partition,
        account=account,
        name=job_name or str(parsed["items"][0] if parsed["config"] is None else parsed["config"]),
        extra=tuple(sbatch or ()),
        words=tuple(words) if parsed["resume"] else (*words, "--resume"),
    )
    file = write_job(job, out, overwrite=overwrite)
    if submit:
        submit_job(file)


def check_words(context: typer.Context, words: list[str]) -> dict[str, Any]:
    """Return the values of train's arguments and options in some words; raises what train would raise for them.

    So a slip shows here, and neither on every host nor after hours in a queue.
    """
    prepare(None)
    root: Any = context.find_root()
    parsed = root.command.commands["train"].make_context("train", list(words), parent=root).params
    config, overrides = config_and_overrides(parsed["items"], parsed["config"])
    from foretrain.run.stages import Draft

    Draft.read(config, overrides, train_flags(parsed)).build()
    return parsed
