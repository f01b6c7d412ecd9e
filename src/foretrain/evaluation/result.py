"""The result of an evaluation as plain data: evaluation.json and CSV tables.

# N rows, H horizon, Q levels
"""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from foretrain.data.windows import NO_TIME
from foretrain.evaluation import metrics
from foretrain.evaluation.backtest import Backtest
from foretrain.evaluation.baselines import EVERY_BASELINE, SEASONAL, STATISTICAL
from foretrain.evaluation.draws import about_draws, draws_of
from foretrain.evaluation.examples import Example, examples_of
from foretrain.evaluation.horizons import horizon_parts
from foretrain.evaluation.markets import Markets, market_rows
from foretrain.evaluation.overlap import ABOUT_TRAINING, used_by
from foretrain.evaluation.panel import LeftOut
from foretrain.evaluation.reference import OTHER, Promotion, ReferenceModel
from foretrain.evaluation.scored import Scored
from foretrain.evaluation.significance import Comparison, compare
from foretrain.evaluation.symbols import aggregate, per_symbol, ranking
from foretrain.notes import Code, Note, Tally, codes, records
from foretrain.printing import for_spreadsheet

FORMAT = 1
# warnings that make every metric meaningless, or may
ALARMS = (Code.TRAINING_SAW_WINDOWS, Code.BEFORE_TRAINING_CUTOFF, Code.SYNTHETIC_DATA)


