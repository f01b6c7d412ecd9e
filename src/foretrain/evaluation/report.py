"""Reports of an evaluation: a table on the console, and one self-contained HTML file."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from foretrain.evaluation import plots
from foretrain.evaluation.horizons import part_label
from foretrain.evaluation.market_report import amount, market_lines, market_table
from foretrain.evaluation.metrics import HIGHER_IS_BETTER, METRICS, SQUARED
from foretrain.evaluation.overlap import used_by
from foretrain.evaluation.page import esc, facts_table, page, remark, rows_table, section
from foretrain.evaluation.plots import plot_forecast
from foretrain.evaluation.reference import ZERO_SHOT
from foretrain.evaluation.result import differences, joined, standing
from foretrain.evaluation.significance import CLUSTERS, LEVEL, ORIGINS
from foretrain.evaluation.symbols import describe_ranking, ranking
from foretrain.forecasting.record import listed
from foretrain.notes import Code
from foretrain.printing import printable

if TYPE_CHECKING:
    from foretrain.evaluation.result import EvaluationResult

MAX_ITEMS = 40  # in the HTML table; per_item.csv has all

HOW_TO_READ = {
    "wql": "weighted quantile loss: 2 * pinball loss summed over items, steps and levels / (levels * sum of |truth|)",
    "mase": "mean absolute error over the mean one-season change of the item's past, averaged over windows",
    "sql": "scaled quantile loss: as MASE, with 2 * pinball loss averaged over levels in place of the absolute error",
    "smape_pct": "200 * |error| / (|truth| + |forecast|), without steps where both are 0",
    "coverage_80_share": "share of the truth inside [q.1, q.9]; 0.8 is right, more is too wide",
    "pct_mae": "mean of 100 * |error| / |last close|",
    "direction_accuracy_share": "share of steps with the right direction from the last close; y = last close skipped",
    "price_mae": "mean absolute error in the item's own currency; never averaged over items",
    "mae": "mean absolute error in the data's own unit",
    "rmse": "root of the mean squared error in the data's own unit",
    "skill_vs_naive": "1 - error / naive's error, on scaled errors; above 0 is better than repeating the last value",
}


def write_report(result: EvaluationResult, folder: Path, *, csv_safe: bool = False) -> list[Path]:
    """Write evaluation.json, the CSV tables, report.html and forecasts.png; return their paths."""
    paths = result.save(folder, csv_safe=csv_safe)
    pictures = _pictures(result)
    report = folder / "report.html"
    report.write_text(render(result, pictures), encoding="utf-8")
    paths.append(report)
    forecasts = pictures["forecasts"]
    if forecasts is not None:
        (folder / "forecasts.png").write_bytes(forecasts)
        paths.append(folder / "forecasts.png")
    return paths


# Console


def print_result(result: EvaluationResult, stream: TextIO | None = None) -> None:
    """Print headline, metrics of every forecaster and verdicts: with colours on a terminal, else as plain text."""
    out: TextIO = stream or sys.stdout
    if not out.isatty():
        out.write(format_table(result) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def styled(text: str, style: str = "") -> Text:
        return Text(printable(text), style=style)

    console = Console(file=out)
    for alarm in result.alarms:
        console.print(styled(alarm, "bold white on red"))
    for line in _headlines(result):
        console.print(styled(line, "bold"))
    for text in result.remarks:
        console.print(styled(text, "bold yellow"))
    header, rows = _table(result)
    table = Table(title=styled(_subtitle(result)))
    for k, name in enumerate(header):
        table.add_column(styled(name), justify="left" if k == 0 or k == len(header) - 1 else "right")
    for k, row in enumerate(rows):  # the model's is the first
        table.add_row(*(styled(cell) for cell in row), style="bold" if k == 0 else None)
    console.print(table)
    for line in [*_horizon_lines(result), *market_lines(result), *_notes(result)]:
        console.print(styled(line, "dim"))


def format_table(result: EvaluationResult) -> str:
    """Return what print_result prints, as plain text."""
    header, rows = _table(result)
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    last = len(header) - 1

    def line(cells: list[str]) -> str:
        shown = [
            c.ljust(w) if k in (0, last) else c.rjust(w) for k, (c, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(shown).rstrip()

    parts = [*result.alarms, *_headlines(result), *result.remarks, "", _subtitle(result)]
    parts += [line(header), line(["-" * w for w in widths])]
    return "\n".join(
        [*parts, *(line(row) for row in rows), *_horizon_lines(result), *market_lines(result), *_notes(result)]
    )


def _headlines(result: EvaluationResult) -> list[str]:
    return [result.headline, *([result.promotion.headline] if result.promotion is not None else [])]


def _table(result: EvaluationResult) -> tuple[list[str], list[list[str]]]:
    names = [name for name in METRICS if name in result.pooled["model"]]
    verdicts = {c.against: c.verdict for c in result.comparisons}
    header = ["forecaster", *names, "model against it"]
    rows = []
    for who in result.pooled:
        cells = (cell(name, result.shown(who, name), who) for name in names)
        rows.append([result.label(who), *cells, verdicts.get(who, "")])
    if result.reference is not None:
        changes = differences(result)
        rows.append(["difference of the first two", *(_change(name, changes[name]) for name in names), ""])
    return header, rows


def _subtitle(result: EvaluationResult) -> str:
    counts, settings = result.counts, result.settings
    targets = list(dict.fromkeys(name for entry in result.data for name in entry["target"]))
    return (
        f"{_count(counts['windows'], 'window')} of {_count(counts['items'], 'item')}, "
        f"{_count(settings['prediction_length'], 'step')} ahead, {_count(counts['origins'], 'forecast origin')}, "
        f"{'target' if len(targets) == 1 else 'targets'} {listed(targets)}"
    )


def _horizon_rows(result: EvaluationResult) -> tuple[list[str], list[list[str]]]:
    """Return the table of the steps within and beyond the horizon of training; no rows if there are none beyond."""
    names = [name for name in METRICS if name in result.pooled["model"]]
    rows = [
        [f"{result.label(who)}, {part_label(part)}", *(cell(name, values[name], who) for name in names)]
        for part in result.horizon_parts
        for who, values in part["pooled"].items()
    ]
    return ["", *names], rows


def _horizon_lines(result: EvaluationResult) -> list[str]:
    """Return that table as plain text."""
    header, rows = _horizon_rows(result)
    if not rows:
        return []
    widths = [max(len(row[k]) for row in [header, *rows]) for k in range(len(header))]
    first, *others = widths
    return [
        "",
        *(
            "  ".join([row[0].ljust(first), *(c.rjust(w) for c, w in zip(row[1:], others, strict=True))])
            for row in [header, *rows]
        ),
    ]


def _horizon_table(result: EvaluationResult) -> str:
    header, rows = _horizon_rows(result)
    if not rows:
        return ""
    lines = [f"<tr><th>{esc(row[0])}</th>{''.join(f'<td>{esc(text)}</td>' for text in row[1:])}</tr>" for row in rows]
    heads = ["", *(_heading(name) for name in header[1:])]
    return "<h2>Within and beyond the horizon of training</h2>" + rows_table(heads, lines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _notes(result: EvaluationResult) -> list[str]:
    lines = [
        f"left out: {left.count:,} {left.what} {left.reason}{_examples(left.examples)}" for left in result.left_out
    ]
    if "direction_accuracy_share" in result.pooled["model"]:
        lines += _without_direction(result)
    return lines


def _without_direction(result: EvaluationResult) -> list[str]:
    """Say which forecasters repeat the last value, whose direction accuracy is n/a."""
    silent = [result.label(who) for who in result.no_direction]
    if len(silent) < 2:
        return [f"{name} names no direction, so it has no direction accuracy." for name in silent]
    return [f"{joined(silent)} name no direction, so they have no direction accuracy."]


def _examples(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)}{', …' if len(names) == 3 else ''})" if names else ""


def cell(name: str, value: float, who: str = "model") -> str:
    """Return a metric's value as text; n/a if it is undefined, as the direction accuracy of naive is."""
    if not math.isfinite(value):
        return "n/a"
    if name == "skill_vs_naive":
        return f"{value:+.3f}" if who != "naive" else "0"
    if METRICS[name].unit in ("ratio", "share"):
        return f"{value:.4f}"
    return f"{value:.3f}" if 0.1 <= abs(value) < 1000 else f"{value:.4g}"


