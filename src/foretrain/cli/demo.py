"""`foretrain demo`: from raw files to a report on generated data: the model in the box, fine-tuned, in minutes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foretrain.errors import ConfigError

ITEMS, ROWS = 48, 1800  # hourly series of 75 days
ORIGINS = 20  # forecast origins to score: enough for a verdict


def run_demo(out: Path) -> Path:
    """Generate CSV files, import, train, evaluate and forecast under `out` (or out-2, ... if it exists).

    Returns the folder used.
    """
    from foretrain.cli.commands import evaluate_model, import_data
    from foretrain.cli.forecast_file import forecast_file
    from foretrain.config import dump_yaml
    from foretrain.forecasting.request import FrameRequest
    from foretrain.models.shipped import default_model
    from foretrain.run.config import load_config, shipped_config
    from foretrain.run.train import train_run

    out = _free_folder(out)
    _say(f"1/5 generate {ITEMS} hourly series into {out / 'raw'}")
    write_series(out / "raw", out / "history.csv")
    _say("2/5 import them into a corpus")
    corpus = out / "corpus"
    import_data([out / "raw"], corpus, provenance="synthetic")
    _say("3/5 fine-tune tiny, the model in the box")
    overrides = [
        ("model", {"model_id": default_model()}),
        ("data.corpora", [{"path": str(corpus)}]),
        ("data.test_steps", ORIGINS * 24),
        ("training.max_steps", 300),
        ("optimizer.learning_rate", 1e-3),
        ("output_dir", str(out / "run")),
    ]
    config = load_config(shipped_config("debug.yaml"), overrides)
    train_run(config)
    _say("4/5 score it on windows that training never saw, beside naive forecasts and tiny as it was")
    release = out / "run" / "release"
    evaluate_model(str(release), corpus, num_windows=ORIGINS, against="zero-shot", out=out / "evaluation")
    _say("5/5 forecast one series")
    forecast_file(
        str(release),
        out / "history.csv",
        FrameRequest(prediction_length=config.data.prediction_length),
        out=out / "forecast.csv",
        plot=out / "forecast.png",
    )
    (out / "config.yaml").write_text(dump_yaml(config))
    _say(f"report   {out / 'evaluation' / 'report.html'}\npicture  {out / 'forecast.png'}\nmodel    {release}")
    return out


def write_series(folder: Path, history: Path, items: int = ITEMS, rows: int = ROWS, seed: int = 0) -> None:
    """Write hourly load-like series: daily and weekly shapes, a random-walk level, and noise of a size per item.

    One CSV (timestamp, target) per item goes into `folder`, and the first item into `history`, to be forecast.
    """
    folder.mkdir(parents=True)
    hours = np.arange(rows)
    stamps = np.datetime_as_string(np.datetime64("2024-01-01T00:00") + hours.astype("timedelta64[h]"), unit="m")
    for item in range(items):
        rng = np.random.default_rng([seed, item])
        angle = 2 * np.pi * hours / 24
        daily = sum(rng.normal() / k * np.sin(k * angle) + rng.normal() / k * np.cos(k * angle) for k in (1, 2, 3))
        weekend = 1 - rng.uniform(0.1, 0.5) * ((hours // 24) % 7 >= 5)
        level = 10 + np.cumsum(rng.normal(0, 0.02, rows))
        values = 20 * (level + 1.5 * daily * weekend) + rng.normal(0, rng.uniform(1, 4), rows)
        text = "timestamp,target\n" + "\n".join(f"{t},{v:.3f}" for t, v in zip(stamps, values, strict=True)) + "\n"
        (folder / f"meter-{item:03d}.csv").write_text(text)
        if item == 0:
            lines = text.splitlines(keepends=True)
            history.write_text("item_id," + lines[0] + "".join(f"meter-000,{line}" for line in lines[1:]))


def _free_folder(out: Path) -> Path:
    """Create and return `out`, or the first of out-2, out-3, ... that does not exist: a demo overwrites nothing."""
    for candidate in [out, *(out.with_name(f"{out.name}-{number}") for number in range(2, 1000))]:
        if not candidate.exists():
            candidate.mkdir(parents=True)
            return candidate
    raise ConfigError(f"{out}: 999 demo folders exist; delete some or choose another folder with --out.")


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)
