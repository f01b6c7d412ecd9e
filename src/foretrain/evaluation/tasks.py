"""Evaluation of a model on corpora at rolling origins, beside naive baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from foretrain.data.items import Mask
from foretrain.data.parts import LIBRARY, DateCuts, cuts_of
from foretrain.data.splits import Origins, Selection, SplitName, select
from foretrain.data.store import Corpus
from foretrain.errors import ConfigError, DataError
from foretrain.evaluation.backtest import DEFAULT_LEVELS, Backtest, Forecasts
from foretrain.evaluation.baselines import BASELINES, STATISTICAL
from foretrain.evaluation.draws import check_clusters
from foretrain.evaluation.items import ScoredItems
from foretrain.evaluation.markets import Markets
from foretrain.evaluation.overlap import (
    HeldByDates,
    Reserved,
    check_overlap,
    held_by_dates,
    reference_overlap,
    refuse_seen_dates,
    reserved_steps,
)
from foretrain.evaluation.panel import Panel, least_context, make_panel, newest_origins, open_ends
from foretrain.evaluation.reference import ReferenceModel
from foretrain.evaluation.result import EvaluationResult, summarise
from foretrain.evaluation.statistical import USUAL_SECONDS, affordable_items, check_names
from foretrain.evaluation.validation import refuse_cross_learning
from foretrain.forecasting.batching import clip_context, forecast_notes
from foretrain.forecasting.record import beyond_training, recorded_options, trained_context, trained_horizon
from foretrain.models import forecast_options
from foretrain.models.base import Forecaster, ForecastRequest
from foretrain.models.output import OutputSettings, recorded_output
from foretrain.notes import Code, Note, Tally, told

if TYPE_CHECKING:
    from foretrain.distributed.world import World


def evaluate(
    model: Forecaster,
    corpora: Corpus | Sequence[Corpus],
    *,
    selection: Selection | Sequence[Selection] | None = None,
    prediction_length: int,
    num_windows: int = 20,
    stride: int | None = None,
    split: SplitName = "test",
    validation_steps: int | None = None,
    test_steps: int | None = None,
    validation_from: str | None = None,
    test_from: str | None = None,
    min_context: int | None = None,
    context_length: int | None = None,
    batch_size: int = 256,
    max_memory: int | str | None = None,
    quantile_levels: Sequence[float] = DEFAULT_LEVELS,
    seasonality: int | None = None,
    max_items: int | None = None,
    items: ScoredItems | None = None,
    compare: Sequence[str] = tuple(BASELINES),
    baseline_seconds: float = USUAL_SECONDS,
    clusters: str | None = None,
    sort_quantiles: bool | None = None,
    repair_candles: bool | None = None,
    blank_missing: bool | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    rescale: bool | None = None,
    options: Any = None,
    against: ReferenceModel | None = None,
    world: World | None = None,
    name: str = "model",
    release: dict[str, Any] | None = None,
    score_seen_dates: bool = True,
    command: str | None = None,
    notes: Sequence[Note] = (),
    progress: Callable[[int], None] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> EvaluationResult:
    """Score a model at rolling origins beside naive baselines that see the same contexts.

    Args:
        model: any forecaster; it computes on its own device.
        corpora: one or several; several are pooled.
        selection: columns of each corpus; None = every numeric column is a target.
        prediction_length: steps ahead.
        num_windows: forecast origins per item, the newest ones; items with room for fewer have fewer.
        stride: steps between origins; None = prediction_length, so that forecasts do not overlap.
        split: "test" or "validation": the newest steps of each item or those before them; "all": the whole item.
        validation_steps, test_steps: sizes of those parts. None takes what training held out, if the release was
            trained on this corpus; else the scored part is just large enough for num_windows, and the other one has
            prediction_length steps.
        validation_from, test_from: dates in the place of these sizes, of each corpus' own clock, as in a config: the
            test part begins at test_from, the validation part reaches from validation_from to it. Where training was
            cut by dates, these are the default, also for corpora that it did not use.
        min_context: fewest rows before an origin; None = prediction_length, at most context_length.
        context_length: steps of history for model and baselines; None = those of training, or the model's longest
            if the release does not record them.
        batch_size: rows per forward pass; results do not depend on it beyond rounding.
        max_memory: bytes, or text such as "2GB", that a forecast of windows that are read together may take besides the
            model and them; None = no bound. Results do not depend on it beyond rounding.
        quantile_levels: levels that WQL and SQL sum over; .1, .5 and .9 are forecast in any case.
        seasonality: steps of a season, for MASE and seasonal naive; None = the corpus' own.
        max_items: score a random sample of this many items, with a fixed seed.
        items: which items are scored (evaluation.items.scored_items); None = all.
        compare: names of baselines; naive is always included. "seasonal_naive_found" looks for a season in the values
            before the first window, which the verdict then counts (season_rows.py). Those of statistical.py are fitted
            to every window.
        baseline_seconds: about how long such fits may take; if they would take longer, a random sample of items is
            scored, of model and baselines, with a note.
        clusters: a column with one value an item. Where origins are too few for a test, it is over the means of items
            with equal values; None = over items, and not at all for prices (evaluation.draws).
        sort_quantiles: sort crossed quantiles before scoring; the report gives the share of steps that crossed. None,
            here and below, = as the release records, else True; the settings hold for the reference model too.
        repair_candles: repair sampled candles, as forecast_df does.
        blank_missing: NaN for series without a value in the context, which are not scored anyway.
        num_samples: sample paths of a forecast, for families that draw them; None = the family's default.
        seed: of those draws, which follow each window whatever batch it is in.
        rescale: as of a ForecastRequest; None = as the model was trained.
        options: the family's forecast options, an instance of its dataclass; None = as the release records, else its
            defaults.
        against: reference model to score on the same windows and to compare with; gate.judge says which is better.
        world: processes that share the work; the result does not depend on their number.
        release: the model's release.json ({} = nothing is recorded), to score what its training held out, to warn if it
            saw these windows, and for output settings; None skips the first two.
        score_seen_dates: score windows of prices from before the known cut-off of published weights that the model is
            or was made from, with a warning; False = refuse them before anything is forecast.
        command: the command that repeats this evaluation, for the report.
        notes: further notes on this evaluation, for the result.
        progress: called with the number of windows finished.
        device, dtype: where and in which precision to compute; None = where the model is, in its own precision.

    Raises DataError if no window can be scored (prediction_length too long for the longest item, nothing observed),
    ConfigError for impossible settings, and for windows that are refused.
    """
    corpora = [corpora] if isinstance(corpora, Corpus) else list(corpora)
    _check(corpora, {"seasonality": seasonality, "max_items": max_items}, [options, against and against.options])
    facts, selections = release or {}, _selections(corpora, selection)
    if options is None and (recorded := recorded_options(facts)):
        options = forecast_options(model.family, recorded)
    check_clusters(corpora, selections, clusters)
    plan = {
        "prediction_length": prediction_length,
        "num_windows": num_windows,
        "stride": prediction_length if stride is None else stride,
        "context_length": clip_context(model, trained_context(facts, model, context_length)),
    }
    sizes = {"validation": validation_steps, "test": test_steps}
    cuts = _asked_cuts(split, sizes, {"validation_from": validation_from, "test_from": test_from})
    among = None if items is None else items.masks
    origins, warnings = _origins(corpora, release, split, sizes, cuts, among, min_context=min_context, **plan)
    if not score_seen_dates:
        refuse_seen_dates(warnings)
    panel_of = partial(
        make_panel,
        corpora,
        selections,
        origins,
        prediction_length=prediction_length,
        context_length=plan["context_length"],
        stride=plan["stride"],
        seasonality=seasonality,
        among=among,
    )
    panel = panel_of(max_items=max_items)
    fewer, of_fits = _affordable(panel, compare, baseline_seconds, world)
    panel = panel if fewer is None else panel_of(max_items=fewer)
    rows = min(max(ref.cutoff for ref in panel.refs), panel.context_length)
    lengths = beyond_training(facts, prediction_length, context_length, rows)
    warnings += [*notes, *lengths, *of_fits, *open_ends(panel)]
    markets = Markets.of(panel)
    backtest = Backtest(panel, levels=quantile_levels, baselines=compare, batch_size=batch_size, world=world)
    output = recorded_output(facts).changed(
        sort_quantiles=sort_quantiles, repair_candles=repair_candles, blank_missing=blank_missing
    )
    request = backtest.request(
        num_samples=num_samples, seed=seed, rescale=rescale, options=options, output=output, max_memory=max_memory
    )
    where = {"device": device, "dtype": dtype, "progress": progress}
    with told(Code.HORIZON_UNROLLED, lengths):
        found, reference = _forecast(backtest, model, request, where), None
    if against is not None:
        others = _forecast(backtest, against.model, request.changed(options=against.options), where)
        reference = against, others.quantiles
        warnings += reference_overlap(against.key.replace("_", " "), against.facts, corpora, origins)
        warnings += _reference_notes(against, others.notes, plan["context_length"])
    warnings += forecast_notes(found.notes, "In these forecasts: {}.")
    chosen = {"split": split, "options": {} if options is None else asdict(options), "clusters": clusters}
    chosen |= {} if items is None else {"items": list(items.asked)}
    for corpus in corpora:
        corpus.check_unchanged()
    return summarise(
        backtest,
        found.quantiles,
        name=name,
        settings=_settings(model, backtest, plan | chosen, request, found),
        command=command,
        warnings=warnings,
        notes=found.notes,
        reference=reference,
        trained_horizon=trained_horizon(facts),
        clusters=clusters,
        markets=markets,
    )


def _check(corpora: Sequence[Corpus], counts: Mapping[str, int | None], options: Sequence[Any]) -> None:
    """Raise ConfigError for counts below 1, without a corpus, and for options with which results depend on batches."""
    for chosen in options:
        refuse_cross_learning(chosen)
    for key, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{key} is {value}; it must be at least 1.")
    if not corpora:
        raise ConfigError("no corpus to evaluate on.")


def _affordable(
    panel: Panel, compare: Sequence[str], seconds: float, world: World | None
) -> tuple[int | None, list[Note]]:
    """Return how many items statistical baselines can be fitted to, None = all, and a note if they are fewer."""
    if not any(name in STATISTICAL for name in compare):
        return None, []
    if world is not None and world.size > 1:  # each would measure another time
        raise ConfigError("baselines: statistical ones are fitted in one process. Evaluate in one, or leave them out.")
    check_names(compare)
    return affordable_items(panel, compare, seconds)


def _forecast(backtest: Backtest, model: Forecaster, request: ForecastRequest, where: Mapping[str, Any]) -> Forecasts:
    """Return a model's forecasts of a backtest, from as much of the contexts as it can read.

    where: device, dtype and progress of Backtest.forecast.
    """
    longest = min(backtest.panel.context_length, model.max_context_length)
    return backtest.forecast(model, request.changed(context_length=longest), **where)


def _settings(
    model: Forecaster, backtest: Backtest, chosen: Mapping[str, Any], request: ForecastRequest, found: Forecasts
) -> dict[str, Any]:
    """Return the settings of an evaluation for its report; chosen: those that the request does not hold."""
    panel = backtest.panel
    rescale = model.rescales if request.rescale is None else request.rescale
    return {
        **{key: chosen[key] for key in ("prediction_length", "num_windows", "stride", "split", "context_length")},
        "batch_size": request.batch_size,
        **({} if request.max_memory is None else {"max_memory": request.max_memory}),
        "quantile_levels": list(backtest.asked),
        "seasonality": {panel.name(k): season for k, season in enumerate(panel.seasons)},
        **{key: getattr(request, key) for key in OutputSettings.model_fields},
        "crossed_share": float(found.crossed.mean()),
        "num_samples": request.num_samples,
        "seed": request.seed,
        "rescale": model.smallest_deviation is not None and rescale,
        "options": chosen["options"],
        "clusters": chosen["clusters"],
        **({"items": chosen["items"]} if "items" in chosen else {}),
    }


def _origins(
    corpora: Sequence[Corpus],
    release: dict[str, Any] | None,
    split: SplitName,
    sizes: dict[str, int | None],
    cuts: DateCuts | None,
    among: Sequence[Mask] | None,
    *,
    prediction_length: int,
    num_windows: int,
    stride: int,
    context_length: int,
    min_context: int | None,
) -> tuple[list[Origins], list[Note]]:
    """Return the forecast origins of every corpus, in the part that training held out if that is known, and notes.

    sizes are those of the validation and the test part; None = not given. cuts: dates in their place. among: (N,) which
    items of each corpus are scored; None = all.
    """
    origins, notes = [], dict[str, Note]()
    given = split == "all" or any(size is not None for size in sizes.values())
    dated = [None] * len(corpora) if given else _dated_parts(corpora, release, split, cuts)
    least = least_context(min_context, prediction_length, context_length)
    asked = [None] * len(corpora) if among is None else among
    dated = [
        None if held is None else held._replace(region=held.region.only(mask))
        for held, mask in zip(dated, asked, strict=True)
    ]
    rooms = [0 if held is None else held.region.most_room(least) for held in dated]
    for corpus, held, room, mask in zip(corpora, dated, rooms, asked, strict=True):
        parts, region, note = dict(sizes), None, None
        if mask is not None and not mask.any():
            origins.append(Origins.of([]))
            continue
        if held is not None and room < prediction_length <= max(rooms):  # it has no such part, and others have
            origins.append(Origins.of([]))
            continue
        if held is not None and (room >= prediction_length or cuts is not None):
            region, note = held.region, _fewer_by_dates(held, room, split, prediction_length, num_windows, stride)
        else:
            reserved = reserved_steps(release, corpus, split)
            note = _limit_to_reserved(parts, reserved, split, prediction_length, num_windows, stride)
        notes |= {} if note is None else {note.text: note}  # the same note of several corpora is given once
        origins.append(
            newest_origins(
                corpus,
                split,
                prediction_length,
                num_windows,
                stride,
                parts["validation"],
                parts["test"],
                min_context,
                context_length,
                region,
                mask,
            )
        )
    overlap = [] if release is None else check_overlap(release, corpora, origins)
    return origins, [*overlap, *notes.values()]


def _asked_cuts(split: SplitName, sizes: Mapping[str, int | None], dates: Mapping[str, str | None]) -> DateCuts | None:
    """Return the dates that cut corpora, None if none is given. Raises ConfigError for dates that cut nothing here."""
    given = [key for key, date in dates.items() if date is not None]
    if not given:
        return None
    steps = [f"{name}_steps" for name, size in sizes.items() if size is not None]
    if steps:
        raise ConfigError(f"{given[0]}: cuts by date, and {steps[0]} by steps. Give one of them.")
    if split == "all":
        raise ConfigError(f"{' and '.join(given)}: of no use with split all.")
    if split == "test" and "validation_from" in given:
        raise ConfigError("validation_from: of no use with split test, whose part begins at test_from.")
    if f"{split}_from" not in given:
        raise ConfigError(f"test_from: of no use with split {split} alone; give {split}_from.")
    if LIBRARY in dates.values():  # which has both
        dates = dict.fromkeys(dates, LIBRARY)
    try:
        return cuts_of(dates)
    except ValueError as error:
        raise ConfigError(f"{' and '.join(given)}: {error}.") from None


def _dated_parts(
    corpora: Sequence[Corpus], release: dict[str, Any] | None, split: SplitName, cuts: DateCuts | None
) -> list[HeldByDates | None]:
    """Return the part of each corpus by dates: those that are asked for, else what training held out by dates.

    None where it held out none: then training saw every window, or steps cut.
    """
    if cuts is None:
        return [held_by_dates(release, corpus, split) for corpus in corpora]
    return [HeldByDates(getattr(cuts.parts(corpus), split), by_training=False) for corpus in corpora]


def _fewer_by_dates(
    held: HeldByDates, room: int, split: str, horizon: int, num_windows: int, stride: int
) -> Note | None:
    """Return a note if the dates that training held out leave fewer windows than asked for."""
    windows = (room - horizon) // stride + 1
    if windows >= num_windows or not held.by_training:
        return None
    who = f"the training of {held.ancestor}" if held.ancestor else "training"
    text = (
        f"At most {windows} window{'' if windows == 1 else 's'} per item instead of {num_windows}: by date, {who} held "
        f"out the {split} part {held.region.words}, and only this is scored. An earlier {split}_from, or split all, "
        "also scores days that training saw."
    )
    counts = {"windows": windows, "asked": num_windows}
    return Note(Code.FEWER_WINDOWS, text, counts | ({"ancestor": 1} if held.ancestor else {}))


def _reference_notes(reference: ReferenceModel, tallies: Sequence[Tally], context_length: int) -> list[Note]:
    """Return the notes about a reference model's forecasts."""
    name, longest, found = reference.key.replace("_", " "), reference.model.max_context_length, list[Note]()
    if longest < context_length:
        text = f"The {name} sees the newest {longest} of {context_length} steps of history, its longest context."
        found.append(Note(Code.SHORTER_CONTEXT, text, {"context_length": longest, "asked": context_length}))
    return found + forecast_notes(tallies, f"Of the {name}, in these forecasts: {{}}.")


