"""Give commands damaged files and hostile words, and count how they end: accepted, refused in one line, or a fault.

    python tests/proofs/fuzz_files.py [--count 2000 | --minutes 10] [--seed 0] [--kinds table/csv,yaml] [--log FILE]
                                      [--keep FOLDER] [--json benchmarks/results/fuzz.json]

Input n is a pure function of (seed, n) and of the kinds: a file of one kind, damaged, or a command line; and one of the
commands that read it. What can be damaged and what reads it stands in fuzzing/subjects.py, how in
fuzzing/mutations.py, command lines in fuzzing/words.py. Every command runs in a process of its own, forked after the
imports, within the limits that fuzzing/process.py states. Faults are: a traceback or saved report (exit code 1), a
signal, more than 10 s or 1 GB, any other exit code than 0 and 2, an error that is not one line, raw control characters,
and a changed file that a hash covers (corpora, checkpoints) and that was accepted.

--log appends a line of JSON for each input; a later call with the same seed continues after the last one. --json
writes the counts of a whole log. Files that ended in a fault stay in --keep. The exit code is 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fuzzing import found, subjects, words
from fuzzing.process import End, ended, import_all, import_found
from fuzzing.subjects import REPOSITORY, Subject
from fuzzing.words import Line

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}


class Fuzzer:
    """Templates, kinds and the folder in which every input is tried."""

    def __init__(self, base: Path, prefixes: list[str], keep: Path | None) -> None:
        self.base, self.keep = base, keep
        made = subjects.make(base / "templates", self._make, prefixes)
        self.kinds: list[Subject | Line] = [
            kind for kind in (*made, *words.lines()) if any(kind.kind.startswith(prefix) for prefix in prefixes)
        ]
        self.weights = [kind.weight for kind in self.kinds]

    def _make(self, command: list[str], folder: Path) -> None:
        """Run a command that makes a template."""
        end = ended(command, lambda: folder)
        if end.how != "accepted":
            raise SystemExit(f"{command} of a template: {end.why}\n{end.output}")
        import_found(self.base / "templates" / "modules")

    def folder(self, template: str) -> Path:
        """Return a new copy of a template."""
        here = self.base / "tried" / "one"
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(self.base / "templates" / template, here, symlinks=True)
        if template == "tables":
            os.mkfifo(here / "fifo")
            (here / "loop").symlink_to("loop")
            (here / "empty.csv").touch()
        return here

    def whole(self) -> Iterator[str]:
        """Run every command on the undamaged file, which also finds what to import; yield those that fail."""
        known = set[tuple[str, ...]]()
        for subject in self.kinds:
            if isinstance(subject, Line) or (subject.template, subject.file, subject.commands) in known:
                continue
            for command in subject.commands:
                words = self.command(command, subject.file)
                if (key := (subject.template, *words)) in known:
                    continue
                known.add(key)
                end = ended(words, lambda subject=subject: self.folder(subject.template))
                import_found(self.base / "tried" / "modules")
                may = command[0] == "score" or subject.kind.startswith(("yaml/", "foreign/"))  # data and models missing
                if end.how == "fault" or (end.how == "refused" and not may):
                    yield f"{subject.kind}: {' '.join(words)}: {end.why}: {end.output[-600:]}"

    @staticmethod
    def command(template: tuple[str, ...], file: str) -> list[str]:
        return [part.replace("{file}", file) for part in template]

    def tried(self, seed: int, number: int) -> dict[str, Any]:
        """Try one input; return its line of the log."""
        rng = random.Random(f"{seed}/{number}")
        kind = rng.choices(self.kinds, self.weights)[0]
        if isinstance(kind, Line):
            command, environment = kind.draw(rng)
            end = self.end_of_words(kind.template, command, environment)
            return self.line(seed, number, kind.kind, command, end, None, environment)
        raw = (self.base / "templates" / kind.template / kind.file).read_bytes()
        damaged = _damaged(kind, raw, rng)
        command = self.command(rng.choice(kind.commands), kind.file)
        end = self.end_of(kind, damaged, command)
        return self.line(seed, number, kind.kind, command, end, damaged)

    def end_of_words(self, template: str, command: list[str], environment: dict[str, str]) -> End:
        """Run a command line in a copy of a template."""
        return ended(command, lambda: self.folder(template), ENVIRONMENT | environment)

    def end_of(self, kind: Subject, damaged: bytes, command: list[str]) -> End:
        """Run a command on a damaged file; a changed file that its verb must refuse is a fault when accepted."""
        before = (self.base / "templates" / kind.template / kind.file).read_bytes()

        def prepare() -> Path:
            folder = self.folder(kind.template)
            (folder / kind.file).write_bytes(damaged)
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                kind.finish(folder / kind.file)
            return folder

        end = ended(command, prepare, ENVIRONMENT)
        if end.how == "accepted" and set(_verbs(command)) & set(kind.sealed) and _changed(before, damaged):
            return End("fault", "a changed file was accepted", end.code, end.output, end.seconds, end.memory)
        return end

    def line(self, seed: int, number: int, kind: str, command: list[str], end: End, raw: bytes | None,
              environment: dict[str, str] | None = None) -> dict[str, Any]:  # fmt: skip
        line: dict[str, Any] = {"seed": seed, "n": number, "kind": kind, "verb": _verbs(command)[0], "how": end.how}
        line |= {"seconds": round(end.seconds, 2), "mb": end.memory >> 20}
        if end.how == "fault":
            line |= {"why": end.why, "command": command, "environment": environment or {}, "said": end.output[-400:]}
            if self.keep is not None:
                self.keep.mkdir(parents=True, exist_ok=True)
                name = f"{seed}-{number}"
                if raw is not None:
                    (self.keep / f"{name}.input").write_bytes(raw)
                reports = list((self.base / "tried").rglob("foretrain-error-*"))
                text = "\n".join(path.read_text(errors="replace") for path in reports)
                shown = " ".join(map(shlex.quote, command))
                (self.keep / f"{name}.txt").write_text(
                    f"{kind}: {shown}\n{environment}\n{end.output}\n{text}", errors="backslashreplace"
                )
        return line


def _damaged(kind: Subject, raw: bytes, rng: random.Random) -> bytes:
    """Return the damaged file; where a way cannot be taken, its bytes are damaged."""
    try:
        return rng.choice(kind.ways)(raw, rng)
    except (ValueError, RecursionError, OverflowError):
        return subjects.change.bytes_damaged(raw, rng)


def _verbs(command: list[str]) -> list[str]:
    """Return the verb of a command, and with the flags that make it check more or less."""
    verb = " ".join(command[:2]) if command[:1] in (["data"], ["config"]) else (command or [""])[0]
    if "--dry-run" in command:
        return [f"{verb} --dry-run"]
    return [verb, *(f"{verb} {flag}" for flag in ("--verify", "--update") if flag in command)]


def _changed(before: bytes, after: bytes) -> bool:
    """Return True unless two files have the same bytes, or the same value as JSON."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(before) != json.loads(after)
    return before != after


