"""What of a study a server is told, and which settings of an adviser are refused."""

from __future__ import annotations

import pytest

from foretrain.config import build
from foretrain.errors import ConfigError
from foretrain.tuning.adviser.disclosure import public_metrics, told
from foretrain.tuning.adviser.records import PastTrial
from foretrain.tuning.config import TuneConfig

SPACE = {"optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True}}


def test_metrics_lose_names_and_stay_apart() -> None:
    names = ["val_wql", "val_wql/AAPL", "val_mase/AAPL", "val_wql/MSFT", "secret/wql", "secret/mase", "a b", "x/y/mae"]
    assert public_metrics(names) == [
        "val_wql", "val_wql/corpus-1", "val_mase/corpus-1", "val_wql/corpus-2", "task-1/wql", "task-1/mase",
        "objective-7", "task-2/mae",
    ]  # fmt: skip


def test_a_long_history_is_told_by_its_best_and_its_newest() -> None:
    trials = [
        PastTrial(number=k, state="complete", params={}, values=(abs(k - 3.2),), feasible=k != 3) for k in range(50)
    ]
    assert [one.number for one in told(trials, 6, ["minimize"])] == [2, 4, 5, 47, 48, 49]
    assert [one.number for one in told(trials, 4, ["maximize"])] == [46, 47, 48, 49]
    assert told(trials, 0, ["minimize"]) == [] and told(trials, 50, ["minimize"]) == trials


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "model: required"),
        ({"model": "m", "base_url": "ftp://x"}, "address of an endpoint"),
        ({"model": "m", "base_url": "http://me:sk-canary@x/v1"}, "holds an account"),
        ({"model": "m", "api_key_env": "sk-canary"}, "NAME of a variable"),
        ({"model": "m", "budget_usd": 1}, "needs usd_per_million_input"),
        ({"model": "m", "replay_from": "x"}, "goes with provider: replay"),
        ({"provider": "replay"}, "goes with provider: replay"),
    ],
)
def test_settings_that_cannot_hold_are_refused_without_repeating_a_key(settings: dict, said: str) -> None:
    tree = {"output_dir": "o", "run": "debug", "space": SPACE, "sampler": {"kind": "adviser"}, "adviser": settings}
    with pytest.raises(ConfigError) as error:
        build(TuneConfig, tree, source="a file")
    assert said in str(error.value) and "sk-canary" not in str(error.value)


@pytest.mark.parametrize("change", [{"sampler": {"kind": "adviser"}}, {"adviser": {"model": "m"}}])
def test_the_sampler_adviser_and_its_section_go_together(change: dict) -> None:
    with pytest.raises(ConfigError, match=r"goes with sampler\.kind"):
        build(TuneConfig, {"output_dir": "o", "run": "debug", "space": SPACE} | change)
