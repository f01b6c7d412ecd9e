"""A second stage with four times the context, in one process and split over two: the shipped one, or a small copy.

    nice python tests/proofs/long_stage.py [FOLDER] [--cases real,chronos2,toto,toto2] [--json FILE]

real: configs/chronos2/context-extension.yaml (context 2,048, then 8,192) with the small size (28,262,560 parameters),
two steps of two micro-batches of one window, and generated series, of which half are shorter than the second context.
The others are tiny models of a family with contexts 64 and 256. Of each it is checked that

- the second stage begins with the weights of the first one's release, bit for bit, and its release says its context;
- losses and validation are finite, and those of two processes (FSDP, gloo) are those of one;
- the second stage, resumed in its middle, is bit for bit the uninterrupted one, in one process and in two;
- a forecast reads the whole context and nothing before it: the oldest patch in reverse, which leaves mean and scale as
  they are, changes the forecast, and older steps do not.

Peak memory is that of a process after it has imported everything, by stage. tests/run/test_long_stage.py has the tiny
ones.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from tests.models.zoo import ZOO  # noqa: E402
from tests.waiting import end, start_command, torchrun  # noqa: E402

from foretrain import load  # noqa: E402
from foretrain.config import build  # noqa: E402
from foretrain.distributed.world import World  # noqa: E402
from foretrain.run.build import build_model  # noqa: E402
from foretrain.run.pipeline import make_stages, run_stages  # noqa: E402
from foretrain.run.stages import StagesConfig, load_any  # noqa: E402
from foretrain.run.train import train_run  # noqa: E402
from foretrain.training.journal import read_journal  # noqa: E402

SHIPPED = ROOT / "configs" / "chronos2" / "context-extension.yaml"
LOSSES, METRICS = 1e-5, 1e-4  # relative differences of two processes from one, at most
NAMES = ("context-2048", "context-8192")
SIZES = {1: "one", 2: "two"}


@dataclass(frozen=True)
class Case:
    """A pipeline of two stages.

    context: steps of the first; patch: steps of a patch; lengths: of series; steps: of each stage, of which the second
    one is resumed from the middle; windows: of a micro-batch, of which a step has two.
    """

    family: str
    context: int
    horizons: tuple[int, int]
    patch: int
    lengths: tuple[int, int]
    steps: int
    windows: int
    overrides: tuple[str, ...] = ()

    def config(self, folder: Path, processes: int) -> StagesConfig:
        """Return the config of a run in so many processes."""
        series = [{"synthetic": {"kind": "seasonal", "num_series": 8, "length": n, "freq": "h"}} for n in self.lengths]
        every: dict[str, Any] = {
            "data.corpora": series, "data.validation_steps": 2 * self.horizons[1], "evaluation.max_items": 2,
            "training.dtype": "float32", "training.compile": False, "training.tensorboard": False,
            "training.log_every": 1, "training.keep_last": 9, "training.best_metric": "val_loss",
            "training.checkpoint_minutes": None, "training.parallel": "fsdp" if processes > 1 else "auto",
        }  # fmt: skip
        stage = {"training.max_steps": self.steps, "training.batch_size": 2 * self.windows,
                 "training.micro_batch_size": self.windows, "training.validate_every": self.steps // 2,
                 "training.checkpoint_every": 1}  # fmt: skip
        words: list[Any] = [*every.items()]
        words += [(f"stages.{name}.{key}", value) for name in NAMES for key, value in stage.items()]
        words += [*self.overrides, ("output_dir", str(folder))]
        if self.family == "chronos2":
            config = load_any(SHIPPED, words)
        else:
            config = build(StagesConfig, self._tree(every, stage, folder))
        assert isinstance(config, StagesConfig)
        return config

    def _tree(self, every: dict[str, Any], stage: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return the config of a family without a shipped one that grows its context."""
        starts = (ZOO[self.family].section, {"model_id": f"stage:{NAMES[0]}"})
        tree: dict[str, Any] = {"output_dir": str(folder), "stages": [], "seed": 42}
        for number, name in enumerate(NAMES):
            sections: dict[str, Any] = {"name": name, "model": {"family": self.family, **starts[number]}}
            sections["optimizer"] = {"learning_rate": 1e-3}
            for key, value in (every | stage).items():
                section, _, own = key.partition(".")
                sections.setdefault(section, {})[own] = value
            sections["data"] |= {"context_length": self.context * 4**number, "min_context": 2 * self.patch}
            sections["data"] |= {"prediction_length": self.horizons[number]}
            tree["stages"].append(sections)
        return tree


