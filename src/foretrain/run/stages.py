"""The config of a pipeline: stages in order, each of which may start from the release of an earlier one.

    data: {...}                 # sections at the root apply to every stage,
    stages:                     # a stage's own keys win
      - name: first
        model: {family: chronos2, random_init: true}
      - name: second
        model: {model_id: "stage:first"}
        data: {context_length: 8192}

A single run is a config without `stages`. This module turns files, overrides and flags into either; train.py and
pipeline.py run them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from foretrain.config import Section, apply_overrides, build, read_yaml
from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean
from foretrain.notes import Code, Note, warn
from foretrain.run.config import RunConfig, RunSections, RunSettings
from foretrain.run.settle import settled, value_at

SECTIONS = tuple(RunSections.model_fields)
OPTIONAL_SECTIONS = tuple(name for name, field in RunSections.model_fields.items() if not field.is_required())
REFERENCE = "stage:"

_log = logging.getLogger(__name__)


class _StageHead(Section):
    """Fields of a stage outside the sections of a run."""

    name: str = Field(pattern=r"^[a-z0-9_-]*[a-z_-][a-z0-9_-]*$")  # a number would be read as a position
    skip: bool = False  # do not run it; an earlier release of it can be used
    skip_existing: bool = False  # do not run it if it has a release


class StageConfig(RunSections, _StageHead):  # fields of the last base come first
    """One stage: a name, whether it runs, and the sections of a run."""


class _Stages(Section):
    stages: tuple[StageConfig, ...]


if TYPE_CHECKING:

    class _ForEveryStage(Section): ...
else:
    # Sections for every stage: merged into the stages before this is built, and not saved.
    _ForEveryStage = create_model(
        "_ForEveryStage",
        __base__=Section,
        **{name: (dict[str, Any], Field(default_factory=dict, exclude=True)) for name in SECTIONS},
    )


class StagesConfig(_ForEveryStage, RunSettings, _Stages):
    """A pipeline, every stage with all its sections; saved as output_dir/config.yaml."""

    def folder(self, number: int) -> Path:
        """Return the run folder of stage `number`, counted from 0."""
        return _folder(self.output_dir, number, self.stages[number].name)

    def references(self, number: int) -> dict[str, int]:
        """Return dotted key within the stage's model section -> number of the stage that it refers to."""
        names = [stage.name for stage in self.stages]
        tree = self.stages[number].model.model_dump(mode="json")
        return {key: names.index(name) for key, name in _references(tree)}

    def run(self, number: int) -> RunConfig:
        """Return the config of a stage as a single run."""
        stage = self.stages[number]
        tree = stage.model_dump(mode="json", include=set(SECTIONS))
        changes = [(key, str(self.folder(k) / "release")) for key, k in self.references(number).items()]
        tree["model"] = apply_overrides(tree["model"], changes)
        tree |= self.model_dump(mode="json", include=set(RunSettings.model_fields))
        tree |= {"output_dir": str(self.folder(number)), "stage": stage.name}
        return build(RunConfig, tree, source=f"stage {stage.name}")


