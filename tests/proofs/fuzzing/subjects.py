"""What is damaged, and the commands that read it: one Subject for each kind of file.

A template is a folder that is copied for every input; commands run in the copy. Templates are made by the commands
themselves and from runs of an older version (tests/fixtures/old_runs).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fuzzing import mutations as change
from fuzzing.mutations import Mutate

REPOSITORY = Path(__file__).parents[3]
FIXTURES = REPOSITORY / "tests" / "fixtures" / "old_runs"
FAMILIES = ("chronos2", "kronos", "toto", "toto2")
Run = Callable[[list[str], Path], None]  # runs a command in a folder, and fails unless it ends with 0
Command = tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A kind of file: where it is, how it is damaged, and what reads it."""

    kind: str
    template: str
    file: str  # in the template
    ways: tuple[Mutate, ...]
    commands: tuple[Command, ...]
    sealed: tuple[str, ...] = ()  # verbs that must refuse the file once it has changed, as a hash covers it
    finish: Callable[[Path], None] = lambda path: None  # called with the damaged file, to sign it anew
    weight: float = 1.0


IMPORTS = (
    ("data", "import", "{file}", "--out", "out"),
    ("data", "import", "{file}", "--out", "out", "--on-bad", "drop"),
    ("data", "import", "{file}", "--dry-run"),
    ("data", "import", "{file}", "--out", "corpus", "--update"),
    ("data", "inspect", "{file}"),
)
FORECASTS = (
    ("forecast", "model", "{file}", "--out", "f.csv", "--prediction-length", "4", "--threads", "1"),
    ("forecast", "model", "{file}", "--out", "f.parquet", "--prediction-length", "4", "--threads", "1"),
)
EVALUATES = (
    ("evaluate", "model", "--data", "{file}", "--num-windows", "1", "--prediction-length", "4", "--threads", "1"),
)
SCORES = (("score", "{file}"), ("score", "{file}", "--out", "s"))
QUICK = ("quick", "{file}", "--model", "model", "--max-steps", "1", "--minutes", "0.05", "--out", "q", "--threads", "1")
READERS = (*IMPORTS, *FORECASTS, *EVALUATES, *SCORES)
SHOWS = (*[("config", "show", "{file}")] * 7, ("train", "{file}", "--dry-run"))
SEALED_CORPUS = ("data verify", "train", "evaluate", "forecast")


def table() -> pd.DataFrame:
    """Return three items of hourly values with a category."""
    stamps, rng = pd.date_range("2024-01-01", periods=60, freq="h"), np.random.default_rng(0)
    parts = [
        pd.DataFrame({"item_id": f"i{k}", "timestamp": stamps, "target": rng.normal(size=60), "kind": ["a", "b"] * 30})
        for k in range(3)
    ]
    return pd.concat(parts, ignore_index=True)


def monash(frame: pd.DataFrame) -> str:
    """Return the items of a table as a file of the Monash archive."""
    head = ["# items", "@relation x", "@attribute series_name string", "@attribute start_timestamp date"]
    head += ["@frequency hourly", "@horizon 4", "@missing false", "@equallength true", "@data"]
    rows = [
        f"{name}:{part['timestamp'].iloc[0]:%Y-%m-%d %H-%M-%S}:{','.join(map(str, part['target']))}"
        for name, part in frame.groupby("item_id")
    ]
    return "\n".join([*head, *rows]) + "\n"


def predictions() -> pd.DataFrame:
    """Return a file for `score`."""
    rng = np.random.default_rng(0)
    actual = 100 + rng.normal(size=60).cumsum()
    stamps = pd.date_range("2024-01-01", periods=60, freq="D")
    moved = actual + rng.normal(size=60)
    return pd.DataFrame(
        {"item": "a", "timestamp": stamps, "actual": actual, "predicted": moved, "last_close": actual - 1}
    )


