"""The commands that fault_files.py disturbs: one or more of every verb that writes files, on tiny data and models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from fuzzing import studies

TINY = [
    "data.context_length=32",
    "data.prediction_length=8",
    "data.validation_steps=16",
    "data.test_steps=32",
    "evaluation.num_windows=2",
    "training.batch_size=4",
    "training.validate_every=4",
    "training.checkpoint_every=2",
    "training.log_every=1",
    "training.tensorboard=false",
    "training.max_steps=4",
    "optimizer.schedule.warmup_steps=2",
]
CHRONOS2 = [
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "model.num_layers=1",
    "model.patch_size=8",
]
KRONOS = [
    "data.corpora.0.synthetic.num_series=4",
    "data.corpora.0.synthetic.length=128",
    "data.min_context=32",
    "data.sampling=epoch",
    "stages.tokenizer.model.d_model=16",
    "stages.predictor.model.d_model=16",
    "stages.predictor.model.n_layers=1",
    "stages.predictor.model.ff_dim=32",
    "stages.predictor.model.token_cache=true",
    "stages.predictor.evaluation.num_samples=2",
    "stages.tokenizer.training.max_steps=2",
    "stages.predictor.training.max_steps=2",
]
CORPUS = "data.corpora=[{path: corpus}]"
RUN = ["train", "debug.yaml", "--threads", "1", "--resume", *TINY, *CHRONOS2, CORPUS]
STAGES = ["train", "kronos/debug.yaml", "--threads", "1", "--resume", *TINY[:-2], *KRONOS]
LIBRARY = ("lib/B", "lib/library.json", "lib/asset_metadata.json", "lib/data_summary.csv", "lib/quality.csv")
TUNE = ["tune", "tune.yaml", "--resume"]
MODEL = "run/release"
CANDLES = "kronos/stages/02-predictor/release"


@dataclass(frozen=True)
class Case:
    """A command, what its folder holds before, and which paths it may change.

    needs: names of the common folder. outputs: paths that must each be as before or as after, whole. runs: run folders,
    which hold whole checkpoints at any moment. kept: a hidden folder that the next run goes on with. spare: one that a
    clean run leaves and that may be missing. numbered: outputs, or a folder of
    runs that is complete, make the next run take other names.
    killed: the case begins where kill -9 at this share of the operations of
    the command has left it.
    """

    words: list[str]
    needs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    before: Callable[[Path], None] | None = None
    killed: float | None = None
    kept: str = ""
    spare: str = ""
    numbered: bool = False


def _old_files(folder: Path) -> None:
    """Put files of another command where the outputs go, and a folder of the user's around them."""
    (folder / "f").mkdir()
    for name in ("q.csv", "p.png", "of-the-user.txt"):
        (folder / "f" / name).write_text("old\n")


def _other_checkpoint(folder: Path) -> None:
    shutil.rmtree(folder / "run" / "release")  # so that `run/checkpoints/step-...` has to write one of its own


def _link(folder: Path) -> None:
    (folder / "real").mkdir()
    (folder / "corpus").rename(folder / "real" / "corpus")
    (folder / "corpus").symlink_to("real/corpus")


def _more_bars(folder: Path) -> None:
    """Add a day to a symbol of a library."""
    with (folder / "bars" / "A.csv").open("a") as file:
        file.write("2025-01-01,100,101,99,100,7\n")


def _damaged(folder: Path) -> None:
    """Cut the newest checkpoint, which the next start puts aside, and remove what came of it."""
    shard = next((folder / "run" / "checkpoints" / "step-00000004").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])


def _forecast(data: str, *words: str, model: str = MODEL, steps: int = 8) -> list[str]:
    return ["forecast", model, data, "--prediction-length", str(steps), "--threads", "1", *words]


def _evaluate(*words: str, model: str = "run", data: str = "corpus") -> list[str]:
    return ["evaluate", model, "--data", data, "--num-windows", "2", "--threads", "1", *words]


def _import(*words: str) -> list[str]:
    return ["data", "import", *words]


