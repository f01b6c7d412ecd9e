"""Reads YAML files and `a.b=c` overrides into frozen pydantic trees; one error lists every problem, with hints.

Each section of the tree is defined beside the code that it configures (a subclass of Section); this module knows none
of them. It imports neither numpy nor torch, so that the command line starts quickly.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from foretrain.errors import ConfigError
from foretrain.hints import did_you_mean, elsewhere
from foretrain.reading import Unreadable, check_bounds, read_text


class Section(BaseModel):
    """Base of every config section: frozen; unknown keys are errors; text becomes a number only where YAML says so."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class FieldRule:
    """The rule of a section's field for config hash and resume, as in `log_every: Annotated[int, FREE] = 10`.

    A field without a FieldRule is REFUSED. A field that holds sections has no rule: their fields do.
    """

    identity: bool  # the value determines the weights: it is part of the config hash
    # Whether a run may resume with another value: never, always, or if the named object has the same fingerprint.
    on_resume: Literal["refused", "allowed", "fingerprint"]
    fingerprint: str = ""  # the named object: "data", or a role in the run's `parents`
    note: str = ""  # logged by a resumed run after a change, beside the two values


REFUSED = FieldRule(identity=True, on_resume="refused")
FREE = FieldRule(identity=False, on_resume="allowed")
# Layout of a computation: the same numbers up to the order of summation.
LAYOUT = FieldRule(identity=False, on_resume="allowed", note="another layout: sums may differ in their last bits")
# Place of the starting weights. Identity, because their hash is unknown until they exist.
STARTING_WEIGHTS = FieldRule(identity=True, on_resume="fingerprint", fingerprint="model")


def or_auto(kind: Any) -> BeforeValidator:
    """Return the validator of a field that takes a value of a type, or "auto"; one problem is one line of the error."""
    adapter = TypeAdapter(kind)

    def check(value: Any) -> Any:
        if value == "auto":
            return value
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{error.errors()[0]['msg']}, or auto") from None

    return BeforeValidator(check)


def rules(schema: type[BaseModel]) -> list[tuple[str, FieldRule]]:
    """Return (dotted key, rule) of every field of a config; * stands for a position in a list of sections."""
    found: dict[tuple[str, FieldRule], None] = {}
    for name, field in schema.model_fields.items():
        inner = sections_of(field.annotation)
        prefix = f"{name}.*" if _is_list(field.annotation) else name
        for key, rule in [pair for section in inner for pair in rules(section)]:
            found[f"{prefix}.{key}", rule] = None
        if not inner:
            found[name, _rule(field)] = None
    return list(found)


def leaves(schema: type[BaseModel], tree: Mapping[str, Any]) -> Iterator[tuple[str, Any, FieldRule]]:
    """Yield (dotted key, value, rule) of every value in a dumped config, tuples as lists.

    Keys that schema lacks have the rule REFUSED: the tree may have been saved by another version.
    """
    for name, value in tree.items():
        field = schema.model_fields.get(name)
        yield from _leaves(name, value, sections_of(field.annotation) if field else [], _rule(field))


