"""Gradients of the hand-written passes against finite differences in float64, dropout included, and in bfloat16."""

from __future__ import annotations

import pytest
import torch

from foretrain.models.chronos2 import fused
from foretrain.nn.rope import rope_table

WIDTH, HEADS, HEAD, WIDE = 6, 2, 4, 10


def numbers(*shape: int) -> torch.Tensor:
    values = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))
    return values.requires_grad_()


def spec(rate: float) -> fused.Spec:
    return fused.Spec(HEADS, 1e-6, rate, record=True)


def check(function, *tensors: torch.Tensor) -> None:
    def seeded(*arguments):
        torch.manual_seed(3)  # the same masks at every evaluation
        return function(*arguments)

    assert torch.autograd.gradcheck(seeded, tensors, eps=1e-6, atol=1e-5, fast_mode=True)


@pytest.fixture(params=[1 << 21, 1], ids=["one chunk", "many chunks"], autouse=True)
def chunk(request, monkeypatch):
    monkeypatch.setattr(fused, "_CHUNK", request.param)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["time", "time kept", "time masked", "group", "group masked", "long"])
def test_attention(kind, rate):
    wide = HEADS * HEAD
    outer, inner, length = (2, 3, 4) if "group" in kind else (3, 1, 10 if kind == "long" else 5)
    turn = None
    if "group" not in kind:
        turn = fused.rotary_factors(tuple(t.double() for t in rope_table(length, HEAD, 100.0, torch.device("cpu"))))
    mask = None
    if "masked" in kind:
        mask = torch.zeros(outer * inner, 1, 1, length, dtype=torch.float64)
        mask[1, ..., :3] = torch.finfo(torch.float32).min
    keep = 2 if "kept" in kind else None

    def run(hidden, norm, q, k, v, o):
        hidden = hidden.transpose(1, 2) if "group" in kind else hidden  # group attention reads a strided view
        return fused.attention(hidden, norm, (q, k, v, o), spec(rate), turn=turn, mask=mask, keep=keep)

    shape = (outer, length, inner) if "group" in kind else (outer, inner, length)
    weights = (numbers(wide, WIDTH), numbers(wide, WIDTH), numbers(wide, WIDTH), numbers(WIDTH, wide))
    check(run, numbers(*shape, WIDTH), numbers(WIDTH), *weights)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("tokens", [3, 20])  # few tokens use two products, many merge them
def test_attention_of_single_variate_rows(tokens, rate):
    wide = HEADS * HEAD
    check(lambda *a: fused.lone_attention(*a, spec(rate)), numbers(tokens, WIDTH), numbers(WIDTH), numbers(wide, WIDTH),
          numbers(WIDTH, wide))  # fmt: skip


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_feed_forward(rate, frozen):
    weights = [w.requires_grad_(not frozen) for w in (numbers(WIDTH), numbers(WIDE, WIDTH), numbers(WIDTH, WIDE))]
    check(lambda *a: fused.feed_forward(*a, spec(rate)), numbers(2, 3, WIDTH), *weights)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_residual_block(rate):
    def run(x, wh, bh, wo, bo, wr, br):
        return fused.residual_block(x, (wh, bh), (wo, bo), (wr, br), spec(rate))

    check(run, numbers(2, 3, WIDTH), numbers(WIDE, WIDTH), numbers(WIDE), numbers(5, WIDE), numbers(5),
          numbers(5, WIDTH), numbers(5))  # fmt: skip


def test_nothing_is_saved_without_a_backward():
    """The numbers are the same, and no activation outlives the call."""
    weights = (numbers(8, WIDTH), numbers(8, WIDTH), numbers(8, WIDTH), numbers(WIDTH, 8))
    hidden, norm = numbers(3, 1, 5, WIDTH), numbers(WIDTH)
    with torch.no_grad():
        silent = fused.attention(hidden, norm, weights, fused.Spec(HEADS, 1e-6, 0.0, record=False))
    kept = fused.attention(hidden, norm, weights, spec(0.0))
    assert torch.equal(silent, kept)


HALF = 2.0**-8  # twice the largest relative error of one rounding to bfloat16


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["time", "time kept", "time masked", "group", "lone", "lone few", "feed forward"])
def test_products_in_bfloat16_are_near_those_of_float64(kind, rate):
    """Output and gradients are float32; the formulas are those above. Rounded factors of few products in a row move an
    output by an eps. Gradients of scores sum to 0 over the keys, which amplifies, and relu's slope flips near 0."""
    shape = {"group": (2, 6, 3), "time": (3, 1, 6)}.get(kind.split()[0], (40 if kind != "lone few" else 3,))
    inputs = [numbers(*shape, 16), numbers(16)]
    attends = kind.startswith(("time", "group"))
    if attends:
        inputs += [numbers(16, 16), numbers(16, 16), numbers(16, 16), numbers(16, 16)]
    else:
        inputs += [numbers(64, 16), numbers(16, 64)] if kind == "feed forward" else [numbers(16, 16), numbers(16, 16)]
    turn = fused.rotary_factors(rope_table(6, 8, 100.0, torch.device("cpu"))) if "time" in kind else None
    mask = torch.zeros(3, 1, 1, 6) if "masked" in kind else None
    if mask is not None:
        mask[1, ..., :3] = torch.finfo(torch.float32).min

    def run(dtype, half):
        torch.manual_seed(3)
        leaves = [(0.5 * x.detach()).to(dtype).requires_grad_() for x in inputs]
        hidden, norm, *weights = leaves
        how = fused.Spec(2, 1e-6, rate, True, half)
        with torch.autocast("cpu", torch.bfloat16, enabled=half is not None):
            if attends:
                factors = turn if turn is None or dtype == torch.float32 else turn.to(torch.complex128)
                bias, keep = None if mask is None else mask.to(dtype), 2 if "kept" in kind else None
                rows = hidden.transpose(1, 2) if kind == "group" else hidden
                out = fused.attention(rows, norm, tuple(weights), how, turn=factors, mask=bias, keep=keep)
                added = out - (rows if keep is None else rows[:, :, -keep:])
            else:
                function = fused.feed_forward if kind == "feed forward" else fused.lone_attention
                out = function(hidden, norm, *weights, how)
                added = out - hidden
        slope = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        return [added.detach(), *torch.autograd.grad((out * slope.to(dtype)).sum(), leaves)]

    found, exact = run(torch.float32, torch.bfloat16), run(torch.float64, None)
    assert all(x.dtype == torch.float32 for x in found)
    away = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    assert 0.1 * HALF < away[0] < 3 * HALF and max(away) < 32 * HALF
