"""The manifest of a corpus: columns, time axis, provenance, shards and content hash."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from foretrain.errors import DataError
from foretrain.reading import read_object
from foretrain.timeaxis.frequency import Frequency

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1


class Column(BaseModel):
    """One variate of every series; a categorical one is stored as codes, indices into categories."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    kind: Literal["numeric", "categorical"] = "numeric"
    categories: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> Column:
        if (self.kind == "categorical") != (self.categories is not None):
            raise ValueError(f"column {self.name!r}: categories belong to categorical columns, and only to them")
        return self


class SourceFile(TypedDict):
    """A file that rows were read from."""

    name: str
    sha256: str
    rows: int


class Provenance(TypedDict):
    """Origin of the values: "real" or "synthetic", the files, and the command that made the corpus."""

    kind: Literal["real", "synthetic"]
    sources: list[SourceFile]
    command: str | None


Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(strict=True, ge=1, lt=2**31)]


def _base_name(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file in the corpus' folder")
    return name


class Shard(TypedDict):
    """One Arrow file of a corpus."""

    file: Annotated[str, AfterValidator(_base_name)]
    series: Count
    rows: Count  # sum of the series' lengths
    values: Count  # rows x columns
    bytes: Count
    sha256: str


class Earlier(BaseModel):
    """The content of a corpus before an update; data/lineage.py writes and reads it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    fingerprint: str
    last_time: str  # its newest stamp, ISO text
    exact: bool = True  # False: rows may have had other places, so only the newest stamp counts
    # Items whose rows up to that stamp are not those of then: item id -> rows of then (0: a later item), None: unknown
    lengths: dict[str, int | None] = {}


class Adjustment(BaseModel):
    """Columns of cumulative factors, and those that windows scale by them to their cutoff; data/asof.py."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    price: str  # factor that prices are multiplied by
    volume: str  # factor that volumes are divided by
    prices: tuple[str, ...]
    volumes: tuple[str, ...]


class Manifest(BaseModel):
    """Metadata of a corpus, stored as a JSON file beside its shards."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = FORMAT_VERSION
    columns: tuple[Column, ...]
    time: Literal["regular", "stamps", "steps"]
    freq: str | None = None  # pandas alias; required for regular, nominal for stamps
    step: Positive = 1  # distance of numbered steps
    timezone: str | None = None  # "UTC", or None: naive local times
    timezone_note: str | None = None
    num_series: Count
    num_rows: Annotated[
        int, Field(strict=True, ge=-1, lt=2**53)
    ]  # sum of the series' lengths; -1 = not counted (foreign folders)
    first_time: str | None = None  # ISO text
    last_time: str | None = None
    seasonality: Positive | None = None
    bars_per_session: Positive | None = None
    adjusted: bool = False
    price_columns: tuple[str, ...] = ()
    adjustment: Adjustment | None = None  # prices are as traded, and windows are adjusted as of their cutoff
    # Beside prices: dividends, splits, factors, and prices that their source adjusted by later events. They are
    # forecast only if they are named as targets.
    beside_prices: tuple[str, ...] = ()
    # Columns that the data itself calls covariates; they are forecast only if they are named as targets.
    past_covariates: tuple[str, ...] = ()
    known_covariates: tuple[str, ...] = ()
    provenance: Provenance
    shards: tuple[Shard, ...] = ()
    cuts: Sha256 | None = None  # sha256 of cuts.json, if series have parts of their own; cuts.py
    content_hash: Sha256
    earlier: tuple[Earlier, ...] = ()  # contents before updates, oldest first
    foretrain_version: str = ""
    created: str = ""

    @model_validator(mode="after")
    def _check(self) -> Manifest:
        names = [column.name for column in self.columns]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"column names given twice: {', '.join(duplicates)}")
        for key in ("price_columns", "past_covariates", "known_covariates", "beside_prices"):
            unknown = [name for name in getattr(self, key) if name not in names]
            if unknown:
                raise ValueError(f"{key} names no column: {', '.join(unknown)}")
        if self.adjustment is not None:
            unknown = {*self.adjustment.prices, *self.adjustment.volumes, self.adjustment.price, self.adjustment.volume}
            if unknown - set(names):
                raise ValueError(f"adjustment names no column: {', '.join(sorted(unknown - set(names)))}")
        if self.time == "regular" and not self.freq:
            raise ValueError("a regular time axis needs a freq")
        files = [shard["file"] for shard in self.shards]
        if len(set(files)) < len(files):
            raise ValueError("shards names a file twice")
        sums = {"num_series": sum(s["series"] for s in self.shards), "num_rows": sum(s["rows"] for s in self.shards)}
        for key, total in sums.items():
            if self.shards and getattr(self, key) != total:
                raise ValueError(f"{key} is {getattr(self, key):,}, and its shards have {total:,}")
        return self

    @property
    def generated(self) -> bool:
        """Whether a generator drew the values: they are synthetic, and imported from no file."""
        return self.provenance["kind"] == "synthetic" and not self.provenance["sources"]

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns that are covariates unless a caller names them as targets."""
        return self.past_covariates + self.known_covariates

    @property
    def default_targets(self) -> tuple[str, ...]:
        """Columns that may be forecast where no target is named: numeric ones, no covariates, none beside prices."""
        left_out = {*self.covariates, *self.beside_prices}
        return tuple(c.name for c in self.columns if c.kind == "numeric" and c.name not in left_out)

    def to_json(self) -> str:
        """Indented JSON text."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file. Raises DataError if it is malformed or of a newer format."""
    try:
        tree = read_object(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a manifest: {' '.join(str(error).split())}") from None
    version = tree.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DataError(f"{path}: not the manifest of a corpus (no format_version).")
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path}: written in corpus format {version}; this version reads {FORMAT_VERSION}. Upgrade foretrain."
        )
    manifest = make_manifest(tree, source=str(path))
    if not manifest.shards:
        raise DataError(f"{path}: names no shards. Copy the corpus again, whole, or import the data again.")
    try:
        if manifest.freq is not None:
            Frequency.storable(manifest.freq)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return manifest


def make_manifest(tree: dict[str, Any], *, source: str) -> Manifest:
    """Validate parsed JSON as a manifest. Raises DataError naming source."""
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'manifest'}: {p['msg'].removeprefix('Value error, ')}"
            for p in error.errors()
        )
        raise DataError(f"{source}: {problems}") from None


class ContentHash:
    """Hash of a corpus' ids, shapes, values and times, independent of its shards and of when it was written."""

    def __init__(self, columns: tuple[Column, ...], time: str, freq: str | None) -> None:
        head = json.dumps([[c.model_dump(mode="json") for c in columns], time, freq], sort_keys=True)
        self._head = head.encode()
        self._parts = [hashlib.sha256() for _ in range(4)]

    def update(self, ids: list[str], shapes: np.ndarray, values: np.ndarray, times: np.ndarray) -> None:
        """Add series: shapes (n, 2) of (variates, steps), values and times (empty for steps) flat in series order."""
        texts, sizes, numbers, clock = self._parts
        for item_id in ids:
            raw = item_id.encode()
            texts.update(len(raw).to_bytes(4, "little") + raw)
        sizes.update(np.ascontiguousarray(shapes, "<i8").data)
        numbers.update(np.ascontiguousarray(values, "<f4").data)
        clock.update(np.ascontiguousarray(times, "<i8").data)

    def hexdigest(self) -> str:
        """Return the hash of all series added so far."""
        return hashlib.sha256(self._head + b"".join(part.digest() for part in self._parts)).hexdigest()