# HTML


def render(result: EvaluationResult, pictures: dict[str, bytes | None] | None = None) -> str:
    """Return the report as one HTML page with styles and pictures inside, without scripts or external resources."""
    pictures = _pictures(result) if pictures is None else pictures
    title = f"{result.name} on {', '.join(entry['name'] for entry in result.data)}"
    body = [
        _banner(result),
        f"<h1>{esc(title)}</h1>",
        _verdict(result),
        _promotion(result),
        *(f'<p class="warning">{esc(text)}</p>' for text in result.remarks),
        "<h2>Model and baselines</h2>",
        _pooled_table(result),
        _square_table(result),
        _horizon_table(result),
        market_table(result),
        _comparison(result),
        "<h2>Is the difference more than chance?</h2>",
        _significance_table(result),
        section("Forecasts", pictures.get("forecasts"), "History, truth and forecasts of three windows", _FAN_NOTE),
        section("By step of the horizon", pictures.get("horizon"), "Error and coverage by step ahead"),
        section("By item", pictures.get("items"), "Model against naive for every item"),
        _item_table(result),
        section(
            "Calibration", pictures.get("calibration"), "Share of the truth below each quantile", _CALIBRATION_NOTE
        ),
        "<h2>What was scored</h2>",
        _facts(result),
        "<h2>How to read the metrics</h2>",
        _glossary(result),
    ]
    return page(title, body)


