"""`foretrain.fit`: training from Python."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foretrain.atomic import temporary_files
from foretrain.config import apply_overrides, build
from foretrain.data.frames import findings, is_corpus
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError, ForetrainError, TrainingError
from foretrain.forecasting.record import recorded_data
from foretrain.hints import missing_text
from foretrain.models import FAMILIES, family, infer_family
from foretrain.models.base import Forecaster
from foretrain.models.hub import facts_of, local_folder
from foretrain.models.shipped import default_model, default_note, shipped
from foretrain.notes import warn
from foretrain.run.pipeline import run_stages
from foretrain.run.stages import Draft, StagesConfig
from foretrain.run.train import holds_run, train_run
from foretrain.training.scoring import OnValidation
from foretrain.training.sinks import Sink

if TYPE_CHECKING:
    from foretrain.data.importers.report import ImportReport
    from foretrain.forecasting.predictor import Predictor

_log = logging.getLogger(__name__)

USUAL_CONTEXT = 512  # steps of history that a run reads if nothing says otherwise


def fit(
    data: Any,
    model: str | dict[str, Any] | None = None,
    *,
    import_options: Mapping[str, Any] | None = None,
    on_validation: OnValidation | None = None,
    sinks: Sequence[Sink] = (),
    **overrides: Any,
) -> Predictor:
    """Train a model and return its Predictor.

    Args:
        data: a corpus folder, a Corpus, a pandas frame in long format (item_id, timestamp, value columns), a file, or a
            folder of files. Frames and files are imported into output_dir/corpus by the rules of `foretrain data
            import`; what they found and decided is logged.
        import_options: options of that import, such as {"id_column": "store", "freq": "D"}.
        model: a release folder, a hub id or the name of a model in the box to fine-tune; the name of a family for
            random weights; or a mapping for the `model:` section. None means "tiny", the model in the box, which a note
            says; if overrides of `model:` do not fit it, "chronos2" with random weights. With stages=[...], None means
            that every stage names its own model.
        on_validation: called as (step, metrics) after a validation and the evaluators that are due with it, for
            tuners; True ends the run. Not with stages.
        sinks: they take the lines of metrics.jsonl and the texts of the run as it goes on (foretrain.training.sinks.
            Sink); one that raises is dropped with a line in the log. Not with stages.
        overrides: config keys with `__` for the dot: fit(df, "amazon/chronos-2", data__prediction_length=24,
            training__max_steps=200, output_dir="runs/mine"). output_dir is required; training.max_steps defaults to
            1000, data.context_length to 512 (to that of "tiny", if it starts there) and data.prediction_length to 24.
            With stages=[...] these apply to every stage that does not set them, and the Predictor is that of the last
            stage. With training__release=False nothing is released, and the Predictor has the weights in memory.

    Raises ConfigError, DataError, ModelError or TrainingError as `foretrain train` does.
    """
    tree: dict[str, Any] = {"training": {}, "data": {"prediction_length": 24}}
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    if model is not None:
        tree["model"] = dict(model) if isinstance(model, dict) else _model_section(model)
    elif "stages" not in overrides:
        tree["model"] = _unnamed_section(tree, changes)
    draft = Draft.of(tree, list(changes.items()), source="fit")
    if "output_dir" not in draft.merged:
        raise ConfigError('output_dir: required, but not given; for example output_dir="runs/mine".')
    output = Path(draft.merged["output_dir"])
    if isinstance(data, str | Path) and not Path(data).exists():
        raise DataError(missing_text(Path(data)))
    if isinstance(data, Corpus) or (isinstance(data, str | Path) and not _is_input(Path(data))):
        if import_options:
            raise ConfigError("import_options: data is a corpus, which is not imported; leave them out.")
        return _fit_corpus(draft, data, output, on_validation, sinks)
    if holds_run(output):
        raise TrainingError(f"{output} already holds a run. Choose another output_dir.")
    corpus = _import(data, output / "corpus", dict(import_options or {}))
    try:
        return _fit_corpus(draft, corpus, output, on_validation, sinks)
    except ForetrainError:
        if not holds_run(output):  # the run has not started, so the next call may use this folder
            shutil.rmtree(corpus)
        raise


def _is_input(path: Path) -> bool:
    """Return True for what an import reads: a file, or a folder that is no corpus."""
    return path.exists() and not is_corpus(path)


def _fit_corpus(
    draft: Draft,
    data: str | Path | Corpus,
    output: Path,
    on_validation: OnValidation | None = None,
    sinks: Sequence[Sink] = (),
) -> Predictor:
    """Train a draft config on a corpus and return the Predictor."""
    from foretrain.forecasting.predictor import Predictor, load

    name = str((data.path or f"(in memory) {data.name}") if isinstance(data, Corpus) else data)
    for number, sections, _ in list(draft.runs()):
        defaults: list[tuple[str, Any]] = []
        if not {"max_steps", "epochs"} & set(sections["training"]):
            defaults.append(("training.max_steps", 1000))
        if "context_length" not in sections["data"]:
            defaults.append(("data.context_length", _usual_context((sections.get("model") or {}).get("model_id"))))
        draft.override(number, [*defaults, ("data.corpora", [{"path": name}])])
    config = draft.build()
    if isinstance(config, StagesConfig):
        if on_validation is not None:
            raise ConfigError("on_validation: stages count their steps apart, so it cannot tell them. Leave it out.")
        if sinks:
            raise ConfigError("sinks: stages count their steps apart, so they cannot tell them. Leave them out.")
        run_stages(config, corpora={name: data} if isinstance(data, Corpus) else None)
        return load(output / "release")
    corpora = [data] if isinstance(data, Corpus) else None
    trained, result = train_run(config, corpora=corpora, on_validation=on_validation, sinks=sinks)
    if not isinstance(trained, Forecaster):
        raise ConfigError(
            f"{output / 'release'} is trained, but a {trained.family} makes no forecasts, so there is no Predictor."
        )
    return Predictor(trained, facts_of(output) if config.training.release else result.facts)


def _usual_context(model_id: Any) -> int:
    """Return the context length of a run that sets none: that of a model in the box if it starts there."""
    start = None if model_id is None else local_folder(str(model_id))
    if start is None or start not in shipped().values():
        return USUAL_CONTEXT
    return recorded_data(facts_of(start))["context_length"]


def _model_section(name: str) -> dict[str, Any]:
    return {"family": name, "random_init": True} if name in FAMILIES else {"model_id": name}


def _unnamed_section(tree: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model section of a call that names no model: of the model in the box if it fits what changes set.

    Else that of random weights; {} if changes name a model.
    """
    if changes.get("model.model_id"):
        return {}
    name = default_model()
    tree = apply_overrides({**tree, "model": {"model_id": name}}, list(changes.items()))
    try:
        kind = family(tree["model"].setdefault("family", infer_family(name)))
        kind.build(
            build(kind.config(), tree["model"], source="fit"),
            context_length=int(tree["data"].get("context_length", _usual_context(name))),
            prediction_length=int(tree["data"]["prediction_length"]),
            seed=0,
            device="meta",
        )
    except (ForetrainError, TypeError, ValueError):
        return {"family": next(iter(FAMILIES)), "random_init": True}
    warn(_log, default_note("is where training starts", 'name another, or "chronos2" for random weights'))
    return {"model_id": name}


