"""Messages to the user besides results: records with a stable code, for programs, and a text, for people.

Notes are part of a result (an evaluation's warnings, an import's report) or, where there is no result, logged with
Python's `logging` by the module that raises them: `record.code` and `record.counts` are the note's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """The kind of a note. Texts may change, codes do not; a family may define further codes."""

    # forecasts
    BATCH_HALVED = "batch_halved"  # a batch did not fit into the GPU's memory
    CONTEXT_CLIPPED = "context_clipped"  # more context was requested than the model can read
    NUM_SAMPLES_UNUSED = "num_samples_unused"  # the family draws no sample paths
    LEVEL_OUTSIDE_TRAINED = "level_outside_trained"  # a quantile level beyond the trained ones
    HORIZON_UNROLLED = "horizon_unrolled"  # a horizon beyond the model's native one
    HORIZON_BEYOND_TRAINING = "horizon_beyond_training"  # longer than the one that the release records
    CONTEXT_BEYOND_TRAINING = "context_beyond_training"  # longer than the one that the release records
    CANDLES_REPAIRED = "candles_repaired"  # sampled candles with a high below another price, and the like
    COLUMN_EMPTY = "column_empty"  # the forecast of a column without a value is meaningless
    NOTHING_TO_FORECAST_FROM = "nothing_to_forecast_from"  # an empty column, so there is no forecast
    VALUES_TOO_LARGE = "values_too_large"
    VALUES_TOO_SMALL = "values_too_small"  # deviations whose squares float32 cannot hold
    SCALE_FLOORED = "scale_floored"  # a constant of the model is large beside the moves of a series
    RESCALE_UNUSED = "rescale_unused"  # the model has no such constant
    NOT_UPSTREAMS_FUNCTION = "not_upstreams_function"  # upstream's loader ignores or refuses a setting of the model
    FORECAST_NOT_FINITE = "forecast_not_finite"
    COLUMNS_LEFT_OUT = "columns_left_out"  # the family cannot read them, or the model was not trained with them
    COVARIATES_UNREAD = "covariates_unread"  # of a family that drops them
    COVARIATES_NOT_LEARNT = "covariates_not_learnt"  # the model was pretrained without any
    KNOWN_COVARIATES_NOT_GIVEN = "known_covariates_not_given"  # though training and evaluation know them ahead
    STEPS_LOOK_LIKE_TIMES = "steps_look_like_times"
    FREQ_UNLIKE_ROWS = "freq_unlike_rows"
    GRID_ROWS_ADDED = "grid_rows_added"  # rows of missing values, so that the rows are on the grid of freq
    NEWEST_ROWS_AS_FUTURE = "newest_rows_as_future"  # rows without a target that are the steps to forecast
    NEWEST_ROWS_WITHOUT_TARGET = "newest_rows_without_target"  # these are history, or not scored
    CROSS_LEARNING_SEES_LATER = "cross_learning_sees_later"  # values of other items from after an item's end
    QUOTES_IMPOSSIBLE = "quotes_impossible"  # prices of zero and negative volumes, which an import takes for missing
    FUTURE_VALUES_UNSEEN = "future_values_unseen"  # values of a known covariate that its history lacks
    IMPORT_QUALITY = "import_quality"  # what the quality rules of an import found and did
    BARS_MISSING = "bars_missing"
    CALENDAR_DOUBTFUL = "calendar_doubtful"
    TOKENIZER_DIFFERS = "tokenizer_differs"  # from the one that the model was trained with
    DEFAULT_MODEL = "default_model"  # none is named, so the one in the box is used
    DEFAULT_HORIZON = "default_horizon"  # none is named, and the model records none
    FOLDER_NAMED_AS_SHIPPED = "folder_named_as_shipped"  # like a model in the box, which is not used then
    # evaluation
    TRAINING_SAW_WINDOWS = "training_saw_windows"  # so the metrics are not out of sample
    BEFORE_TRAINING_CUTOFF = "before_training_cutoff"  # of published weights, so they may have seen the windows
    VALIDATION_SAW_WINDOWS = "validation_saw_windows"  # so they selected the weights
    TRAINING_UNKNOWN = "training_unknown"  # the release does not record its training data
    ANCESTRY_UNKNOWN = "ancestry_unknown"  # what the model was made from does not record its training data
    ANCESTOR_SAW_TEST_PART = "ancestor_saw_test_part"  # of a run that is to start
    ANCESTOR_SAW_VALIDATION_PART = "ancestor_saw_validation_part"
    TRAINING_SAW_DAYS = "training_saw_days"  # in other items of the corpus
    TRAINING_MAY_HAVE_SEEN_DAYS = "training_may_have_seen_days"  # in another corpus
    TRAINING_CANNOT_BE_COMPARED = "training_cannot_be_compared"  # one side has no dates
    SYNTHETIC_DATA = "synthetic_data"
    SEASON_OF_ONE_STEP = "season_of_one_step"
    SEASON_FOUND = "season_found"  # in the data, and it is not the usual one of their frequency
    SEASON_EXCEEDS_CONTEXT = "season_exceeds_context"  # so that no seasonal naive can repeat it
    SEASON_BY_CLOCK = "season_by_clock"  # sessions have no common number of bars
    QUANTILES_CROSSED = "quantiles_crossed"
    FEWER_WINDOWS = "fewer_windows"  # than requested: training held out no more
    REFERENCE_SAW_WINDOWS = "reference_saw_windows"  # so it is favoured
    BASELINES_SAMPLED = "baselines_sampled"  # fewer items are scored, as fits would take too long
    BASELINE_REPLACED = "baseline_replaced"  # by naive, where a model could not be fitted
    SHORTER_CONTEXT = "shorter_context"  # the reference model sees less history
    COLUMNS_UNLIKE_TRAINING = "columns_unlike_training"  # the data lack some
    CATEGORIES_UNLIKE_TRAINING = "categories_unlike_training"  # of a covariate, so that its codes mean little
    SETTING_UNUSED = "setting_unused"
    ONE_ORIGIN = "one_origin"  # of each item with prices, so that nothing is said of others
    CLUSTERS_NEEDED = "clusters_needed"  # prices share shocks, so their items are no independent draws
    # benchmarks
    LINEAR_FITTED = "linear_fitted"  # the linear model, to histories of a task
    BENCHMARK_TEST_SEEN = "benchmark_test_seen"  # training saw scored windows of a task
    BENCHMARK_DATA_SEEN = "benchmark_data_seen"  # training saw the task's data set, at least before these windows
    BENCHMARK_DATA_PERHAPS_SEEN = "benchmark_data_perhaps_seen"
    BENCHMARK_DATA_UNKNOWN = "benchmark_data_unknown"  # nothing tells whether training saw it
    # the promotion gate
    NOT_BELOW = "not_below"  # the model's error is not below the reference's
    NOT_SIGNIFICANT = "not_significant"  # it is below, but not significantly
    NO_FORECASTS_TO_COMPARE = "no_forecasts_to_compare"
    TOO_FEW_ORIGINS = "too_few_origins"  # for a significance test
    OVER_ITEMS_ONLY = "over_items_only"  # significantly below over items, which promotes only where that is asked for
    RELEASE_NOT_MARKED = "release_not_marked"
    CHECKPOINT_OPENED = "checkpoint_opened"  # where a model was asked for: which one of its run it is
    REPORT_NOT_WRITTEN = "report_not_written"
    RELEASE_WITHOUT_FACTS = "release_without_facts"  # an export does not record its training data
    # predictions of others
    CUTOFFS_ONE_STEP_APART = "cutoffs_one_step_apart"
    ONE_STEP_AHEAD = "one_step_ahead"
    NO_LAST_CLOSE = "no_last_close"
    NO_ACTUAL = "no_actual"
    FRACTION_AS_PERCENT = "fraction_as_percent"
    MAPE_OF_RETURNS = "mape_of_returns"
    # imports
    LINES_SKIPPED = "lines_skipped"
    ROW_NUMBERS_LEFT_OUT = "row_numbers_left_out"
    TEXT_AS_CATEGORIES = "text_as_categories"
    TEXT_LEFT_OUT = "text_left_out"  # its texts do not come back, so they say nothing about later rows
    DATES_LEFT_OUT = "dates_left_out"
    EPOCH_UNITS = "epoch_units"  # one column holds epoch numbers of several units
    EXCEL_SERIALS = "excel_serials"  # numbers read as Excel's dates
    TIME_OF_SEVERAL_COLUMNS = "time_of_several_columns"
    TIME_BY_ITS_CELLS = "time_by_its_cells"  # a column of dates whose name says nothing
    TIME_OF_INTERVALS = "time_of_intervals"  # cells hold two stamps, the first of which counts
    TIME_NOT_READ = "time_not_read"  # a column that is called like a time, but holds no stamps
    TIME_REPEATS = "time_repeats"  # a column that is called like a time, but repeats
    DATASETS_FOLDER = "datasets_folder"
    RARE_COLUMN = "rare_column"
    COLUMNS_NAMED = "columns_named"  # a vendor's file without a header
    HEADER_LEVELS = "header_levels"  # two or three header lines name values and items
    ROWS_ARE_SERIES = "rows_are_series"  # columns are times
    HOURS_AS_COLUMNS = "hours_as_columns"  # 24 columns, each a series
    EMPTY_COLUMNS_LEFT_OUT = "empty_columns_left_out"
    COVARIATES_BY_NAME = "covariates_by_name"  # columns that the data calls covariates, so they are no targets
    STATIC_LEFT_OUT = "static_left_out"  # columns with one value a series
    EMPTY_SERIES_LEFT_OUT = "empty_series_left_out"
    START_WITHOUT_FREQ = "start_without_freq"
    METADATA_LEFT_OUT = "metadata_left_out"  # a table with one row for each file beside it
    FILES_LEFT_OUT = "files_left_out"  # JSON and workbooks beside the tables of a folder
    SHEETS_LEFT_OUT = "sheets_left_out"  # of a workbook
    SEVERAL_FREQUENCIES = "several_frequencies"
    ROWS_ADDED = "rows_added"
    LAST_LINE_LEFT_OUT = "last_line_left_out"
    ITEMS_LEFT_OUT = "items_left_out"
    ITEM_COLUMN_FOUND = "item_column_found"  # by its name, and because stamps repeat or restart without it
    STEPS_RENUMBERED = "steps_renumbered"  # too many are missing to fill
    TIME_OF_PARTS = "time_of_parts"  # numbers like 202053 are a year and a week
    PERCENT_IN_SOME_FILES = "percent_in_some_files"  # a column that has percent signs in one file only
    LEADING_ZEROS = "leading_zeros"  # numbers written like codes, 0012
    ITEMS_ALIKE = "items_alike"  # two items whose names differ only in case or blanks
    DIGITS_LOST = "digits_lost"  # numbers that differ in more digits than float32 has
    HOUR_REPEATED = "hour_repeated"  # as at the end of summer time
    # runs and their configs
    TOKENISING = "tokenising"  # of all windows before the first step, which takes a while
    CHECKPOINT_SKIPPED = "checkpoint_skipped"  # its manifest cannot be read: it is neither deleted nor the best
    SETTING_REPLACED = "setting_replaced"  # by one of the command line that excludes it, or that it does not fit
    SETTING_KEPT = "setting_kept"  # by a stage, against one that the command line gives for all
    ADVISER = "adviser"  # of a study is asked no more, or answered nothing of use
    # configs of other projects
    RATIOS_LEFT_BEHIND = "ratios_left_behind"  # without the CSV they cannot become numbers of rows
    RATIOS_EXCEED_ONE = "ratios_exceed_one"
    TRAIN_PART_TOO_SMALL = "train_part_too_small"
    VALIDATION_PART_TOO_SMALL = "validation_part_too_small"
    TEST_PART_TOO_SMALL = "test_part_too_small"
    MODEL_ID_IGNORED = "model_id_ignored"
    BATCH_OF_ALL_PROCESSES = "batch_of_all_processes"
    # shipped configs
    FILE_NAMED_AS_CONFIG = "file_named_as_config"  # like a shipped config, which is not used then
    SHIPPED_CONFIG_USED = "shipped_config_used"  # where a path is given, and no file is there


@dataclass(frozen=True)
class Note:
    """A message to the user: a stable code, a text for people, and the numbers in that text by name."""

    code: str
    text: str
    counts: Mapping[str, int | float] = field(default_factory=dict)


@dataclass(frozen=True)
class Tally:
    """Counts of one kind of event, summed over batches and processes; the first count is that of the event."""

    code: str
    text: str  # a format string over the counts: "{repaired candles:,} of {candles:,} candles repaired"
    counts: Mapping[str, int]

    def note(self, form: str = "{}") -> Note | None:
        """Return the note, its text formatted into `form`; None if the event did not happen."""
        if not next(iter(self.counts.values()), 0):
            return None
        return Note(self.code, form.format(self.text.format_map(self.counts)), dict(self.counts))


def sum_tallies(tallies: Iterable[Tally]) -> tuple[Tally, ...]:
    """Return tallies with those of equal code summed."""
    found: dict[str, Tally] = {}
    for tally in tallies:
        before = found[tally.code].counts if tally.code in found else {}
        counts = {name: before.get(name, 0) + count for name, count in tally.counts.items()}
        found[tally.code] = Tally(tally.code, tally.text, counts)
    return tuple(found.values())


def counted(count: int, noun: str) -> str:
    """Format a count with its noun: "1 item", "2 items"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def texts(notes: Iterable[Note]) -> list[str]:
    """Return the texts alone, as files store them."""
    return [note.text for note in notes]