@dataclass(frozen=True)
class EvaluationResult:
    """The contents of a report. Forecasters are "model", the reference model if there is one, and the baselines."""

    name: str
    settings: dict[str, Any]
    pooled: dict[str, dict[str, float]]  # forecaster -> metric -> value
    per_horizon: dict[str, dict[str, list[float]]]  # forecaster -> metric -> value of each step
    per_item: dict[str, dict[str, list[float]]]  # forecaster -> metric -> value of each of items
    items: list[str]
    item_windows: list[int]
    calibration: dict[str, list[float]]  # forecaster -> share at or below each of levels
    levels: list[float]
    comparisons: list[Comparison]
    counts: dict[str, int]
    left_out: list[LeftOut]
    data: list[dict[str, Any]]
    warnings: list[Note]
    command: str | None
    environment: dict[str, str]
    prices: bool
    aggregate: dict[str, Any]  # symbols.aggregate: the layout of stock pipelines
    per_symbol: list[dict[str, Any]]  # symbols.per_symbol
    notes: dict[str, int]  # counts from the family's notes about its forecasts
    # if the horizon is longer than that of training: the metrics of the steps within it, and of those beyond
    horizon_parts: list[dict[str, Any]] = field(default_factory=list)
    squares: dict[str, dict[str, float]] = field(default_factory=dict)  # forecaster -> metrics.squares
    labels: dict[str, str] = field(default_factory=dict)  # names of forecasters for display that are not their keys
    no_direction: tuple[str, ...] = ()  # forecasters that repeat the last value: their direction accuracy means nothing
    season_baselines: tuple[str, ...] = ()  # those that repeat a season found in the data; the verdict counts them
    reference: dict[str, str | None] | None = None  # key, name and hash of the reference model
    promotion: Promotion | None = None
    markets: list[dict[str, Any]] = field(default_factory=list)  # markets.market_rows, of corpora of libraries
    # of each of items, if its corpus is of a library: currency, "" if unknown, and decimal places of its prices
    units: list[tuple[str, int | None]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)  # not part of the JSON
    scored: Scored | None = None  # rows of the model; not part of the JSON

    @property
    def decisive(self) -> list[Comparison]:
        """The tests that the verdict states: against naive and season_baselines, the worst first."""
        against = {"naive", *self.season_baselines}
        return sorted((c for c in self.comparisons if c.against in against), key=standing)

    @property
    def verdict(self) -> str:
        """The verdict for the model against naive and, if the data have seasons, the baselines that repeat them."""
        return "; ".join(dict.fromkeys(c.verdict for c in self.decisive))

    @property
    def synthetic(self) -> bool:
        """True if some of the data was generated: the metrics say nothing about the real world."""
        return any(entry["provenance"] == "synthetic" for entry in self.data)

    @property
    def headline(self) -> str:
        """Whether the test is fair, the verdict, and `detail`."""
        who = used_by(self.warnings, Code.TRAINING_SAW_WINDOWS)
        void = f"NO FAIR TEST, {who} saw these windows. " if who else ""
        return f"{void}{self.name}: {self.verdict}.{self.detail and ' ' + self.detail}"

    @property
    def overlaps_training(self) -> bool:
        """True if training certainly saw some of the windows, so that the metrics prove nothing."""
        return Code.TRAINING_SAW_WINDOWS in codes(self.warnings)

    def label(self, who: str) -> str:
        """Return a forecaster's name for display."""
        if who == "model":
            return self.name
        if self.reference and who == OTHER:
            return str(self.reference["name"])
        return self.labels.get(who, who.replace("_", " "))

    def shown(self, who: str, metric: str) -> float:
        """Return a pooled metric for display: NaN for the direction accuracy of a forecaster that has no direction."""
        silent = metric == "direction_accuracy_share" and who in self.no_direction
        return math.nan if silent else self.pooled[who][metric]

    @property
    def detail(self) -> str:
        """The model's error relative to naive's and season_baselines', and the verdict against the strongest baseline.

        That one is left out if the verdict states it.
        """
        skills = {who: values["skill_vs_naive"] for who, values in self.pooled.items()}
        skill = skills["model"]
        scale = "percent of the last close" if self.prices else "units of the seasonal error"
        shares = [f"{relative(skill)} naive's"]
        for season in self.season_baselines:
            if skills[season] < 1:
                shares.append(f"{relative(1 - (1 - skill) / (1 - skills[season]))} that of {self.label(season)}")
        share = "" if math.isnan(skill) else f"Its mean absolute error ({scale}) is {joined(shares)}."
        return (share + self._against_strongest()).strip()

    def _against_strongest(self) -> str:
        """Return the verdict against the best baseline that beats naive: beating naive alone would prove little."""
        others = {who: values for who, values in self.pooled.items() if who in EVERY_BASELINE}
        skills = {who: values["skill_vs_naive"] for who, values in others.items()}
        strongest = max(skills, key=lambda who: skills[who] if math.isfinite(skills[who]) else -math.inf)
        if strongest in ("naive", *self.season_baselines) or not skills[strongest] > 0:
            return ""
        verdict = next(c.verdict for c in self.comparisons if c.against == strongest)
        return f" Against {self.label(strongest)}, the strongest baseline here: {verdict}."

    @property
    def alarms(self) -> list[str]:
        """Warnings that make every metric meaningless, or may, as text; reports print them first."""
        return [_text(notes) for notes in _paragraphs(self.warnings) if notes[0].code in ALARMS]

    @property
    def remarks(self) -> list[str]:
        """The other warnings, as text."""
        return [_text(notes) for notes in _paragraphs(self.warnings) if notes[0].code not in ALARMS]

    @property
    def warning_texts(self) -> list[str]:
        """All warnings as text, ordered and grouped as in files and reports."""
        return [_text(notes) for notes in _paragraphs(self.warnings)]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON data; NaN and infinities become None."""
        skipped = {"examples", "scored", "comparisons", "left_out", "reference", "promotion", "warnings"}
        tree = {name: value for name, value in self.__dict__.items() if name not in skipped}
        if self.reference is not None:
            tree["comparison"] = {"against": self.reference, "metrics": differences(self)}
        if self.promotion is not None:
            tree["promotion"] = self.promotion.to_dict()
        tree["comparisons"] = [asdict(c) for c in self.comparisons]
        tree["ranking"] = ranking(self.per_symbol)
        tree["left_out"] = [left._asdict() for left in self.left_out]
        return plain(
            {
                "format": FORMAT,
                "warnings": self.warning_texts,
                "codes": records(self.warnings),
                "headline": self.headline,
                "verdict": self.verdict,
                "overlaps_training": self.overlaps_training,
                "synthetic": self.synthetic,
                **tree,
            }
        )

    def save(self, folder: Path, *, csv_safe: bool = False) -> list[Path]:
        """Write evaluation.json, metrics.csv, per_item.csv and per_horizon.csv; return their paths.

        csv_safe: write texts into the CSV files as printing.for_spreadsheet returns them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "evaluation.json": json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
            "metrics.csv": _csv(["forecaster", *self._names(), *self._square_names()], self._pooled_rows(), csv_safe),
            "per_item.csv": _csv(["item", "windows", "forecaster", *self._item_names()], self._item_rows(), csv_safe),
            "per_horizon.csv": _csv(["step", "forecaster", *self._step_names()], self._step_rows(), csv_safe),
        }
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [folder / name for name in files]

    def _names(self) -> list[str]:
        return [name for name in metrics.METRICS if name in self.pooled["model"]]

    def _square_names(self) -> list[str]:
        return list(self.squares.get("model", ()))

    def _item_names(self) -> list[str]:
        return [name for name in metrics.METRICS if name in self.per_item["model"]]

    def _step_names(self) -> list[str]:
        return [name for name in metrics.METRICS if name in self.per_horizon["model"]]

    def _pooled_rows(self) -> list[list[Any]]:
        return [
            [
                who,
                *(values[name] for name in self._names()),
                *(self.squares[who][name] for name in self._square_names()),
            ]
            for who, values in self.pooled.items()
        ]

    def _item_rows(self) -> list[list[Any]]:
        names = self._item_names()
        return [
            [item, self.item_windows[k], who, *(values[name][k] for name in names)]
            for k, item in enumerate(self.items)
            for who, values in self.per_item.items()
        ]

    def _step_rows(self) -> list[list[Any]]:
        names = self._step_names()
        return [
            [h + 1, who, *(values[name][h] for name in names)]
            for h in range(self.settings["prediction_length"])
            for who, values in self.per_horizon.items()
        ]