def make(base: Path, run: Run, prefixes: Sequence[str]) -> list[Subject]:
    """Write the templates below a folder; return every subject, those of studies alone if no prefix is of others."""
    from fuzzing import markets, studies  # which import this module

    if all(prefix.startswith("study/") for prefix in prefixes):
        return [*studies.subjects(base, run)]
    tables = base / "tables"
    tables.mkdir(parents=True)
    shutil.copytree(FIXTURES / "chronos2" / "finished" / "release", tables / "model")
    frame = table()
    frame[["item_id", "timestamp", "target"]].to_csv(tables / "series.csv", index=False)
    run(["data", "import", "series.csv", "--out", "corpus"], tables)
    found = [*_tables(tables, frame), *_texts(tables), *_models(base, tables, run)]
    for family in FAMILIES:
        found += _old(base, family)
    found += [*_corpora(tables), *_quick(base, tables, run), *markets.subjects(base, run)]
    return [*found, *studies.subjects(base, run)] if find_spec("optuna") is not None else found


def _tables(folder: Path, frame: pd.DataFrame) -> Iterator[Subject]:
    text, cells, damaged = (change.bytes_damaged, change.cells_damaged), change.cells_damaged, change.bytes_damaged
    plain = frame.assign(timestamp=frame["timestamp"].astype(str))
    writers: dict[str, tuple[Callable[[Path], Any], tuple[Mutate, ...]]] = {
        "csv": (lambda path: frame.to_csv(path, index=False), text),
        "tsv": (lambda path: frame.to_csv(path, index=False, sep="\t"), text),
        "csv.gz": (lambda path: frame.to_csv(path, index=False), (damaged, change.inside_gzip(cells))),
        "csv.zip": (lambda path: frame.to_csv(path, index=False), (damaged, change.inside_zip(cells))),
        "xlsx": (lambda path: frame.head(60).to_excel(path, index=False), (damaged, change.inside_zip(damaged))),
        "tsf": (lambda path: path.write_text(monash(frame)), (damaged, change.monash_damaged)),
        "tsf.gz": (
            lambda path: path.write_bytes(gzip.compress(monash(frame).encode())),
            (change.inside_gzip(change.monash_damaged),),
        ),
        "parquet": (lambda path: frame.to_parquet(path), (damaged,)),
        "feather": (lambda path: frame.to_feather(path), (damaged,)),
        "json": (lambda path: plain.head(90).to_json(path, orient="records"), (damaged, change.json_damaged)),
        "jsonl": (lambda path: plain.to_json(path, orient="records", lines=True), (damaged, change.lines_damaged)),
        "npy": (
            lambda path: np.save(path, np.random.default_rng(0).normal(size=(3, 60))),
            (damaged, change.npy_header_damaged),
        ),
        "npz": (
            lambda path: np.savez(path, a=np.arange(60.0), b=np.arange(50.0)),
            (damaged, change.inside_zip(change.npy_header_damaged), change.inside_zip(damaged)),
        ),
    }
    for kind, (write, ways) in writers.items():
        write(folder / f"x.{kind}")
        # arrays have no stamps, as the corpus has, so that it refuses all of them alike
        timed = tuple(command for command in READERS if not (kind.startswith("np") and "--update" in command))
        yield Subject(f"table/{kind}", "tables", f"x.{kind}", ways, timed, weight=2.5)
    for kind in ("csv", "parquet"):
        yield Subject(f"quick/{kind}", "tables", f"x.{kind}", writers[kind][1], (QUICK,), weight=0.4)
    yield Subject("table/parquet types", "tables", "t.parquet", (_typed(frame),), READERS, weight=2)
    (folder / "t.parquet").write_bytes((folder / "x.parquet").read_bytes())
    predictions().to_csv(folder / "p.csv", index=False)
    predictions().to_parquet(folder / "p.parquet")
    yield Subject("predictions/csv", "tables", "p.csv", text, SCORES, weight=2)
    yield Subject("predictions/parquet", "tables", "p.parquet", (damaged, _typed(predictions())), SCORES)
    ahead = pd.DataFrame(
        {"item_id": "i0", "timestamp": pd.date_range("2024-01-03 12:00", periods=4, freq="h"), "promo": 1.0}
    )
    known = frame[frame["item_id"] == "i0"].drop(columns="kind").assign(promo=[0.0, 1.0] * 30)
    known.to_csv(folder / "known.csv", index=False)
    for kind in ("csv", "parquet"):
        ahead.to_csv(folder / "a.csv", index=False) if kind == "csv" else ahead.to_parquet(folder / "a.parquet")
        command = (
            *(part.replace("{file}", "known.csv") for part in FORECASTS[0]),
            "--target",
            "target",
            "--future",
            "{file}",
        )
        yield Subject(
            f"future/{kind}", "tables", f"a.{kind}", text if kind == "csv" else (damaged, _typed(ahead)), (command,)
        )