def _import(data: Any, out: Path, options: dict[str, Any]) -> Path:
    """Import a frame, a file or a folder of files into the corpus folder `out`; log what the import found.

    Raises ConfigError for other types, and DataError for data that cannot be imported.
    """
    import pandas as pd

    from foretrain.data.importers import import_corpus

    try:
        if isinstance(data, str | Path):
            _show(import_corpus([data], out, **options), Path(data))
            return out
        if not isinstance(data, pd.DataFrame):
            kinds = "a corpus folder, a Corpus, a pandas frame, a file or a folder of files"
            raise ConfigError(f"data: {kinds}, not {type(data).__name__}.")
        from foretrain.forecasting.arrow import arrow_table

        table, freq = arrow_table(data, options.get("id_column") or "item_id")
        if freq is not None:
            options.setdefault("freq", freq)
        _import_table(table, out, options)
    except DataError as error:
        raise DataError(_with_options(str(error))) from None
    except TypeError as error:  # an unknown option
        if "has no option" not in str(error):
            raise
        raise ConfigError(f"import_options: {error}.") from None
    return out


def _import_table(table: Any, out: Path, options: dict[str, Any]) -> None:
    """Import an Arrow table; messages speak of df and its rows, not of the file that carries it."""
    import pyarrow.parquet

    from foretrain.data.importers import import_corpus

    with temporary_files() as scratch:
        path = scratch / "item.parquet"  # a frame without ids is the item "item"
        pyarrow.parquet.write_table(table, path)
        try:
            _show(import_corpus([path], out, **options), path, frame=True)
        except DataError as error:
            raise DataError(_of_frame(str(error), str(path))) from None


def _with_options(text: str) -> str:
    """Add to a message that names options of the command how fit takes them."""
    flag = re.search(r"(?<!\w)--([a-z]+(?:-[a-z]+)*)", text)
    if flag is None:
        return text
    name = flag[1].replace("-", "_")
    return f"{text} In fit, {flag[0]} is import_options={{{name!r}: ...}}."


def _of_frame(text: str, path: str) -> str:
    """Return a message about a file as one about a frame, whose rows count from 0."""
    text = text.replace(path, "df").replace(Path(path).name, "df")
    return re.sub(r"\bline (\d+)", lambda found: f"row {int(found[1]) - 1}", text)


def _show(report: ImportReport, path: Path, *, frame: bool = False) -> None:
    """Log what an import decided and found; of a frame, in its own words."""
    for note in findings(report, path.name):
        warn(_log, replace(note, text=_of_frame(note.text, str(path))) if frame else note)
    _log.info("%s", report.text())
