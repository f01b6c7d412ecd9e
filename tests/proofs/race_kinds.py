"""The kinds of races: what they start from, their commands, and what must be there afterwards; for race_files.py."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from race_processes import DAMAGE, Ended, alone

TRAINING = """
model: {family: linear, random_init: true}
data: {context_length: 48, prediction_length: 6, validation_steps: 12, test_steps: 12}
training: {max_steps: 12, batch_size: 8, validate_every: 4, checkpoint_every: 4, keep_last: 2, tensorboard: false}
optimizer: {learning_rate: 1.0e-3}
seed: 7
threads: 1
device: cpu
"""


def table(items: Sequence[str], rows: int = 96, seed: int = 0) -> pd.DataFrame:
    """Return hourly values of some items, a walk each that the name and the seed determine."""
    stamps = pd.date_range("2024-01-01", periods=rows, freq="h")
    frames = []
    for item in items:
        rng = np.random.default_rng([seed, *item.encode()])
        frames.append(pd.DataFrame({"item_id": item, "timestamp": stamps, "target": rng.normal(size=rows).cumsum()}))
    return pd.concat(frames, ignore_index=True)


Check = Callable[[Sequence[Ended]], str | None]
Kind = Callable[[Path, random.Random], tuple[list[list[str]], Check]]


class Kinds:
    """The kinds of races. Each prepares a folder and returns the commands, and a check of what they leave.

    A check returns what is wrong, or None.
    """

    def __init__(self, base: Path) -> None:
        """base: a folder for the files that the races start from."""
        self.base = base
        for name in ("a", "b"):
            table([f"{name}{k}" for k in range(3)]).to_csv(base / f"{name}.csv", index=False)
        table(["i0", "i1", "i2"], 120).to_csv(base / "longer.csv", index=False)  # begins as the corpus does
        table(["i0", "i1", "i2"]).to_csv(base / "first.csv", index=False)
        (base / "train.yaml").write_text(TRAINING)
        table(["i0", "i1", "i2"], 20_000).to_csv(base / "long.csv", index=False)  # a shard of many pages of memory
        for name, out in (("first", "corpus"), ("long", "long")):
            alone(["data", "import", f"{name}.csv", "--out", out], base)
        self.model = "tiny"

    def corpus(self, folder: Path) -> Path:
        """Copy the corpus into a folder."""
        shutil.copytree(self.base / "corpus", folder / "corpus")
        return folder / "corpus"

    def run(self, folder: Path) -> Path:
        """Copy a finished run into a folder."""
        if not (self.base / "run").exists():
            alone(["train", "train.yaml", "--output-dir", "run", "data.corpora=[{path: corpus}]"], self.base)
        return Path(shutil.copytree(self.base / "run", folder / "run"))

    # corpora

    def updates(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two updates of one corpus, and sometimes a third."""
        self.corpus(folder)
        names = ["a", "b", "longer"][: rng.choice((2, 2, 3))]
        return [self._update(name) for name in names], lambda ended: self._updated(folder, names, ended)

    def imports(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two imports into one new folder: one of them is there, whole."""
        commands = [self._command("data", "import", f"{name}.csv", "--out", folder / "corpus") for name in ("a", "b")]

        def check(ended: Sequence[Ended]) -> str | None:
            if sum(one.done for one in ended) != 1:
                return "not one import succeeded"
            name = ("a", "b")[[one.done for one in ended].index(True)]
            return self._holds(folder / "corpus", [f"{name}.csv"])

        return commands, check

    def generates(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two generations into one new folder."""
        config = folder / "mixture.yaml"
        shutil.copy(Path(__file__).parents[2] / "configs" / "synthetic" / "mixture.yaml", config)
        command = ["data", "generate", str(config), "--out", str(folder / "corpus"), "--num-series", "4"]

        def check(ended: Sequence[Ended]) -> str | None:
            if sum(one.done for one in ended) != 1:
                return "not one generation succeeded"
            return verified(folder / "corpus")

        return [command, command], check

    def import_inspect(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """An import beside inspections of what it makes: they see nothing or all of it."""
        commands = [self._command("data", "import", "a.csv", "--out", folder / "corpus")]
        commands += [["data", "inspect", str(folder / "corpus"), *rng.choice(([], ["--verify"]))] for _ in range(2)]

        def check(ended: Sequence[Ended]) -> str | None:
            if not ended[0].done:
                return "the import did not succeed"
            # what is no corpus yet where it is looked at may be one where its files are previewed
            if any(one.done and not re.search(r"\bseries +3\b|^3 items", one.said, re.M) for one in ended[1:]):
                return "an inspection said something else"
            return self._holds(folder / "corpus", ["a.csv"])

        return commands, check

    def update_inspect(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """An update beside inspections and a verification: they see the corpus of before or of after."""
        corpus = str(self.corpus(folder))
        commands = [self._update("a"), ["data", "inspect", corpus], ["data", "verify", corpus]]

        def check(ended: Sequence[Ended]) -> str | None:
            if not all(one.done for one in ended):
                return "a reader or the update was refused"
            if not re.search(r"\bseries +(3|6)\b", ended[1].said):
                return "the inspection said something else"
            return self._updated(folder, ["a"], ended)

        return commands, check

    def update_train(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """An update beside a training on the corpus: its weights are those of the corpus that its release records."""
        self.corpus(folder)

        def check(ended: Sequence[Ended]) -> str | None:
            if not all(one.done for one in ended):
                return "the training or the update was refused"
            return self._updated(folder, ["a"], ended) or self._trained(folder / "run", folder / "corpus")

        return [self._update("a"), self._train(folder, "run")], check

    def update_forecast(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """An update beside a forecast of the corpus, which has the items of before or of after."""
        corpus = self.corpus(folder)
        commands = [self._update("a"), self._forecast(corpus, folder / "f.csv")]

        def check(ended: Sequence[Ended]) -> str | None:
            if not all(one.done for one in ended):
                return "the forecast or the update was refused"
            if pd.read_csv(folder / "f.csv")["item_id"].nunique() not in (3, 6):
                return "the forecast is of something else"
            return self._updated(folder, ["a"], ended)

        return commands, check

    # outputs

    def evaluates(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two evaluations into one folder, which is of one of them."""
        common = ["evaluate", self.model, "--data", str(self.corpus(folder)), "--out", str(folder / "out")]
        commands = [[*common, "--threads", "1", "--prediction-length", length] for length in ("4", "6")]

        def check(ended: Sequence[Ended]) -> str | None:
            if sum(one.done for one in ended) != 1:
                return "not one evaluation succeeded"
            return self._same_tree(folder / "out", [one.done for one in ended].index(True), commands)

        return commands, check

    def scores(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two scores of a file into one folder."""
        frame = pd.DataFrame({"item_id": "i", "timestamp": pd.date_range("2024-01-01", periods=9, freq="h")})
        frame.assign(actual=range(1, 10), predicted=1.0, last_close=1.0).to_csv(folder / "p.csv", index=False)
        command = ["score", str(folder / "p.csv"), "--out", str(folder / "out")]

        def check(ended: Sequence[Ended]) -> str | None:
            if sum(one.done for one in ended) != 1:
                return "not one score succeeded"
            names = {path.name for path in (folder / "out").iterdir()}
            return None if {"score.json", "score.md"} <= names else f"the folder holds {sorted(names)}"

        return [command, command], check

    def exports(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two exports of different checkpoints into one folder."""
        steps = sorted((self.run(folder) / "checkpoints").glob("step-*"))[-2:]
        commands = [["export", str(step), "--out", str(folder / "out")] for step in steps]

        def check(ended: Sequence[Ended]) -> str | None:
            if sum(one.done for one in ended) != 1:
                return "not one export succeeded"
            return self._same_tree(folder / "out", [one.done for one in ended].index(True), commands)

        return commands, check

    def forecasts(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two forecasts into one file: the file is of one of them."""
        corpus, out = self.corpus(folder), folder / "f.csv"
        commands = [[*self._forecast(corpus, out), "--prediction-length", length] for length in ("4", "6")]

        def check(ended: Sequence[Ended]) -> str | None:
            if not all(one.done for one in ended):
                return "a forecast was refused"
            found = out.read_bytes()
            for command in commands:
                again = [str(folder / "again.csv") if word == str(out) else word for word in command]
                alone(again, folder)
                if (folder / "again.csv").read_bytes() == found:
                    return None
            return "the file is of neither"

        return commands, check

    def unnamed_forecasts(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two forecasts that name no file: each has files of its own, or one is refused."""
        self.corpus(folder)
        command = ["forecast", self.model, "corpus", "--prediction-length", "4", "--threads", "1"]

        def check(ended: Sequence[Ended]) -> str | None:
            files = [path for path in folder.iterdir() if path.suffix in (".csv", ".png")]
            done = sum(one.done for one in ended)
            return None if len(files) == 2 * done else f"{done} succeeded and there are {len(files)} files"

        return [command, command], check

    def quicks(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two quick runs into one folder."""
        common = ["quick", str(self.base / "first.csv"), "--out", str(folder / "out"), "--max-steps", "2"]
        common += ["--prediction-length", "4", "--threads", "1"]

        def check(ended: Sequence[Ended]) -> str | None:
            if sum(one.done for one in ended) != 1:
                return "not one quick run succeeded"
            return None if list((folder / "out").rglob("model.safetensors")) else "it left no model"

        return [common, common], check

    # runs

    def trains(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two trainings in one run folder, perhaps resumed."""
        self.corpus(folder)
        resume = rng.choice(([], ["--resume"]))

        def check(ended: Sequence[Ended]) -> str | None:
            if not any(one.done for one in ended):
                return "no training succeeded"
            return self._trained(folder / "run", folder / "corpus")

        return [[*self._train(folder, "run"), *resume]] * 2, check

    def train_evaluate(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """A training that goes on, and deletes checkpoints, beside an evaluation and a forecast of the newest one."""
        corpus = self.corpus(folder)
        newest = str(self.run(folder) / "checkpoints" / "latest")
        commands = [
            [*self._train(folder, "run"), "--resume", "--max-steps", "40"],
            ["evaluate", newest, "--data", str(corpus), "--threads", "1", "--out", str(folder / "out")],
            ["forecast", newest, str(corpus), "--threads", "1", "--out", str(folder / "f.csv")],
        ]

        def check(ended: Sequence[Ended]) -> str | None:
            if not ended[0].done:
                return "the training did not succeed"
            for one, path in zip(ended[1:], (folder / "out", folder / "f.csv"), strict=True):
                if one.done != path.exists():
                    return f"{path.name} is there without success, or missing after it"
            return None

        return commands, check

    def checkpoint_releases(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Two forecasts of one checkpoint, each of which would write its release, and an export."""
        newest = sorted((self.run(folder) / "checkpoints").glob("step-*"))[-1]
        commands = [self._forecast(self.base / "corpus", folder / f"{k}.csv", str(newest)) for k in range(2)]
        commands.append(["export", str(newest), "--out", str(folder / "out")])

        def check(ended: Sequence[Ended]) -> str | None:
            if not all(one.done for one in ended):
                return "a command was refused"
            if (folder / "0.csv").read_bytes() != (folder / "1.csv").read_bytes():
                return "the forecasts differ"
            return None

        return commands, check

    def records(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """Verifications and a training of different corpora that record what they found intact in one cache."""
        for name in ("a", "b", "c"):
            shutil.copytree(self.base / "corpus", folder / f"corpus-{name}")
        (folder / "corpus-c").rename(folder / "corpus")
        commands = [["data", "verify", str(folder / f"corpus-{name}")] for name in ("a", "b")]
        commands.append(self._train(folder, "run"))

        def check(ended: Sequence[Ended]) -> str | None:
            if not all(one.done for one in ended):
                return "a command was refused"
            known = json.loads((Path(os.environ["XDG_CACHE_HOME"]) / "foretrain" / "verified.json").read_text())
            missing = [name for name in ("corpus-a", "corpus-b", "corpus") if not any(f"/{name}/" in k for k in known)]
            return f"the record lacks {', '.join(missing)}" if missing else None

        return commands, check

    def shards(self, folder: Path, rng: random.Random) -> tuple[list[list[str]], Check]:
        """A shard that is cut, overwritten, deleted or replaced under a command that reads it.

        The command succeeds, with the result of the whole shard, or is refused; a training resumes with a whole shard.
        """
        corpus = Path(shutil.copytree(self.base / "long", folder / "corpus"))
        shard, whole = corpus / "data-00000-of-00001.arrow", folder / "whole"
        shutil.copy(shard, whole)
        (folder / "another").write_bytes(b"another file")
        train = self._train(folder, "run")
        command = rng.choice(
            (
                train,
                train,
                ["evaluate", self.model, "--data", str(corpus), "--threads", "1", "--out", str(folder / "out")],
                self._forecast(corpus, folder / "1.csv"),
                ["data", "inspect", str(corpus)],
                ["data", "inspect", str(corpus), "--verify"],
                self._update("a"),
            )
        )

        def check(ended: Sequence[Ended]) -> str | None:
            if ended[1].code:
                return "the shard could not be damaged"
            if command is not train:
                for path in (folder / "out", folder / "1.csv"):
                    if path.exists() and not ended[0].done:
                        return f"{path.name} is there"
                return None
            from foretrain.training.manifest import damage

            if damaged := [path.name for path in (folder / "run").glob("checkpoints/step-*") if damage(path)]:
                return f"{', '.join(damaged)}: damaged"
            if not ended[0].done:
                os.replace(whole, shard)
                alone([*train, "--resume"], folder)
            return self._trained(folder / "run", self.base / "long")

        return [command, [rng.choice(sorted(DAMAGE)), str(shard), str(rng.uniform(0, 0.8))]], check

    # commands and checks that several kinds use

    def _command(self, *words: object) -> list[str]:
        return [str(self.base / word) if str(word).endswith(".csv") else str(word) for word in words]

    def _update(self, name: str) -> list[str]:
        return self._command("data", "import", f"{name}.csv", "--out", "corpus", "--update")

    def _train(self, folder: Path, run: str) -> list[str]:
        words = ["train", str(self.base / "train.yaml"), "--output-dir", str(folder / run)]
        return [*words, f"data.corpora=[{{path: {folder / 'corpus'}}}]"]

    def _forecast(self, data: Path, out: Path, model: str = "tiny") -> list[str]:
        length = ["--prediction-length", "4"] if out.stem.isdigit() else []
        return ["forecast", model, str(data), "--out", str(out), "--threads", "1", *length]

    def _updated(self, folder: Path, names: Sequence[str], ended: Sequence[Ended]) -> str | None:
        files = [f"{name}.csv" for name, one in zip(names, ended, strict=False) if one.done]
        if not files:
            return "no update succeeded"
        return self._holds(folder / "corpus", ["first.csv", *files])

    def _holds(self, corpus: Path, files: Sequence[str]) -> str | None:
        """Compare a corpus with the rows of files of which later ones add items or rows at the ends of items."""
        from foretrain.data.frames import corpus_frame
        from foretrain.data.store import Corpus

        wanted = pd.concat([pd.read_csv(self.base / name, parse_dates=["timestamp"]) for name in files])
        wanted = wanted.drop_duplicates(["item_id", "timestamp"]).sort_values(["item_id", "timestamp"])
        found = corpus_frame(Corpus.open(corpus)).sort_values(["item_id", "timestamp"])
        if found["item_id"].tolist() != wanted["item_id"].tolist():
            return f"the corpus has {found['item_id'].nunique()} items, {len(found)} rows; not what was put into it"
        if not np.array_equal(found["target"].to_numpy(), wanted["target"].to_numpy().astype(np.float32)):
            return "the corpus has other values"
        return verified(corpus)

    def _trained(self, run: Path, corpus: Path) -> str | None:
        """Compare a run's weights with those of the same training, alone, on the corpus that it recorded."""
        from foretrain.data.store import Corpus

        release = run / "release"
        trained_on = json.loads((release / "release.json").read_text())["corpora"][0]["fingerprint"]
        versions = {Corpus.open(path).fingerprint: path for path in (self.base / "corpus", corpus)}
        if trained_on not in versions:
            return "the release records a corpus that never was"
        weights = hashlib.sha256((release / "model.safetensors").read_bytes()).hexdigest()
        if weights != self._weights_of(trained_on, versions[trained_on]):
            return "its weights are not those of the corpus that it records"
        return None

    def _weights_of(self, fingerprint: str, corpus: Path) -> str:
        folder = self.base / f"weights-{fingerprint[:16]}"
        if not folder.exists():
            folder.mkdir()
            words = [
                "train",
                str(self.base / "train.yaml"),
                "--output-dir",
                "run",
                f"data.corpora=[{{path: {corpus}}}]",
            ]
            alone(words, folder)
        return hashlib.sha256((folder / "run" / "release" / "model.safetensors").read_bytes()).hexdigest()

    def _same_tree(self, out: Path, which: int, commands: Sequence[Sequence[str]]) -> str | None:
        """Compare the names and the numbers of a folder with those of its command, run alone."""
        again = out.with_name("again")
        alone([str(again) if word == str(out) else word for word in commands[which]], out.parent)
        first, second = ({path.name: path for path in folder.rglob("*")} for folder in (out, again))
        if first.keys() != second.keys():
            return f"it holds {sorted(first)}, alone {sorted(second)}"
        for name in first.keys() & {"model.safetensors", "per_item.csv"}:
            if first[name].read_bytes() != second[name].read_bytes():
                return f"{name} is not that of the command that succeeded"
        return None


def verified(corpus: Path) -> str | None:
    """Return what is wrong with the shards of a corpus."""
    from foretrain.data.verification import verify_folder
    from foretrain.errors import DataError

    try:
        verify_folder(corpus)
    except DataError as error:
        return str(error)
    return None