@dataclass
class Draft:
    """A config before validation: as written, and with the root's sections merged into each stage."""

    written: dict[str, Any]
    merged: dict[str, Any]
    source: str
    file: dict[str, Any] = field(default_factory=dict)  # as written, without overrides and flags
    given: tuple[str, ...] = ()  # keys of the overrides, stages by number, and after them those of the flags
    flags: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, overrides: Iterable[Any] = (), flags: Mapping[str, Any] | None = None) -> Draft:
        """Make a draft from a file, `key=value` overrides and flags. Raises ConfigError."""
        return cls.of(read_yaml(path), overrides, flags, source=str(path))

    @classmethod
    def of(
        cls,
        tree: dict[str, Any],
        overrides: Iterable[Any] = (),
        flags: Mapping[str, Any] | None = None,
        *,
        source: str = "config",
    ) -> Draft:
        """Make a draft from a tree, overrides and flags.

        Overrides change the tree as written: in a pipeline section.key applies to the stages that do not set it,
        stages.NAME.section.key to one stage. Flags override the key in every stage. Raises ConfigError, also for a key
        that every stage sets to something else.
        """
        placed = [_with_stage_position(tree, item) for item in overrides]
        written, given = apply_overrides(tree, placed), tuple(map(_key_of, placed))
        _refuse_without_effect(tree, written, given)
        draft = cls(written, _merge_stages(written), source, tree, given, tuple(flags or ()))
        draft._apply_flags(flags or {})
        return draft

    @property
    def is_pipeline(self) -> bool:
        """Whether the config has stages."""
        return "stages" in self.merged

    def runs(self) -> Iterator[tuple[int | None, dict[str, Any], Path]]:
        """Yield (number of the stage, sections, run folder) of every run; number None = a config without stages."""
        folder = self.merged.get("output_dir")
        if not self.is_pipeline:
            yield None, self.merged, Path(str(folder))
            return
        for number, stage in enumerate(_stages(self.merged)):
            yield number, stage, _folder(folder, number, stage.get("name"))

    def override(self, number: int | None, changes: Iterable[tuple[str, Any]]) -> None:
        """Set keys of one run's sections; number None = a config without stages."""
        prefix = "" if number is None else f"stages.{number}."
        pairs = [(f"{prefix}{key}", value) for key, value in changes]
        self.merged, self.written = (apply_overrides(tree, pairs) for tree in (self.merged, self.written))

    def settle(
        self, number: int | None, *, given: Iterable[str] = (), saved: Mapping[str, Any] | None = None
    ) -> list[Note]:
        """Let overrides and flags replace what one run's file says instead (settle.py); return a note on each change.

        number None = a config without stages. given: further keys of the command line. saved: the config of the run
        folder, if it is resumed.
        """
        file, sections, keys, where = self.file, self.merged, list(self.given), ""
        kept: list[Note] = []
        if number is not None:
            own, sections = _stages(self.file)[number:][:1], _stages(self.merged)[number]
            file = next(iter(_stages(_merge_stages(self.file))[number:]), {})
            prefix, where = f"stages.{number}.", f"stage {sections.get('name')}: "
            mine = [key for key in keys if any(_keeps_its_own(stage, self.written, key) for stage in own)]
            kept = [_kept(key, sections.get("name")) for key in mine]
            keys = [key for key in keys if not any(_has_key(stage, key.split(".")) for stage in own)]
            keys += [key.removeprefix(prefix) for key in self.given if key.startswith(prefix)]
        changes, notes = settled(sections, {*keys, *self.flags, *given}, file, saved)
        self.override(number, changes)
        return [Note(note.code, where + note.text) for note in (*notes, *kept)]

    def build(self) -> RunConfig | StagesConfig:
        """Validate the config. Raises one ConfigError listing every problem by the key that the user wrote."""
        if not self.is_pipeline:
            for key, name in _references(self.merged.get("model")):
                raise ConfigError(f"{self.source}: model.{key}: there is no stage {name!r}; this config has no stages.")
            return build(RunConfig, self.merged, source=self.source)
        config = build(StagesConfig, self.merged, source=self.source, locate=self._locate)
        problems = list(_problems(config))
        if problems:
            head = f"{self.source}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
            raise ConfigError(head + "".join(f"\n  {problem}" for problem in problems))
        return config

    def _apply_flags(self, flags: Mapping[str, Any]) -> None:
        if not self.is_pipeline:
            self.override(None, flags.items())
            return
        models = sorted(key for key in flags if key.startswith("model."))
        if models:
            flag = "--" + models[0].removeprefix("model.").replace("_", "-")
            raise ConfigError(
                f"{flag}: this config has stages, each with its own model. Name the stage: "
                f"stages.NAME.{models[0]}={flags[models[0]]}."
            )
        own = {key: value for key, value in flags.items() if key.partition(".")[0] in SECTIONS}
        self.merged, self.written = (
            apply_overrides(tree, [item for item in flags.items() if item[0] not in own])
            for tree in (self.merged, self.written)
        )
        for number, _, _ in list(self.runs()):
            self.override(number, own.items())

    def _locate(self, location: list[str]) -> list[str]:
        """Return where a key of a merged stage was written: in the stage itself or, for all stages, at the root."""
        if len(location) < 3 or location[0] != "stages" or location[2] not in SECTIONS:
            return location
        stages = _stages(self.written)
        if not stages:  # some stage is no mapping
            return location
        stage = stages[int(location[1])]
        if _has_key(stage, location[2:]) or not _has_key(self.written, location[2:]):
            return location
        return location[2:]


