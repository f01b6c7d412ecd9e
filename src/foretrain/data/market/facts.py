"""What a library knows of the symbols of one of its corpora, for evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from foretrain.data.market.assets import NAME as METADATA
from foretrain.data.market.assets import read_assets
from foretrain.data.market.calendars import calendar_of
from foretrain.data.market.record import NAME, UNSEEN
from foretrain.errors import DataError


@dataclass(frozen=True)
class AssetFacts:
    """One symbol: None = not known. fee is a share of the value traded, precision a number of decimal places."""

    symbol: str
    asset_class: str | None = None
    currency: str | None = None
    calendar: str | None = None
    calendar_given: bool = False  # and not told by the symbol's name
    fee: float | None = None
    fee_source: str = "not known"
    precision: int | None = None


def facts_beside(corpus: Path) -> dict[str, AssetFacts]:
    """Return what the library of a corpus knows of its symbols; {} for a corpus that is part of no library.

    Raises DataError for metadata that cannot be, and for a calendar or an exchange that is not known.
    """
    place = corpus.parent.parent if corpus.parent.name == UNSEEN else corpus.parent
    path = place / METADATA
    if not (place / NAME).is_file() or not path.is_file():
        return {}
    found = {}
    for symbol, entry in read_assets(path).items():
        told = [key for name in ("from_name", "from_default") for key in entry.get(name) or ()]
        try:
            calendar = calendar_of(symbol, entry)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        fee, kind, precision = (entry.get(key) for key in ("default_trading_fee", "asset_class", "precision"))
        usual = f"usual of {kind}" if "default_trading_fee" in told else "metadata"
        found[symbol] = AssetFacts(
            symbol, kind, entry.get("currency"), calendar, entry.get("calendar") is not None and "calendar" not in told,
            fee, "not known" if fee is None else usual, None if precision is None else int(precision),
        )  # fmt: skip
    return found
