"""Forecasts and evaluations that find no memory: the error comes from a patched forward pass."""

from __future__ import annotations

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
