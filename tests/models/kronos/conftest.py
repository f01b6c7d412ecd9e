"""Recorded tiny models and numbers, and small random models with their tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from foretrain.config import build as build_section
from foretrain.data.windows import Window
from foretrain.models import family
from foretrain.models.kronos.config import COLUMNS
from foretrain.models.kronos.forecaster import Kronos
from foretrain.models.kronos.model import KronosNetwork
from foretrain.models.kronos.tokenizer import TokenizerNetwork
from foretrain.models.kronos.trainable import KronosTokenizer

MINUTE = 60_000_000  # microseconds
CONTEXT, HORIZON = 16, 5
SIZES = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16}


class Kit:
    """Builds what the tests of this folder work on."""

    MINUTE, CONTEXT, HORIZON = MINUTE, CONTEXT, HORIZON

    def __init__(self, folder: Path) -> None:
        self.tokenizer_folder = folder
        self.tokenizer().save_release(folder)

    @staticmethod
    def tokenizer(seed: int = 0, **changes) -> KronosTokenizer:
        """A small random tokenizer of 4 + 4 bits behind the model contract."""
        chosen = family("kronos_tokenizer")
        wanted = {**SIZES, "n_enc_layers": 2, "n_dec_layers": 2, "s1_bits": 4, "s2_bits": 4, **changes}
        made = chosen.build(
            build_section(chosen.config(), wanted), context_length=CONTEXT, prediction_length=HORIZON, seed=seed
        )
        assert isinstance(made, KronosTokenizer)
        return made

    def predictor(self, seed: int = 0, **changes) -> Kronos:
        """A small random predictor without drop-out, reading the tokenizer in tokenizer_folder."""
        chosen = family("kronos")
        rates = {f"{part}_dropout_p": 0.0 for part in ("ffn", "attn", "resid", "token")}
        wanted = {**SIZES, "n_layers": 1, "tokenizer": str(self.tokenizer_folder), **rates, **changes}
        made = chosen.build(
            build_section(chosen.config(), wanted), context_length=CONTEXT, prediction_length=HORIZON, seed=seed
        )
        assert isinstance(made, Kronos)
        return made

    @staticmethod
    def window(
        seed: int = 0, steps: int = CONTEXT, horizon: int = HORIZON, *, rows: int = 6, times: bool = True, **changes
    ) -> Window:
        """A window of 5-minute candles with its future."""
        rng = np.random.default_rng(seed)
        close = 100 + rng.standard_normal(steps + horizon).cumsum()
        opened = close + 0.1 * rng.standard_normal(steps + horizon)
        volume = rng.uniform(1e5, 1e6, steps + horizon)
        edge = rng.uniform(0.1, 0.5, steps + horizon)
        bars = [opened, np.maximum(opened, close) + edge, np.minimum(opened, close) - edge, close]
        bars = np.array([*bars, volume, volume * close], np.float32)[:rows]
        clock = (28_487_460 + 5 * np.arange(steps + horizon)) * MINUTE  # from 2024-02-29 23:00
        given = {
            "num_targets": rows,
            "future": bars[:, steps:],
            "context_times": clock[:steps] if times else None,
            "future_times": clock[steps:] if times else None,
            "item_id": f"item {seed}",
            "key": seed,
            "names": COLUMNS[:rows],
        }
        return Window(bars[:, :steps], **{**given, **changes})


@pytest.fixture(scope="session")
def kit(tmp_path_factory) -> Kit:
    return Kit(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of numbers recorded from the reference code."""
    return Path(os.environ.get("FORETRAIN_GOLDEN_DIR") or Path(__file__).parents[2] / "golden") / "kronos"


@pytest.fixture
def recorded_tokenizer(recorded):
    """The recorded tokenizer of that name, in eval mode."""

    def read(name: str = "tokenizer") -> TokenizerNetwork:
        return TokenizerNetwork.read_release(recorded / name).eval()

    return read


@pytest.fixture
def recorded_predictor(recorded):
    """The recorded predictor of that name, in eval mode."""

    def read(name: str = "predictor_te") -> KronosNetwork:
        return KronosNetwork.read_release(recorded / name).eval()

    return read


@pytest.fixture(scope="session")
def apart():
    """Largest |a - b|; shapes must be equal."""

    def measured(a: torch.Tensor, b: torch.Tensor) -> float:
        assert a.shape == b.shape
        return float((a.detach().double() - b.detach().double()).abs().max())

    return measured
