"""Inputs that once ended in a fault, as small changes of whole files: each must be accepted or refused in one line."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any

Edit = Callable[[bytes], bytes]


def values(**changes: Any) -> Edit:
    """Return a change of values of a JSON file; a dot in a name is written as two underscores."""

    def edit(raw: bytes) -> bytes:
        tree = json.loads(raw)
        for dotted, value in changes.items():
            *parents, last = dotted.split("__")
            place = tree
            for key in parents:
                place = place[key]
            place[last] = value
        return json.dumps(tree).encode()

    return edit


def first_of(edit: Edit) -> Edit:
    """Return a change of the first object of a JSON list."""

    def changed(raw: bytes) -> bytes:
        first, *others = json.loads(raw)
        return json.dumps([json.loads(edit(json.dumps(first).encode())), *others]).encode()

    return changed


def without(*keys: str) -> Edit:
    """Return the removal of keys of a JSON object."""
    return lambda raw: json.dumps({key: value for key, value in json.loads(raw).items() if key not in keys}).encode()


def bad_header(raw: bytes) -> bytes:
    """Change the first type in the header of a safetensors file."""
    (size,) = struct.unpack("<Q", raw[:8])
    header = raw[8 : 8 + size].replace(b'"F32"', b"-0.0 ", 1)
    return struct.pack("<Q", len(header)) + header + raw[8 + size :]


def figure(name: str, value: str) -> Edit:
    """Return the replacement of the first figure of a name in lines of JSON by the text `value`."""
    return lambda raw: raw.replace(f'"{name}": '.encode(), f'"{name}": {value}, "y": '.encode(), 1)


def flipped(raw: bytes) -> bytes:
    """Flip a bit of a value in a corpus' shard."""
    return raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]


def swapped(*texts: bytes) -> Edit:
    """Return the replacement of texts, each by the one after it."""

    def edit(raw: bytes) -> bytes:
        for old, new in zip(texts[::2], texts[1::2], strict=True):
            raw = raw.replace(old, new)
        return raw

    return edit