def codes(notes: Iterable[Note]) -> set[str]:
    """Return the codes alone."""
    return {str(note.code) for note in notes}


def records(notes: Iterable[Note]) -> list[dict[str, Any]]:
    """Return codes and counts as JSON data, for programs that read a result's file."""
    return [{"code": str(note.code), "counts": dict(note.counts)} for note in notes]


_logged: ContextVar[set[tuple[str, str]] | None] = ContextVar("logged", default=None)


@contextmanager
def once(logged: set[tuple[str, str]] | None = None) -> Iterator[None]:
    """While entered, warn() logs equal notes once, because work in batches repeats them for each batch.

    `logged` holds (code, text) of notes logged before and collects new ones; of nested scopes the outermost applies.
    """
    if _logged.get() is not None:
        yield
        return
    token = _logged.set(set() if logged is None else logged)
    try:
        yield
    finally:
        _logged.reset(token)


_told: ContextVar[tuple[str, tuple[Mapping[str, int | float], ...]] | None] = ContextVar("told", default=None)


@contextmanager
def told(code: str, notes: Iterable[Note]) -> Iterator[None]:
    """While entered, warn() leaves out notes of a code with the counts of one of `notes`, which told that fact."""
    token = _told.set((str(code), tuple(note.counts for note in notes)))
    try:
        yield
    finally:
        _told.reset(token)


def warn(logger: logging.Logger, note: Note) -> None:
    """Log a note as a warning that carries its code and counts."""
    known = _told.get()
    if known is not None and note.code == known[0] and note.counts in known[1]:
        return
    logged, key = _logged.get(), (str(note.code), note.text)
    if logged is not None:
        if key in logged:
            return
        logged.add(key)
    extra = {"code": str(note.code), "counts": dict(note.counts)}
    logger.warning("%s", note.text, extra=extra, stacklevel=2)