TINY = [f"stages.{NAMES[0]}.model.{word}" for word in
        ("preset=null", "d_model=16", "d_kv=4", "d_ff=32", "num_layers=2", "num_heads=2", "patch_size=4",
         "quantiles=[0.1,0.5,0.9]", "initializer_factor=1.0", "time_encoding_scale=256")]  # fmt: skip
TINY += [
    f"stages.{name}.data.{key}={value}"
    for name, lengths in zip(NAMES, ((64, 8, 8), (256, 32, 32)), strict=True)
    for key, value in zip(("context_length", "prediction_length", "min_context"), lengths, strict=True)
]
CASES = {
    "real": Case("chronos2", 2048, (64, 256), 16, (12_000, 4_000), 2, 1, (f"stages.{NAMES[0]}.model.preset=small",)),
    "chronos2": Case("chronos2", 64, (8, 32), 4, (500, 200), 4, 2, tuple(TINY)),
    "toto": Case("toto", 64, (8, 32), 4, (500, 200), 4, 2),
    "toto2": Case("toto2", 64, (8, 32), 4, (500, 200), 4, 2),
}


def work(folder: Path, name: str, world: World) -> None:
    """Run a case's two stages, and the second one from its middle; note the peaks. All processes call it."""
    case, out = CASES[name], folder / name / SIZES[world.size]
    config, peaks, began = case.config(out, world.size), [peak()], time.monotonic()
    seconds = []
    with contextlib.redirect_stdout(io.StringIO()):
        for last in (0, 1):  # the second call leaves out the stage that is finished
            stages = [stage.model_copy(update={"skip": n > last}) for n, stage in enumerate(config.stages)]
            run_stages(config.model_copy(update={"stages": tuple(stages)}), world=world, resume="auto")
            peaks.append(peak())
            seconds.append(time.monotonic() - began)
        second = make_stages(config)[1].config
        again = out / "resumed"
        world.on_main(lambda: shutil.copytree(second.output_dir, again))
        own = second.model_copy(update={"output_dir": str(again)})
        train_run(own, world=world, resume=str(again / "checkpoints" / f"step-{case.steps // 2:08d}"))
    found = {"imported": peaks[0], "stages": [at - peaks[0] for at in peaks[1:]], "seconds": seconds}
    (out / f"memory.{world.rank}.json").write_text(json.dumps(found))