_FAN_NOTE = (
    "Chosen by scaled error: the best, the median and the worst window, each of a different item if there are three. "
    "Most windows look like the middle one."
)
_CALIBRATION_NOTE = "Above the diagonal at low levels and below it at high ones: the forecast is overconfident."


def _pictures(result: EvaluationResult) -> dict[str, bytes | None]:
    fans = plots.example_fans(result)
    return {
        "forecasts": plots.png(plots.draw_fans, fans) if fans else None,
        "horizon": plots.png(plots.draw_horizon, result),
        "items": plots.png(plots.draw_items, result),
        "calibration": plots.png(plots.draw_calibration, result),
    }


def _banner(result: EvaluationResult) -> str:
    return "".join(f'<p class="banner">{esc(text)}</p>' for text in result.alarms)


def _verdict(result: EvaluationResult) -> str:
    worst = 0 if result.overlaps_training else min(map(standing, result.decisive))
    kind = {-1: "worse", 0: "none", 1: "better"}[worst]
    who = used_by(result.warnings, Code.TRAINING_SAW_WINDOWS)
    void = f"No fair test, {who} saw these windows: " if who else ""
    return (
        f'<div class="verdict {kind}"><strong>{esc(void + result.verdict[0].upper() + result.verdict[1:])}.</strong> '
        f"{esc(result.detail)}<br><span>{esc(_subtitle(result))}</span></div>"
    )


def _promotion(result: EvaluationResult) -> str:
    promotion = result.promotion
    if promotion is None:
        return ""
    kind = "better" if promotion.promoted else "none"
    return f'<div class="verdict {kind} promotion"><strong>{esc(promotion.headline)}</strong></div>'


def _comparison(result: EvaluationResult) -> str:
    """Table of every metric of the model, the reference and naive, with the difference of the first two."""
    if result.reference is None:
        return ""
    key, name = str(result.reference["key"]), str(result.reference["name"])
    rows = [
        f"<tr><th>{esc(METRICS[metric].label)} <small>{esc(METRICS[metric].unit)}</small></th>"
        f"<td>{cell(metric, result.shown('model', metric))}</td><td>{cell(metric, result.shown(key, metric))}</td>"
        f"<td>{_change(metric, values)}</td><td>{cell(metric, result.shown('naive', metric), 'naive')}</td>"
        f'<td class="text">{esc(values["better"])}</td></tr>'
        for metric, values in differences(result).items()
    ]
    title = "Against the weights it started from" if key == ZERO_SHOT else "Against the other model"
    known = f" (hash {result.reference['hash']})" if result.reference["hash"] else ""
    header = ["", "model", result.label(key), "difference", "naive", "better"]
    others = joined(["that", *(result.label(who) for who in ("naive", *result.season_baselines))])
    note = f"Compared with {name}{known} on the same windows. A model is promoted if it beats {others}."
    return f"<h2>{title}</h2>" + rows_table([esc(text) for text in header], rows) + remark(note)