def _typed(frame: pd.DataFrame) -> Mutate:
    """Return a mutation that writes a Parquet file with columns of other types, or other notes of pandas in it."""

    def mutate(raw: bytes, rng: random.Random) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        found = pa.Table.from_pandas(frame)
        rows, at = found.num_rows, rng.randrange(found.num_columns)
        values: list[Callable[[], pa.Array]] = [
            lambda: pa.array([b"\xff\x00"] * rows),
            lambda: pa.array([10**18] * rows, pa.timestamp("us", tz=rng.choice(("UTC", "Mars/Base", "+99:99", "")))),
            lambda: pa.array(
                [rng.choice((2**63 - 1, -(2**63), 2**62)) for _ in range(rows)],
                pa.timestamp(rng.choice(("s", "ms", "us", "ns"))),
            ),
            lambda: pa.array([[1.0, 2.0]] * rows),
            lambda: pa.array([{"a": 1}] * rows),
            lambda: pa.array([None] * rows),
            lambda: pa.array([1] * rows, pa.decimal128(38, 10)),
            lambda: pa.array([5] * rows, pa.duration("s")),
            lambda: pa.array([5] * rows, pa.time64("ns")),
            lambda: pa.array([5] * rows, pa.date32()),
            lambda: pa.array([2**64 - 1] * rows, pa.uint64()),
            lambda: pa.array([True] * rows),
            lambda: pa.array(["\x00\u202e"] * rows).dictionary_encode(),
            lambda: pa.array([float("inf")] * rows, pa.float32()),
            lambda: pa.array(np.full(rows, 1, np.float16)),
            lambda: pa.array([(1, 2, 3)] * rows, pa.month_day_nano_interval()),
            lambda: pa.array(["x" * 3] * rows, pa.large_string()),
            lambda: pa.array([b"abcd"] * rows, pa.binary(4)),
        ]
        if rng.random() < 0.8:
            array = rng.choice(values)()
            name = rng.choice((found.column_names[at], found.column_names[at], "", "\x1b[2J", "item_id", "a" * 3000))
            found = found.set_column(at, name, array)
        notes = json.loads(found.schema.metadata[b"pandas"])
        if rng.random() < 0.5:
            text = change.json_damaged(json.dumps(notes).encode(), rng)
            found = found.replace_schema_metadata({b"pandas": rng.choice((text, b"{", b"\xff", b"null"))})
        sink = pa.BufferOutputStream()
        try:
            pq.write_table(found, sink)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return change.bytes_damaged(raw, rng)
        return sink.getvalue().to_pybytes()

    return mutate


def _texts(folder: Path) -> Iterator[Subject]:
    """Configs of every sort."""
    configs = REPOSITORY / "configs"
    ways = (change.bytes_damaged, change.yaml_damaged, change.yaml_damaged)
    for path in sorted(configs.rglob("*.yaml")):
        name = path.relative_to(configs).with_suffix("").as_posix()
        plain = f"config-{name.replace('/', '-')}.yaml"
        shutil.copy(path, folder / plain)
        generates = name.startswith("synthetic/")
        generate = (("data", "generate", "{file}", "--out", "out", "--num-series", "3"),)
        yield Subject(f"yaml/{name}", "tables", plain, ways, generate if generates else SHOWS, weight=0.4)
    foreign = REPOSITORY / "tests" / "proofs" / "fuzzing" / "foreign"
    for source in ("kronos", "tsm-trainer"):
        shutil.copy(foreign / f"{source}.yaml", folder)
        command = ("config", "import", "--from", source, "{file}")
        yield Subject(f"foreign/{source}", "tables", f"{source}.yaml", ways, (command, ("train", "{file}")))


def _release(kind: str, template: str, folder: str, uses: tuple[Command, ...], root: Path) -> Iterator[Subject]:
    """The files of a release (or adapter) folder in a template."""
    for path in sorted((root / folder).rglob("*")):
        name = str(path.relative_to(root / folder))
        if path.suffix == ".json":
            yield Subject(
                f"{kind}/{name}", template, f"{folder}/{name}", (change.bytes_damaged, *[change.json_damaged] * 3), uses
            )
        elif path.suffix == ".safetensors":
            ways = (change.bytes_damaged, change.header_damaged, change.header_damaged)
            yield Subject(f"{kind}/{name}", template, f"{folder}/{name}", ways, uses, weight=0.5)


