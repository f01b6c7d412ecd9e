"""What is installed is what was reviewed: locks, wheels only, the list of parts, the audit's one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name as canonical
from tools.audit import lines
from tools.sbom import pruned, reached

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"([\w.-]+)==([\w.+!]+)")
LOCKED = re.compile(rf"{PIN.pattern}((?: \\\n    --hash=sha256:[0-9a-f]{{64}})+)\n")


@pytest.mark.parametrize("name", ["constraints", "constraints-parity", "constraints-fev"])
def test_a_lock_has_hashes_of_every_pinned_package_but_torch_and_nothing_else(name: str):
    """`make lock` writes it; a line without hashes, an address or an option would be left over here."""
    text = (ROOT / f"{name}.lock").read_text()
    assert LOCKED.sub("", text) == ""
    pins = dict(PIN.findall((ROOT / f"{name}.txt").read_text()))
    assert len(pins) > 60
    locked = {canonical(package): version for package, version, _ in LOCKED.findall(text)}
    assert locked == {canonical(package): version for package, version in pins.items() if package != "torch"}


def test_nothing_is_installed_that_is_not_a_wheel_and_nothing_of_the_lock_without_a_hash():
    text = (ROOT / "Makefile").read_text()
    assert re.findall(r"pip install.*", text) == ["pip install --quiet --only-binary :all:"]
    assert "--require-hashes --no-deps --requirement $(2).lock" in text
    assert "pip install" not in (ROOT / ".ci" / "run").read_text()


def component(name: str, version: str = "1") -> dict[str, str]:
    return {"type": "library", "bom-ref": f"{name}=={version}", "name": name, "version": version}


def test_the_list_of_parts_holds_what_is_required_and_the_edges_between():
    edges = {"root": ["Some_Part==1", "pytest==1"], "Some_Part==1": ["base==1", "pytest==1"], "base==1": []}
    bom = {
        "bomFormat": "CycloneDX",
        "metadata": {"component": {"bom-ref": "root", "name": "foretrain"}},
        "components": [component(name) for name in ("Some_Part", "base", "pytest")],
        "dependencies": [{"ref": ref, "dependsOn": needs} for ref, needs in edges.items()] + [{"ref": "pytest==1"}],
    }
    found = pruned(bom, {"some-part", "base"})
    assert [part["name"] for part in found["components"]] == ["Some_Part", "base"]
    assert found["dependencies"] == [
        {"ref": "root", "dependsOn": ["Some_Part==1"]},
        {"ref": "Some_Part==1", "dependsOn": ["base==1"]},
        {"ref": "base==1", "dependsOn": []},
    ]
    assert found["metadata"] == bom["metadata"]
    with pytest.raises(ValueError, match="not in the list of the environment: gone"):
        pruned(bom, {"base", "gone"})


def test_requirements_are_followed_over_several_steps_without_extras_that_nobody_asked_for():
    found = reached("foretrain")
    assert found >= {"torch", "numpy", "click", "pyyaml", "markupsafe"}  # torch requires jinja2, that requires the last
    assert not found & {"pytest", "ruff", "peft", "openpyxl"}  # of foretrain's extras, and of others'


def test_an_audit_says_what_is_known_and_of_how_many_packages():
    sound = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}, {"id": "X-2"}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    assert lines([sound, sound, skipped]) == ["audit: 0 vulnerabilities known of 1 packages; unknown to the service: c"]
    assert lines([sound, bad, bad]) == [
        "audit: b 2: X-1, mended in 3",
        "audit: b 2: X-2, mended in no version",
        "audit: 2 vulnerabilities known of 2 packages",
    ]


def test_an_audit_that_no_service_answered_does_not_read_as_sound():
    (line,) = lines([{"name": name, "skip_reason": "not found"} for name in "ab"])
    assert line == "audit: not done: the advisory service knew none of 2 packages. Is it reachable from here?"
