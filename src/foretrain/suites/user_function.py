"""A Python function of the user as a contestant: `module:function`, imported because the command line names it.

# B windows, N rows (targets of all windows), V targets, C steps of history, H horizon, Q levels
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.scored import Array
from foretrain.suites.contestants import with_point
from foretrain.suites.definition import BenchmarkTask
from foretrain.suites.rows import BenchmarkWindow

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
ARGUMENTS = (
    "histories", "horizon", "quantile_levels", "freq", "seasonality", "item_ids", "targets", "stamps", "future_stamps",
    "past_covariates", "known_covariates", "static_covariates",
)  # fmt: skip
_COVARIATES = {"past_covariates", "known_covariates", "static_covariates"}


def is_function_name(text: str) -> bool:
    """Return whether a model's name has the form module:function."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True)
class UserFunction:
    """A function that forecasts; its own code runs, with all rights of this process.

    It is called with those of ARGUMENTS that it names (or all, if it takes **more), by name:

    - histories: B arrays (V, C) float64, NaN = not observed
    - horizon, quantile_levels (Q,), freq (a pandas alias), seasonality (steps of a season)
    - item_ids (B,), targets: their names, (V,) a window
    - stamps, future_stamps: B arrays (C,), (H,) datetime64[us], or None for steps without a calendar
    - past_covariates, known_covariates: B mappings of name to array (C,), (C + H,)
    - static_covariates: B mappings of name to a number, truth value or text, None = missing

    It returns quantiles (N, Q, H): all targets of the first window, then of the second, ... The point forecast is that
    of level 0.5.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    source: str  # sha256 of the module's file; "" = it has none

    @classmethod
    def find(cls, name: str) -> UserFunction:
        """Import the function of a name; modules are looked for in the current folder first. Raises ConfigError."""
        module, _, attribute = name.partition(":")
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        try:
            found: Any = importlib.import_module(module)
            file = getattr(found, "__file__", None)
            for part in attribute.split("."):
                found = getattr(found, part)
        except ModuleNotFoundError as error:
            where = "" if error.name == module else f" (module {module} imports {error.name})"
            raise ConfigError(f"{name}: there is no module {error.name}{where}. Call it from its folder.") from None
        except AttributeError as error:
            raise ConfigError(f"{name}: {error}. Give MODULE:FUNCTION.") from None
        except Exception as error:  # of the user's code, which may raise any
            said = " ".join(str(error).split())[:200]
            raise ConfigError(f"{name}: importing {module} raised {type(error).__name__}: {said}") from error
        if not callable(found):
            raise ConfigError(f"{name}: is a {type(found).__name__}, not a function.")
        source = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""
        return cls(name, found, _arguments(name, found), source)

    @property
    def takes_covariates(self) -> bool:
        """True if it names an argument of covariates."""
        return not _COVARIATES.isdisjoint(self.arguments)

    @property
    def takes_static(self) -> bool:
        """True if it names the argument of static covariates."""
        return "static_covariates" in self.arguments

    def forecast(self, windows: Sequence[BenchmarkWindow], task: BenchmarkTask) -> Array:
        """Return (N, 1 + Q, H). Raises DataError for a result of another shape, and whatever the function raises."""
        rule, levels = task.definition, task.suite.quantile_levels
        given = {
            "histories": [window.history.copy() for window in windows],
            "horizon": rule.horizon,
            "quantile_levels": list(levels),
            "freq": rule.freq,
            "seasonality": rule.seasonality,
            "item_ids": [window.item_id for window in windows],
            "targets": [window.targets for window in windows],
            "stamps": [window.stamps for window in windows],
            "future_stamps": [window.future_stamps for window in windows],
            "past_covariates": [dict(window.covariates.past) for window in windows],
            "known_covariates": [dict(window.covariates.known) for window in windows],
            "static_covariates": [dict(window.covariates.static) for window in windows],
        }
        result = self.function(**{name: given[name] for name in self.arguments})
        try:
            found = np.asarray(result, np.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            said = " ".join(str(error).split())[:200]
            raise DataError(f"it returned a {type(result).__name__}, no array of numbers: {said}") from None
        expected = (sum(len(window.targets) for window in windows), len(levels), rule.horizon)
        if found.shape != expected:
            raise DataError(f"it returned an array of shape {found.shape}; (N, Q, H) is {expected} here.")
        return with_point(found, levels)


def _arguments(name: str, function: Callable[..., Any]) -> tuple[str, ...]:
    """Return those of ARGUMENTS that a function takes. Raises ConfigError if it needs others, or lacks histories."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: its arguments cannot be seen; wrap it in a Python function.") from None
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    unknown = [p for p in needed if p not in ARGUMENTS]
    unknown += [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if unknown:
        raise ConfigError(f"{name}: needs {unknown[0]!r}; a forecaster takes {', '.join(ARGUMENTS)}.")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return ARGUMENTS
    found = tuple(p.name for p in parameters if p.name in ARGUMENTS and p.kind is not p.VAR_POSITIONAL)
    if "histories" not in found:
        raise ConfigError(f"{name}: takes no 'histories'; a forecaster takes {', '.join(ARGUMENTS)}.")
    return found
