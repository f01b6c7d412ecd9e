"""Rules of docs/architecture.md that a machine can check. A test reads every file and names all that break its rule."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "foretrain"

# Lower layers first: a file may import from its own layer and from those before it. Every folder and file right below
# src/foretrain stands in one of them.
LAYERS = (
    {"errors", "processes"},
    {"atomic", "reading", "printing"},
    {"locks"},
    {"hints"},
    {"notes"},
    {"config"},
    {"distributed"},
    {"timeaxis"},
    {"data"},
    {"nn"},
    {"models"},
    {"adapters"},
    {"training"},
    {"forecasting"},
    {"evaluation"},
    {"suites"},
    {"run"},
    {"tuning"},
    {"foreign"},
    {"cli"},
    {"__main__"},
)
UNSAFE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all",
    "yaml.load_all", "torch.serialization.add_safe_globals", "torch.hub.load", "torch.jit.load",
}  # fmt: skip
TORCH_DISTRIBUTED = {
    "foretrain.distributed.store",
    "foretrain.distributed.world",
    "foretrain.training.checkpoint",
    "foretrain.training.sharding",
}  # may touch it
MAX_LINES = 600


# Names that each family may use for its own.
STANDARD_LAYERS = {
    "Attention",
    "AttentionContext",
    "Block",
    "FeedForward",
    "KVCache",
    "RotaryTables",
    "Transformer",
    "TransformerLayer",
}


class Module:
    """A file of the package, parsed once."""

    def __init__(self, path: Path) -> None:
        parts = ("foretrain", *path.relative_to(SRC).with_suffix("").parts)
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.path, self.text = path, path.read_text(encoding="utf-8")
        self.nodes = list(ast.walk(ast.parse(self.text)))

    def __repr__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def family(self) -> str | None:
        """The family in whose folder the file lies."""
        parts = self.path.relative_to(SRC).parts
        return parts[1] if parts[0] == "models" and len(parts) > 2 else None

    @cached_property
    def imports(self) -> set[str]:
        """Every name that an import statement mentions, in functions and below TYPE_CHECKING too."""
        found: set[str] = set()
        for node in self.nodes:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self}:{node.lineno} has a relative import"
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    @cached_property
    def targets(self) -> set[str]:
        """The modules of the package that it imports."""
        found = set()
        for name in self.imports:
            if name.split(".")[0] == "foretrain":
                found.add(name if name in modules() else name.rpartition(".")[0])
        assert found <= modules().keys(), f"{self} imports {sorted(found - modules().keys())}, which are no files"
        return found - {self.name}

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        """(dotted name of what is called, call) of every call."""
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield dotted(node.func), node


def dotted(node: ast.AST) -> str:
    """`a.b.c` of such an expression, with `?` for a part that is no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


@cache
def modules() -> dict[str, Module]:
    """Every file of the package by its dotted name."""
    return {module.name: module for module in map(Module, sorted(SRC.rglob("*.py")))}


def ranked() -> dict[str, Module]:
    """All but the root, which offers its functions lazily and so may name any layer."""
    return {name: module for name, module in modules().items() if name != "foretrain"}


def layer(name: str) -> int:
    """The number of the layer of a module."""
    part = name.split(".")[1]
    found = [number for number, parts in enumerate(LAYERS) if part in parts]
    assert len(found) == 1, f"src/foretrain/{part} stands in {len(found)} layers of LAYERS"
    return found[0]


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Every group of two or more nodes of a graph that all reach each other."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen, ahead = set(), list(graph[start])
        while ahead:
            node = ahead.pop()
            if node not in seen:
                seen.add(node)
                ahead += graph.get(node, ())
        reached[start] = seen
    groups = {frozenset(n for n in reached[start] if start in reached[n]) for start in graph if start in reached[start]}
    return {group for group in groups if len(group) > 1}


def test_imports_go_downwards_only():
    upwards = [
        f"{module} imports {target}"
        for name, module in ranked().items()
        for target in module.targets - {"foretrain"}
        if layer(target) > layer(name)
    ]
    assert not upwards