# Kind of file, beginning of the command, change
FILES: list[tuple[str, str, Edit]] = [
    ("re-signed/toto/shard", "export", bad_header),
    ("re-signed/chronos2/shard", "train", bad_header),
    ("run/toto/metrics.jsonl", "train", figure("data_share", '"x"')),
    ("run/toto/metrics.jsonl", "train", figure("steps_per_s", "1e-320")),
    ("run/toto/metrics.jsonl", "train", figure("step_s_std", "1e190")),
    ("re-signed/toto2/manifest.json", "forecast", values(files="x")),
    ("re-signed/toto/manifest.json", "export", values(files={"state.json": {}})),
    ("corpus/data-00000-of-00001.arrow", "data import", flipped),
    ("adapter/toto/release.json", "evaluate", values(adapter__base__seed=None)),
    ("adapter/toto/release.json", "forecast", values(adapter=[1])),
    ("adapter/toto/release.json", "evaluate", values(parents__model="x")),
    ("release/toto2/release.json", "evaluate", values(date_range=["2024-01-01", "x"])),
    ("release/kronos/config.json", "forecast", values(ff_dim=10**9)),
    ("release/chronos2/config.json", "forecast", values(chronos_config=-0.5)),
    ("quick/quick.json", "quick", without("data")),
    ("release/chronos2/release.json", "evaluate", values(date_range=["2024-01-01"])),
    ("release/toto/config.json", "evaluate", values(output_distribution_kwargs="x")),
    ("release/toto2/release.json", "train", values(data__test_steps=-float("inf"))),
    ("release/linear/release.json", "train", values(data__validation_steps=10**30)),
    ("quick/environment.json", "quick", first_of(values(seed=float("inf")))),
    ("quick/release.json", "quick", values(promotion__tests__zero_shot__p_value=-float("inf"))),
    ("release/toto/config.json", "evaluate", values(scale_factor_exponent=1e10)),
    ("release/sharded/config.json", "forecast", values(layer_norm_epsilon=2**64)),
    ("release/toto/release.json", "train", values(corpora=[{"fingerprint": "a", "provenance": [1]}])),
    ("release/linear/release.json", "train", values(data__longest_trained="1")),
    ("run/toto2/config.yaml", "train", lambda raw: raw.replace(b"micro_batches_per_step", b"micro_batches_per_stepx")),
    ("corpus/manifest.json", "train", values(content_hash="\ud800")),
    ("table/csv.zip", "score", lambda raw: raw.replace(b"x.csv", bytes(5))),
    ("study/journal.jsonl", "tune resume", swapped(b'"op_code":0', b'"op_code":1')),
    ("study/journal.jsonl", "tune resume", swapped(b'"directions":[1]', b'"directions":[2]')),
    ("study/journal.jsonl", "tune resume", swapped(b'"low":0.0001', b'"low":0.01')),
    ("study/study.json", "tune resume", values(name=["x"])),
    ("study/leases/1.json", "tune resume", values(holder__pid=10**30)),
    ("study/leases/1.json", "tune show", values(attempts=1e308)),
    ("study/trial.json", "tune resume", without("params")),
    ("study/fold-0/fold.json", "tune resume", without("pruned")),
    (
        "study/advised adviser.jsonl",
        "tune resume",
        swapped(b"+00:00", b"", b'"retry_after_s": null', b'"retry_after_s": 1'),
    ),
]
ENVIRONMENTS: list[tuple[str, list[str], dict[str, str]]] = [
    ("chronos2", ["evaluate", "finished", "--data", "corpus"], {"WORLD_SIZE": "9" * 5000}),
]
COMMANDS: list[tuple[str, list[str]]] = [
    ("tables", ["forecast", "model", "series.csv", "--out", "f.csv", "--prediction-length", "100000"]),
    ("tables", ["train", "config-debug.yaml", "--dry-run", "adapter.rank=1000000000"]),
    ("tables", ["train", "corpus.yaml", "--dry-run", "threads=1000000000"]),
    ("tables", ["train", "config-debug.yaml", "--dry-run", "threads=1000000000000"]),
    ("tables", ["train", "config-debug.yaml", "--dry-run", "model.num_layers=1e3"]),
    ("tables", ["train", "config-kronos-two-stage.yaml", "--dry-run", "data.context_length=100000"]),
    ("tables", ["train", "config-toto-quick.yaml", "--dry-run", "data.prediction_length=9223372036854775807"]),
    ("tables", ["train", "config-toto-quick.yaml", "--dry-run", "data.prediction_length=16777216"]),
    ("tables", ["data", "inspect", "series.csv", "--na-values", "\udced"]),
    ("tables", ["evaluate", "model", "--data", "\n"]),
    ("tables", ["score", "p.csv", "--id-column", "target,target"]),
    ("tables", ["data", "x" * 300]),
    ("tables", ["x" * 5000]),
    ("tables", ["evaluate", "model", "--data", "corpus", "--stride", "9" * 40]),
    ("tables", ["data", "import", "series.csv", "--out", "new", "--encoding", "punycode"]),
    ("tables", ["data", "import", "series.csv", "--out", "new", "--encoding", "undefined"]),
    ("tables", ["data", "import", "series.csv", "--out", "new", "--date-format", "%Y" * 50]),
    ("tables", ["evaluate", "model", "--data", "corpus", "--batch-size", str(2**63)]),
    ("tables", ["data", "generate", "config-synthetic-mixture.yaml", "--out", "new", "--num-series", "9" * 400]),
]


def tried(fuzzer: Any) -> Iterator[dict[str, Any]]:
    """Try every input; yield its line of the log."""
    kinds = {kind.kind: kind for kind in fuzzer.kinds}
    words = [*((template, command, {}) for template, command in COMMANDS), *ENVIRONMENTS]
    files = [one for one in FILES if one[0] in kinds or not one[0].startswith("study/")]  # which need Optuna
    number = -len(files) - len(words)
    for name, beginning, edit in files:
        kind = kinds[name]
        raw = (fuzzer.base / "templates" / kind.template / kind.file).read_bytes()
        command = fuzzer.command(random.Random(0).choice(_beginning(kind.commands, beginning)), kind.file)
        damaged = edit(raw)
        yield fuzzer.line(-1, number, name, command, fuzzer.end_of(kind, damaged, command), damaged)
        number += 1
    for template, command, environment in words:
        end = fuzzer.end_of_words(template, command, environment)
        yield fuzzer.line(-1, number, "found/words", command, end, None, environment)
        number += 1


def _beginning(commands: tuple[tuple[str, ...], ...], words: str) -> list[tuple[str, ...]]:
    found = [command for command in commands if " ".join(command).startswith(words)]
    updates = [command for command in found if "--update" in command]
    return updates or found