def summarise(
    backtest: Backtest,
    quantiles: np.ndarray,
    *,
    name: str,
    settings: dict[str, Any],
    command: str | None,
    warnings: list[Note],
    notes: Sequence[Tally],
    reference: tuple[ReferenceModel, np.ndarray] | None = None,
    beside: Mapping[str, tuple[str, np.ndarray]] | None = None,
    trained_horizon: int | None = None,
    clusters: str | None = None,
    markets: Markets | None = None,
) -> EvaluationResult:
    """Compute the result from the quantiles (N, H, Q) of a model and of its reference, and the backtest's baselines.

    beside: further forecasters, by key, with their names for display.

    trained_horizon: the steps that the model was trained for, if they are known. clusters: the column that groups items
    for a test over them (draws.draws_of). markets: what libraries know of the symbols.
    """
    model, naive = backtest.naive.forecast(quantiles), backtest.naive
    others = {} if reference is None else {reference[0].key: backtest.naive.forecast(reference[1])}
    others |= {key: backtest.naive.forecast(found) for key, (_, found) in (beside or {}).items()}
    others |= backtest.scored_baselines
    forecasters = {"model": model, **others}
    pooled = {
        who: metrics.pooled(scored) | {"skill_vs_naive": metrics.skill(scored, naive)}
        for who, scored in forecasters.items()
    }
    seasons, draws = backtest.seasons, draws_of(backtest, clusters)
    labels = STATISTICAL | seasons.labels | {key: shown for key, (shown, _) in (beside or {}).items()}
    comparisons = [
        replace(compare(model, scored, labels.get(who, who), draws), against=who) for who, scored in others.items()
    ]
    symbols = per_symbol(backtest, model, markets)
    squares = {who: metrics.squares(scored) for who, scored in forecasters.items()}
    return EvaluationResult(
        name=name,
        settings=settings,
        pooled=pooled,
        per_horizon={who: _by_step(scored, naive) for who, scored in forecasters.items()},
        per_item={who: _by_item(scored, naive) for who, scored in forecasters.items()},
        items=list(model.items),
        item_windows=np.bincount(model.item, minlength=len(model.items)).tolist(),
        calibration={who: metrics.calibration(scored).tolist() for who, scored in forecasters.items()},
        levels=list(model.levels),
        comparisons=comparisons,
        counts={
            "items": len(model.items),
            "windows": backtest.num_windows,
            "origins": comparisons[0].origins,
            "observed_steps": int(np.isfinite(model.target).sum()),
        },
        left_out=[*backtest.left_out, *_without_scale(model)],
        data=_describe_data(backtest),
        warnings=[*warnings, *_remarks(backtest, settings), *about_draws(backtest, clusters, draws, comparisons)],
        squares=squares,
        labels={who: label for who, label in labels.items() if who in pooled},
        no_direction=tuple(who for who, scored in forecasters.items() if metrics.names_no_direction(scored)),
        season_baselines=seasons.decisive,
        command=command,
        environment=_environment(),
        prices=model.all_prices,
        aggregate=aggregate(
            symbols,
            {who: pooled[who] | squares[who] for who in ("model", "naive")},
            next(c for c in comparisons if c.against == "naive"),
            one_unit=model.one_unit,
            currencies=set() if markets is None else markets.currencies,
        ),
        per_symbol=symbols,
        horizon_parts=horizon_parts(forecasters, trained_horizon),
        notes={name: count for tally in notes for name, count in tally.counts.items()},
        reference=None if reference is None else reference[0].describe(),
        examples=examples_of(backtest, model, markets),
        markets=[] if markets is None else market_rows(markets, backtest.panel, backtest.item_keys, model, naive),
        units=[] if markets is None else [markets.unit(tuple(key)) for key in backtest.item_keys[:, :2].tolist()],
        scored=model,
    )


