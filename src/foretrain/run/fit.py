"""`foretrain.fit`: training from Python."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, ForetrainError, TrainingError
from foretrain.models import FAMILIES
from foretrain.models.base import Forecaster
from foretrain.run.pipeline import run_stages
from foretrain.run.stages import Draft, StagesConfig
from foretrain.run.train import holds_run, train_run

if TYPE_CHECKING:
    from foretrain.forecasting.predictor import Predictor


def fit(data: Any, model: str | dict[str, Any] | None = None, **overrides: Any) -> Predictor:
    """Train a model and return its Predictor.

    Args:
        data: a corpus folder, a Corpus, or a pandas frame in long format (item_id, timestamp, value columns), which
            is imported into output_dir/corpus by the rules of `foretrain data import`.
        model: a release folder or hub id to fine-tune; the name of a family for random weights; or a mapping for the
            `model:` section. None means "chronos2", or with stages=[...] that every stage names its own model.
        overrides: config keys with `__` for the dot: fit(df, "amazon/chronos-2", data__prediction_length=24,
            training__max_steps=200, output_dir="runs/mine"). output_dir is required; training.max_steps defaults to
            1000, data.context_length to 512 and data.prediction_length to 24. With stages=[...] these apply to every
            stage that does not set them, and the Predictor is that of the last stage.

    Raises ConfigError, DataError, ModelError or TrainingError as `foretrain train` does.
    """
    tree: dict[str, Any] = {"training": {}, "data": {"context_length": 512, "prediction_length": 24}}
    if model is not None or "stages" not in overrides:
        tree["model"] = dict(model) if isinstance(model, dict) else _model_section(model or "chronos2")
    draft = Draft.of(tree, [(key.replace("__", "."), value) for key, value in overrides.items()], source="fit")
    if "output_dir" not in draft.merged:
        raise ConfigError('output_dir: required, but not given; for example output_dir="runs/mine".')
    output = Path(draft.merged["output_dir"])
    if isinstance(data, (str, Path, Corpus)):
        return _fit_corpus(draft, data, output)
    if holds_run(output):
        raise TrainingError(f"{output} already holds a run. Choose another output_dir.")
    corpus = _import_frame(data, output / "corpus")
    try:
        return _fit_corpus(draft, corpus, output)
    except ForetrainError:
        if not holds_run(output):  # the run has not started, so the next call may use this folder
            shutil.rmtree(corpus)
        raise


def _fit_corpus(draft: Draft, data: str | Path | Corpus, output: Path) -> Predictor:
    """Train a draft config on a corpus and return the Predictor."""
    from foretrain.forecasting.predictor import Predictor, load

    name = str((data.path or f"(in memory) {data.name}") if isinstance(data, Corpus) else data)
    for number, sections, _ in list(draft.runs()):
        has_length = {"max_steps", "epochs"} & set(sections["training"])
        length = [] if has_length else [("training.max_steps", 1000)]
        draft.override(number, [*length, ("data.corpora", [{"path": name}])])
    config = draft.build()
    if isinstance(config, StagesConfig):
        run_stages(config, corpora={name: data} if isinstance(data, Corpus) else None)
        return load(output / "release")
    trained, _ = train_run(config, corpora=[data] if isinstance(data, Corpus) else None)
    if not isinstance(trained, Forecaster):
        raise ConfigError(
            f"{output / 'release'} is trained, but a {trained.family} makes no forecasts, so there is no Predictor."
        )
    return Predictor(trained)


def _model_section(name: str) -> dict[str, Any]:
    return {"family": name, "random_init": True} if name in FAMILIES else {"model_id": name}


def _import_frame(frame: Any, out: Path) -> Path:
    """Import a pandas frame into the corpus folder `out`. Raises ConfigError for other types."""
    import pandas as pd

    from foretrain.data.importers import import_corpus

    if not isinstance(frame, pd.DataFrame):
        raise ConfigError(f"data: a corpus folder, a Corpus or a pandas frame, not {type(frame).__name__}.")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "frame.parquet"
        frame.to_parquet(path, index=False)
        import_corpus([path], out)
    return out
