"""The layout of stock pipelines: errors by symbol and their plain means, with the pooled metrics that these lack.

# N rows, S symbols (an item and column each), H horizon
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from foretrain.evaluation import metrics
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.markets import Markets
from foretrain.evaluation.scored import Array, Scored
from foretrain.evaluation.significance import Comparison

EPSILON = 1e-5  # keeps MAPE finite where the truth is 0
_IN_CURRENCY = ("mae", "rmse", "naive_mae")
MEANS = ("mae", "rmse", "mape", "mae_percent", "naive_mae", "naive_mape")
NOTE = (
    "Errors are of the median forecast. mae, rmse, mape, mae_percent, naive_mae and naive_mape are unweighted means "
    "over per_symbol; pct_mae, skill and dm pool all windows. dm compares with naive: below 0 is in the model's favour."
)
MIXED = (
    "The symbols have prices of their own currency and level, or other units, so the means of mae, rmse and naive_mae "
    "mix them: read pct_mae and skill."
)


def errors_by_symbol(scored: Scored) -> dict[str, Array]:
    """Return {name: (S,)} of mae, rmse, mape, mae_percent and pct_mae of the median over a symbol's observed steps.

    mape = 100 * mean(|e| / (|a| + 1e-5)), mae_percent = 100 * mae / mean |a|, both in percent of the actual value a;
    pct_mae is in percent of the last close. NaN if undefined.
    """
    count = len(scored.items)
    found = metrics.table(scored, scored.item, count)
    sums = metrics.sums(scored)
    observed = np.isfinite(scored.target)
    truth = np.abs(np.where(observed, scored.target, 0.0))
    relative = np.where(observed, np.abs(scored.target - scored.median) / (truth + EPSILON), 0.0).sum(1)

    def total(values: Array) -> Array:
        return np.bincount(scored.item, weights=values, minlength=count).astype(np.float64, copy=False)

    with np.errstate(invalid="ignore", divide="ignore"):
        percent = 100.0 * total(sums.absolute) / total(sums.size)
        mape = 100.0 * total(relative) / total(sums.count)
    return {
        "mae": found["mae"],
        "rmse": found["rmse"],
        "mape": mape,
        "mae_percent": np.where(np.isfinite(percent), percent, np.nan),
        "pct_mae": found["pct_mae"],
    }


def per_symbol(backtest: Backtest, model: Scored, markets: Markets | None = None) -> list[dict[str, Any]]:
    """Return one entry per symbol: name, the model's errors, naive's errors, skill and number of windows.

    It has `column` if several columns are scored, `corpus` if there are several, and, of symbols of a library,
    `asset_class` and `currency`, the unit of mae and rmse.
    """
    panel, naive = backtest.panel, backtest.naive
    ours, theirs = errors_by_symbol(model), errors_by_symbol(naive)
    skill = metrics.skill_per_item(model, naive)
    windows = np.bincount(model.item, minlength=len(model.items))
    keys: list[list[int]] = backtest.item_keys.tolist()
    columns = [panel.corpora[c].columns[panel.selections[c].targets[target]] for c, _, target in keys]
    entries = []
    for k, (corpus, series, _) in enumerate(keys):
        entry: dict[str, Any] = {"symbol": panel.corpora[corpus].item_id(series)}
        if len(set(columns)) > 1:
            entry["column"] = columns[k]
        if len(panel.corpora) > 1:
            entry["corpus"] = panel.name(corpus)
        if markets is not None and (facts := markets.facts.get((corpus, series))) is not None:
            entry |= {"asset_class": facts.asset_class, "currency": facts.currency}
        entry |= {name: float(ours[name][k]) for name in ("mae", "rmse", "mape", "mae_percent")}
        entry |= {f"naive_{name}": float(theirs[name][k]) for name in ("mae", "mape")}
        entry |= {"pct_mae": float(ours["pct_mae"][k]), "skill": float(skill[k]), "windows": int(windows[k])}
        entries.append(entry)
    return entries


def ranking(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the symbols from the worst to the best by skill against naive, and which of them are worst, median, best.

    entries are those of per_symbol; symbols of which naive has no error have no skill and are left out. Of an even
    number the median is the lower one. The three are None if no symbol has a skill.
    """
    keys = ("symbol", "column", "corpus", "skill", "mae", "pct_mae", "windows")
    order = sorted((entry for entry in entries if math.isfinite(entry["skill"])), key=lambda entry: entry["skill"])
    ranked = [{key: entry[key] for key in keys if key in entry} for entry in order]
    places = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": -1}
    return {"by": "skill", **{name: ranked[k] if ranked else None for name, k in places.items()}, "symbols": ranked}


def describe_ranking(found: dict[str, Any]) -> str:
    """Return a line on the worst, median and best of a ranking; "" if it has fewer than three symbols."""
    if len(found["symbols"]) < 3:
        return ""
    parts = []
    for name in ("worst", "median", "best"):
        entry = found[name]
        label = " ".join(str(entry[key]) for key in ("corpus", "symbol", "column") if key in entry)
        parts.append(f"{name} {label} {entry['skill']:+.3f}")
    return f"skill against naive by item: {', '.join(parts)}"


def aggregate(
    entries: list[dict[str, Any]],
    pooled: dict[str, dict[str, float]],
    against_naive: Comparison,
    *,
    one_unit: bool,
    currencies: Collection[str] = (),
) -> dict[str, Any]:
    """Return the means over symbols, and the pooled metrics in percent, against naive and with a significance test.

    entries are those of per_symbol, pooled has metrics.squares too. Symbols whose truth is always 0 have no
    mae_percent and are skipped in its mean. currencies: those of the symbols, where they are known; several of them
    leave the means of mae, rmse and naive_mae undefined.
    """
    found: dict[str, Any] = {"symbols_evaluated": len({(entry.get("corpus"), entry["symbol"]) for entry in entries})}
    for name in MEANS:
        values = [entry[name] for entry in entries if name != "mae_percent" or not _without_size(entry)]
        found[name] = float(np.mean(values)) if values else float("nan")
    if len(currencies) > 1:
        found |= dict.fromkeys(_IN_CURRENCY, float("nan"))
    undefined = float("nan")
    found |= {
        "pct_mae": pooled["model"].get("pct_mae", undefined),
        "naive_pct_mae": pooled["naive"].get("pct_mae", undefined),
        "pct_mse": pooled["model"].get("pct_mse", undefined),
        "naive_pct_mse": pooled["naive"].get("pct_mse", undefined),
        "pct_r2": pooled["model"].get("pct_r2", undefined),
        "skill": pooled["model"]["skill_vs_naive"],
        "dm": {
            "statistic": against_naive.statistic,
            "p_value": against_naive.p_value,
            "verdict": against_naive.verdict,
        },
        "note": _about_means(one_unit, currencies),
    }
    return found


def _about_means(one_unit: bool, currencies: Collection[str]) -> str:
    if len(currencies) > 1:
        return f"{NOTE} Prices are in {', '.join(sorted(currencies))}: mae, rmse and naive_mae have no mean over them."
    return NOTE if one_unit else f"{NOTE} {MIXED}"


def _without_size(entry: dict[str, Any]) -> bool:
    """Return True if the truth is always 0, so that a percentage is undefined although the forecast is finite."""
    return math.isnan(entry["mae_percent"]) and math.isfinite(entry["mae"])
