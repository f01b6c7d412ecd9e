"""Generated tokens, the logits they were drawn from, and whole forecasts, against numbers of the reference code."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from foretrain.data.windows import Window, stack_windows
from foretrain.models.kronos.config import COLUMNS
from foretrain.models.kronos.forecaster import Kronos
from foretrain.models.kronos.generate import CandlePrompt, generate
from foretrain.models.kronos.options import KronosOptions

pytestmark = pytest.mark.golden

GREEDY = {"top_k": 1, "top_p": 1.0}
CASES = ("short", "cross", "long", "tiny", "sampled_seed123")
HORIZON = 8


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["te", "fixed"])
def test_generation_equals_the_reference(recorded, recorded_tokenizer, recorded_predictor, apart, kind, case):
    expected = load_file(recorded / "generate" / f"{kind}_{case}.safetensors")
    drawn = {"temperature": 0.8, "top_p": 0.9} if case.startswith("sampled") else GREEDY
    samples, longest = int(expected["sample_count"]), int(expected["max_context"])
    network, tokenizer = recorded_predictor(f"predictor_{'te' if kind == 'te' else 'fixed_te'}"), recorded_tokenizer()
    torch.manual_seed(123)
    found = generate(
        network,
        tokenizer,
        CandlePrompt(expected["x"], torch.zeros(2, dtype=torch.int64), None, expected["x_stamp"], expected["y_stamp"]),
        HORIZON,
        num_samples=samples,
        seed=0,
        options=KronosOptions(**drawn, max_context=longest, compat=True),
        keep_logits=True,
    )
    assert torch.equal(found.s1.flatten(0, 1), expected["gen_s1"])
    assert torch.equal(found.s2.flatten(0, 1), expected["gen_s2"])
    assert apart(found.s1_logits.flatten(0, 1), expected["step_s1_logits"]) < 1e-5
    assert apart(found.s2_logits.flatten(0, 1), expected["step_s2_logits"]) < 1e-5
    rows = min(HORIZON, longest)  # of the reference's: six for eight bars asked for
    assert apart(found.bars.mean(1), expected["preds"][:, -rows:]) < 1e-5


@pytest.mark.parametrize("case", CASES[:3])
def test_without_compat_greedy_tokens_and_bars_are_the_same(
    recorded, recorded_tokenizer, recorded_predictor, apart, case
):
    expected = load_file(recorded / "generate" / f"te_{case}.safetensors")
    found = generate(
        recorded_predictor(),
        recorded_tokenizer(),
        CandlePrompt(expected["x"], torch.zeros(2, dtype=torch.int64), None, expected["x_stamp"], expected["y_stamp"]),
        HORIZON,
        num_samples=1,
        seed=0,
        options=KronosOptions(top_k=1, max_context=int(expected["max_context"])),
    )
    assert torch.equal(found.s1[:, 0], expected["gen_s1"]) and torch.equal(found.s2[:, 0], expected["gen_s2"])
    assert apart(found.bars[:, 0], expected["preds"][:, -HORIZON:]) < 1e-5


def window_of(folder, name: str, rows: int, columns: tuple[str, ...]) -> Window:
    frame = pd.read_csv(folder / "predict" / f"input_{name}.csv", parse_dates=["timestamps"])
    clock = frame["timestamps"].to_numpy().astype("M8[us]").astype("int64")
    return Window(
        frame[list(columns)].to_numpy("float32").T[:, :rows],
        len(columns),
        context_times=clock[:rows],
        future_times=clock[rows : rows + HORIZON],
        names=columns,
    )


PRICES = COLUMNS[:4]
FORECASTS = {
    "te_a_ctx20": ("a", 20, COLUMNS),
    "te_a_ctx60": ("a", 60, COLUMNS),  # statistics of all 60 bars, a window of 32
    "te_b_ctx30": ("b", 30, COLUMNS),
    "te_a_ctx20_prices_only": ("a", 20, PRICES),
    "te_a_ctx20_no_amount": ("a", 20, (*PRICES, "volume")),
    "te_a_ctx20_no_volume": ("a", 20, (*PRICES, "amount")),
}


@pytest.fixture
def forecaster(recorded_tokenizer, recorded_predictor) -> Kronos:
    return Kronos(recorded_predictor(), recorded_tokenizer())


def assert_forecast(candles: torch.Tensor, recorded, name: str):
    expected = torch.from_numpy(pd.read_csv(recorded / "predict" / f"{name}.csv")[list(COLUMNS)].to_numpy("float64"))
    assert candles.shape == (1, *expected.shape)
    volume = bool(expected[:, 4].abs().max() > 1)
    torch.testing.assert_close(candles[0].double()[:, :4], expected[:, :4], rtol=1e-5, atol=0)
    torch.testing.assert_close(candles[0].double()[:, 4:], expected[:, 4:], rtol=1e-5, atol=0 if volume else 1e-6)


@pytest.mark.parametrize("name", FORECASTS)
def test_forecasts_equal_the_reference(recorded, forecaster, name):
    batch = forecaster.collate(stack_windows([window_of(recorded, *FORECASTS[name])], HORIZON))
    options = KronosOptions(top_k=1, max_context=32)
    assert_forecast(forecaster.candles(batch, HORIZON, options=options)[0], recorded, name)


def test_forecasts_of_a_batch_equal_the_reference(recorded, forecaster):
    windows = [window_of(recorded, name, 20, COLUMNS) for name in "ab"]
    batch = forecaster.collate(stack_windows(windows, HORIZON))
    candles = forecaster.candles(batch, HORIZON, options=KronosOptions(top_k=1, max_context=32))
    for row in range(2):
        assert_forecast(candles[row], recorded, f"te_batch_{row}")
