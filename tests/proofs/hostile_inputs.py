"""Run commands on inputs that ask for too much, and measure their time and memory.

    python tests/proofs/hostile_inputs.py [--only npy,gzip] [--processes] [--json FILE]

Each input is small and asks for more than any machine has: numbers of 10^12 in headers, configs and options, files that
unpack to gigabytes, nesting, aliases, 100,000 columns. A command must end within 10 s and with at most 1 GB at its peak
beyond what the imports take, with exit code 0 or with 2 and one line: it runs in a process forked after the imports
(fuzzing/process.py). With --processes each command is a new interpreter, and the CPU seconds and the peak of a process
that imports torch alone are subtracted. The exit code is 1 if an input was not handled so.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuzzing.process import ended, import_all, verdict
from fuzzing.subjects import FIXTURES, table

SECONDS, MEMORY = 10.0, 1 << 30
DIGITS, DEEP, HUGE = "9" * 5000, "[" * 100_000, 10**12
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
Case = tuple[Callable[[Path], Any], list[str]]


def edited(path: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return a function that changes a JSON file of a folder; a number may be given as text between @."""

    def edit(folder: Path) -> None:
        tree = json.loads((folder / path).read_text())
        change(tree)
        (folder / path).write_text(json.dumps(tree).replace('"@', "").replace('@"', ""))

    return edit


def written(path: str, text: str | bytes) -> Callable[[Path], None]:
    """Return a function that writes a file of a folder."""
    raw = text.encode() if isinstance(text, str) else text
    return lambda folder: (folder / path).write_bytes(raw)


