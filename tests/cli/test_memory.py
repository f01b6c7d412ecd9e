"""Forecasts and evaluations that find no memory (the error comes from a patched forward pass), or are given a bound."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tests.cli.test_app import foretrain

from foretrain.models.chronos2.forecaster import Chronos2

CPU = "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."


@pytest.fixture
def sales(tmp_path, monkeypatch):
    """A file of 80 months, in the current folder."""
    monkeypatch.chdir(tmp_path)
    months = pd.date_range("2019-01-01", periods=80, freq="MS").strftime("%Y-%m")
    pd.DataFrame({"month": months, "sales": np.arange(80.0)}).to_csv("sales.csv", index=False)
    return "sales.csv"


@pytest.mark.parametrize("error", [RuntimeError(CPU), MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
@pytest.mark.parametrize("verb", [("forecast", "tiny", "sales.csv"), ("evaluate", "tiny", "--data", "sales.csv")])
def test_what_finds_no_memory_names_its_flags_in_one_line_with_exit_code_2(sales, capsys, monkeypatch, verb, error):
    def forecast(model, batch, request):
        raise error

    monkeypatch.setattr(Chronos2, "forecast", forecast)
    foretrain(*verb, "--batch-size", 64, "--prediction-length", 6, "--threads", 1, code=2)
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    if isinstance(error, torch.OutOfMemoryError):  # batches were halved down to one window before
        assert "out of memory with a single window" in line and "context_length" in line
    else:
        assert line.startswith("error: out of memory (") and "a lower --batch-size (now 64 rows)" in line
        assert "--context-length" in line and "Traceback" not in line


VERBS = {
    "forecast": ("forecast", "tiny", "sales.csv", "--prediction-length", 6),
    "evaluate": ("evaluate", "tiny", "--data", "sales.csv", "--prediction-length", 6),
    "compare": ("compare", "tiny", "--data", "sales.csv", "--horizon", 6),
    "benchmark": ("benchmark", "tiny", "--suite", "local", "--data", "sales.csv", "--horizon", 6),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_bound_that_is_no_amount_of_memory_is_refused_in_one_line(sales, capsys, verb):
    foretrain(*VERBS[verb], "--max-memory", "plenty", code=2)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == ["error: max_memory is 'plenty'; give an amount above 0, such as 2GB, 800MB or 1.5 (in GB)."]


@pytest.mark.parametrize("verb", VERBS)
def test_a_bound_below_the_least_says_what_that_is(sales, capsys, verb):
    of_tasks = verb in ("compare", "benchmark")  # where a model fails on a task, others are still scored
    foretrain(*VERBS[verb], "--max-memory", "3MB", "--threads", 1, code=1 if of_tasks else 2)
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "max_memory is 3MB" in line]
    assert lines and all("takes at least" in line and "MB with this model" in line for line in lines)
    assert of_tasks or [line.startswith("error: ") for line in lines] == [True]


def test_forecasts_and_metrics_within_a_bound_are_those_without(sales, tmp_path):
    found = []
    for flags in ((), ("--max-memory", "400MB")):
        name = f"bound{len(flags)}"
        foretrain(*VERBS["forecast"], "--threads", 1, "--out", f"{name}.csv", *flags)
        foretrain(*VERBS["evaluate"], "--threads", 1, "--num-windows", 2, "--out", name, *flags)
        found.append((pd.read_csv(f"{name}.csv"), json.loads((tmp_path / name / "evaluation.json").read_text())))
    (plain, scores), (bounded, bounded_scores) = found
    pd.testing.assert_frame_equal(plain, bounded, rtol=1e-4)
    assert "max_memory" not in scores["settings"] and bounded_scores["settings"]["max_memory"] == 4 * 10**8
