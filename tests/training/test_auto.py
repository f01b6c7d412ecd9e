"""`auto` in the training section. There is no GPU here: what a device can do is replaced by a record of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foretrain.distributed.world import World
from foretrain.errors import ConfigError
from foretrain.run.config import RunConfig, config_hash
from foretrain.training import auto
from foretrain.training.auto import TOKENS, TOKENS_ON_CPU, DeviceFacts, ModelFacts, compiler_trouble, settle, tokens_for
from foretrain.training.processors import Processor
from foretrain.training.settings import TrainingConfig

CARD = DeviceFacts("cuda:0 (a card)", "cuda", bfloat16=True, memory=24 * 10**9)
ASKED = {
    "max_steps": 1,
    "dtype": "auto",
    "compile": "auto",
    "compile_mode": "max-autotune",
    "token_budget": {"max_tokens_per_batch": "auto"},
}


@pytest.fixture
def settled(monkeypatch):
    """A function that settles a training section on a device that is a record."""

    def settle_on(device: DeviceFacts, asked: dict[str, Any] = ASKED, **more: Any) -> tuple[TrainingConfig, list[str]]:
        monkeypatch.setattr(auto, "examine", lambda device_, compiler: device)
        monkeypatch.setattr(auto, "this_processor", Processor)
        return settle(TrainingConfig(**asked), World(), **more)

    return settle_on


def values(config: TrainingConfig) -> tuple[Any, ...]:
    assert config.token_budget is not None
    return config.dtype, config.compile, config.compile_mode, config.token_budget.max_tokens_per_batch


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (CARD, ("bfloat16", True, "max-autotune", TOKENS)),
        (CARD._replace(bfloat16=False), ("float32", True, "max-autotune", TOKENS)),
        (CARD._replace(no_compiler="no triton"), ("bfloat16", False, "default", TOKENS)),
        (DeviceFacts("cpu", "cpu"), ("float32", False, "default", TOKENS_ON_CPU)),
        (DeviceFacts("mps", "mps"), ("float32", False, "default", TOKENS_ON_CPU)),
    ],
)
def test_auto_is_what_the_device_allows_and_one_line_names_it(settled, device, expected):
    config, lines = settled(device)
    assert values(config) == expected
    assert len(lines) == 1 and lines[0].startswith(f"auto on {device.name}: training.dtype {expected[0]}; ")
    assert device.no_compiler in lines[0]


def test_the_cpu_of_this_machine_trains_in_float32_without_a_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_: pytest.fail("nothing is compiled to learn that"))
    config, lines = settle(TrainingConfig(**ASKED), World())
    assert values(config) == ("float32", False, "default", TOKENS_ON_CPU)
    assert lines == [
        "auto on cpu: training.dtype float32; training.compile false; training.token_budget.max_tokens_per_batch 32,768"
    ]


@pytest.mark.parametrize(
    ("kind", "model", "dtype", "word"),
    [
        ("AMD Zen 4", ModelFacts("chronos2", 512), "bfloat16", "1.6 times as fast on AMD Zen 4"),
        ("AMD Zen 4", ModelFacts("chronos2", 768), "bfloat16", "1.6 times as fast"),
        ("AMD Zen 4", ModelFacts("chronos2", 256), "float32", "no record of chronos2 of width 256 on AMD Zen 4"),
        ("AMD Zen 4", ModelFacts("kronos", 832), "float32", "no record of kronos"),
        ("Intel with avx512_bf16 and without amx_bf16", ModelFacts("chronos2", 512), "float32", " times as fast"),
        ("", ModelFacts("chronos2", 512), "float32", "training.dtype float32;"),
    ],
)
def test_a_cpu_trains_in_bfloat16_where_a_record_says_that_it_pays(settled, kind, model, dtype, word):
    config, lines = settled(DeviceFacts("cpu", "cpu", kind=kind), model=lambda: model)
    assert config.dtype == dtype
    assert f"training.dtype {dtype}" in lines[0] and word in lines[0]


def test_ranks_on_cpus_of_two_kinds_train_in_float32(settled):
    cpus = [DeviceFacts("cpu", "cpu", kind=kind) for kind in ("AMD Zen 4", "")]
    assert auto._common(cpus).kind == ""
    assert auto._common(cpus[:1] * 2).kind == "AMD Zen 4"


def test_a_resumed_run_keeps_its_type_on_a_cpu_of_another_kind(settled):
    model = ModelFacts("chronos2", 512)
    saved = settled(DeviceFacts("cpu", "cpu", kind="AMD Zen 4"), model=lambda: model)[0].model_dump(mode="json")
    config, lines = settled(DeviceFacts("cpu", "cpu"), saved=saved, model=lambda: model)
    assert config.dtype == "bfloat16" and "training.dtype bfloat16 as the run began" in lines[0]


def test_a_cpu_that_is_slower_in_bfloat16_gets_a_warning(monkeypatch):
    flags = frozenset({"avx512f", "avx512_bf16"})
    intel = Processor("GenuineIntel", 6, flags)
    for processor, count in [(intel, 1), (intel._replace(flags=flags | {"amx_bf16"}), 0), (Processor(), 0)]:
        monkeypatch.setattr(auto, "this_processor", lambda found=processor: found)
        notes = auto.check_dtype(torch.device("cpu"), "bfloat16")
        assert len(notes) == count and all("times the speed in bfloat16" in note for note in notes)
        assert auto.check_dtype(torch.device("cpu"), "float32") == []


@pytest.mark.parametrize(("gigabytes", "tokens"), [(80, TOKENS), (24, TOKENS), (16, TOKENS // 2), (8, TOKENS // 4)])
def test_tokens_halve_with_each_halving_of_a_card_s_memory(gigabytes, tokens):
    assert tokens_for(CARD._replace(memory=gigabytes * 10**9)) == tokens


def test_a_micro_batch_holds_the_largest_window_on_any_device(settled):
    assert values(settled(DeviceFacts("cpu", "cpu"), window=100_000)[0])[-1] == 100_000


def test_the_ranks_of_a_run_take_what_all_of_their_devices_allow():
    others = (CARD._replace(bfloat16=False), CARD._replace(no_compiler="no triton", memory=8 * 10**9))
    common = auto._common([CARD, *others])
    assert common == DeviceFacts(CARD.name, "cuda", False, "no triton", 8 * 10**9)


def test_a_resumed_run_keeps_the_values_that_determine_its_weights(settled):
    saved = settled(CARD)[0].model_dump(mode="json")
    config, lines = settled(DeviceFacts("cpu", "cpu"), saved=saved)
    assert values(config) == ("bfloat16", False, "default", TOKENS)  # a layout may change
    assert "training.dtype bfloat16 as the run began" in lines[0]


def test_a_config_without_auto_is_left_as_it_is_and_asks_no_device(monkeypatch):
    monkeypatch.setattr(auto, "examine", lambda *_, **__: pytest.fail("no device is asked"))
    monkeypatch.setattr(auto, "this_processor", Processor)
    config = TrainingConfig(max_steps=1, dtype="bfloat16")
    assert settle(config, World()) == (config, [])


def test_auto_has_the_hash_of_what_it_stands_for(settled):
    def hashed(training: TrainingConfig) -> str:
        tree = {"model": {"family": "chronos2", "random_init": True}, "output_dir": "x", "training": training}
        tree["data"] = {"corpora": [{"path": "x"}], "context_length": 32, "prediction_length": 8}
        return config_hash(RunConfig.model_validate(tree))

    plain = {"max_steps": 1, "dtype": "bfloat16", "token_budget": {}}
    assert hashed(settled(CARD)[0]) == hashed(TrainingConfig(**plain)) != hashed(TrainingConfig(**ASKED))


def test_a_dtype_that_the_device_lacks_is_refused_with_the_way_out(monkeypatch):
    """torch itself would warn, and compute in float32."""
    monkeypatch.setattr(auto, "_name", str)
    with pytest.raises(ConfigError, match=r"^training.dtype: float16 does not work on cuda \(CUDA .* Choose float32"):
        auto.check_dtype(torch.device("cuda"), "float16")


def test_an_emulated_dtype_is_a_note(monkeypatch):
    monkeypatch.setattr(auto, "_has_bfloat16", lambda device: False)
    monkeypatch.setattr(auto, "_autocast_problem", lambda device, dtype: "")
    monkeypatch.setattr(auto, "_name", str)
    assert "emulates bfloat16" in auto.check_dtype(torch.device("cuda"), "bfloat16")[0]


def test_a_host_without_a_compiler_or_with_a_broken_one_is_found_before_the_first_step(monkeypatch):
    def broken(_: Any) -> Any:
        raise RuntimeError("Python.h:\n no such file")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setenv("CC", "/bin/sh")
    assert compiler_trouble(torch.device("cpu")) == "it fails: Python.h: no such file"
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert compiler_trouble(torch.device("cpu")) == "there is no C compiler"
    with pytest.raises(ConfigError, match=r"^training.compile: there is no C compiler\. Install it, or choose auto"):
        settle(TrainingConfig(max_steps=1, compile=True), World())
    monkeypatch.setattr(auto.importlib.util, "find_spec", lambda name: None)
    assert compiler_trouble(torch.device("cuda")) == "the package triton is missing"