def test_every_layer_has_files():
    named = set().union(*LAYERS)
    assert named == {name.split(".")[1] for name in ranked()}


def test_a_circle_of_imports_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"d"}, "e": {"f"}, "f": {"g"}, "g": {"e", "a"}}
    assert circles(graph) == {frozenset("bc"), frozenset("efg")}


def test_no_files_import_each_other_in_a_circle():
    """Imports in functions count. So do those below TYPE_CHECKING, which would otherwise point upwards."""
    graph = {name: module.targets & ranked().keys() for name, module in ranked().items()}
    assert not [" <-> ".join(sorted(group)) for group in circles(graph)]


def classes() -> dict[str, list[Module]]:
    """The modules that define a class of a name, by that name."""
    found = defaultdict(list)
    for module in modules().values():
        for node in module.nodes:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(module)
    return found


def test_a_class_name_means_one_thing():
    shared = {name for name, at in classes().items() if len(at) > 1 and any(module.family is None for module in at)}
    assert not shared


def test_families_share_the_names_of_standard_layers_only():
    shared = {name for name, at in classes().items() if len(at) > 1 and all(module.family for module in at)}
    assert not shared - STANDARD_LAYERS


def test_a_family_s_own_class_names_differ():
    twice = [
        (name, family)
        for name, at in classes().items()
        for family in {module.family for module in at}
        if family and sum(module.family == family for module in at) > 1
    ]
    assert not twice


def test_no_file_is_long():
    long = set()
    for folder in ("src", "tests", "benchmarks", "examples", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES:
                long.add(path.relative_to(ROOT).as_posix())
    assert not long


def test_only_these_files_touch_torch_distributed():
    touching = []
    for name, module in modules().items():
        code = re.sub(r"(\"\"\".*?\"\"\"|#[^\n]*)", "", module.text, flags=re.S)
        if name not in TORCH_DISTRIBUTED and (
            "torch.distributed" in code or any(i.startswith("torch.distributed") for i in module.imports)
        ):
            touching.append(module)
    assert not touching
    assert modules().keys() >= TORCH_DISTRIBUTED


def test_no_family_imports_another():
    families = {module.family for module in modules().values()} - {None}
    crossing = [
        f"{module} imports {target}"
        for module in modules().values()
        for target in module.targets
        if module.family and modules()[target].family not in (None, module.family)
    ]
    assert len(families) > 1 and not crossing


def test_nothing_unsafe_is_imported():
    """tests/test_trust.py watches what the libraries do."""
    banned = {"pickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "builtins", "runpy", "code"}
    by_name = {"torch.load", "numpy.load", "yaml.load", "os.system", "os.popen"}  # their calls are looked at by name
    assert not [
        module
        for module in modules().values()
        if banned & {name.split(".")[0] for name in module.imports} or by_name & module.imports
    ]


def test_nothing_unsafe_is_called():
    unsafe = []
    for module in modules().values():
        if "trust_remote_code" in module.text:
            unsafe.append(f"{module} names trust_remote_code")
        for name, call in module.calls():
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if (
                name in UNSAFE
                or name.endswith(".read_pickle")
                or given.get("shell", "False") != "False"
                or given.get("allow_pickle", "False") != "False"
                or (name == "torch.load" and given.get("weights_only") != "True")
                # a SafeLoader with two more rules (config.py)
                or (name == "yaml.load" and given.get("Loader") != "_Loader")
            ):
                unsafe.append(f"{module}:{call.lineno} calls {ast.unparse(call)}")
    assert not unsafe


def test_no_catch_all_module_names():
    assert not [module for module in modules().values() if module.path.stem in {"utils", "helpers", "misc", "common"}]


@pytest.mark.processes
def test_the_command_line_imports_nothing_heavy():
    code = (
        "import sys, foretrain.cli, foretrain.config, foretrain\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'matplotlib', 'datasets', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