def _uses(model: str, series: str, corpus: str, train: str) -> tuple[Command, ...]:
    """The commands that read a release."""
    return (
        ("forecast", model, series, "--out", "f.csv", "--prediction-length", "4", "--threads", "1"),
        (
            "evaluate",
            model,
            "--data",
            corpus,
            "--num-windows",
            "1",
            "--prediction-length",
            "4",
            "--threads",
            "1",
            "--split",
            "all",
        ),
        ("train", train, f"model.model_id={model}", "output_dir=new", "--dry-run"),
        ("train", train, f"model.model_id={model}", "output_dir=new", "training.max_steps=1"),
    )


def _models(base: Path, tables: Path, run: Run) -> Iterator[Subject]:
    """Releases whose weights lie in several files, of the linear family, and adapters."""
    from safetensors.numpy import load_file, save_file

    sharded = base / "sharded"
    shutil.copytree(tables, sharded)
    model = sharded / "model"
    weights = load_file(model / "model.safetensors")
    names, index = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, model / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )
    uses = _uses("model", "series.csv", "corpus", "debug.yaml")[:2]
    yield from _release("release/sharded", "sharded", "model", uses, sharded)

    linear = base / "linear"
    linear.mkdir()
    shutil.copytree(FIXTURES / "toto" / "corpus", linear / "corpus")
    shutil.copy(FIXTURES / "toto" / "history.csv", linear)
    settings = {
        **_config("toto", "finished"),
        "output_dir": "run",
        "model": {"family": "linear", "random_init": True, "d_model": 8},
    }
    (linear / "run.yaml").write_text(json.dumps(settings))
    run(["train", "run.yaml", "training.max_steps=2"], linear)
    yield from _release(
        "release/linear", "linear", "run/release", _uses("run/release", "history.csv", "corpus", "run.yaml"), linear
    )


