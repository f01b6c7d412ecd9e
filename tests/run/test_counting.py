"""What is counted without computing is what passes take, family by family."""

from __future__ import annotations

import math
import time

import pytest
import torch
from tests.models.zoo import CONTEXT, HORIZON, ZOO

from foretrain.models import family
from foretrain.run.counting import Passes, Size, TooLong, blank_batch, count_passes, passes
from foretrain.run.estimate import PRICES
from foretrain.training.settings import TrainingConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def both(zoo, name: str, config: TrainingConfig, context: int = 2 * CONTEXT, **changes) -> tuple[Passes, Passes | None]:
    """Return what the passes of a family's model take, and what is counted on "meta"."""
    names = PRICES if family(name).needs else ()
    size = Size(1, 3, context, HORIZON, len(names) or 2)
    model = zoo.built(name, **changes)
    taken = passes(model, blank_batch(model, size, names), config, "float32", math.inf, math.inf)
    return taken, count_passes(zoo.built(name, **changes).to("meta"), size, names, config, CPU, math.inf)


@pytest.mark.parametrize("name", ZOO)
def test_what_is_counted_is_what_the_passes_of_a_family_take(zoo, name):
    changes = {"max_context": 1000} if name == "kronos" else {}
    for context in (CONTEXT, 2 * CONTEXT):
        taken, counted = both(zoo, name, TrainingConfig(max_steps=1), context, **changes)
        assert counted == taken and 0 < taken.kept < taken.peak


@pytest.mark.parametrize(("name", "key"), [(name, entry.dropout[0]) for name, entry in ZOO.items() if entry.dropout])
def test_masks_of_dropout_are_counted_as_a_cpu_draws_them(zoo, name, key):
    changes = {key: 0.1, **({"max_context": 1000} if name == "kronos" else {})}
    taken, counted = both(zoo, name, TrainingConfig(max_steps=1), **changes)
    assert counted == taken


def test_activations_that_are_computed_again_are_not_counted(zoo):
    config = TrainingConfig(max_steps=1)
    again = config.model_copy(update={"activation_checkpointing": "full"})
    (plain, _), (less, counted) = both(zoo, "toto", config), both(zoo, "toto", again)
    assert counted == less and less.kept < plain.kept / 2


def test_elsewhere_than_on_a_cpu_attention_keeps_its_scores(zoo):
    size, config = Size(1, 2, 8 * CONTEXT, HORIZON, len(PRICES)), TrainingConfig(max_steps=1)
    model = zoo.built("kronos_tokenizer").to("meta")
    on_cpu, elsewhere = (count_passes(model, size, PRICES, config, device, math.inf) for device in (CPU, GPU))
    assert on_cpu is not None and elsewhere is not None
    assert elsewhere.kept > 2 * on_cpu.kept  # four blocks' scores: 2 heads x 198 x 198 numbers a window


def test_counting_ends_in_time(zoo):
    size, config = Size(1, 1, CONTEXT, HORIZON, 1), TrainingConfig(max_steps=1)
    with pytest.raises(TooLong, match="takes too long"):
        count_passes(zoo.built("linear").to("meta"), size, (), config, CPU, time.thread_time())
