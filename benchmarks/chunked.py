"""Memory and time of forecasts from 8,192 steps of 100 variates over 720 steps, within --max-memory and without it.

    python -m benchmarks.chunked [--max-memory 2GB] [--context 8192] [--horizon 720] [--only TEXT] [--bounded] \\
        [--json FILE]

Kronos reads items of candles in place of 100 variates, which it has none of. A shorter context with a lower bound, or
a shorter horizon, is for cases that take a machine too long. --json keeps other results that are there.

Each case runs in a process of its own, whose model has random weights: first a forecast of a few steps, so that imports
are not counted, then the forecast. Memory is the peak of resident memory during the forecast less what was resident
before it (VmHWM, which Linux resets on request). Quantiles of both sides are compared: "difference" is the largest one
relative to the largest value of the series. Two sides of a case run one after the other, not at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import harness

import numpy as np  # isort: skip  (after the harness, which sets the threads)

CONTEXT, HORIZON, VARIATES = 8192, 720, 100
TOTO: dict[str, Any] = {"family": "toto", "embed_dim": 512, "num_layers": 6, "num_heads": 8, "mlp_hidden_dim": 2048,
        "spacewise_every_n_layers": 6}  # fmt: skip
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # section of the model, arguments of the forecast
    "toto2 22m": ({"family": "toto2", "preset": "22m"}, {}),
    "chronos2 small": ({"family": "chronos2", "preset": "small"}, {}),
    "toto d512, 16 paths": (TOTO, {"num_samples": 16}),
    "toto d512, 128 paths": (TOTO, {"num_samples": 128}),
    "linear": ({"family": "linear"}, {}),
    "kronos mini, 1 item, 2 paths": (
        {"family": "kronos", "preset": "mini", "max_context": 8192},
        {"mode": "rolling", "num_samples": 2, "items": 1},
    ),
    "kronos mini, 100 items, 2 paths": (
        {"family": "kronos", "preset": "mini", "max_context": 8192}, {"mode": "rolling", "num_samples": 2},
    ),
    "toto2 22m, blocks of 256 steps": ({"family": "toto2", "preset": "22m"}, {"decode_block_size": 256}),
    "chronos2 small, rounds of 256 steps": ({"family": "chronos2", "preset": "small"}, {"max_output_patches": 16}),
    "chronos2 small, bfloat16": ({"family": "chronos2", "preset": "small"}, {"dtype": "bfloat16"}),
}  # fmt: skip


def model_of(section: dict[str, Any], folder: Path) -> Any:
    """Return a model with random weights."""
    from foretrain.config import build as build_section
    from foretrain.models import family

    name = section["family"]
    if name == "kronos":
        tokenizer = {"family": "kronos_tokenizer", "preset": "base", "random_init": True}
        part = family("kronos_tokenizer")
        built = part.build(
            build_section(part.config(), tokenizer), context_length=CONTEXT, prediction_length=HORIZON, seed=0
        )
        built.save_release(folder)
        section = {**section, "tokenizer": str(folder)}
    chosen = family(name)
    config = build_section(chosen.config(), {"random_init": True, **section})
    model = chosen.build(config, context_length=CONTEXT, prediction_length=HORIZON, seed=0)
    return model.eval()


def inputs_of(name: str, context: int = CONTEXT) -> list[Any]:
    """Return 100 variates of one item, or 100 items of candles, each of `context` steps."""
    from foretrain.data.windows import Window

    rng = np.random.default_rng(0)
    if name != "kronos":
        return [rng.standard_normal((VARIATES, context)).cumsum(1).astype(np.float32)]
    close = 1000 + rng.standard_normal((VARIATES, context)).cumsum(1)
    candles = np.stack([close, close + 1, close - 1, close, 100 + 0 * close, 100 * close], 1).astype(np.float32)
    columns = ("open", "high", "low", "close", "volume", "amount")
    return [Window(values, 6, names=columns, item_id=str(k), key=k) for k, values in enumerate(candles)]


def resident(name: str) -> int:
    """Return VmRSS or VmHWM in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def measured(case: str, bound: str | None, context: int, horizon: int, out: Path) -> dict[str, float]:
    """Forecast in this process; write the quantiles and return seconds and bytes."""
    import torch

    from foretrain.forecasting.predictor import DTYPES, Predictor

    torch.set_num_threads(harness.THREADS)
    section, options = CASES[case]
    arguments = dict(options)
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(section, Path(folder))
    predictor = Predictor(model.to(dtype=DTYPES[arguments.pop("dtype", "float32")]))
    inputs = inputs_of(section["family"], context)[: arguments.pop("items", None)]
    few = [x[:2, -256:] if isinstance(x, np.ndarray) else x for x in inputs[:1]]
    if section["family"] != "kronos":
        predictor.forecast(few, 8, **arguments)
    extra: dict[str, Any] = {} if bound is None else {"max_memory": bound}
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS"), time.perf_counter()
    found = predictor.forecast(inputs, horizon, **arguments, **extra)
    seconds, peak = time.perf_counter() - start, resident("VmHWM") - before
    np.save(out, np.concatenate(found))
    largest = max(float(np.abs(x if isinstance(x, np.ndarray) else x.context).max()) for x in inputs)
    return {"seconds": seconds, "bytes": peak, "largest": largest}


def _setting(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return what a result is of."""
    return line["case"], line["max_memory"], line.get("context", CONTEXT), line.get("horizon", HORIZON)


def main() -> None:
    """Run the cases, each side in a process of its own, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-memory", default="2GB")
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--horizon", type=int, default=HORIZON)
    parser.add_argument("--only", default="")
    parser.add_argument("--bounded", action="store_true", help="leave out the side without a bound")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        case, bound, context, out = given.one
        found = measured(case, None if bound == "none" else bound, int(context), given.horizon, Path(out))
        print(json.dumps(found))
        return
    results: list[dict[str, Any]] = json.loads(given.json.read_text()) if given.json and given.json.exists() else []
    for case in (case for case in CASES if given.only in case):
        sides, arrays = {}, []
        for bound in (given.max_memory, *(() if given.bounded else ("none",))):
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "quantiles.npy"
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.chunked",
                    "--one",
                    case,
                    bound,
                    str(given.context),
                    str(out),
                    "--horizon",
                    str(given.horizon),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise SystemExit(f"{case}, {bound}: {done.stderr[-2000:]}")
                sides[bound] = json.loads(done.stdout.splitlines()[-1])
                arrays.append(np.load(out))
        ours, other = sides[given.max_memory], sides.get("none")
        line: dict[str, Any] = {"case": case, "max_memory": given.max_memory, "context": given.context}
        line["horizon"] = given.horizon
        line |= {"bytes": ours["bytes"], "seconds": ours["seconds"]}
        if other is not None:
            away = float(np.abs(arrays[0] - arrays[1]).max() / ours["largest"])
            line |= {"unbounded_bytes": other["bytes"], "unbounded_seconds": other["seconds"], "difference": away}
        line |= {"threads": harness.THREADS, "load": os.getloadavg()[0]}
        line |= {"device": harness.describe("cpu"), "commit": harness.commit()}
        results = [before for before in results if _setting(before) != _setting(line)] + [line]
        print(json.dumps(line), flush=True)
        if given.json:
            given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