def load_any(path: Path, overrides: Iterable[Any] = ()) -> RunConfig | StagesConfig:
    """Load the resolved config of a file and overrides: a single run or a pipeline; log what overrides replace.

    Raises ConfigError.
    """
    draft = Draft.read(path, overrides)
    for note in [note for number, _, _ in list(draft.runs()) for note in draft.settle(number)]:
        warn(_log, note)
    return draft.build()


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a config file: a single run, or stages with sections at the root for all of them."""
    single = RunConfig.model_json_schema()
    staged = StagesConfig.model_json_schema(ref_template="#/$defs/part_of_{model}")
    parts = {f"part_of_{name}": part for name, part in staged.pop("$defs").items()}
    for name, part in parts.items():
        # a merged section must be complete; as written, in a stage or at the root, it may be partial
        part.pop("required", None)
        if name == "part_of_StageConfig":
            part["required"] = ["name"]
            staged["properties"] |= {section: part["properties"][section] for section in SECTIONS}
            for section in OPTIONAL_SECTIONS:  # null takes the root's away
                part["properties"][section] = {"anyOf": [part["properties"][section], {"type": "null"}]}
    return {
        "title": "A run of foretrain",
        "anyOf": [{"$ref": "#/$defs/RunConfig"}, {"$ref": "#/$defs/StagesConfig"}],
        "$defs": {**single.pop("$defs"), **parts, "RunConfig": single, "StagesConfig": staged},
    }


def _folder(output_dir: Any, number: int, name: Any) -> Path:
    return Path(str(output_dir)) / "stages" / f"{number + 1:02d}-{name}"


def _stages(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the stages if all are mappings; else [], and validation reports the problem."""
    stages = tree.get("stages")
    if not isinstance(stages, list | tuple) or not all(isinstance(stage, dict) for stage in stages):
        return []
    return list(stages)


def _key_of(item: Any) -> str:
    """Return the dotted key of an override."""
    return (item.partition("=")[0] if isinstance(item, str) else item[0]).strip()


def _with_stage_position(tree: Mapping[str, Any], item: Any) -> Any:
    """Return an override with the stage name in its key replaced by the stage's position."""
    key = _key_of(item)
    parts = key.split(".")
    names = [stage.get("name") for stage in _stages(tree)]
    if len(parts) < 2 or parts[0] != "stages" or parts[1].isdigit() or not names:
        return item
    if parts[1] not in names:
        raise ConfigError(f"{key}: {_unknown_stage(parts[1], names)}")
    changed = ".".join(["stages", str(names.index(parts[1])), *parts[2:]])
    return "".join([changed, *item.partition("=")[1:]]) if isinstance(item, str) else (changed, item[1])


def _refuse_without_effect(tree: Mapping[str, Any], written: Mapping[str, Any], given: Iterable[str]) -> None:
    """Raise ConfigError if a key of the command line changes no stage, since each sets it to something else."""
    stages = _stages(tree)
    for key in given:
        if stages and all(_keeps_its_own(stage, written, key) for stage in stages):
            value = value_at(written, key)
            shown = f"{key}={value}" if isinstance(value, int | float | str) else key
            names = [str(stage.get("name")) for stage in stages]
            raise ConfigError(
                f"{shown}: has no effect, since every stage sets it itself ({', '.join(names)}). Name the stage: "
                f"stages.{names[0]}.{shown}."
            )


def _keeps_its_own(stage: Mapping[str, Any], written: Mapping[str, Any], key: str) -> bool:
    """Return whether a stage's own value of a key stands against another one that the command line gives at the root.

    A mapping that is given adds to that of the stage, so it is no such value.
    """
    path = key.split(".")
    if path[0] not in SECTIONS or len(path) < 2 or not _has_key(stage, path):
        return False
    theirs, own = value_at(written, key), value_at(stage, key)
    return theirs != own and not isinstance(own, dict)


def _kept(key: str, stage: Any) -> Note:
    return Note(Code.SETTING_KEPT, f"its own {key} stays; stages.{stage}.{key} changes it.")


