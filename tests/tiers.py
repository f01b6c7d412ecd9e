"""The tiers of the suite: `python -m tests.tiers test|quick [arguments of pytest]`, which `make` calls.

A tier is one or several runs of pytest. Its last line has pytest's own form and counts all of them; the exit code is
0 only if every run passed.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two workers that use every core each would wait for each other
NEVER = "parity or gpu"  # `make parity` and `make gpu` run these

# Left out of the quick tier: all that take more than a second of CPU (`pytest --durations=0`), but for the contract of
# all families and the architecture. What stays covers every package.
SLOW = (
    "tests/tuning/adviser/test_adviser.py",
    "tests/tuning/adviser/test_client.py",
    "tests/tuning/adviser/test_fill.py",
    "tests/tuning/test_compare.py",
    "tests/tuning/test_database.py",
    "tests/tuning/test_final.py",
    "tests/tuning/test_folds.py",
    "tests/tuning/test_forecasting.py",
    "tests/tuning/test_lr_range.py",
    "tests/tuning/test_probe.py",
    "tests/tuning/test_report.py",
    "tests/tuning/test_trial.py",
    "tests/data/market/test_adjustment.py",
    "tests/data/market/test_metadata.py",
    "tests/data/market/test_review.py",
    "tests/data/synthetic/test_causal.py",
    "tests/data/synthetic/test_multivariate.py",
    "tests/data/importers/test_dialects.py",
    "tests/data/importers/test_vendors.py",
    "tests/data/synthetic/test_calendar.py",
    "tests/data/synthetic/test_candles.py",
    "tests/data/synthetic/test_generators.py",
    "tests/data/synthetic/test_mixture.py",
    "tests/data/test_buckets.py",
    "tests/data/synthetic/test_stream.py",
    "tests/data/importers/test_times.py",
    "tests/data/test_inspection.py",
    "tests/data/test_lineage.py",
    "tests/data/market/test_download.py",
    "tests/data/test_mapped.py",
    "tests/data/test_items.py",
    "tests/data/test_parts.py",
    "tests/evaluation/test_candles.py",
    "tests/evaluation/test_draws.py",
    "tests/evaluation/test_gate.py",
    "tests/evaluation/test_losses.py",
    "tests/evaluation/test_markets.py",
    "tests/evaluation/test_report.py",
    "tests/forecasting/test_finish.py",
    "tests/forecasting/test_memory.py",
    "tests/models/test_memory.py",
    "tests/evaluation/test_significance.py",
    "tests/suites/test_scoring.py",
    "tests/evaluation/test_season_rows.py",
    "tests/evaluation/test_seasons.py",
    "tests/forecasting/test_one_reader.py",
    "tests/forecasting/test_scaling.py",
    "tests/suites/test_submissions.py",
    "tests/suites/test_remembered.py",
    "tests/timeaxis/test_exchange.py",
    "tests/gpu",
    "tests/test_benchmark_gpu.py",
    "tests/models/chronos2/test_model.py",
    "tests/models/chronos2/test_decode.py",
    "tests/models/chronos2/test_symmetric.py",
    "tests/models/kronos/test_generate.py",
    "tests/models/kronos/test_stream.py",
    "tests/models/kronos/test_training.py",
    "tests/models/linear/test_baseline.py",
    "tests/models/test_objective.py",
    "tests/models/test_shipped.py",
    "tests/models/test_units.py",
    "tests/models/toto2/test_forecaster.py",
    "tests/suites/test_convert.py",
    "tests/run/test_adapter_run.py",
    "tests/run/test_ancestry.py",
    "tests/test_causality.py",
    "tests/test_causality_files.py",
    "tests/cli/test_app.py",
    "tests/cli/test_benchmark_models.py",
    "tests/cli/test_benchmark_statistical.py",
    "tests/cli/test_trained_on.py",
    "tests/cli/test_compare.py",
    "tests/cli/test_configs.py",
    "tests/cli/test_doctor.py",
    "tests/cli/test_launch.py",
    "tests/cli/test_market.py",
    "tests/cli/test_memory.py",
    "tests/cli/test_train.py",
    "tests/cli/test_quick.py",
    "tests/cli/test_runs.py",
    "tests/cli/test_seen_dates.py",
    "tests/cli/test_reading.py",
    "tests/cli/test_tune.py",
    "tests/cli/test_unnamed.py",
    "tests/cli/test_rescale.py",
    "tests/test_config.py",
    "tests/test_examples.py",
    "tests/test_old_runs.py",
    "tests/run/test_counting.py",
    "tests/run/test_curves.py",
    "tests/run/test_dry_run.py",
    "tests/run/test_evaluators.py",
    "tests/run/test_fit.py",
    "tests/run/test_health_picture.py",
    "tests/run/test_items.py",
    "tests/run/test_pipeline.py",
    "tests/run/test_reading.py",
    "tests/run/test_staged.py",
    "tests/test_pack_pretrained.py",
    "tests/test_presets.py",
    "tests/test_pretraining_cases.py",
    "tests/run/test_promotion.py",
    "tests/run/test_scale_floor.py",
    "tests/test_troubleshooting.py",  # 4 s
    "tests/test_tutorials.py",  # 17 s: three pages of commands, 1 to 3 s each command that computes
    "tests/run/test_train.py",
    "tests/adapters/test_layers.py",
    "tests/tuning/test_worker.py",
    "tests/training/test_ahead.py",
    "tests/training/test_checkpoint.py",
    "tests/training/test_evaluations.py",
    "tests/training/test_evaluators.py",
    "tests/training/test_flops.py",
    "tests/training/test_many_ranks.py",
    "tests/training/test_memory.py",
    "tests/training/test_micro_batch.py",
    "tests/training/test_monitor.py",
    "tests/training/test_nonfinite.py",
    "tests/training/test_offload.py",
    "tests/training/test_optimizer.py",
    "tests/training/test_optimizer_state.py",
    "tests/training/test_precision.py",
    "tests/training/test_profile.py",
    "tests/training/test_release.py",
    "tests/training/test_sinks.py",
    "tests/training/test_token_budget.py",
    "tests/training/test_trainer.py",
)


@dataclass(frozen=True)
class Part:
    """One run of pytest."""

    name: str
    marks: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)  # where the user's has nothing else


TIERS = {
    "test": (
        Part("two workers", f"not (processes or {NEVER})", ("-n2", "--dist=loadfile"), ONE_THREAD),
        Part("tests that start processes, one at a time", f"processes and not ({NEVER})"),
    ),
    "quick": (Part("quick", f"not (processes or {NEVER})", tuple(f"--ignore={path}" for path in SLOW), ONE_THREAD),),
}


def main() -> int:
    """Run the tier that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tier", choices=TIERS)
    parser.add_argument("-m", dest="marks", help="marker expression, within the tier's own")
    chosen, arguments = parser.parse_known_args()
    return run(TIERS[chosen.tier], arguments, chosen.marks)


