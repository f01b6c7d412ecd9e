"""Give commands files with random damage, and count how they end: accepted, refused in one line, or a fault.

    python tests/proofs/fuzz_files.py [--count 2000] [--seed 0] [--kinds csv,npz] [--keep FOLDER]

Input n is a pure function of (seed, n): a kind of file, a whole file of it, and one to four mutations of its bytes
(flipped bits, cut, repeated, swapped, zeroed or inserted pieces, and words that mean something to parsers). Every
command runs in a process of its own, forked after the imports, with 20 seconds and 4 GiB of address space beyond what
is there. Refused is exit code 2 and text that begins with "error: "; a fault is any other code, a saved report (an
exception that nothing expected), a signal, or the time being up. Faulty inputs stay in --keep. The exit code is 1 if
there was a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

SECONDS, BYTES = 20, 4 << 30
WORDS = [b"\x00", b"\xff", b",", b"\n", b'"', b"-1", b"1e999", b"NaN", b"[", b"{", b"&a", b"*a", b"=", b"\x1b[31m"]
WORDS += [b"9" * 400, b"2024-13-45", b"null", b"true", b"../x", b"\xed\xa0\x80", b"\r", b"\t", b"[" * 300]


def table() -> pd.DataFrame:
    """Three items of hourly values with a category."""
    stamps = pd.date_range("2024-01-01", periods=60, freq="h")
    rng = np.random.default_rng(0)
    parts = [
        pd.DataFrame({"item_id": f"i{k}", "timestamp": stamps, "target": rng.normal(size=60), "kind": ["a", "b"] * 30})
        for k in range(3)
    ]
    return pd.concat(parts, ignore_index=True)


def originals(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return the whole file of each kind: its name and bytes."""
    frame, found = table(), dict[str, tuple[str, bytes]]()
    for kind, write in (
        ("csv", lambda path: frame.to_csv(path, index=False)),
        ("csv.gz", lambda path: frame.to_csv(path, index=False)),
        ("parquet", lambda path: frame.to_parquet(path)),
        ("feather", lambda path: frame.to_feather(path)),
        ("json", lambda path: frame.assign(timestamp=frame["timestamp"].astype(str)).to_json(path, orient="records")),
        ("npy", lambda path: np.save(path, np.random.default_rng(0).normal(size=(3, 60)))),
        ("npz", lambda path: np.savez(path, a=np.arange(60.0), b=np.arange(50.0))),
    ):
        path = folder / f"x.{kind}"
        write(path)
        found[kind] = (path.name, path.read_bytes())
    config = Path(__file__).parents[2] / "configs" / "debug.yaml"
    found["yaml"] = ("c.yaml", config.read_bytes())
    return found