def _change(name: str, values: dict[str, Any]) -> str:
    """Return a difference with its sign, with as many digits as the values."""
    value = values["difference"]
    if not math.isfinite(value):
        return "n/a"
    text = cell(name, abs(value)).lstrip("+")
    return f"{'-' if value < 0 else '+'}{text}"


def _pooled_table(result: EvaluationResult) -> str:
    names = [name for name in METRICS if name in result.pooled["model"]]
    best = {name: _best(name, result) for name in names}
    rows = []
    for who in result.pooled:
        cells = [
            f'<td class="{"best" if best[name] == who else ""}">{cell(name, result.shown(who, name), who)}</td>'
            for name in names
        ]
        swatch = f'<i style="background:{plots.color(who)}"></i>'
        head = f'<tr class="{"model" if who == "model" else ""}"><th>{swatch}{esc(result.label(who))}</th>'
        rows.append(f"{head}{''.join(cells)}</tr>")
    order = "sorted before scoring" if result.settings["sort_quantiles"] else "scored as given, not sorted"
    note = (
        "The best of each column is bold. Baselines saw the same contexts as the model; their quantiles are computed "
        f"from their own errors in that context. The model's quantiles were {order}. Errors in units of the data are "
        "pooled only if all items share a unit."
    )
    return rows_table([""] + [_heading(name) for name in names], rows) + remark(note)


def _square_table(result: EvaluationResult) -> str:
    """Return the table of squared errors and of returns, "" without prices."""
    if "pct_mse" not in result.squares["model"]:
        return ""
    names = list(result.squares["model"])
    rows = []
    for who, values in result.squares.items():
        cells = "".join(f"<td>{_number(values[name], '.4g')}</td>" for name in names)
        rows.append(f"<tr><th>{esc(result.label(who))}</th>{cells}</tr>")
    head = [f"{esc(SQUARED[name].label)}<small>{esc(SQUARED[name].unit)}</small>" for name in names]
    return rows_table(["", *head], rows) + remark(
        "Returns are those from the last close: MAPE divides by them and not by prices, so thousands are common, and "
        "naive has 100; naive's R2 is never above 0, while that of price levels would be near 1 and say nothing."
    )


def _best(name: str, result: EvaluationResult) -> str | None:
    def badness(who: str) -> float:
        value = result.shown(who, name)
        if not math.isfinite(value):
            return math.inf
        if METRICS[name].better == "0.8":
            return abs(value - 0.8)
        return -value if name in HIGHER_IS_BETTER else value

    who = min(result.pooled, key=badness)
    return who if badness(who) < math.inf else None


def _significance_table(result: EvaluationResult) -> str:
    rows = [
        f'<tr><th>{esc(result.label(c.against))}</th><td class="text">{esc(c.verdict)}</td>'
        f"<td>{_number(c.statistic, '+.2f')}</td><td>{_number(c.p_value, '.4f')}</td>"
        f"<td>{c.degrees_of_freedom or 'n/a'}</td><td>{c.origins}</td><td>{c.lag}</td></tr>"
        for c in result.comparisons
    ]
    scale = "|last close|" if result.prices else "the seasonal error"
    note = (
        f"{_tested_over(result)}, two-sided at {LEVEL:.0%}; negative statistics favour the model. The loss is the "
        f"absolute error over {scale}. Lag counts the later origins that a forecast overlaps."
    )
    header = ["against", "verdict for the model", "statistic", "p", "degrees of freedom", "origins", "lag"]
    return rows_table(header, rows) + remark(note)