def _merge_stages(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the tree with the root's sections merged into its stages; unchanged without stages.

    A section that is null at the root is not given there. Raises ConfigError for one that is no mapping.
    """
    stages = _stages(tree)
    if not stages:
        return tree
    common = {section: tree[section] for section in SECTIONS if tree.get(section) is not None}
    for section, value in common.items():
        if not isinstance(value, dict):
            raise ConfigError(f"{section}: takes settings (KEY: VALUE), which hold for every stage, not {value!r}.")
    merged: list[dict[str, Any]] = []
    for stage in stages:
        own = {key: value for key, value in stage.items() if key not in SECTIONS}
        merged.append(_inherit_family({**own, **_merged_sections(common, stage)}, merged))
    return {**{key: value for key, value in tree.items() if key not in SECTIONS}, "stages": merged}


def _merged_sections(common: dict[str, Any], stage: dict[str, Any]) -> dict[str, Any]:
    """Return a stage's sections merged with the root's; an optional section set to null is left at its default."""
    removed = [name for name in OPTIONAL_SECTIONS if name in stage and stage[name] is None]
    given = [name for name in SECTIONS if (name in common or name in stage) and name not in removed]
    return {name: _merge_section(common.get(name), stage.get(name)) for name in given}


def _inherit_family(stage: dict[str, Any], earlier: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a stage with the family of the stage whose weights it starts from, unless it sets one."""
    model = stage.get("model")
    if not isinstance(model, dict) or "family" in model:
        return stage
    for other in earlier:
        if model.get("model_id") == f"{REFERENCE}{other.get('name')}" and "family" in (other.get("model") or {}):
            return {**stage, "model": {"family": other["model"]["family"], **model}}
    return stage


def _merge_section(base: Any, own: Any) -> Any:
    """Merge two mappings, keys of the second winning; other values (lists too) are replaced unless `own` is None."""
    if isinstance(base, dict) and isinstance(own, dict):
        return {key: _merged_value(base, own, key) for key in [*base, *(k for k in own if k not in base)]}
    return base if own is None else own


def _merged_value(base: dict[str, Any], own: dict[str, Any], key: str) -> Any:
    if key not in own:
        return base[key]
    both = isinstance(base.get(key), dict) and isinstance(own[key], dict)
    return _merge_section(base[key], own[key]) if both else own[key]  # a null takes a value of the root away


def _has_key(tree: Any, path: list[str]) -> bool:
    """Return True if the nested mappings and lists of `tree` have a value at `path`."""
    for part in path:
        if isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        elif isinstance(tree, dict) and part in tree:
            tree = tree[part]
        else:
            return False
    return True


def _references(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, name of the stage) of every "stage:NAME" in a model section."""
    if isinstance(value, str) and value.startswith(REFERENCE):
        yield key, value.removeprefix(REFERENCE)
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for name, item in pairs:
        yield from _references(item, f"{key}.{name}" if key else str(name))


def _problems(config: StagesConfig) -> Iterator[str]:
    """Yield the problems between stages: repeated names, unknown references, families that differ, nothing to run."""
    names = [stage.name for stage in config.stages]
    for number, stage in enumerate(config.stages):
        if stage.name in names[:number]:
            yield f"stages.{number}.name: {stage.name!r} is the name of another stage; names must be unique."
        for key, name in _references(stage.model.model_dump(mode="json")):
            if name not in names[:number]:
                yield f"stages.{number}.model.{key}: {_unknown_stage(name, names[:number], 'earlier ')}"
            elif key == "model_id" and (other := config.stages[names.index(name)].model).family != stage.model.family:
                yield (
                    f"stages.{number}.model.model_id: stage {name} trains a {other.family}, this one a "
                    f"{stage.model.family}; start from weights of the same family."
                )
    if all(stage.skip for stage in config.stages):
        yield "stages: the list is empty or all stages are skipped: nothing to run."


def _unknown_stage(name: str, known: list[Any], which: str = "") -> str:
    names = [str(item) for item in known]
    hint = did_you_mean(name, names, f"Known here: {', '.join(names) or 'none'}.")
    return f"no {which}stage is named {name!r}. {hint}"
