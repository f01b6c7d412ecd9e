from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from foretrain.errors import TrainingError

BAD = 8 * 6 + 5  # a window of step 7


@pytest.mark.parametrize("value", [math.inf, 1e38])
def test_stop_ends_the_run_with_an_error_and_leaves_the_last_good_checkpoint(toy, tmp_path, value):
    with pytest.raises(TrainingError, match="step 7: the loss is not finite; its batch is saved in"):
        toy.trainer(tmp_path, source=toy.Source(poison={BAD: value})).fit()
    assert toy.steps(tmp_path) == [5]


def test_a_disk_that_fills_up_leaves_no_torn_record_of_the_batch(toy, tmp_path, monkeypatch):
    def half(path, facts) -> None:
        path.write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("foretrain.training.nonfinite.write_json", half)
    with pytest.raises(TrainingError):
        toy.trainer(tmp_path, source=toy.Source(poison={BAD: math.inf})).fit()
    assert not list((tmp_path / "nonfinite").rglob("*.json"))


def test_skip_leaves_weights_optimizer_and_average_as_they_were(toy, tmp_path):
    trainers = {}
    for name, poison, steps in (("bad", {BAD: math.inf}, 7), ("good", {}, 6)):
        trainers[name] = toy.trainer(
            tmp_path / name, source=toy.Source(poison=poison), max_steps=steps, on_nonfinite="skip", ema_decay=0.9
        )
        trainers[name].fit()
    bad, good = trainers["bad"], trainers["good"]
    assert bad.train_state.updates == good.train_state.updates == 6
    for a, b in zip(bad.ema.weights.values(), good.ema.weights.values(), strict=True):
        assert torch.equal(a, b)
    for p, q in zip(bad.optimizer.state.values(), good.optimizer.state.values(), strict=True):
        assert all(torch.equal(p[key], q[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    line = toy.lines(tmp_path / "bad")[6]
    assert (line["step"], line["loss"], line["left_out"]) == (7, None, "loss")


def test_skip_has_a_budget(toy, tmp_path):
    source = toy.Source(poison={n: math.inf for n in (1, 20, 40)})
    with pytest.raises(TrainingError, match=r"skip_budget \(2\) is used up"):
        toy.trainer(tmp_path, source=source, on_nonfinite="skip", skip_budget=2).fit()


def test_the_budget_survives_a_resume(toy, tmp_path):
    source = toy.Source(poison={1: math.inf, 80: math.inf})
    settings = {"source": source, "on_nonfinite": "skip", "skip_budget": 1}
    toy.trainer(tmp_path, **settings, max_steps=10).fit()
    with pytest.raises(TrainingError, match="used up"):
        toy.trainer(tmp_path, **settings, max_steps=12, resume="auto").fit()


def test_rollback_continues_from_the_last_good_checkpoint_past_the_bad_batch(toy, tmp_path):
    source = toy.Source(poison={BAD: math.inf})
    toy.trainer(tmp_path, source=source, on_nonfinite="rollback", prefetch=0).fit()
    first = [ask[0] for ask in source.asked]
    # Steps 1..7, the bad one again for replay and for its origin; back at step 5, the next takes what follows it.
    assert first == [0, 8, 16, 24, 32, 40, 48, 48, 48, 56, 64, 72, 80, 88, 96, 104]
    assert [step for step, _ in toy.losses(tmp_path)] == list(range(1, 13))


def test_a_second_bad_batch_before_the_next_checkpoint_goes_past_both(toy, tmp_path):
    second = BAD + 8 * 2
    source = toy.Source(poison={BAD: math.inf, second: math.inf})
    result = toy.trainer(tmp_path, source=source, on_nonfinite="rollback", skip_budget=2, prefetch=0).fit()
    assert result.step == 12
    first = [ask[0] for ask in source.asked]
    # Back at step 5 each time: first the window after BAD's batch (56) is next, then the one after the second's (72).
    assert first[6:12] == [48, 48, 48, 56, 64, 64]
    assert first[13:] == [72, 80, 88, 96, 104, 112, 120]


def test_a_run_that_a_bad_batch_stopped_continues_with_skip(toy, tmp_path):
    """What the error advises."""
    source = toy.Source(poison={BAD: math.inf})
    with pytest.raises(TrainingError, match=r"resume with training.on_nonfinite: skip or rollback"):
        toy.trainer(tmp_path / "stopped", source=source).fit()
    toy.trainer(tmp_path / "stopped", source=source, on_nonfinite="skip", resume="auto").fit()
    toy.trainer(tmp_path / "skipping", source=source, on_nonfinite="skip").fit()
    assert toy.losses(tmp_path / "stopped") == toy.losses(tmp_path / "skipping")


def test_rollback_before_the_first_checkpoint_goes_to_the_beginning(toy, tmp_path):
    toy.trainer(tmp_path, source=toy.Source(poison={9: math.inf}), on_nonfinite="rollback").fit()
    toy.trainer(tmp_path / "later", on_nonfinite="rollback").fit()
    source = toy.Source()
    model = toy.Model()
    loss = model(model.collate(source.windows(16, 8)))
    assert toy.losses(tmp_path)[0][1] == pytest.approx((loss.total / loss.weight).item(), rel=1e-6)


def test_a_run_that_rolled_back_resumes_exactly(toy, tmp_path):
    settings = {"source": toy.Source(poison={BAD: math.inf}), "on_nonfinite": "rollback"}
    toy.trainer(tmp_path / "whole", **settings).fit()
    toy.trainer(tmp_path / "cut", **settings, max_steps=9).fit()
    toy.trainer(tmp_path / "cut", **settings, resume="auto").fit()
    assert toy.losses(tmp_path / "cut") == toy.losses(tmp_path / "whole")


def test_the_bad_batch_repeats_what_it_did(toy, tmp_path):
    with pytest.raises(TrainingError):
        toy.trainer(tmp_path, source=toy.Source(poison={BAD: math.inf}), micro_batch_size=3).fit()
    saved = sorted(path.name for path in (tmp_path / "nonfinite").iterdir())
    assert saved == ["step-00000006-k-00001.json", "step-00000006-k-00001.safetensors"]  # of three micro-batches
    facts = json.loads((tmp_path / "nonfinite" / saved[0]).read_text())
    assert (facts["first_window"], facts["windows"], facts["nonfinite"]) == (51, 3, "loss")
    assert facts["source"][2] == [0, BAD, 12]
    batch = load_file(tmp_path / "nonfinite" / saved[1])
    torch.manual_seed(facts["draw_seed"])
    assert not torch.isfinite(toy.Model()(batch).total)


def test_a_gradient_that_is_not_finite_counts_too(toy, tmp_path):
    model = toy.Model()
    calls = []

    def spoil(gradient):
        calls.append(1)
        return gradient * math.nan if len(calls) == 3 else gradient

    model.first.weight.register_hook(spoil)
    with pytest.raises(TrainingError, match="step 3: the gradient is not finite"):
        toy.trainer(tmp_path, model=model).fit()
    assert len(list((tmp_path / "nonfinite").glob("*.safetensors"))) == 1