def _config(family: str, name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((FIXTURES / family / f"{name}.yaml").read_text())


def _old(base: Path, family: str) -> Iterator[Subject]:
    """Every file of the runs of an older version."""
    root = base / family
    shutil.copytree(FIXTURES / family, root, ignore=shutil.ignore_patterns("expected.json", "*.forecast.csv"))
    killed = "staged" if family == "kronos" else "interrupted"
    yield from _release(
        f"release/{family}",
        family,
        "finished/release",
        _uses("finished/release", "history.csv", "corpus", "finished.yaml"),
        root,
    )
    adapter = root / "lora" / "adapters" / "default"
    if adapter.is_dir():
        folder = "lora/adapters/default"
        yield from _release(
            f"adapter/{family}", family, folder, _uses(folder, "history.csv", "corpus", "finished.yaml")[:2], root
        )
    resume = ("train", f"{killed}.yaml", "--resume")
    for checkpoint in sorted((root / killed).rglob("checkpoints/step-*")):
        inside = str(checkpoint.relative_to(root))
        uses = (
            resume,
            ("export", inside, "--out", "x"),
            ("forecast", inside, "history.csv", "--out", "f.csv", "--threads", "1"),
        )
        if "tokenizer" in inside:
            uses = uses[:2]
        for path in sorted(checkpoint.iterdir())[:3]:
            if path.suffix == ".json":
                ways, name = (change.bytes_damaged, change.json_damaged), path.name
            else:
                ways, name = (change.bytes_damaged, change.header_damaged), "shard"
            place = f"{inside}/{path.name}"
            sealed = ("train", "export", "forecast") if "tokenizer" not in inside else ("export",)
            yield Subject(f"checkpoint/{family}/{name}", family, place, ways, uses, sealed=sealed, weight=0.5)
            if name != "manifest.json":
                yield Subject(f"re-signed/{family}/{name}", family, place, ways[1:], uses, finish=sign, weight=0.7)
        place = f"{inside}/manifest.json"
        yield Subject(f"re-signed/{family}/manifest.json", family, place, (_signed_manifest,), uses, weight=0.4)
    for path in sorted((root / killed).rglob("*")):
        name = path.name
        if (
            path.is_file()
            and "checkpoints" not in path.parts
            and "release" not in path.parts
            and path.suffix != ".safetensors"
        ):
            ways = (
                (change.bytes_damaged, change.yaml_damaged)
                if path.suffix == ".yaml"
                else (change.bytes_damaged, change.json_damaged)
            )
            ways = (change.bytes_damaged, change.lines_damaged) if path.suffix == ".jsonl" else ways
            yield Subject(f"run/{family}/{name}", family, str(path.relative_to(root)), ways, (resume,), weight=0.3)
    (root / killed / "run.lock").write_text(
        json.dumps({"host": socket.gethostname(), "pid": 2**22, "boot": "before", "started": "1"})
    )
    yield Subject(
        f"run/{family}/run.lock",
        family,
        f"{killed}/run.lock",
        (change.bytes_damaged, change.json_damaged),
        (resume,),
        weight=0.3,
    )
    more = ("train", "finished.yaml", "--resume", "training.max_steps=9")
    for name in ("final_metrics.json", "best_records.json", "release/release.json"):
        ways = (change.bytes_damaged, change.json_damaged)
        yield Subject(
            f"run/{family}/{name}",
            family,
            f"finished/{name}",
            ways,
            (more, ("train", "finished.yaml", "--resume")),
            weight=0.3,
        )


def sign(path: Path) -> None:
    """Sign the manifest of a checkpoint for one file of it that has changed."""
    manifest = json.loads((path.parent / "manifest.json").read_text())
    raw = path.read_bytes()
    manifest["files"][path.name] = {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    (path.parent / "manifest.json").write_text(json.dumps(_signed(manifest)))


def _signed(manifest: dict[str, Any]) -> dict[str, Any]:
    manifest.pop("sha256", None)
    return manifest | {"sha256": hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()}


def _signed_manifest(raw: bytes, rng: random.Random) -> bytes:
    changed = change.json_damaged(raw, rng)
    try:
        return json.dumps(_signed(json.loads(changed))).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return changed


def _corpora(folder: Path) -> Iterator[Subject]:
    shutil.copy(FIXTURES / "chronos2" / "finished.yaml", folder / "corpus.yaml")
    uses = (
        ("data", "verify", "corpus"),
        ("data", "inspect", "corpus"),
        ("data", "inspect", "corpus", "--verify"),
        ("data", "import", "series.csv", "--out", "corpus", "--update"),
        *(tuple(part.replace("{file}", "corpus") for part in command) for command in (*FORECASTS, *EVALUATES)),
        (*EVALUATES[0][:3], "corpus", *EVALUATES[0][4:], "--out", "e"),
        ("train", "corpus.yaml", "output_dir=new", "training.max_steps=1"),
        ("train", "corpus.yaml", "output_dir=new", "--dry-run"),
    )
    for path in sorted((folder / "corpus").iterdir()):
        ways: tuple[Mutate, ...] = (change.bytes_damaged,)
        ways = (change.bytes_damaged, change.json_damaged) if path.suffix == ".json" else ways
        ways = (change.bytes_damaged, change.cells_damaged) if path.suffix == ".csv" else ways
        sealed = (*SEALED_CORPUS, "data inspect --verify", "data import --update") if path.suffix == ".arrow" else ()
        yield Subject(f"corpus/{path.name}", "tables", f"corpus/{path.name}", ways, uses, sealed=sealed, weight=2)


def _quick(base: Path, tables: Path, run: Run) -> Iterator[Subject]:
    """What `quick` keeps of a command that did not end, read by the next one; and what `evaluate` writes."""
    folder = base / "quick"
    shutil.copytree(tables, folder)
    command = tuple(part.replace("{file}", "series.csv") for part in QUICK)
    run(list(command), folder)
    state = next(
        path for path in sorted((folder / "q").iterdir()) if path.suffix == ".json" and "finished" in path.read_text()
    )
    tree = json.loads(state.read_text())
    state.write_text(json.dumps(tree | {"finished": False}))
    for path in sorted((folder / "q").rglob("*.json")):
        if "checkpoints" not in path.parts:
            inside = str(path.relative_to(folder))
            weight = 1.0 if path == state else 0.1
            yield Subject(
                f"quick/{path.name}",
                "quick",
                inside,
                (change.bytes_damaged, change.json_damaged),
                (command,),
                weight=weight,
            )