def identity(schema: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity fields of a dumped config, which determine the weights, in its nesting.

    A value equal to the field's default is left out, so that a setting added later does not change the hash; a section
    is present even if it is empty, unless none of its fields is an identity field.
    """
    values: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        value, inner = _plain(tree[name]), sections_of(field.annotation)
        if inner and not any(rule.identity for section in inner for _, rule in rules(section)):
            continue
        if inner and isinstance(value, dict):
            values[name] = identity(_member(inner, value) or inner[0], value)
        elif inner and isinstance(value, list):
            values[name] = [identity(_member(inner, item) or inner[0], item) for item in value]
        elif _rule(field).identity and (
            _is_tag(field) or value != _plain(field.get_default(call_default_factory=True))
        ):
            values[name] = value
    return values


def upgraded(schema: type[Section], saved: dict[str, Any]) -> dict[str, Any]:
    """Return a saved config with the defaults of settings added since; unchanged if it does not validate any more."""
    try:
        return build(schema, saved).model_dump(mode="json")
    except ConfigError:
        return saved


_LARGEST = 4 << 20  # bytes of a config
_MOST_NODES = 100_000  # keys and values of a config


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number (YAML 1.1 wants 1.0e-4) and a date as text; refuses a repeated key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, str | int | float | None):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: a key is a {type(key).__name__}, not text.")
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: key {key!r} is given twice; keep one.")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which _Loader would read as a number, and text with Unicode line breaks."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if set(data) & set("\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)

for _class in (_Loader, _Dumper):
    _class.yaml_implicit_resolvers = {k: list(v) for k, v in _class.yaml_implicit_resolvers.items()}
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
_Loader.yaml_implicit_resolvers = {
    k: [rule for rule in v if rule[0] != "tag:yaml.org,2002:timestamp"]
    for k, v in _Loader.yaml_implicit_resolvers.items()
}


def _load(text: str) -> Any:
    """Return the plain Python value of a YAML text. Raises YAMLError, Unreadable, or ConfigError for a repeated key."""
    loader = _Loader(text)  # a SafeLoader: builds plain Python values only
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        value = loader.construct_document(node)
        check_bounds(value)
        return value
    except RecursionError:
        raise Unreadable("nested too deep") from None
    except Unreadable:
        raise
    except (ValueError, TypeError, ArithmeticError, AttributeError, LookupError) as error:  # of PyYAML's constructors
        raise Unreadable(f"a value cannot be read: {error}") from None
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _check_size(node: yaml.Node) -> None:
    """Raise Unreadable if the document has more than _MOST_NODES nodes once aliases stand for what they name."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            found = sizes[id(node)]
            if found is None:
                raise Unreadable(f"an alias names what holds it, line {node.start_mark.line + 1}")
            return found
        sizes[id(node)] = None
        inner = node.value if isinstance(node.value, list) else []
        total = 1 + sum(size(part) for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        if total > _MOST_NODES:
            raise Unreadable(f"more than {_MOST_NODES:,} values, counting what aliases repeat")
        sizes[id(node)] = total
        return total

    size(node)


def parse_scalar(text: str) -> Any:
    """Parse a YAML fragment, the value of `training.max_steps=100` or `data.target=[close]`. Raises ConfigError."""
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    try:
        return _load(text)
    except (yaml.YAMLError, Unreadable) as error:
        raise ConfigError(f"cannot read {shown!r} as a YAML value: {_first_line(error)}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the mapping in a YAML file. Raises ConfigError if it is missing, malformed or not a mapping."""
    try:
        text = read_text(path, _LARGEST)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file.") from None
    except (OSError, Unreadable) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        value = _load(text)
    except (yaml.YAMLError, Unreadable) as error:
        raise ConfigError(f"{path}: not valid YAML: {_first_line(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if value is None:
        raise ConfigError(
            f"{path}: is empty; a config is a mapping of sections. `foretrain config list` names examples."
        )
    if not isinstance(value, dict):
        found = {list: "a list", str: "text"}.get(type(value), f"a value ({value!r})")
        raise ConfigError(f"{path}: a config is a mapping of sections (name: value), found {found}.")
    return value


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str | tuple[str, Any]]) -> dict[str, Any]:
    """Return a copy of tree with `a.b=value` items (or (dotted key, value) pairs) set in order. Raises ConfigError.

    A part 0 of what is not there makes a list of one entry: data.corpora.0.path.
    """
    result = _copy(tree)
    for item in overrides:
        key, value = override_of(item)
        node = result
        parts = key.split(".")
        for part, following in pairwise(parts):
            child = _child(node, part, key)
            if child is None or (child == [] and following == "0"):
                child = [None] if following == "0" else {}
                _set(node, part, child, key)
            if not isinstance(child, (dict, list)):
                raise ConfigError(f"{key}: {part!r} is a value ({child!r}), not a section.")
            node = child
        _set(node, parts[-1], _copy(value), key)  # a later override may change a part of it
    return result


def override_of(item: str | tuple[str, Any]) -> tuple[str, Any]:
    """Return the dotted key and the value of an override, `a.b=value` or a pair. Raises ConfigError."""
    if not isinstance(item, str):
        return item[0].strip(), item[1]
    key, sep, text = item.partition("=")
    if not sep or not key.strip():
        raise ConfigError(f"{item!r}: an override reads section.key=value, for example training.max_steps=100.")
    return key.strip(), parse_scalar(text)


def build(
    cls: type[S],
    tree: dict[str, Any],
    *,
    source: str = "config",
    locate: Callable[[list[str]], list[str]] = lambda location: location,
) -> S:
    """Validate tree as cls. Raises one ConfigError that lists every problem, each with its dotted key.

    locate maps the location of a problem in tree to the location where the user wrote it.
    """
    _refuse_impossible(tree, source, locate)
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        raise explained(cls, error, source, locate) from None


def _refuse_impossible(tree: Any, source: str, locate: Callable[[list[str]], list[str]]) -> None:
    """Raise ConfigError for a value that no key takes: a whole number beyond 64 bits, or text with a NUL character."""
    found: list[tuple[list[str], Any]] = [([], tree)]
    for place, value in found:
        if isinstance(value, dict | list | tuple):
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            found += [([*place, str(key)], item) for key, item in pairs]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigError(f"{source}: {'.'.join(locate(place))}: whole numbers are between -2^63 and 2^63 - 1.")
        elif isinstance(value, str) and "\0" in value:
            raise ConfigError(f"{source}: {'.'.join(locate(place))}: holds a NUL character.")


def explained(
    cls: type[BaseModel],
    error: ValidationError,
    source: str,
    locate: Callable[[list[str]], list[str]] = lambda location: location,
) -> ConfigError:
    """The problems of a tree that is no cls as one ConfigError; arguments as for build."""
    lines = list(dict.fromkeys(_explain(cls, problem, locate) for problem in _causes(error.errors())))
    head = f"{source}: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    return ConfigError(head + "".join(f"\n  {line}" for line in lines))


def dump_yaml(tree: Section | dict[str, Any]) -> str:
    """Return the YAML text of a resolved tree, in declaration order."""
    data = tree.model_dump(mode="json") if isinstance(tree, Section) else tree
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _causes(problems: list[Any]) -> list[Any]:
    """Drop the "too_short" problems of lists that are short only because entries of theirs are invalid."""
    locations = [tuple(problem["loc"]) for problem in problems]

    def is_consequence(problem: Any) -> bool:
        here = tuple(problem["loc"])
        return problem["type"] == "too_short" and any(len(p) > len(here) and p[: len(here)] == here for p in locations)

    return [problem for problem in problems if not is_consequence(problem)]


def _explain(cls: type[BaseModel], problem: Any, locate: Callable[[list[str]], list[str]]) -> str:
    """Return the line of an error about one of pydantic's problems."""
    *parents, last = problem["loc"] or ("",)
    location, sections = _follow(cls, parents)
    key = ".".join(locate([*location, str(last)])) or "(root)"
    if problem["type"] == "extra_forbidden":
        here = {name for section in sections for name in section.model_fields}
        return f"{key}: unknown key. {_meant(cls, key, str(last), here)}".rstrip()
    if problem["type"] == "missing":
        return f"{key}: required, but not given."
    shown, context = problem.get("input"), problem.get("ctx", {})
    if problem["type"] in ("model_type", "model_attributes_type"):
        keys = [name for section in _follow(cls, problem["loc"])[1] for name in section.model_fields]
        return f"{key}: takes settings of its own ({', '.join(dict.fromkeys(keys))}), not {shown!r}."
    if problem["type"] == "union_tag_invalid":
        known = set(re.findall(r"'([^']+)'", context["expected_tags"]))
        tag, field = context["tag"], context["discriminator"].strip("'")
        return f"{key}.{field}: {tag!r} is not known.{_hint(tag, known)}"
    if problem["type"] in ("tuple_type", "list_type"):
        return f"{key}: takes a list, such as [{shown}], not {shown!r}."
    text = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {text} (got {shown!r})" if not isinstance(shown, (dict, list)) else f"{key}: {text}"


def _meant(cls: type[BaseModel], key: str, word: str, here: set[str]) -> str:
    """Return what an unknown key may stand for: another project's name, that of another section, a near one here."""
    keys = dict.fromkeys(known.removeprefix("stages.*.") for known, _ in rules(cls))
    # a key of the section itself belongs to another member of its union, such as another family
    return (
        elsewhere(word, [known for known in keys if not f".{key}".endswith(f".{known}")]) or _hint(word, here).lstrip()
    )


def _hint(word: str, known: set[str]) -> str:
    names = sorted(known)
    return " " + did_you_mean(word, names, f"Known here: {', '.join(names)}.") if names else ""


def _follow(cls: type[BaseModel], location: Sequence[str | int]) -> tuple[list[str], set[type[BaseModel]]]:
    """Return a location without the tags that pydantic adds for a union of sections, and the sections at its end."""
    sections, keys = {cls}, list[str]()
    for part in location:
        following: set[type[BaseModel]] = set()
        for section in sections:
            field = section.model_fields.get(str(part))
            if field is not None:
                following |= set(sections_of(field.annotation))
        tagged = {s for s in sections if any(field.default == part for field in s.model_fields.values())}
        if not following and len(sections) > 1 and tagged:
            sections = tagged
            continue
        keys.append(str(part))
        sections = following or sections  # a list index is not a field
    return keys, sections


def sections_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections in a field's annotation: one, all members of a union, or [] if the field holds none."""
    if isinstance(annotation, type) and not typing.get_args(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, list, tuple, dict, typing.Annotated) or origin is not None:
        return [found for arg in typing.get_args(annotation) for found in sections_of(arg)]
    return []


def _rule(field: FieldInfo | None) -> FieldRule:
    declared = [item for item in (field.metadata if field else ()) if isinstance(item, FieldRule)]
    return declared[0] if declared else REFUSED


def _is_tag(field: FieldInfo) -> bool:
    """Return True if a field allows one value only, the discriminator of its section in a union."""
    return typing.get_origin(field.annotation) is Literal and len(typing.get_args(field.annotation)) == 1


def _is_list(annotation: Any) -> bool:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    return origin in (list, tuple) or any(_is_list(arg) for arg in inner)


def _member(sections: Sequence[type[BaseModel]], tree: Mapping[str, Any]) -> type[BaseModel] | None:
    """Return the section of a union that a dumped tree belongs to, by its tag."""
    for section in sections:
        tags = {name: field.default for name, field in section.model_fields.items() if _is_tag(field)}
        if all(tree.get(name, tag) == tag for name, tag in tags.items()):
            return section
    return None


def _leaves(
    key: str, value: Any, sections: Sequence[type[BaseModel]], rule: FieldRule
) -> Iterator[tuple[str, Any, FieldRule]]:
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value):
        for position, item in enumerate(value):
            yield from _leaves(f"{key}.{position}", item, sections, rule)
    elif isinstance(value, dict):
        section = _member(sections, value)
        for name, item in value.items():
            field = section.model_fields.get(name) if section else None
            inner = sections_of(field.annotation) if field else []
            yield from _leaves(f"{key}.{name}", item, inner, _rule(field) if sections else rule)
    else:
        yield key, _plain(value), rule


def _plain(value: Any) -> Any:
    """Return a value with tuples as lists, as JSON and YAML give them back."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _child(node: Any, part: str, key: str) -> Any:
    return node[_index(node, part, key)] if isinstance(node, list) else node.get(part)


def _set(node: Any, part: str, value: Any, key: str) -> None:
    if isinstance(node, list):
        node[_index(node, part, key)] = value
        return
    node[part] = value


def _index(node: list[Any], part: str, key: str) -> int:
    if not (part.isascii() and part.isdigit() and len(part) < 10) or int(part) >= len(node):
        raise ConfigError(f"{key}: {part!r} is not one of the {len(node)} list entries (0..{len(node) - 1}).")
    return int(part)


def _first_line(error: Exception) -> str:
    """Return a YAML error in one line: where, what, and for tabs what to do."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or not problem:
        return " ".join(str(error).split())
    hint = ". Indent with blanks, not with tabs" if "\\t" in problem else ""
    text = problem.replace("<block end>", "a key in line with those above it") if "<block end>" in problem else problem
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}{hint}"