def _limit_to_reserved(
    parts: dict[str, int | None], reserved: Reserved | None, split: str, horizon: int, num_windows: int, stride: int
) -> Note | None:
    """Set sizes of parts that the caller did not give to what training held out; return a note if windows get fewer.

    A part too small for one window is not set: then training saw every window, and the report must state the overlap.
    """
    if reserved is None or split not in parts or parts[split] is not None:
        return None
    steps = {"validation": reserved.validation, "test": reserved.test}
    if steps[split] < horizon:
        return None
    parts |= {name: steps[name] for name, given in parts.items() if given is None}
    room = (steps[split] - horizon) // stride + 1
    if room >= num_windows:
        return None
    who = f"the training of {reserved.ancestor}" if reserved.ancestor else "training"
    more = (
        "Start from weights that held out more"
        if reserved.ancestor
        else f"Train with a larger data.{split}_steps for more"
    )
    text = (
        f"{room} window{'' if room == 1 else 's'} per item instead of {num_windows}: {who} held out the newest "
        f"{steps[split]} steps for the {split} part, and only these are scored. {more}; split all also scores "
        "what training saw."
    )
    counts = {"windows": room, "asked": num_windows}
    return Note(Code.FEWER_WINDOWS, text, counts | ({"ancestor": 1} if reserved.ancestor else {}))


def _selections(corpora: Sequence[Corpus], given: Selection | Sequence[Selection] | None) -> list[Selection]:
    if given is None:
        return [select(corpus) for corpus in corpora]
    selections = [given] * len(corpora) if isinstance(given, Selection) else list(given)
    if len(selections) != len(corpora):
        raise ConfigError(f"{len(selections)} selections for {len(corpora)} corpora; give one for each.")
    for corpus, chosen in zip(corpora, selections, strict=True):
        if max(chosen.columns) >= len(corpus.columns):
            raise DataError(f"{corpus.name}: column {max(chosen.columns)} of the selection does not exist.")
    return selections