def peak() -> int:
    """Return the most bytes that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def lines(run: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_journal(run / "metrics.jsonl") if line["kind"] == kind]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in lines(run, "train")]


def apart(found: list[float], expected: list[float]) -> float:
    """Return the largest relative difference."""
    return max(abs(a - b) / abs(b) for a, b in zip(found, expected, strict=True))


def runs(out: Path) -> list[Path]:
    return [out / "stages" / f"{number:02d}-{name}" for number, name in enumerate(NAMES, 1)]


def check(folder: Path, name: str) -> dict[str, Any]:
    """Check the runs of a case in one process and in two; return what was measured. Raises AssertionError."""
    case, (one, two) = CASES[name], (folder / name / size for size in SIZES.values())
    first, second = runs(one)
    found: dict[str, Any] = {"case": name, "contexts": [case.context, 4 * case.context], "losses": {}}
    _check_start(case, one)
    metric = "val_loss"
    for short, a, b in zip(NAMES, runs(one), runs(two), strict=True):
        assert len(losses(a)) == case.steps and np.isfinite(losses(a)).all(), short
        scores = [[line[metric] for line in lines(run, "validation")] for run in (a, b)]
        assert len(scores[0]) == 2 and np.isfinite(scores[0]).all(), short
        found["losses"][short] = {
            "one": losses(a), "two": losses(b), "apart": apart(losses(b), losses(a)),
            "validation_apart": apart(scores[1], scores[0]),
        }  # fmt: skip
        assert found["losses"][short]["apart"] <= LOSSES and found["losses"][short]["validation_apart"] <= METRICS
        assert "2, fsdp (training.parallel: fsdp)" in (b / "training.log").read_text()
    for out in (one, two):
        whole, resumed = runs(out)[1], out / "resumed"
        assert losses(resumed) == losses(whole), f"{out.name}: resumed losses"
        weights, its_weights = (load_file(run / "release" / "model.safetensors") for run in (whole, resumed))
        assert all(torch.equal(value, its_weights[key]) for key, value in weights.items()), f"{out.name}: weights"
    found["forecast_changes"] = _check_forecasts(case, second / "release")
    assert load(first / "release").model.max_context_length == case.context
    found["memory"] = {
        size: [json.loads(path.read_text()) for path in sorted((folder / name / size).glob("memory.*.json"))]
        for size in SIZES.values()
    }
    return found


def _check_start(case: Case, out: Path) -> None:
    """The second stage's model before its first step is the first one's release, but for its lengths."""
    stage = make_stages(case.config(out, 1))[1].config
    with contextlib.redirect_stdout(io.StringIO()):
        model = build_model(stage)
    (start := out / "start").mkdir()
    model.save_release(start)
    state, released = (load_file(folder / "model.safetensors") for folder in (start, runs(out)[0] / "release"))
    assert state.keys() == released.keys() and all(torch.equal(state[key], value) for key, value in released.items())
    assert model.max_context_length == 4 * case.context
    trained = load_file(runs(out)[1] / "release" / "model.safetensors")
    assert any(not torch.equal(trained[key], value) for key, value in released.items())  # it trained


def _check_forecasts(case: Case, release: Path) -> dict[str, float]:
    """Return the largest changes of a forecast, in its spread: of the oldest patch in reverse, and of older steps."""
    predictor, context = load(release), 4 * case.context
    assert predictor.model.max_context_length == context
    config = json.loads((release / "config.json").read_text())
    assert context in {**config, **config.get("chronos_config", {})}.values()
    draw = np.random.default_rng(0)
    series = draw.standard_normal(context + case.patch).astype(np.float32)  # a walk hardly changes within a patch
    oldest, older = series.copy(), series.copy()
    oldest[case.patch : 2 * case.patch] = oldest[case.patch : 2 * case.patch][::-1]
    older[: case.patch] += 100
    plain, changed, same = (_forecast(predictor, values, case.horizons[1]) for values in (series, oldest, older))
    spread = np.ptp(plain)
    reads, beyond = (float(np.abs(other - plain).max() / spread) for other in (changed, same))
    assert reads > 1e-5 and beyond == 0, (reads, beyond)  # rounding is 1e-7
    return {"oldest_patch_reversed": reads, "older_steps": beyond}


def _forecast(predictor: Any, values: np.ndarray, horizon: int) -> np.ndarray:
    times = pd.date_range("2020-01-01", periods=len(values), freq="h")
    frame = pd.DataFrame({"item_id": "a", "timestamp": times, "target": values})
    found = predictor.forecast_df(frame, prediction_length=horizon, quantile_levels=[0.1, 0.5, 0.9])
    assert len(found) == horizon and math.isfinite(found["predictions"].sum())
    return found[["0.1", "0.5", "0.9"]].to_numpy()


def main() -> int:
    """Run cases in this group of processes or, without one, run and check those that are asked for."""
    if "WORLD_SIZE" in os.environ:
        folder, world = Path(sys.argv[1]), World.start("cpu", threads=1)
        for name in (folder / "cases").read_text().split(","):
            work(folder, name, world)
        world.barrier()
        world.close()
        end()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    place, found = asked.folder or Path(tempfile.mkdtemp()), []
    for name in asked.cases.split(","):
        folder = place / f"proof-{name}"  # processes of its own, whose peaks are of this case
        folder.mkdir(parents=True)
        (folder / "cases").write_text(name)
        for processes in SIZES:
            with start_command(torchrun(processes, __file__, folder), cwd=ROOT) as process:
                text, _ = process.communicate()
            assert process.returncode == 0, text[-3000:]
        found.append(check(folder, name))
        print(*describe(found[-1]), sep="\n", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def describe(found: dict[str, Any]) -> Iterator[str]:
    """Yield lines on a case."""
    yield f"{found['case']}: contexts {found['contexts'][0]:,} and {found['contexts'][1]:,}; all checks hold"
    for short, facts in found["losses"].items():
        said = ", ".join(f"{loss:.6f}" for loss in facts["one"])
        yield f"  {short}: losses {said}; two processes {facts['apart']:.1e} away, in validation "\
              f"{facts['validation_apart']:.1e}"  # fmt: skip
    yield f"  forecast: {found['forecast_changes']}"
    for size, ranks in found["memory"].items():
        for rank, facts in enumerate(ranks):
            peaks = ", ".join(f"{bytes_ / 2**20:,.0f} MiB" for bytes_ in facts["stages"])
            yield f"  peak of process {rank} of {size}, beside {facts['imported'] / 2**20:,.0f} MiB of imports: {peaks}"


if __name__ == "__main__":
    sys.exit(main())
