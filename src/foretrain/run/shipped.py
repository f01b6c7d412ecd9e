"""The configs that come with foretrain, found by name from any folder: "debug", "chronos2/finetune".

An installed package holds them in foretrain/configs (setup.py), a clone in its own folder configs/. This module imports
neither torch, numpy nor a section of a config, so that `foretrain config list` is fast.
"""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path

from foretrain.errors import ConfigError
from foretrain.hints import nearest
from foretrain.notes import Code, Note
from foretrain.reading import resolved

_PACKAGE = Path(__file__).parents[1]
GENERATE, TRAIN, TUNE = "data generate", "train", "tune"  # the verbs that take a config
_KINDS = {GENERATE: "synthetic series", TRAIN: "a training", TUNE: "a search"}
_DATA = (".csv", ".tsv", ".txt", ".tsf", ".gz", ".zip", ".parquet", ".feather", ".xlsx", ".jsonl", ".npy", ".npz")
SEE_LIST = "`foretrain config list` names the shipped ones."


@cache
def config_folder() -> Path:
    """Return the folder of the shipped configs: in the installed package, else the one of the clone."""
    folders = (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs")
    return next((folder for folder in folders if (folder / "debug.yaml").is_file()), folders[0])


def shipped_names() -> list[str]:
    """Return the names of the shipped configs: those of no folder first."""
    found = (path.relative_to(config_folder()).with_suffix("") for path in config_folder().rglob("*.yaml"))
    return [path.as_posix() for path in sorted(found, key=lambda path: (len(path.parts), path))]


def shipped_config(name: str) -> Path:
    """Return the path of a shipped config: "chronos2/finetune", also with .yaml and after configs/.

    Raises ConfigError, which names similar ones.
    """
    plain = _plain(name)
    if plain in shipped_names():
        return config_folder() / f"{plain}.yaml"
    raise ConfigError(f"{name}: no such shipped config. {_similar(plain)}{SEE_LIST}")


def find_config(given: Path, verb: str = TRAIN) -> tuple[Path, Note | None]:
    """Return the file that a verb's config argument means, and a note if another file could have been meant.

    A file always wins: `given` itself, then, for a name without an ending, NAME.yaml; then the shipped config of that
    name. Raises ConfigError if there is none of them, or if the shipped config is made for another verb.
    """
    plain, note = _plain(given.as_posix()), None
    written = Path(f"{given}.yaml")
    if given.is_file():
        found = given
    elif written.is_file():
        found = written
        if plain in shipped_names():
            text = f"{found} is a file here, which is used, and not the shipped config {plain}."
            note = Note(Code.FILE_NAMED_AS_CONFIG, text)
    elif plain in shipped_names():
        found = config_folder() / f"{plain}.yaml"
        if given.as_posix() != plain:
            text = f"there is no file {given} here, so the shipped config {plain} is used."
            note = Note(Code.SHIPPED_CONFIG_USED, text)
    else:
        raise ConfigError(f"{given}: {_no_config(given, plain)}")
    if found.name.lower().endswith(_DATA):
        raise ConfigError(f"{found}: is a file of data, not a config. {_on_data(found)}")
    _check_verb(found, verb)
    return found, note


def made_for(name: str) -> str:
    """Return the verb that takes a shipped config."""
    return {"synthetic": GENERATE, "tune": TUNE}.get(name.partition("/")[0], TRAIN)


def about(name: str) -> str:
    """Return the first sentence of the comment at the head of a shipped config."""
    lines = []
    for line in (config_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    sentence, _, _ = " ".join(lines).partition(". ")
    return sentence.rstrip(".")


def _plain(name: str) -> str:
    """Return the name of a shipped config as it may be typed, without configs/ before and .yaml after it."""
    return name.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")


def _no_config(given: Path, plain: str) -> str:
    """Return what is wrong with a name that is no config, and what it may stand for."""
    quoted = shlex.quote(str(given))
    if (config := given / "config.yaml").is_file():
        return f"is the folder of a run. To continue it: foretrain train {shlex.quote(str(config))} --resume"
    if (given / "dataset_info.json").is_file():
        return (
            f"is a corpus, not a config. To train on it: foretrain train chronos2/finetune data.corpora.0.path={quoted}"
        )
    if (given / "config.json").is_file() or given.as_posix() in _models_in_the_box():
        return f"is a model, not a config. To fine-tune it: foretrain quick FILE --model {quoted}"
    fact = "is a folder" if given.is_dir() else "no such config file, and none of that name is shipped"
    return f"{fact}. {_similar(plain)}{SEE_LIST}"


def _on_data(path: Path) -> str:
    """Return how to train on a file of data."""
    corpus = f"corpora/{path.name.partition('.')[0]}"
    file, corpus = shlex.quote(str(path)), shlex.quote(corpus)
    return (
        f"To fine-tune on it: foretrain quick {file}; or, with a config, foretrain data import {file} --out {corpus}, "
        f"then foretrain train chronos2/finetune data.corpora.0.path={corpus}"
    )


def _models_in_the_box() -> list[str]:
    from foretrain.models.shipped import shipped

    return list(shipped())


def _similar(plain: str) -> str:
    """Return "Did you mean ...? " with the shipped configs that a name may be a slip for; "" if there are none."""
    last = plain.rpartition("/")[2]
    within = [name for name in shipped_names() if name.startswith(f"{plain}/")]
    alike = within or [name for name in shipped_names() if last and name.rpartition("/")[2] == last]
    alike = alike or nearest(plain, shipped_names())
    return f"Did you mean {' or '.join(map(repr, alike))}? " if alike else ""


def _check_verb(path: Path, verb: str) -> None:
    """Raise ConfigError if a file is a shipped config that the verb does not take."""
    folder, place = resolved(config_folder()), resolved(path)
    if not place.is_relative_to(folder):
        return
    name = place.relative_to(folder).with_suffix("").as_posix()
    if name in shipped_names() and made_for(name) != verb:
        raise ConfigError(f"{name}: describes {_KINDS[made_for(name)]}: foretrain {made_for(name)} {name}.")
