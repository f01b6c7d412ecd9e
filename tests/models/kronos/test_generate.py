"""Generation from the KV cache against the plain algorithm, and independence of batch, order and chunks."""

from __future__ import annotations

import pytest
import torch
from tests.models.kronos import plain

from foretrain.models.kronos import generate as generation
from foretrain.models.kronos import layers
from foretrain.models.kronos.generate import CandlePrompt, Generated, generate
from foretrain.models.kronos.options import KronosOptions

SEED, STEPS = 3, 7
# context, max_context: the horizon is STEPS
WINDOWS = {
    "never full": (9, 32),
    "just full": (10, 16),
    "fills while generating": (9, 12),
    "full from the start": (12, 12),
    "context longer than the window": (20, 12),
    "horizon longer than the window": (9, 4),
    "window of one bar": (5, 1),
}
DRAWS = {"drawn": {}, "greedy": {"top_k": 1}, "hot": {"temperature": 1.5, "top_p": 1.0}}


def drawn(
    prompt: CandlePrompt, *, steps: int = STEPS, samples: int = 1, seed: int = SEED, model=None, **options
) -> Generated:
    network, tokenizer = model or plain.networks()
    return generate(
        network, tokenizer, prompt, steps, num_samples=samples, seed=seed, options=KronosOptions(**options),
        keep_logits=True,
    )  # fmt: skip


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest |a - b| / (|b| + 1)."""
    found, expected = found.detach(), expected.detach()
    return float(((found - expected).abs() / (expected.abs() + 1)).max())


def assert_plain(
    found: Generated, prompt: CandlePrompt, *, window: int, model=None, tolerance: float = 1e-5, **options
):
    """Every path is what the plain algorithm gives for its series alone."""
    network, tokenizer = model or plain.networks()
    rows, samples, steps = found.s1.shape
    for row in range(rows):
        for sample in range(samples):
            expected = plain.run(
                network, tokenizer, plain.alone(prompt, row), steps, sample,
                seed=SEED, options=KronosOptions(**options), window=window,
            )  # fmt: skip
            assert torch.equal(found.s1[row, sample], expected.s1)
            assert torch.equal(found.s2[row, sample], expected.s2)
            for name in ("s1_logits", "s2_logits"):
                ours, theirs = getattr(found, name)[row, sample], getattr(expected, name)
                assert apart(ours, theirs) < tolerance, name
            if steps <= window:
                assert apart(found.bars[row, sample], expected.bars) < tolerance


def assert_same(found: Generated, expected: Generated):
    assert torch.equal(found.s1, expected.s1) and torch.equal(found.s2, expected.s2)
    assert apart(found.bars, expected.bars) < 1e-5


@pytest.mark.parametrize("how", DRAWS)
@pytest.mark.parametrize("case", WINDOWS)
def test_every_token_equals_that_of_a_full_pass_over_the_window(case, how):
    context, window = WINDOWS[case]
    prompt = plain.prompt_of(2, context, STEPS)
    found = drawn(prompt, samples=1 if how == "greedy" else 3, max_context=window, **DRAWS[how])
    assert_plain(found, prompt, window=window, **DRAWS[how])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("case", WINDOWS)
def test_in_double_precision_nothing_but_rounding_differs(case, samples):
    context, window = WINDOWS[case]
    prompt, model = plain.prompt_of(1, context, STEPS), plain.networks(dtype=torch.float64)
    found = drawn(prompt, samples=samples, max_context=window, model=model)
    assert_plain(found, prompt, window=window, model=model, tolerance=1e-12)


def test_tokens_vary():
    """The control of this file's equalities."""
    found = drawn(plain.prompt_of(3, 9, 20), steps=20, samples=4)
    assert len(found.s1.unique()) > 8 and len(found.s2.unique()) > 8
    assert found.s1.flatten(0, 1).unique(dim=0).shape[0] == 12


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("mode", ["exact", "rolling"])
@pytest.mark.parametrize("window", [32, 12, 6, 4])
def test_series_of_different_lengths_are_generated_as_if_alone(window, mode, samples):
    prompt = plain.prompt_of(5, 14, STEPS, lengths=[14, 3, 9, 14, 1])
    together = drawn(prompt, samples=samples, max_context=window, mode=mode)
    for row in range(5):
        single = drawn(plain.alone(prompt, row), samples=samples, max_context=window, mode=mode)
        assert_same(Generated(*(x[row : row + 1] for x in together[:3])), Generated(*single[:3]))


@pytest.mark.parametrize("window", [32, 12, 6])
def test_series_of_different_lengths_are_plain_too(window):
    prompt = plain.prompt_of(4, 14, STEPS, lengths=[14, 3, 9, 1])
    assert_plain(drawn(prompt, samples=2, max_context=window), prompt, window=window)


