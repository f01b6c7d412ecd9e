"""Put the release of a pretraining run into the package, with a record of how it was made.

    python -m tools.pack_pretrained RUN [--name tiny] [--scores FILE] [--into FOLDER]

RUN is a run folder. Its weights are copied as they are, and what release.json says of them (`pretraining`) is read from
the run's own files: config, mixtures of its corpora, steps, windows, FLOPs and hours of metrics.jsonl. A run that
started from another one adds that one's figures, from its folder or, for a model in the box, from its record.
--scores is a JSON file of benchmarks.panels that holds these weights. A model that saw anything but synthetic series is
refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness

from foretrain.atomic import replacing_folder, write_json
from foretrain.config import build, read_yaml
from foretrain.data.store import Corpus
from foretrain.errors import ForetrainError, ModelError
from foretrain.forecasting.ancestry import Ancestry, own_training
from foretrain.models import open_release
from foretrain.models.hub import facts_of, local_folder, release_hash, release_in
from foretrain.models.shipped import DEFAULT, FOLDER
from foretrain.run.build import build_model
from foretrain.run.config import RunConfig
from foretrain.training.journal import read_journal
from foretrain.training.release import run_folder

MOST_BYTES = 8_000_000  # of a model in the box
LICENSE = "Apache-2.0"


@dataclass(frozen=True)
class Totals:
    """What a training cost. flops: of forward and backward passes; flops_are_a_bound: every window counted as the
    longest, as journals of earlier versions do not count them."""

    steps: int = 0
    windows: int = 0
    flops: float = 0.0
    flops_are_a_bound: bool = False
    hours: float = 0.0

    def __add__(self, other: Totals) -> Totals:
        bound = self.flops_are_a_bound or other.flops_are_a_bound
        figures = (getattr(self, name) + getattr(other, name) for name in ("steps", "windows", "flops"))
        return Totals(*figures, flops_are_a_bound=bound, hours=self.hours + other.hours)


def main() -> None:
    """Pack a run's release."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", default=DEFAULT)
    parser.add_argument("--scores", type=Path, help="JSON of benchmarks.panels with these weights")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder of the models in the box")
    args = parser.parse_args()
    try:
        facts = pack(args.run, args.into / args.name, args.scores)
    except ForetrainError as error:
        raise SystemExit(f"error: {error}") from None
    shown = {key: value for key, value in facts["pretraining"].items() if key != "recipe"}
    print(f"{args.into / args.name}: {json.dumps(shown, indent=1)}")


def pack(run: Path, out: Path, scores: Path | None = None) -> dict[str, Any]:
    """Write the folder `out`, replacing an earlier one, and return its release.json. Raises ModelError."""
    release = release_in(run)
    facts = facts_of(release)
    check_synthetic(facts, release)
    files = [release / "config.json", release / "model.safetensors"]
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        raise ModelError(f"{release}: has {size:,} bytes, and a model in the box at most {MOST_BYTES:,}.")
    model = open_release(release, str(release), True, {})
    about = {
        "family": model.family,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data": "synthetic series alone",
        "recipe": recipe(run_folder(release), facts),
        "seed": facts["seed"],
        **asdict(totals(release, facts)),
        "machine": harness.describe("cpu"),
        "commit": harness.commit(),
        "scores": None if scores is None else scores_of(scores, release),
    }
    # series of pretraining have no columns to go by, so any are forecast, and no categories
    data = {**facts["data"], "any_columns": True, "categories": None}
    corpora = [{**entry, "generated": True} for entry in facts["corpora"]]  # as recipe has found, for earlier versions
    packed = {**facts, "license": LICENSE, "corpora": corpora, "data": data, "pretraining": about}
    with replacing_folder(out) as scratch:
        for path in files:
            shutil.copyfile(path, scratch / path.name)
        write_json(scratch / "release.json", packed)
    return packed


def check_synthetic(facts: Mapping[str, Any], release: Path) -> None:
    """Raise ModelError unless all that the model and its ancestors saw is recorded and synthetic."""
    ancestry = Ancestry.read(facts)
    own = own_training(facts)
    if ancestry is None or ancestry.unknown or not own:
        raise ModelError(f"{release}: does not record all that it was trained on, so it cannot be packed.")
    for rule in [*own, *ancestry.seen]:
        if rule.provenance != "synthetic":
            raise ModelError(f"{release}: was trained on {rule.name}, whose provenance is {rule.provenance}.")
        if rule.generated is False:
            raise ModelError(f"{release}: was trained on {rule.name}, which was imported and not generated here.")
        if rule.generated is None and rule.by:  # of its own corpora recipe finds it out
            raise ModelError(
                f"{release}: it is not recorded whether {rule.name}, which an ancestor saw, was generated."
            )