_names = [
    word
    for role in ("item=S", "timestamp=D", "last_close=L", "actual=Y", "predicted=F", "step=H")
    for word in ("--column", role)
]
_marked = tuple(f"run/{name}" for name in ("release", "best_model", "hf_export", "final_metrics.json"))
_stages = ("out/stages/01-tokenizer", "out/stages/02-predictor")
CASES = {
    "train": Case([*RUN, "output_dir=out", "training.keep_last=1"], ("corpus",), runs=("out",)),
    "train --resume": Case([*RUN, "output_dir=out", "training.keep_last=1"], ("corpus",), runs=("out",), killed=0.6),
    "data import --update": Case(
        _import("new", "--out", "corpus", "--update"), ("corpus", "new"), ("corpus",), spare=".corpus.old"
    ),
    "data import": Case(_import("raw", "--out", "c/corpus"), ("raw",), ("c",)),
    "export": Case(["export", "run/checkpoints/step-00000004", "--out", "x/y"], ("run",), ("x",)),
    "evaluate": Case(_evaluate("--out", "e"), ("corpus", "run"), ("e",)),
    "evaluate --against": Case(_evaluate("--out", "e", "--against", "zero-shot"), ("corpus", "run"), ("e", *_marked)),
    "forecast": Case(_forecast("corpus", "--out", "f/q.csv"), ("corpus", "run"), ("f",)),
    "forecast (a file)": Case(_forecast("series.csv", "--out", "q.csv"), ("series.csv", "run"), ("q.csv",)),
    "forecast (names of its own)": Case(
        _forecast("series.csv"),
        ("series.csv", "run"),
        ("series-forecast.csv", "series-forecast.png"),
        numbered=True,
    ),
    "forecast (over old files)": Case(
        _forecast("corpus", "--out", "f/q.csv", "--plot", "f/p.png"),
        ("corpus", "run"),
        ("f/q.csv", "f/p.png"),
        (),
        _old_files,
    ),
    "forecast (paths, candles, a plot)": Case(
        _forecast(
            "candles",
            "--out",
            "q.csv",
            "--paths",
            "p.parquet",
            "--candles",
            "c.csv",
            "--plot",
            "d/p.pdf",
            "--num-samples",
            "2",
            model=CANDLES,
            steps=4,
        ),
        ("candles", "kronos"),
        ("q.csv", "p.parquet", "c.csv", "d"),
    ),
    "forecast (a checkpoint)": Case(
        _forecast("corpus", "--out", "q.csv", model="run/checkpoints/step-2"),
        ("corpus", "run"),
        ("q.csv", "run/checkpoints/step-00000002/release"),
        (),
        _other_checkpoint,
    ),
    "score": Case(["score", "scored.csv", *_names, "--values", "fraction", "--out", "s"], ("scored.csv",), ("s",)),
    "train (saves in the background)": Case(
        [*RUN, "output_dir=out", "training.checkpoint_in_background=true"], ("corpus",), runs=("out",)
    ),
    "train (TensorBoard)": Case(
        [*RUN, "output_dir=out", "training.tensorboard=true", "training.max_steps=2"], ("corpus",), runs=("out",)
    ),
    "train (a damaged checkpoint)": Case(
        [*RUN, "output_dir=run", "training.keep_last=9", "training.max_steps=5"],
        ("corpus", "run"),
        (),
        ("run",),
        _damaged,
    ),
    "train (not finite)": Case(
        [
            *RUN,
            "output_dir=out",
            "training.max_steps=2",
            "optimizer.learning_rate=1e30",
            "optimizer.schedule.warmup_steps=0",
            "training.on_nonfinite=skip",
        ],
        ("corpus",),
        runs=("out",),
    ),
    "train (two stages)": Case([*STAGES, "output_dir=out"], runs=_stages),
    "train (adapter and gate)": Case(
        [*RUN, "output_dir=out", "model={model_id: run/release}", "adapter={rank: 2}", "evaluation.promotion=true"],
        ("corpus", "run"),
        runs=("out",),
    ),
    "quick": Case(
        ["quick", "series.csv", "--prediction-length", "4", "--max-steps", "2", "--threads", "1"],
        ("series.csv",),
        (),
        ("series-quick/run",),
        numbered=True,
    ),
    "export --adapter": Case(
        ["export", "tuned/checkpoints/step-00000004", "--adapter", "--out", "x"], ("run", "tuned"), ("x",)
    ),
    "data import --update (a link)": Case(
        _import("new", "--out", "corpus", "--update"),
        ("corpus", "new"),
        ("real/corpus",),
        (),
        _link,
        spare="real/.corpus.old",
    ),
    "data import --dry-run": Case(_import("raw", "--out", "c", "--dry-run"), ("raw",)),
    "data inspect --plot": Case(["data", "inspect", "corpus", "--plot", "p.png"], ("corpus",), ("p.png",)),
    "data inspect (files)": Case(["data", "inspect", "raw"], ("raw",)),
    "data verify": Case(["data", "verify", "corpus"], ("corpus",)),
    "data generate": Case(
        ["data", "generate", "mixture.yaml", "--out", "g", "--num-series", "40"],
        ("mixture.yaml",),
        ("g",),
        kept=".g.parts",
    ),
    "evaluate (a file)": Case(_evaluate(data="series.csv"), ("series.csv", "run")),
    "evaluate (candles)": Case(_evaluate("--out", "e", model="kronos", data="candles"), ("candles", "kronos"), ("e",)),
    "tune": Case(TUNE, ("tune.yaml",), runs=("out",)),
    "tune --resume": Case(TUNE, ("tune.yaml",), runs=("out",), killed=0.6),
    "tune resume": Case(["tune", "resume", "study", "--trials", "3"], ("study",), runs=("study",)),
    "tune best --out": Case(["tune", "best", "study", "--out", "b/best.yaml"], ("study",), ("b",)),
    "data market build": Case(["data", "market", "build", "bars", "--out", "l/lib"], ("bars",), ("l",)),
    "data market build --update": Case(
        ["data", "market", "build", "bars", "--out", "lib", "--update"],
        ("bars", "lib"),
        LIBRARY,
        (),
        _more_bars,
        spare="lib/.B.old",
    ),
    "config copy": Case(["config", "copy", "chronos2/finetune", "--out", "k/c.yaml"], (), ("k",)),
    "config import": Case(
        ["config", "import", "foreign.yaml", "--from", "kronos", "--out", "c.yaml"],
        ("foreign.yaml", "bars.csv"),
        ("c.yaml",),
    ),
}