def _tested_over(result: EvaluationResult) -> str:
    over = result.comparisons[0].over
    if over == ORIGINS:
        return (
            "Diebold-Mariano test on one loss per forecast origin, the mean over its items and steps, with a long-run "
            "variance that allows for dependent origins"
        )
    what = "clusters of items, on the mean loss of each" if over == CLUSTERS else "items, on the mean loss of each"
    return f"Paired t test over {what}, as the origins are too few: it says nothing about other origins"


def _item_table(result: EvaluationResult) -> str:
    wanted = ("skill_vs_naive", "mase", "wql", "pct_mae", "price_mae", "mae", "rmse", "coverage_80_share")
    names = [n for n in wanted if n in result.per_item["model"] and not (n == "mae" and result.prices)]
    skill = [value if math.isfinite(value) else -math.inf for value in result.per_item["model"]["skill_vs_naive"]]
    order = sorted(range(len(skill)), key=lambda k: -skill[k])
    half = MAX_ITEMS // 2
    shown = order if len(order) <= MAX_ITEMS else [*order[:half], *order[-half:]]
    rows = [
        f"<tr><th>{esc(result.items[k])}</th><td>{result.item_windows[k]}</td>"
        + "".join(f"<td>{_of_item(result, n, k)}</td>" for n in names)
        + "</tr>"
        for k in shown
    ]
    better, defined = sum(value > 0 for value in skill), sum(value > -math.inf for value in skill)
    rest = f" The best and worst {half} are shown; per_item.csv has all." if len(shown) < len(order) else ""
    note = f"The model's mean absolute error is below naive's on {better:,} of {defined:,} items.{rest}"
    if places := describe_ranking(ranking(result.per_symbol)):
        note += f" {places[0].upper()}{places[1:]}."
    table = rows_table(["item", "windows", *(_heading(n) for n in names)], rows)
    opened = " open" if len(shown) <= 12 else ""
    return f"{remark(note)}<details{opened}><summary>Table of items</summary>{table}</details>"


def _of_item(result: EvaluationResult, name: str, item: int) -> str:
    """Return an item's metric; an error of its prices with their currency, if a library knows it."""
    value = result.per_item["model"][name][item]
    return esc(amount(value, result.units[item])) if name == "price_mae" and result.units else cell(name, value)


def _facts(result: EvaluationResult) -> str:
    settings = dict(result.settings)
    options = settings.pop("options")
    del settings["seasonality"], settings["crossed_share"]  # reported elsewhere
    settings |= {name: value for name, value in options.items() if value not in (None, False)}
    if settings["num_samples"] is None:
        del settings["num_samples"]
    facts: list[tuple[str, Any]] = []
    for entry in result.data:
        facts += [
            ("corpus", f"{entry['name']} ({entry['provenance']} data), {entry['series']:,} series"),
            ("content hash", entry["fingerprint"]),
            ("target", ", ".join(entry["target"])),
            ("covariates", ", ".join([*entry["past_covariates"], *entry["known_covariates"]]) or "none"),
            ("frequency", f"{entry['freq'] or 'no calendar'}, season of {entry['season']} steps"),
            ("stored range", f"{entry['first_time']} to {entry['last_time']}" if entry["first_time"] else "steps only"),
        ]
        if "scored_from" in entry:
            facts.append(("scored range", f"{entry['scored_from']} to {entry['scored_to']}"))
    facts += [(name.replace("_", " "), _plain(value)) for name, value in settings.items()]
    facts += [
        (f"left out ({left.what})", f"{left.count:,} {left.reason}{_examples(left.examples)}")
        for left in result.left_out
    ]
    facts += [("software", ", ".join(f"{name} {version}" for name, version in result.environment.items()))]
    command = f"<p>To repeat it:</p><pre>{esc(result.command)}</pre>" if result.command else ""
    return command + facts_table(facts)


def _glossary(result: EvaluationResult) -> str:
    names = [n for n in METRICS if n in result.pooled["model"] or n in result.per_item["model"]]
    return facts_table([(n, f"{METRICS[n].unit}: {HOW_TO_READ[n]}") for n in names])


def _heading(name: str) -> str:
    return f"{esc(METRICS[name].label)}<small>{esc(METRICS[name].unit)}</small>"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "n/a"


__all__ = ["format_table", "plot_forecast", "print_result", "render", "write_report"]