def recipe(run: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run with its hash, and the mixtures of its corpora by their folders' names.

    Only generated corpora have a mixture, so one without is refused.
    """
    config, mixtures = read_yaml(run / "config.yaml"), dict[str, Any]()
    prints = {entry["fingerprint"] for entry in facts["corpora"]}
    data = config["data"]
    for spec in [*(data.get("corpora") or ()), *((data.get("generated") or {}).get("corpora") or ())]:
        if spec.get("path"):
            folder = Path(spec["path"])
            path = folder / "mixture.json"
            if not path.is_file() or Corpus.open(folder).fingerprint not in prints:
                raise ModelError(f"{folder}: is not the generated corpus that {run} was trained on. Restore it.")
            mixtures[folder.name] = json.loads(path.read_text(encoding="utf-8"))
            spec["path"] = folder.name
    config |= {"output_dir": run.name}  # and no other path of a machine
    return {"config_hash": facts["config_hash"], "config": config, "mixtures": mixtures}


def totals(release: Path, facts: Mapping[str, Any]) -> Totals:
    """Return what a release cost, with the trainings that it started from."""
    own = of_journal(run_folder(release))
    parent = (facts.get("parents") or {}).get("model")
    if parent is None:
        return own
    folder = local_folder(parent["asked"])
    if folder is None or release_hash(folder) != parent["hash"]:
        raise ModelError(f"{release}: started from {parent['asked']}, which does not hold those weights any more.")
    earlier = facts_of(folder)
    if "pretraining" in earlier:
        return own + Totals(**{name: earlier["pretraining"][name] for name in asdict(own)})
    return own + totals(folder, earlier)


def of_journal(run: Path) -> Totals:
    """Return what a run cost by its metrics.jsonl, whose rates are means since the line before."""
    lines = [line for line in read_journal(run / "metrics.jsonl") if line.get("kind") == "train"]
    if not lines:
        raise ModelError(f"{run / 'metrics.jsonl'}: has no steps.")
    steps = [line["step"] - before for line, before in zip(lines, [0, *(x["step"] for x in lines)], strict=False)]
    rated = [(count, line) for count, line in zip(steps, lines, strict=True) if line["steps_per_s"]]
    if not rated:
        raise ModelError(f"{run / 'metrics.jsonl'}: has no rates, since every step was profiled.")
    rest = sum(steps) / sum(count for count, _ in rated)  # profiled lines tell no rate: they were as the others
    seconds = [rest * count / line["steps_per_s"] for count, line in rated]
    lines = [line for _, line in rated]
    windows = round(_sum(line["windows_per_s"] * s for line, s in zip(lines, seconds, strict=True)))
    counted = all("flops_per_s" in line for line in lines)
    if counted:
        flops = _sum(line["flops_per_s"] * s for line, s in zip(lines, seconds, strict=True))
    else:
        config = build(RunConfig, read_yaml(run / "config.yaml"), source=str(run))
        longest = (config.data.context_length, config.data.prediction_length, 1)
        flops = windows * build_model(config, device="meta").step_flops(*longest)
    return Totals(sum(steps), windows, flops, not counted, _sum(seconds) / 3600)


def _sum(values: Iterable[float]) -> float:
    return float(sum(values))


def scores_of(file: Path, release: Path) -> dict[str, Any]:
    """Return the figures of these weights, and of all methods beside them, from a file of benchmarks.panels."""
    found, own = json.loads(file.read_text(encoding="utf-8")), release_hash(release)
    name = next((name for name, hashed in (found.get("weights") or {}).items() if hashed == own), None)
    if name is None:
        raise ModelError(f"{file}: has no scores of the weights in {release}. Score them: benchmarks.panels --json.")
    return {
        "panels": found["group"],
        "series_sets": len(found["sets"][name]),
        **found["relative"][name],
        "beside": {other: figures for other, figures in found["relative"].items() if other not in found["weights"]},
    }


if __name__ == "__main__":
    main()