def test_lengths_that_are_all_equal_have_no_effect():
    prompt = plain.prompt_of(2, 9, STEPS)
    assert_same(drawn(prompt._replace(lengths=torch.tensor([9, 9])), max_context=12), drawn(prompt, max_context=12))


def test_results_do_not_depend_on_the_order_or_the_batch():
    prompt = plain.prompt_of(5, 9, STEPS)
    together = drawn(prompt, samples=2, max_context=12)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = drawn(CandlePrompt(*(None if x is None else x[order] for x in prompt)), samples=2, max_context=12)
    for place, row in enumerate(order.tolist()):
        single = drawn(plain.alone(prompt, row), samples=2, max_context=12)
        for found, at in ((shuffled, place), (together, row)):
            assert_same(Generated(*(x[at : at + 1] for x in found[:3])), Generated(*single[:3]))


def test_a_sample_is_the_same_however_many_there_are():
    prompt = plain.prompt_of(2, 9, STEPS)
    few, many = (drawn(prompt, samples=samples, max_context=12) for samples in (2, 5))
    assert_same(Generated(*(x[:, :2] for x in many[:3])), Generated(*few[:3]))


def test_a_longer_horizon_starts_with_the_shorter_one():
    prompt = plain.prompt_of(2, 9, 12)
    short, long = (drawn(prompt, steps=steps, max_context=12) for steps in (5, 12))
    assert torch.equal(long.s1[..., :5], short.s1) and torch.equal(long.s2[..., :5], short.s2)