def _series(folder: Path, items: int, rows: int, first: int = 0) -> None:
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    folder.mkdir()
    for k in range(first, first + items):
        wave = 10 + np.sin(np.arange(rows) * 2 * np.pi / 24 + k) + np.random.default_rng(k).normal(0, 0.1, rows)
        pd.DataFrame({"timestamp": stamps, "target": wave.round(4)}).to_csv(folder / f"i{k}.csv", index=False)


def make_common(folder: Path, command: Callable[[list[str]], None], needs: set[str]) -> None:
    """Write into an empty folder, which is the current one of `command`, what cases with these needs want."""
    _series(folder / "raw", 3, 200)
    _series(folder / "new", 2, 230, first=2)
    frame = pd.read_csv(folder / "raw" / "i0.csv").assign(item_id="a")
    frame.to_csv(folder / "series.csv", index=False)
    days = pd.bdate_range("2025-01-06", periods=15).astype(str)
    scored = {"S": "ACME", "D": days, "M": "2025-01-01", "H": 1, "L": 100.0, "Y": 0.02, "F": 0.01}
    pd.DataFrame(scored).to_csv(folder / "scored.csv", index=False)
    shutil.copy(Path(__file__).parents[2] / "configs" / "synthetic" / "mixture.yaml", folder / "mixture.yaml")
    rows = "".join(f"2024/1/{1 + k // 288} {k // 12 % 24}:{k % 12 * 5:02d},1,2,0.5,1.5,10,0\n" for k in range(1000))
    (folder / "bars.csv").write_text(f"timestamps,open,high,low,close,volume,amount\n{rows}")
    (folder / "foreign.yaml").write_text(
        "data:\n  data_path: bars.csv\nmodel_paths:\n  pretrained_tokenizer: t\n  pretrained_predictor: p\n"
    )
    command(["data", "import", "raw", "--out", "corpus"])
    if needs & {"candles", "kronos"}:
        bars = pd.read_csv(folder / "bars.csv").rename(columns={"timestamps": "timestamp"})[:300]
        bars.assign(close=1 + np.arange(300) % 7 / 10).to_csv(folder / "candles.csv", index=False)
        command(["data", "import", "candles.csv", "--out", "candles"])
        command([*STAGES, "output_dir=kronos"])
    if needs & {"bars", "lib"}:
        (folder / "bars").mkdir()
        for seed, symbol in enumerate("AB"):
            close = np.round(100 * np.exp(np.random.default_rng(seed).normal(0, 0.01, 90).cumsum()), 2)
            bars = {"timestamp": pd.bdate_range("2024-01-01", periods=90), "open": close, "high": close + 1}
            bars |= {"low": close - 1, "close": close, "volume": 1000}
            pd.DataFrame(bars).to_csv(folder / "bars" / f"{symbol}.csv", index=False)
    if "lib" in needs:
        command(["data", "market", "build", "bars", "--out", "lib"])
    study = {**studies.TREE, "output_dir": "out"}
    (folder / "tune.yaml").write_text(json.dumps(study))
    if "study" in needs:
        command(["tune", "tune.yaml", "output_dir=study"])
    if needs & {"run", "tuned"}:
        command([*RUN, "output_dir=run", "training.keep_last=9"])
    if "tuned" in needs:
        command(
            [*RUN, "output_dir=tuned", "model={model_id: run/release}", "adapter={rank: 2}", "training.keep_last=9"]
        )


def damages(run: Path) -> list[str]:
    """Return what is wrong in a run folder: files of JSON that are none, checkpoints that are not whole."""
    from foretrain.training.manifest import damage

    found = []
    for path in run.rglob("*.json"):
        if not any(part.startswith(".") for part in path.relative_to(run).parts):
            try:
                json.loads(path.read_text())
            except ValueError:
                found.append(f"{path.relative_to(run)} is torn")
    steps = [step for step in run.rglob("checkpoints/step-*") if step.is_dir() and ".tmp-" not in str(step)]
    return found + [f"{step.name}: {text}" for step in steps if (text := damage(step))]