def _by_step(scored: Scored, naive: Scored) -> dict[str, list[float]]:
    """Return metric -> value of each step of the horizon."""
    steps = {key: values.tolist() for key, values in metrics.per_step(scored).items()}
    skill = [metrics.skill(scored.step(h), naive.step(h)) for h in range(scored.horizon)]
    return steps | {"skill_vs_naive": skill}


def _by_item(scored: Scored, naive: Scored) -> dict[str, list[float]]:
    """Return metric -> value of each item."""
    rows = metrics.per_item(scored) | {"skill_vs_naive": metrics.skill_per_item(scored, naive)}
    return {key: values.tolist() for key, values in rows.items()}


def _without_scale(model: Scored) -> list[LeftOut]:
    """Return the rows that are scored, except by the metrics whose denominator they lack."""
    found = []
    for undefined, reason in (
        (metrics.undefined_scale(model), "left out of MASE and SQL: seasonal error 0 or undefined"),
        (model.price & (model.last == 0), "left out of pct_mae: the last close is 0"),
    ):
        names = tuple(dict.fromkeys(model.items[k] for k in model.item[undefined]))
        if names:
            found.append(LeftOut("rows", reason, int(undefined.sum()), names[:3]))
    return found


def _describe_data(backtest: Backtest) -> list[dict[str, Any]]:
    panel, naive = backtest.panel, backtest.naive
    timed = naive.start[naive.start != NO_TIME], naive.end[naive.end != NO_TIME]
    entries = []
    for k, (corpus, chosen) in enumerate(zip(panel.corpora, panel.selections, strict=True)):
        columns = corpus.columns
        entries.append(
            {
                "name": panel.name(k),
                "path": str(corpus.origin) if corpus.origin else None,
                "fingerprint": corpus.fingerprint,
                "provenance": corpus.manifest.provenance["kind"],
                "freq": corpus.manifest.freq,
                "timezone": corpus.manifest.timezone,
                "season": panel.seasons[k],
                "season_found": backtest.seasons.found[k],
                "series": corpus.num_series,
                "target": [columns[i] for i in chosen.targets],
                "past_covariates": [columns[i] for i in chosen.past],
                "known_covariates": [columns[i] for i in chosen.known],
                "first_time": corpus.manifest.first_time,
                "last_time": corpus.manifest.last_time,
            }
        )
    if len(timed[0]):
        entries[0]["scored_from"] = _iso(int(timed[0].min()))
        entries[0]["scored_to"] = _iso(int(timed[1].max()))
    return entries