def _log_of(path: Path | None) -> list[dict[str, Any]]:
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def summary(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the counts of a log: inputs and seeds, each kind's outcomes, faults by cause, the largest values."""
    kinds: dict[str, Counter[str]] = {}
    for line in lines:
        kinds.setdefault(line["kind"], Counter())[line["how"]] += 1
    total = Counter(line["how"] for line in lines)
    return {
        "inputs": len(lines),
        "seeds": sorted({line["seed"] for line in lines}),
        **{how: total[how] for how in ("accepted", "refused", "fault")},
        "faults": dict(Counter(line["why"] for line in lines if line["how"] == "fault")),
        "longest_s": max((line["seconds"] for line in lines), default=0),
        "most_mb": max((line["mb"] for line in lines), default=0),
        "kinds": {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())},
        "verbs": dict(sorted(Counter(line["verb"] for line in lines if line["n"] >= 0).items())),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="inputs of this call (default: 2000, or as many as --minutes allow)")
    parser.add_argument("--minutes", type=float, help="end after these minutes")
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--kinds", help="comma-separated, or prefixes of them (default: all)")
    parser.add_argument("--log", type=Path, help="file of JSON lines, continued by the next call with its seed")
    parser.add_argument("--json", type=Path, help="file for the counts of the log, or of this call")
    parser.add_argument("--keep", type=Path, help="folder for inputs that ended in a fault")
    parser.add_argument("--no-whole", action="store_true", help="do not try the undamaged files first")
    parser.add_argument("--found", action="store_true", help="try the inputs that once ended in a fault first")
    return parser.parse_args()


def main() -> int:
    """Run the inputs, print counts, and return the exit code."""
    args = _arguments()
    seed = random.SystemRandom().randrange(10**6) if args.seed is None else args.seed
    os.environ.update(ENVIRONMENT)
    import_all()
    lines = _log_of(args.log)
    first = max((line["n"] for line in lines if line["seed"] == seed), default=-1) + 1
    count = args.count if args.count is not None else 10**9 if args.minutes else 2000
    until = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")
    print(f"seed {seed}, from input {first}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, contextlib.ExitStack() as stack:
        base = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(base / "cache")
        (base / "tried").mkdir()
        fuzzer = Fuzzer(base, args.kinds.split(",") if args.kinds else [""], args.keep)
        log = stack.enter_context(args.log.open("a")) if args.log else None
        if not args.no_whole and (failed := list(fuzzer.whole())):
            print(*failed, sep="\n")
            return 1
        began, this_call = time.monotonic(), list[dict[str, Any]]()
        inputs = (fuzzer.tried(seed, number) for number in range(first, first + count))
        for line in itertools.chain(found.tried(fuzzer) if args.found else (), inputs):
            this_call.append(line)
            if log is not None:
                print(json.dumps(line), file=log, flush=True)
            if line["how"] == "fault":
                print(f"{line['kind']} input {line['n']}: {line['why']}: {' '.join(line['command'])[:200]}", flush=True)
            if time.monotonic() > until:
                break
    return _told(args, seed, [*lines, *this_call], this_call, time.monotonic() - began)


def _told(
    args: argparse.Namespace, seed: int, lines: list[dict[str, Any]], here: list[dict[str, Any]], seconds: float
) -> int:
    counts = summary(here)
    for kind, ends in counts["kinds"].items():
        print(f"{kind:44}" + "  ".join(f"{how} {ends.get(how, 0):,}" for how in ("accepted", "refused", "fault")))
    shown = {key: value for key, value in counts.items() if key not in ("kinds", "verbs")}
    print(json.dumps({"seed": seed, **shown, "seconds": round(seconds)}))
    if args.json is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True
        ).stdout.strip()
        args.json.write_text(
            json.dumps({"commit": commit, "python": platform.python_version(), **summary(lines)}, indent=1) + "\n"
        )
    return int(counts["fault"] > 0)


if __name__ == "__main__":
    sys.exit(main())