def test_the_seed_and_the_series_key_decide_the_draws():
    prompt = plain.prompt_of(2, 9, 12)
    twins = prompt._replace(bars=prompt.bars[:1].expand(2, -1, -1), stamps=None, future_stamps=None)
    first, again, other = (drawn(twins, steps=12, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.s1, again.s1)
    assert not torch.equal(first.s1, other.s1)
    assert not torch.equal(first.s1[0], first.s1[1])  # same bars, another key


def test_greedy_forecasts_do_not_depend_on_the_seed():
    prompt = plain.prompt_of(2, 9, STEPS)
    found = [drawn(prompt, seed=seed, **how) for seed in (1, 2) for how in ({"top_k": 1}, {"temperature": 0})]
    for other in found[1:]:
        assert_same(other, found[0])


def test_without_stamps_no_time_is_embedded():
    prompt = plain.prompt_of(2, 9, STEPS, stamps=False)
    assert_plain(drawn(prompt, samples=2, max_context=12), prompt, window=12)


def test_the_stamp_of_the_last_bar_is_not_used():
    prompt = plain.prompt_of(2, 9, STEPS)
    shorter = prompt._replace(future_stamps=prompt.future_stamps[:, :-1])
    changed = prompt._replace(future_stamps=(prompt.future_stamps + 1) % 7)
    assert_same(drawn(shorter), drawn(prompt))
    assert not torch.equal(drawn(changed).s1_logits, drawn(prompt).s1_logits)


def test_rolling_is_exact_until_the_window_is_full():
    prompt = plain.prompt_of(3, 9, 12)
    exact, rolled = (drawn(prompt, steps=12, samples=2, max_context=14, mode=mode) for mode in ("exact", "rolling"))
    full = 14 - 9 + 1  # bars drawn from a window that has dropped none
    assert torch.equal(exact.s1[..., :full], rolled.s1[..., :full])
    assert apart(rolled.s1_logits[:, :, :full], exact.s1_logits[:, :, :full]) < 1e-5
    assert apart(rolled.s1_logits[:, :, full], exact.s1_logits[:, :, full]) > 1e-3


@pytest.mark.parametrize(("context", "window"), [(9, 12), (12, 12), (9, 4)])
def test_with_rolling_every_token_attends_to_its_window(context, window):
    """Against one pass with a band in its mask."""
    network, tokenizer = plain.networks()
    prompt = plain.prompt_of(2, context, 15)
    found = drawn(prompt, steps=15, samples=2, max_context=window, mode="rolling")
    known1, known2 = tokenizer.pair(prompt.bars)
    begin = max(context - window, 0)
    for row in range(2):
        stamps = torch.cat((prompt.stamps[row, begin:], prompt.future_stamps[row]))[:-1]
        for sample in range(2):
            s1 = torch.cat((known1[row, begin:], found.s1[row, sample, :-1]))
            s2 = torch.cat((known2[row, begin:], found.s2[row, sample, :-1]))
            expected = plain.rolled_logits(network, s1, s2, stamps, window)[-15:]
            assert apart(found.s1_logits[row, sample], expected) < 1e-5


@pytest.mark.parametrize("lengths", [None, [9, 2, 7]])
def test_anchoring_at_every_bar_is_exact(lengths):
    prompt = plain.prompt_of(3, 9, 12, lengths=lengths)
    exact = drawn(prompt, steps=12, samples=2, max_context=8)
    anchored = drawn(prompt, steps=12, samples=2, max_context=8, mode="rolling", re_anchor_every=1)
    assert_same(anchored, exact)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("lengths", [None, [9, 2, 7]])
def test_an_anchored_bar_is_drawn_from_the_window_alone(lengths, samples):
    prompt, window, every = plain.prompt_of(3, 9, 15, lengths=lengths), 8, 4
    network, tokenizer = plain.networks()
    found = drawn(prompt, steps=15, samples=samples, max_context=window, mode="rolling", re_anchor_every=every)
    known1, known2 = tokenizer.pair(prompt.bars)
    rolled = 0.0
    for row, length in enumerate(lengths or [9, 9, 9]):
        s1 = torch.cat((known1[row, :length], found.s1[row, -1]))
        s2 = torch.cat((known2[row, :length], found.s2[row, -1]))
        stamps = torch.cat((prompt.stamps[row, :length], prompt.future_stamps[row]))
        for step in range(15):
            part = slice(max(length + step - window, 0), length + step)
            logits, _ = network.decode_s1(s1[None, part], s2[None, part], stamps[None, part])
            difference = apart(found.s1_logits[row, -1, step], logits[0, -1])
            beyond = min(length, window) + step - window
            if beyond <= 0 or beyond % every == 0:
                assert difference < 1e-5, (row, step)
            rolled = max(rolled, difference)
    assert rolled > 1e-3  # between anchors


def test_a_horizon_longer_than_the_window_is_decoded_whole():
    """In windows that overlap by half: each gives its newest bars."""
    prompt, window, steps = plain.prompt_of(2, 9, 11), 4, 11
    _, tokenizer = plain.networks()
    found = drawn(prompt, steps=steps, samples=2, max_context=window)
    assert found.bars.shape == (2, 2, steps, 6)
    known1, known2 = tokenizer.pair(prompt.bars)
    for sample in range(2):
        s1, s2 = torch.cat((known1, found.s1[:, sample]), 1), torch.cat((known2, found.s2[:, sample]), 1)
        for first in range(0, steps, 2):
            last = min(first + 2, steps)
            part = slice(9 + last - window, 9 + last)
            bars = tokenizer.decode((s1[:, part], s2[:, part]), half=True)[:, first - last :]
            assert apart(found.bars[:, sample, first:last], bars) < 1e-5


def test_compat_gives_no_more_bars_than_the_window_holds():
    prompt = plain.prompt_of(2, 9, 11)
    assert drawn(prompt, steps=11, max_context=4, top_k=1, compat=True).bars.shape == (2, 1, 4, 6)


@pytest.mark.parametrize("window", [32, 12])
def test_many_samples_are_drawn_in_chunks(window, monkeypatch):
    prompt = plain.prompt_of(3, 9, STEPS, lengths=[9, 4, 7])
    whole = drawn(prompt, samples=5, max_context=window)
    monkeypatch.setattr(generation, "MAX_CACHE_BYTES", 2 * 3 * STEPS * 2 * 4 * 16 * 4)  # two samples of three series
    monkeypatch.setattr(layers, "MAX_SCORES", 1)
    assert_same(drawn(prompt, samples=5, max_context=window), whole)


def test_networks_in_training_mode_generate_without_dropout_and_stay_in_training_mode():
    prompt = plain.prompt_of(2, 9, STEPS)
    model = plain.networks()
    for network in model:
        network.train()
        for module in network.modules():
            for name in ("dropout", "attn_dropout", "resid_dropout"):
                if hasattr(module, name):
                    setattr(module, name, 0.5)
    assert_same(drawn(prompt, model=model, max_context=12), drawn(prompt, max_context=12))
    assert all(module.training for network in model for module in network.modules())


@pytest.mark.parametrize("mode", ["exact", "rolling"])
def test_a_predictor_in_bfloat16_draws_finite_candles(mode):
    network, tokenizer = plain.networks()
    prompt = plain.prompt_of(3, 9, STEPS, lengths=[9, 4, 7])
    found = drawn(prompt, samples=2, model=(network.bfloat16(), tokenizer), max_context=12, mode=mode)
    assert found.bars.dtype == torch.float32 and found.bars.isfinite().all()