def npy(shape: str) -> bytes:
    """Return an npy file of nothing but a header."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def zip_bomb(folder: Path) -> None:
    with (
        zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.csv", "w") as member,
    ):
        for _ in range(2000):
            member.write(b"\x30" * (1 << 20))


def npz_bomb(folder: Path) -> None:
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy(f"({HUGE},)"))


def gzip_bomb(folder: Path) -> None:
    member = gzip.compress(b"a" * (64 << 20), 1)
    (folder / "x.csv.gz").write_bytes(gzip.compress(b"item_id,timestamp,target\n") + member * 32)


def wide(folder: Path) -> None:
    names = ",".join(["timestamp", "target", *(f"c{k}" for k in range(100_000))])
    (folder / "wide.csv").write_text(
        "\n".join([names, *(",".join(["2024-01-01", *["1"] * 100_001]) for _ in range(3))])
    )


def unnamed(folder: Path) -> None:
    rows = [",".join(["2024-01-01", *["1"] * 100_000])] * 3
    (folder / "wide.csv").write_text("\n".join([",".join(["timestamp", *[""] * 100_000]), *rows]))


ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
FORECAST = ["forecast", "model", "series.csv", "--out", "f.csv", "--threads", "1"]
RESUME, ADAPTER = ["train", "interrupted.yaml", "--resume"], "lora/adapters/default"
GENERATE = ["data", "generate", "s.yaml", "--out", "o", "--num-series"]
SHOW, DRY = ["config", "show", "c.yaml"], ["train", "c.yaml", "--dry-run"]


def of_config(key: str, value: Any) -> Case:
    return (lambda folder: None), [*DRY, f"{key}={value}"]


def cases() -> dict[str, Case]:
    """Return every input by name: what it changes in a folder, and the command."""
    nothing = lambda folder: None  # noqa: E731
    found: dict[str, Case] = {
        "npy header": (written("x.npy", npy(f"({HUGE},)")), ["data", "import", "x.npy", "--out", "o"]),
        "npy dimensions": (written("x.npy", npy(f"({2**40}, {2**40})")), ["data", "import", "x.npy", "--out", "o"]),
        "npz member": (npz_bomb, ["data", "import", "x.npz", "--out", "o"]),
        "zip bomb": (zip_bomb, ["data", "import", "x.zip", "--out", "o"]),
        "gzip bomb": (gzip_bomb, ["data", "import", "x.csv.gz", "--out", "o"]),
        "gzip bomb, forecast": (gzip_bomb, ["forecast", "model", "x.csv.gz", "--out", "f.csv"]),
        "gzip bomb, score": (gzip_bomb, ["score", "x.csv.gz"]),
        "yaml aliases": (written("b.yaml", ALIASES), ["config", "show", "b.yaml"]),
        "yaml depth": (written("b.yaml", "a: " + "[" * 50_000), ["config", "show", "b.yaml"]),
        "yaml digits": (written("b.yaml", f"seed: {DIGITS}\n"), ["config", "show", "b.yaml"]),
        "override digits": (nothing, [*SHOW, f"seed={DIGITS}"]),
        "override depth": (nothing, [*SHOW, "seed=" + "[" * 20_000]),
        "config.json depth": (written("model/config.json", '{"a":' * 50_000), FORECAST),
        "config.json digits": (edited("model/config.json", lambda tree: tree.update(d_ff=f"@{DIGITS}@")), FORECAST),
        "config.json layers": (edited("model/config.json", lambda tree: tree.update(num_layers=10**9)), FORECAST),
        "config.json d_ff": (edited("model/config.json", lambda tree: tree.update(d_ff=HUGE)), FORECAST),
        "config.json d_model": (edited("model/config.json", lambda tree: tree.update(d_model=2**20)), FORECAST),
        "index depth": (
            lambda folder: (
                (folder / "model/model.safetensors").unlink(),
                (folder / "model/model.safetensors.index.json").write_text("[" * 100_000),
            ),
            FORECAST,
        ),
        "safetensors header": (written("model/model.safetensors", (64 << 30).to_bytes(8, "little") + b"{}"), FORECAST),
        "release.json depth": (written("model/release.json", "[" * 100_000), FORECAST),
        "manifest seasonality": (
            edited("corpus/manifest.json", lambda tree: tree.update(seasonality=10**15)),
            ["evaluate", "model", "--data", "corpus"],
        ),
        "wide import": (wide, ["data", "import", "wide.csv", "--out", "o"]),
        "wide forecast": (wide, ["forecast", "model", "wide.csv", "--out", "f.csv"]),
        "wide score": (wide, ["score", "wide.csv"]),
        "unnamed import": (unnamed, ["data", "import", "wide.csv", "--out", "o"]),
        "unnamed forecast": (unnamed, ["forecast", "model", "wide.csv", "--out", "f.csv"]),
        "unnamed score": (unnamed, ["score", "wide.csv"]),
        "future depth": (written("a.json", "[" * 100_000), [*FORECAST, "--future", "a.json"]),
        "json depth": (written("x.json", "[" * 100_000), ["data", "import", "x.json", "--out", "o"]),
        "json digits": (written("x.json", f'[{{"target": {DIGITS}}}]'), ["data", "import", "x.json", "--out", "o"]),
        "synthetic length": (nothing, [*GENERATE, "1", f"lengths.0.longest={HUGE}"]),
        "synthetic count": (nothing, [*GENERATE, str(10**18)]),
        "prediction_length": (nothing, [*FORECAST, "--prediction-length", str(HUGE)]),
        "context_length": (nothing, [*FORECAST, "--context-length", str(HUGE)]),
        "batch_size": (nothing, [*FORECAST, "--batch-size", str(HUGE)]),
        "num_windows": (nothing, ["evaluate", "model", "--data", "corpus", "--num-windows", str(HUGE)]),
        "evaluate batch_size": (nothing, ["evaluate", "model", "--data", "corpus", "--batch-size", str(HUGE)]),
        "evaluate seasonality": (nothing, ["evaluate", "model", "--data", "corpus", "--seasonality", str(10**15)]),
        "threads": (nothing, [*FORECAST[:-1], "100000"]),
        "forecast seed": (nothing, [*FORECAST, "--seed", str(2**64)]),
        "adapter depth": (written(f"{ADAPTER}/adapter_config.json", DEEP), ["forecast", ADAPTER, "series.csv"]),
        "run.lock digits": (written("interrupted/run.lock", f'{{"pid": {DIGITS}}}'), RESUME),
        "metrics.jsonl depth": (written("interrupted/metrics.jsonl", "[" * 100_000 + "\n"), RESUME),
    }  # fmt: skip
    for key, value in (
        ("data.prediction_length", HUGE), ("data.context_length", HUGE), ("training.batch_size", HUGE),
        ("training.micro_batch_size", HUGE), ("training.max_steps", 10**18), ("threads", 100_000), ("seed", 2**64),
        ("model.num_layers", 10**9), ("model.d_ff", HUGE), ("adapter.rank", 10**9),
        ("training.token_budget.max_tokens_per_batch", HUGE), ("optimizer.learning_rate", ".inf"),
        ("output_dir", '"a\\0b"'), ("output_dir", "x" * 5000), ("evaluation.num_windows", HUGE), ("data.stride", HUGE),
    ):  # fmt: skip
        found[f"{key} {str(value)[:12]}"] = of_config(key, value)
    return found


def template(folder: Path) -> None:
    """Write the whole files that an input changes."""
    shutil.copytree(FIXTURES / "chronos2", folder, dirs_exist_ok=True)
    shutil.copytree(FIXTURES / "toto" / "lora", folder / "lora", dirs_exist_ok=True)
    shutil.copytree(folder / "finished" / "release", folder / "model")
    table()[["item_id", "timestamp", "target"]].to_csv(folder / "series.csv", index=False)
    shutil.copy(folder / "finished.yaml", folder / "c.yaml")
    shutil.copy(Path(__file__).parents[2] / "configs" / "synthetic" / "mixture.yaml", folder / "s.yaml")


def measured(command: list[str], folder: Path) -> tuple[int, str, str, float, int]:
    """Run a command; return its exit code, what it said, its CPU seconds and its peak of resident memory in bytes."""
    environment = {**os.environ, **ENVIRONMENT, "XDG_CACHE_HOME": str(folder / "cache")}

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err, preexec_fn=limit)
        _, status, used = os.wait4(process.pid, 0)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode("utf-8", "replace"))
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, *said, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def forked(name: str, case: Case, whole: Path) -> dict[str, Any]:
    """Try one input in a process forked from this one; return its line."""
    change, arguments = case

    def prepare() -> Path:
        folder = whole.parent / "tried" / "one"
        shutil.rmtree(folder.parent, ignore_errors=True)
        shutil.copytree(whole, folder)
        change(folder)
        return folder

    end = ended(arguments, prepare, ENVIRONMENT)
    about = {"seconds": round(end.seconds, 1), "mb": end.memory >> 20}
    return {"input": name, "how": end.how, "why": (end.why or end.output)[:160], **about}


def tried(name: str, case: Case, whole: Path, base: tuple[float, int]) -> dict[str, Any]:
    """Try one input in a new interpreter; return its line."""
    change, arguments = case
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        folder = Path(scratch) / "one"
        shutil.copytree(whole, folder)
        change(folder)
        code, out, err, seconds, memory = measured([sys.executable, "-m", "foretrain.cli", *arguments], folder)
    seconds, memory = max(0.0, seconds - base[0]), max(0, memory - base[1])
    how, why = verdict(code, out, err, memory)
    if how != "fault" and seconds > SECONDS:
        how, why = "fault", "time"
    return {"input": name, "how": how, "why": why[:160], "seconds": round(seconds, 1), "mb": memory >> 20}


def forks(chosen: dict[str, Case], whole: Path) -> Iterator[dict[str, Any]]:
    """Try inputs in processes forked after the imports; yield their lines."""
    os.environ.update({**ENVIRONMENT, "XDG_CACHE_HOME": str(whole.parent / "cache")})
    import_all()
    for name, case in chosen.items():
        yield forked(name, case, whole)


def own_processes(chosen: dict[str, Case], whole: Path) -> Iterator[dict[str, Any]]:
    """Try inputs in new interpreters; yield their lines."""
    runs = [measured([sys.executable, "-c", "import torch"], whole) for _ in range(2)]
    base = min(run[3] for run in runs), min(run[4] for run in runs)
    for name, case in chosen.items():
        yield tried(name, case, whole, base)


def main() -> int:
    """Try the inputs, print a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="comma-separated beginnings of names (default: all)")
    parser.add_argument("--processes", action="store_true", help="a new interpreter for each input")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    wanted = tuple(args.only.split(",")) if args.only else ("",)
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        whole = Path(scratch) / "whole"
        template(whole)
        chosen = {name: case for name, case in cases().items() if name.startswith(wanted)}
        lines = []
        for line in own_processes(chosen, whole) if args.processes else forks(chosen, whole):
            lines.append(line)
            print(json.dumps(line), flush=True)
    faults = [line["input"] for line in lines if line["how"] == "fault"]
    most = {"inputs": len(lines), "faults": len(faults), "most_mb": max(line["mb"] for line in lines)}
    most |= {"longest_s": max(line["seconds"] for line in lines)}
    print(json.dumps(most))
    if args.json is not None:
        args.json.write_text(json.dumps({**most, "lines": lines}, indent=1) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
