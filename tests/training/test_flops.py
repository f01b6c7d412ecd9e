"""The counter of executed operations: torch's own count of the plain layers, and the families' counts."""

from __future__ import annotations

import pytest
import torch
from tests.models.zoo import CONTEXT, HORIZON, ZOO, kinds_of, windows_of
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foretrain.data.windows import stack_windows
from foretrain.models.base import Batch, Trainable
from foretrain.training.flops import FlopCounter, compare, needed_flops
from foretrain.training.settings import MicroBatch
from foretrain.training.step import LocalStepStats

KINDS = [pair for pair in kinds_of(trains=True, even=True) if pair[1] in ("univariate", "multivariate", "candles")]
D, WIDE = ZOO["chronos2"].section["d_model"], ZOO["chronos2"].section["d_kv"] * ZOO["chronos2"].section["num_heads"]


def batch_of(model: Trainable, family: str, kind: str) -> tuple[Batch, LocalStepStats]:
    windows = windows_of(family, kind)
    sizes = [(len(windows), CONTEXT, HORIZON, len(windows[0].context))]
    stats = LocalStepStats([MicroBatch(0, 0, 0, len(windows), False, True)], sizes=sizes, padding_windows=[0])
    return model.collate(stack_windows(windows, HORIZON)), stats


def counted(model: Trainable, batch: Batch, counter: FlopCounter | None = None) -> FlopCounter:
    counter = counter or FlopCounter()
    with counter:
        counter.mark("data")
        loss = model(batch).total
        counter.mark("forward")
        loss.backward()
        counter.mark("last backward")
    return counter


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_what_a_cpu_executes_is_what_torch_counts_of_the_plain_layers(zoo, family, kind):
    """Exactly, but for what is named: scores that the CPU's attention computes again, and Chronos-2's merged weights.

    torch's counter knows neither the CPU's attention nor addmm_, so that it is given plain layers, in float64.
    """
    model = zoo.built(family).train()
    batch, _ = batch_of(model, family, kind)
    found = counted(model, batch)
    wide = zoo.built(family).double().train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as plain:
        wide(batch_of(wide, family, kind)[0]).total.backward()
    # of a single variate's rows, value and output weights (WIDE, D) are multiplied once a batch, with two gradients;
    # only in the first of two layers, as the last one runs on too few tokens to gain from it
    merged = 3 * 2 * D * WIDE * D if (family, kind) == ("chronos2", "univariate") else 0
    assert found.total - found.scores == plain.get_total_flops() + merged
    assert found.total == sum(found.micro_batches[0].values())


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_executed_flops_are_those_needed_but_for_what_has_a_name(zoo, family, kind):
    """What remains without a name of its own is the gradient of the first layer's inputs, which nothing needs and the
    families' counts hold: one of about 3 x 10 products of these small models, so below 5% of a step."""
    model = zoo.built(family).train()
    batch, stats = batch_of(model, family, kind)
    found = compare(counted(model, batch), model, stats)
    assert found.needed + sum(found.differences.values()) == found.executed
    assert found.needed == needed_flops(model, stats)
    beside = [count for name, count in found.differences.items() if "beside" in name]
    assert abs(sum(beside)) < 0.05 * found.needed
    again = found.differences.get("scores of attention computed again", 0)
    assert (again > 0) == (family in ("kronos", "kronos_tokenizer", "toto2"))


def test_counting_changes_no_bit_of_a_gradient(zoo):
    for family, kind in KINDS:
        gradients = []
        for watched in (False, True):
            model = zoo.built(family).train()
            batch, _ = batch_of(model, family, kind)
            torch.manual_seed(0)
            if watched:
                counted(model, batch)
            else:
                model(batch).total.backward()
            gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        assert gradients[0] and all(torch.equal(g, gradients[1][name]) for name, g in gradients[0].items()), family


def test_padding_and_idle_passes_are_named(zoo):
    """Of two micro-batches the first has a window of four that only fills it, the second belongs to an idle rank."""
    model = zoo.built("linear").train()
    batch, stats = batch_of(model, "linear", "univariate")
    counter = counted(model, batch)
    counted(model, batch, counter)
    stats.micro_batches.append(stats.micro_batches[0]._replace(idle=True))
    stats.sizes, stats.padding_windows = [(3, *stats.sizes[0][1:])], [1]
    found = compare(counter, model, stats)
    window = model.step_flops(CONTEXT, HORIZON)
    assert found.needed == 3 * window and found.differences["windows that only fill a batch"] == window
    assert found.differences["passes of an idle rank"] == found.executed / 2
    assert found.needed + sum(found.differences.values()) == found.executed


def test_in_place_products_and_those_of_vectors_are_counted():
    a, b, total = torch.ones(3, 4), torch.ones(4, 5), torch.ones(3, 5)
    for run, count in (
        (lambda: total.addmm_(a, b), 2 * 3 * 4 * 5),
        (lambda: torch.addmm(total, a, b, out=torch.empty(3, 5)), 2 * 3 * 4 * 5),
        (lambda: total.expand(2, 3, 5).clone().baddbmm_(a.expand(2, 3, 4), b.expand(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.addbmm(total, a.expand(2, 3, 4), b.expand(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: torch.mv(a, b[:, 0]), 2 * 3 * 4),
        (lambda: torch.addmv(total[:, 0], a, b[:, 0]), 2 * 3 * 4),
        (lambda: torch.dot(a[0], b[:, 0]), 2 * 4),
        (lambda: nn.functional.linear(a, b.t()), 2 * 3 * 4 * 5),
    ):
        with FlopCounter() as counter:
            run()
        assert counter.total == count
