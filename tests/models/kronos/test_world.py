"""Both stages under torchrun: two gloo processes against one, from windows with gaps and of uneven lengths."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.models.kronos.recorded import recording
from tests.test_world import alone, leave, metrics, records
from tests.waiting import start_command, torchrun

from foretrain.config import dump_yaml
from foretrain.models.kronos.tokens import FILE
from foretrain.run.build import open_source
from foretrain.run.stages import Draft, StagesConfig

pytestmark = pytest.mark.processes

SIZES = {"random_init": True, "d_model": 16, "n_heads": 2, "ff_dim": 16}
STILL = {f"{part}_dropout_p": 0.0 for part in ("ffn", "attn", "resid", "token")}
TOKENIZER = {"family": "kronos_tokenizer", **SIZES, "n_enc_layers": 2, "n_dec_layers": 2, "s1_bits": 4, "s2_bits": 4}
PREDICTOR = {"family": "kronos", **SIZES, **STILL, "n_layers": 1, "tokenizer": "stage:tokenizer"}
FEW = {"num_samples": 3}
SERIES, PER_SERIES, BATCH = 8, 5, 8
EPOCH = SERIES * PER_SERIES // BATCH  # steps
TREE: dict[str, Any] = {
    "data": {
        "corpora": [
            {
                "synthetic": {
                    "kind": "ohlcv",
                    "num_series": SERIES,
                    "length": 140,
                    "freq": "30min",
                    "missing_fraction": 0.1,
                }
            }
        ],
        "context_length": 24,
        "prediction_length": 6,
        "min_context": 10,
        "validation_steps": 24,
        "test_steps": 12,
        "sampling": "epoch",
        "stride": 20,
    },
    "training": {
        "batch_size": BATCH,
        "micro_batch_size": BATCH // 2,  # one in each of two processes, or two in one
        "validate_every": 5,
        "checkpoint_every": 5,
        "log_every": 1,
        "tensorboard": False,
        "prefetch": 0,
    },
    "optimizer": {"learning_rate": 1e-3, "schedule": {"kind": "one_cycle"}},
    "evaluation": {"num_windows": 4, "batch_size": 8},
    "stages": [
        {
            "name": "tokenizer",
            "model": TOKENIZER,
            "data": {"sampling": "random", "stride": None},
            "training": {"max_steps": 8, "prefetch": 2, "ema_decay": 0.9, "best_metric": "val_reconstruction_mse"},
        },
        {"name": "predictor", "model": PREDICTOR, "training": {"epochs": 2}, "evaluation": FEW},
        {
            "name": "cached",
            "model": {**PREDICTOR, "token_cache": True},
            "training": {"epochs": 2, "prefetch": 2},
            "evaluation": FEW,
        },
        {
            "name": "uneven",
            "model": {"model_id": "stage:predictor"},
            "training": {"max_steps": 4, "micro_batch_size": 3},  # 3 + 3 + 2 windows: in the second round one is idle
            "evaluation": FEW,
        },
    ],
}
STAGES = ["01-tokenizer", "02-predictor", "03-cached", "04-uneven"]
Window = tuple[int, int, int]


class Pair(NamedTuple):
    """Outputs of the same command in two processes and in one."""

    two: Path
    one: Path
    ranks: list[list[dict[str, list]]]  # per process and stage what it saw; see recorded.py
    whole: list[dict[str, list]]
    said: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("world")
    config = folder / "run.yaml"
    config.write_text(dump_yaml(TREE))

    def words(out: str) -> list[str]:
        return ["train", str(config), "--threads", "1", f"output_dir={folder / out}"]

    said, script = folder / "log", Path(__file__).with_name("recorded.py")
    process = start_command(torchrun(2, script, folder / "rank", *words("two")), output=said)
    with recording(folder / "whole"):
        assert alone(*words("one")) == 0
    assert leave(process) == 0, said.read_text()[-3000:]
    *ranks, whole = (json.loads((folder / name).read_text()) for name in ("rank.0", "rank.1", "whole"))
    return Pair(folder / "two", folder / "one", ranks, whole, said.read_text())


def in_turn(trained: Pair, stage: int, what: str) -> list:
    """What both processes saw, in the order in which one process sees it."""
    return [item for step in zip(*(rank[stage][what] for rank in trained.ranks), strict=True) for item in step]


def release(out: Path, stage: str) -> dict[str, torch.Tensor]:
    return load_file(out / "stages" / stage / "release" / "model.safetensors")


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_release_the_weights_of_one(trained: Pair, stage: str):
    assert apart(release(trained.two, stage), release(trained.one, stage)) < 1e-6


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_log_the_losses_and_validations_of_one(trained: Pair, stage: str):
    two, one = (
        [
            {"step": r["step"], **({"loss": r["loss"]} if r["kind"] == "train" else metrics(r))}
            for kind in ("train", "validation")
            for r in records(out / "stages" / stage, kind)
        ]
        for out in (trained.two, trained.one)
    )
    assert {"val_loss", "loss"} < {key for record in one for key in record}
    for a, b in zip(two, one, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_the_windows_have_gaps_and_uneven_contexts():
    config = Draft.of({**TREE, "output_dir": "x"}).build()
    assert isinstance(config, StagesConfig)
    config, source = open_source(config.run(1))
    windows = source.windows(0, source.epoch_length)
    assert windows.source is not None and source.epoch_length == SERIES * PER_SERIES
    short = windows.source[:, 2] < config.data.context_length
    assert 0 < short.sum() < len(short)
    full = np.isin(windows.window, np.flatnonzero(~short))
    assert 0.05 < np.isnan(windows.context[full]).mean() < 0.15 and np.isnan(windows.future).any()


@pytest.mark.parametrize("stage", [1, 2])
def test_first_tokens_are_drawn_alike_whichever_process_runs_the_micro_batch(trained: Pair, stage: int):
    drawn = trained.whole[stage]["first"]
    assert len(drawn) == 2 * 2 * EPOCH
    assert in_turn(trained, stage, "first") == drawn


def test_cached_tokens_give_the_weights_of_tokens_computed_on_the_fly(trained: Pair):
    for out in (trained.two, trained.one):
        assert apart(release(out, "03-cached"), release(out, "02-predictor")) < 1e-6


def test_every_process_takes_its_share_of_the_micro_batches(trained: Pair):
    for stage in range(3):
        assert in_turn(trained, stage, "windows") == trained.whole[stage]["windows"]


def visits(ranks: list[list[list[Window]]]) -> list[Counter[Window]]:
    """How often each process met each window in its micro-batches."""
    return [Counter(tuple(window) for batch in batches for window in batch) for batches in ranks]


def repeated(ranks: list[list[list[Window]]]) -> int:
    """Visits to windows that were visited before, by any process."""
    return sum(count - 1 for count in sum(visits(ranks), Counter()).values())


@pytest.mark.parametrize("stage", [1, 2], ids=["without a thread", "prepared ahead by a thread"])
def test_an_epoch_of_two_processes_holds_every_window_once(trained: Pair, stage: int):
    seen = [rank[stage]["windows"] for rank in trained.ranks]
    for first in (0, EPOCH):
        epoch = [batches[first : first + EPOCH] for batches in seen]
        assert repeated(epoch) == 0
        assert sum(len(met) for met in visits(epoch)) == SERIES * PER_SERIES


def test_two_processes_that_draw_at_random_draw_apart(trained: Pair):
    """With replacement, so that a window may come twice, but no more often than in one process."""
    seen = [rank[0]["windows"] for rank in trained.ranks]
    assert repeated(seen) == repeated([trained.whole[0]["windows"]]) < 8
    assert not any(a == b for a, b in zip(*seen, strict=True))


def test_processes_that_repeat_each_other_would_be_caught(trained: Pair):
    """The control: each process drawing by the same seed, as the published training code does."""
    seen = trained.ranks[0][1]["windows"][:EPOCH]
    assert repeated([seen, seen]) == SERIES * PER_SERIES // 2
    seen = trained.ranks[0][0]["windows"]
    assert repeated([seen, seen]) >= 8 * BATCH // 2


def test_one_process_alone_writes_all_but_its_share_of_a_checkpoint(trained: Pair):
    names = [
        {re.sub(r"shard-\d+-", "shard-", str(path.relative_to(out))) for path in out.rglob("*")}
        for out in (trained.two, trained.one)
    ]
    assert names[0] == names[1]
    assert {name for name in names[0] if FILE in name} == {f"stages/03-cached/{FILE}"}
    two, one = (load_file(out / "stages" / "03-cached" / FILE) for out in (trained.two, trained.one))
    assert apart(two, one) == 0


def test_two_processes_print_what_one_prints(trained: Pair):
    assert "Warning" not in trained.said
    assert len(re.findall(r"^finished at step", trained.said, re.MULTILINE)) == len(STAGES)
