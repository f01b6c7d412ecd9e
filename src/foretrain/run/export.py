"""Exports a checkpoint as a release."""

from __future__ import annotations

import logging
from pathlib import Path

from foretrain.adapters.files import write_adapter
from foretrain.adapters.layers import adapter_facts, merged
from foretrain.atomic import new_folder, write_json
from foretrain.config import build
from foretrain.distributed.world import World
from foretrain.errors import DataError, TrainingError
from foretrain.forecasting.parents import ancestry_of
from foretrain.models.checkpoints import checkpoint_at, what_instead
from foretrain.notes import Code, Note, warn
from foretrain.run.build import build_model, open_source, release_facts, relocated, start_facts, with_parents
from foretrain.run.config import RunConfig
from foretrain.training import checkpoint as checkpoints
from foretrain.training.manifest import damage, read_manifest, read_run_state

_log = logging.getLogger(__name__)


def export_checkpoint(checkpoint: Path, out: Path, *, ema: bool | None = False, adapter: bool = False) -> None:
    """Write a release from a checkpoint's weights, the averaged ones with ema (None = if the run averages them); the
    folder appears whole or not at all.

    For a run with an adapter the release holds the merged weights or, with adapter, the adapter alone. Raises
    TrainingError if the checkpoint is damaged or lacks averaged weights or an adapter, or if out exists; DataError if
    it appears meanwhile.
    """
    found = checkpoint_at(checkpoint)
    if found is None and (what := what_instead(checkpoint)):
        raise TrainingError(f"{checkpoint}: cannot be exported: {what}")
    checkpoint = found or checkpoint
    if problem := damage(checkpoint):
        raise TrainingError(f"{checkpoint}: cannot be exported: {problem}")
    if out.exists():
        raise TrainingError(f"{out}: exists already; choose another folder or remove it.")
    state = read_run_state(checkpoint)
    config = build(RunConfig, state["config"], source=f"{checkpoint}/state.json")
    config = relocated(config, checkpoint.absolute().parents[1])
    ema = config.training.ema_decay is not None if ema is None else ema
    if ema and config.training.ema_decay is None:
        raise TrainingError(f"{checkpoint}: this run has no averaged weights (training.ema_decay); leave out --ema.")
    model = build_model(config)
    if adapter and (model.adapter is None or not model.adapter.portable):
        raise TrainingError(
            f"{checkpoint}: this run has no adapter that can be saved apart from its base; leave out --adapter."
        )
    # The starting weights are overwritten below, so they may have changed; every other parent must be the same.
    others = {role: hashed for role, hashed in config.parents.items() if role != "model" or model.adapter is not None}
    with_parents(config.model_copy(update={"parents": others}), model)
    model.load_state_dict(checkpoints.release_weights(checkpoint, World(), model, averaged=ema), strict=False)
    facts = {"step": state["progress"]["step"], "weights": "ema" if ema else "trained", "from": checkpoint.name}
    metric = read_manifest(checkpoint)["metric"]
    facts["metric"] = None if metric is None else {"name": config.training.best_metric, "value": metric}
    facts |= adapter_facts(model)
    try:
        recorded = state.get("facts")
        facts |= (
            {**recorded, **start_facts(config)}
            if recorded
            else release_facts(*open_source(config, None, state["config"]))
        )
    except DataError as error:
        text = f"{out} does not record its training data, so an evaluation cannot exclude them: {error}"
        warn(_log, Note(Code.RELEASE_WITHOUT_FACTS, text))
    if state.get("ancestry") is not None:
        facts["ancestry"] = state["ancestry"]
    elif "parents" in facts:  # a checkpoint of an older version
        facts["ancestry"] = ancestry_of(facts["parents"], unchanged=False).to_json()
    for note in model.release_notes():
        warn(_log, note)
    with new_folder(out) as scratch:
        if adapter:
            write_adapter(scratch, model)
        else:
            with merged(model):
                model.save_release(scratch)
        write_json(scratch / "release.json", facts)