def with_corpus(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return the files of a corpus, of which one at a time is damaged, as kinds `corpus/NAME`."""
    from foretrain.data.importers import import_corpus

    source = folder / "corpus.csv"
    table().to_csv(source, index=False)
    import_corpus([source], folder / "corpus")
    return {f"corpus/{path.name}": (path.name, path.read_bytes()) for path in sorted((folder / "corpus").iterdir())}


def with_release(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Return the files of the model in the box, of which one at a time is damaged, as kinds `release/NAME`."""
    from foretrain.models.shipped import shipped

    shutil.copytree(shipped()["tiny"], folder / "release")
    return {f"release/{path.name}": (path.name, path.read_bytes()) for path in sorted((folder / "release").iterdir())}


def mutated(raw: bytes, rng: random.Random) -> bytes:
    """Return a file with one to four mutations."""
    data = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        size = min(rng.choice((1, 1, 2, 4, 16, 64, 512)), len(data) - at)
        way = rng.randrange(8)
        if way == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1 and at < len(data):
            data[at] = rng.randrange(256)
        elif way == 2:
            del data[at : at + size]
        elif way == 3:
            data[at:at] = data[at : at + size]
        elif way == 4:
            data[at : at + size] = bytes(size)
        elif way == 5:
            data[at:at] = rng.choice(WORDS)
        elif way == 6:
            data[at : at + size] = rng.choice(WORDS)
        elif rng.random() < 0.3:
            del data[at:]
        if not data:
            break
    return bytes(data)


def commands(kind: str, path: Path, folder: Path, rng: random.Random) -> list[str]:
    """Return the command that reads the damaged file."""
    out = str(folder / "out")
    if kind == "yaml":
        return ["config", "show", str(path)]
    if kind.startswith("corpus/"):
        return rng.choice((["data", "inspect", str(path.parent)], ["data", "verify", str(path.parent)]))
    if kind.startswith("release/"):
        series = str(folder / "series.csv")
        return [
            "forecast",
            str(path.parent),
            series,
            "--prediction-length",
            "4",
            "--out",
            f"{out}.csv",
            "--threads",
            "1",
        ]
    if kind in ("csv", "csv.gz", "parquet") and rng.random() < 0.3:
        return ["score", str(path)]
    return ["data", "import", str(path), "--out", out, *rng.choice(([], ["--on-bad", "drop"]))]


def ended(arguments: list[str], folder: Path) -> tuple[str, str]:
    """Run a command in a forked process; return how it ended (accepted, refused or fault) and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.dup2(write, 1)
        os.dup2(write, 2)
        code = 99
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
            os.chdir(folder)
            sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(os.dup(write), "wb"), "utf-8") for _ in range(2))
            sys.argv = ["foretrain", *arguments]
            from foretrain.cli import main

            try:
                main()
                code = 0
            except SystemExit as leave:
                code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read().decode("utf-8", "replace")
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    error = [line for line in text.splitlines() if line.startswith("error: ")]
    if code == 0:
        return "accepted", text
    if code == 2 and error and "\x1b" not in text and "Traceback" not in text:
        return "refused", text
    return "fault", f"exit code {code}\n{text}"


def main() -> int:
    """Run the inputs, print counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="comma-separated, or prefixes of them (default: all)")
    parser.add_argument("--keep", type=Path, help="folder for inputs that ended in a fault")
    args = parser.parse_args()
    import foretrain.cli.commands
    import foretrain.data.frames
    import foretrain.forecasting.predictor  # noqa: F401

    counts, began = dict[str, Counter[str]](), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        base = Path(name)
        table()[["item_id", "timestamp", "target"]].to_csv(base / "series.csv", index=False)
        os.environ["XDG_CACHE_HOME"] = str(base / "cache")
        files: dict[str, tuple[str, bytes]] = {}
        makers: tuple[Callable[[Path], dict[str, tuple[str, bytes]]], ...] = (originals, with_corpus, with_release)
        for make in makers:
            files |= make(base)
        wanted = args.kinds.split(",") if args.kinds else [""]
        kinds = [kind for kind in files if any(kind.startswith(prefix) for prefix in wanted)]
        for number in range(-len(kinds), args.count):  # first every kind without damage
            rng = random.Random(f"{args.seed}/{number}")
            kind = kinds[number] if number < 0 else rng.choice(kinds)
            folder = base / "one"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            shutil.copy(base / "series.csv", folder)
            original, raw = files[kind]
            inside = folder / kind.partition("/")[0] if "/" in kind else folder
            if "/" in kind:
                shutil.copytree(base / kind.partition("/")[0], inside)
            path = inside / original
            path.write_bytes(raw if number < 0 else mutated(raw, rng))
            command = commands(kind, path, folder, rng)
            how, text = ended(command, folder)
            if number < 0:
                if how != "accepted" and command[0] != "score":
                    raise SystemExit(f"{kind} without damage: {text}")
                continue
            counts.setdefault(kind, Counter())[how] += 1
            if how == "fault":
                print(f"{kind} input {number}: {' | '.join(text.splitlines()[-3:])[:300]}", flush=True)
                if args.keep is not None:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, args.keep / f"{args.seed}-{number}-{original}")
                    for report in folder.glob("foretrain-error-*"):
                        shutil.copy(report, args.keep / f"{args.seed}-{number}-report.txt")
    total = sum(counts.values(), Counter[str]())
    for kind, found in sorted(counts.items()):
        print(f"{kind:28}" + "  ".join(f"{how} {found[how]:,}" for how in ("accepted", "refused", "fault")))
    print(json.dumps({"seed": args.seed, "inputs": total.total(), **total, "seconds": round(time.monotonic() - began)}))
    return int(total["fault"] > 0)


if __name__ == "__main__":
    sys.exit(main())