def run(parts: Sequence[Part], arguments: Sequence[str] = (), marks: str | None = None) -> int:
    """Run parts one after the other and print what they came to. Returns the exit code."""
    began, counts, codes = time.monotonic(), Counter(), []
    for part in parts:
        cpu = cpu_seconds()
        print(f"\n== {part.name}", flush=True)
        codes.append(_run(part, arguments, marks, counts))
        print(f"== {part.name}: {cpu_seconds() - cpu:.0f} CPU seconds", flush=True)
        if codes[-1] == pytest.ExitCode.INTERRUPTED:
            break
    code = exit_code(codes)
    said = [f"{counts[key]} {key}" for key in ("failed", "passed", "skipped", "errors") if counts[key]]
    if code and not counts["failed"] + counts["errors"]:
        said.append(f"exit code {code}")
    closing = f" {', '.join(said) or 'no tests ran'} in {time.monotonic() - began:.2f}s "
    print(f"{closing:=^80}", flush=True)
    return code


def exit_code(codes: Sequence[int]) -> int:
    """The first that tells of a failure. A part without tests is none unless all are, as with `-k` of a single test."""
    if all(code == pytest.ExitCode.NO_TESTS_COLLECTED for code in codes):
        return pytest.ExitCode.NO_TESTS_COLLECTED
    return next((code for code in codes if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)), 0)


def cpu_seconds() -> float:
    """CPU time, user and system, of all processes that this one has waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(part: Part, arguments: Sequence[str], marks: str | None, counts: Counter[str]) -> int:
    """Run pytest, add the numbers of its outcomes to counts and return its exit code."""
    both = f"({part.marks}) and ({marks})" if marks else part.marks
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *part.arguments, "-m", both, f"--junitxml={report}", *arguments]
        code = subprocess.run(command, env=part.environment | os.environ, check=False).returncode
        if report.exists():
            for suite in ElementTree.parse(report).getroot():
                found = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
                counts["failed"] += found["failures"]
                counts["errors"] += found["errors"]
                counts["skipped"] += found["skipped"]
                counts["passed"] += found["tests"] - found["failures"] - found["errors"] - found["skipped"]
    return code


if __name__ == "__main__":
    sys.exit(main())
