"""Folders and files whose names have blanks, umlauts and signs that shells and formats know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cli.test_app import foretrain
from tests.run.test_train import TINY
from tests.waiting import run_command, torchrun

from foretrain.data.store import Corpus
from foretrain.training.journal import read_journal

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
PLACE = "Köln & mehr {1} 100% #2"
SMALL = [item for item in TINY if not item.startswith("data.corpora")]
DRAWN = [  # pretrain/tiny in a second, its series drawn by a process
    "model.d_model=16", "model.d_kv=8", "model.d_ff=32", "model.num_heads=2", "model.num_layers=1",
    "data.generated.max_tokens=4096", "data.generated.max_windows=8", "training.prefetch=1", "training.max_steps=2",
    "training.checkpoint_every=null", "training.checkpoint_minutes=null", "training.tensorboard=false",
    "optimizer.schedule={kind: constant, warmup_steps: 0}", "output_dir=Lauf mit Strom",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CSV file, a clone's package and an imported corpus, all with such names."""
    folder = tmp_path_factory.mktemp("places") / PLACE
    (folder / "Mein Klon" / "src").mkdir(parents=True)
    for name in ("src/foretrain", "configs"):
        (folder / "Mein Klon" / name).symlink_to(ROOT / name)
    stamps = np.arange("2024-01-01T00", "2024-01-09T00", dtype="datetime64[h]")
    rows = [f"{stamp},{10 + np.sin(hour / 4):.3f}" for hour, stamp in enumerate(stamps)]
    (folder / "Umsätze 2024.csv").write_text("\n".join(["Zeit,Umsatz in €", *rows]) + "\n", encoding="utf-8")
    foretrain("data", "import", folder / "Umsätze 2024.csv", "--out", folder / "Mein Korpus")
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch) -> Path:
    """The same folder, as the current one."""
    monkeypatch.chdir(place)
    return place


def test_a_file_is_imported_trained_on_evaluated_and_forecast_in_such_a_folder(there: Path, capsys):
    corpus = "data.corpora=[{path: Mein Korpus}]"
    foretrain("config", "copy", "debug", "--out", "Meine Läufe/grün.yaml")
    foretrain("train", "Meine Läufe/grün.yaml", *SMALL, corpus, "output_dir=Meine Läufe/Lauf 1")
    foretrain("evaluate", "Meine Läufe/Lauf 1", "--data", "Mein Korpus", "--seasonality", 1, "--out", "Bericht (ä)")
    assert (there / "Bericht (ä)" / "report.html").is_file()
    foretrain("forecast", "Meine Läufe/Lauf 1", "Umsätze 2024.csv")
    assert (there / "Umsätze 2024-forecast.csv").is_file() and (there / "Umsätze 2024-forecast.png").is_file()
    foretrain("export", "Meine Läufe/Lauf 1/checkpoints/step-00000006", "--out", "Über Nacht")
    assert (there / "Über Nacht" / "model.safetensors").is_file()
    assert "Umsätze 2024" in capsys.readouterr().out


def test_processes_that_draw_series_work_in_such_a_folder(there: Path):
    foretrain("data", "generate", "synthetic/mixture", "--out", "Reihen für später", "--num-series", 4, "--workers", 2)
    assert Corpus.open(there / "Reihen für später").num_series == 4
    foretrain("train", "pretrain/tiny", *DRAWN)
    assert (there / "Lauf mit Strom" / "release" / "model.safetensors").is_file()


def test_torchrun_works_in_such_a_folder_with_the_package_of_a_clone_there(there: Path):
    words = ["train", "debug", *SMALL, "data.corpora=[{path: Mein Korpus}]", "training.max_steps=3", "--threads", "1",
             "output_dir=Zwei Läufer"]  # fmt: skip
    environment = {"PYTHONPATH": str(there / "Mein Klon" / "src")}
    done = run_command(torchrun(2, "-m", "foretrain.cli", *words), environment=environment)
    assert done.returncode == 0, done.stdout
    steps = [entry["step"] for entry in read_journal(there / "Zwei Läufer" / "metrics.jsonl") if "loss" in entry]
    assert steps == [1, 2, 3]