def _paragraphs(notes: Sequence[Note]) -> list[list[Note]]:
    """Group notes into paragraphs: those about training are the first one, each other note is its own."""
    training = [note for note in notes if note.code in ABOUT_TRAINING]
    return [*([training] if training else []), *([note] for note in notes if note.code not in ABOUT_TRAINING)]


def _text(notes: Sequence[Note]) -> str:
    return " ".join(note.text for note in notes)


def _remarks(backtest: Backtest, settings: dict[str, Any]) -> list[Note]:
    remarks = list[Note]()
    if any(corpus.manifest.provenance["kind"] == "synthetic" for corpus in backtest.panel.corpora):
        text = "SYNTHETIC DATA: the series were generated, so these figures say nothing about the real world."
        remarks.append(Note(Code.SYNTHETIC_DATA, text))
    remarks += [*backtest.seasons.notes, *backtest.notes]
    if SEASONAL in backtest.baselines and set(backtest.panel.seasons) == {1}:
        text = "The season is 1 step, so seasonal naive is naive and MASE is scaled by one-step changes."
        remarks.append(Note(Code.SEASON_OF_ONE_STEP, text))
    if backtest.naive.price.any() and not backtest.naive.rank.any() and len(backtest.item_keys) > 1:
        items = len(np.unique(backtest.item_keys[:, :2], axis=0))
        text = (
            f"Each of the {items:,} items has one forecast origin: there is no interval over origins, and a rank of an "
            "item is that of one window."
        )
        remarks.append(Note(Code.ONE_ORIGIN, text, {"items": items}))
    crossed = settings["crossed_share"]
    if crossed and settings["sort_quantiles"]:
        text = f"Quantiles crossed in {crossed:.1%} of the model's forecast steps and were sorted before scoring."
        remarks.append(Note(Code.QUANTILES_CROSSED, text, {"share": crossed}))
    return remarks


def _environment() -> dict[str, str]:
    import torch

    import foretrain

    return {
        "foretrain": foretrain.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def joined(texts: Sequence[str]) -> str:
    """Return an enumeration: "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(texts[:-1])] if len(texts) > 1 else []), *texts[-1:]])


def standing(test: Comparison) -> int:
    """Return 1 if a test says that the model is better, -1 if worse, 0 if it cannot tell."""
    return (1 if test.statistic < 0 else -1) if test.significant else 0


def relative(skill: float) -> str:
    """Return the comparison of an error with naive's as text, as in: its error is "3.0% below" naive's."""
    if abs(skill) < 0.0005:
        return "the same as"
    return f"{abs(skill):.1%} {'below' if skill > 0 else 'above'}"


def _iso(microseconds: int) -> str:
    return str(np.datetime64(microseconds, "us").astype("datetime64[s]"))


def plain(value: Any) -> Any:
    """Return a value as JSON data: lists for tuples, None for NaN and infinities."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value


def _csv(header: list[str], rows: list[list[Any]], safe: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (header, *rows):
        cells = ["" if isinstance(v, float) and not math.isfinite(v) else v for v in row]
        writer.writerow([for_spreadsheet(v) if safe and isinstance(v, str) else v for v in cells])
    return text.getvalue()


def differences(result: EvaluationResult) -> dict[str, dict[str, Any]]:
    """Return each metric's unit, better direction, values of the model, the reference and naive, and the difference.

    The difference is model - reference.
    """
    assert result.reference is not None
    reference = str(result.reference["key"])
    table = {}
    for name, metric in metrics.METRICS.items():
        if name not in result.pooled["model"]:
            continue
        values = {who: result.pooled[who][name] for who in ("model", reference, "naive")}
        table[name] = {
            "unit": metric.unit,
            "better": metric.better,
            **values,
            "difference": values["model"] - values[reference],
        }
    return table
