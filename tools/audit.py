"""`make audit`: known vulnerabilities of the pinned packages, one a line, then one line that says what was asked.

    python -m tools.audit constraints.txt constraints-parity.txt

Runs pip-audit, which has to be installed beside this interpreter. The exit code is 0 whatever is found: an advisory is
news, not a fault of the change that is being checked.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TIMEOUT = 300  # seconds for a file; the service is asked once for each package


def main() -> None:
    """Audit the files that the command line names."""
    found: list[dict[str, Any]] = []
    for path in sys.argv[1:]:
        try:
            found += ask(path)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            print(f"audit: not done: {' '.join(str(error).split())[:200]}. Is there a network?")
            return
    print("\n".join(lines(found)))


def ask(path: str) -> list[dict[str, Any]]:
    """Return what pip-audit says of each package of a file of pins. Raises ValueError if it fails."""
    program = Path(sys.executable).with_name("pip-audit")
    options = ("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off")
    command = [program, "--requirement", path, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if not done.stdout.startswith("{"):  # a service that cannot be reached is a traceback, with or without an answer
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"pip-audit failed on {path}: {last}")
    return json.loads(done.stdout)["dependencies"]


def lines(packages: Iterable[dict[str, Any]]) -> list[str]:
    """Return a line for each vulnerability, and one on how many of the packages were known to the service."""
    asked, unknown, known = set(), set(), set()
    for package in packages:
        name = f"{package['name']} {package.get('version', '')}".rstrip()
        asked.add(name)
        if "skip_reason" in package:
            unknown.add(name)
        for bug in package.get("vulns", ()):
            mended = ", ".join(bug.get("fix_versions", ())) or "no version"
            known.add(f"audit: {name}: {bug['id']}, mended in {mended}")
    if unknown == asked:
        return [f"audit: not done: the advisory service knew none of {len(asked)} packages. Is it reachable from here?"]
    missing = f"; unknown to the service: {', '.join(sorted(unknown))}" if unknown else ""
    return [*sorted(known), f"audit: {len(known)} vulnerabilities known of {len(asked - unknown)} packages{missing}"]


if __name__ == "__main__":
    main()
