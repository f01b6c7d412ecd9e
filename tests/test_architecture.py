"""Rules of docs/architecture.md that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.waiting import DEADLINE

SRC = Path(__file__).parents[1] / "src" / "foretrain"
# Lower layers first; a module may import from its own layer and from those before it.
LAYERS = ["errors", "config", "data", "nn", "models", "training", "forecasting", "evaluation", "run", "commands", "cli"]
ALIASES = {
    "demo": "commands",
    "doctor": "commands",
    "stages": "run",
    "pipeline": "run",
    "promotion": "run",
    "foreign": "commands",
    "options": "commands",
}  # verbs, beside commands
FILES = sorted(SRC.rglob("*.py"))
LAYERED = [path for path in FILES if path != SRC / "__init__.py"]  # its lazy attributes may name any layer


def layer(module: str) -> int | None:
    parts = module.split(".")
    if parts[0] != "foretrain" or len(parts) == 1:
        return None
    return LAYERS.index(ALIASES.get(parts[1], parts[1]))


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *[f"{node.module}.{alias.name}" for alias in node.names]]
    return found


@pytest.mark.parametrize("path", LAYERED, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_go_downwards_only(path: Path):
    module = "foretrain." + ".".join(path.relative_to(SRC).with_suffix("").parts)
    own = layer(module)
    assert own is not None
    known = {name for name in (p.relative_to(SRC).parts[0].removesuffix(".py") for p in FILES)}
    for name in imports(path):
        if name.split(".")[0] != "foretrain" or len(name.split(".")) < 2 or name.split(".")[1] not in known:
            continue
        other = layer(name)
        assert other is None or other <= own, f"{module} imports {name}, which is above it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_only_two_files_touch_torch_distributed(path: Path):
    if path in (SRC / "training" / "distributed.py", SRC / "training" / "checkpoint.py"):
        return
    assert not [name for name in imports(path) if name.startswith("torch.distributed")]
    assert "torch.distributed" not in re.sub(r"(\"\"\".*?\"\"\"|#[^\n]*)", "", path.read_text(), flags=re.S)


def test_no_family_imports_another():
    for path in (SRC / "models").glob("*/**/*.py"):
        family = path.relative_to(SRC / "models").parts[0]
        for name in imports(path):
            parts = name.split(".")
            if parts[:2] == ["foretrain", "models"] and len(parts) > 2 and (SRC / "models" / parts[2]).is_dir():
                assert parts[2] == family, f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_nothing_unsafe_is_called(path: Path):
    banned_modules = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    assert not banned_modules & {name.split(".")[0] for name in imports(path)}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        text = ast.unparse(node)
        name = ast.unparse(node.func)
        assert name not in {"eval", "exec", "compile", "os.system"}, text
        assert "shell=True" not in text and "trust_remote_code" not in text, text
        assert "allow_pickle=True" not in text, text
        if name == "torch.load":
            assert "weights_only=True" in text, text
        if name == "yaml.load":
            assert "Loader=_Loader" in text, text  # a SafeLoader with two more rules (config.py)


def test_no_catch_all_module_names():
    assert not [p for p in FILES if p.stem in {"utils", "helpers", "misc", "common"}]


def test_the_command_line_imports_nothing_heavy():
    code = (
        "import sys, foretrain.cli, foretrain.config, foretrain\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'matplotlib', 'datasets', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
