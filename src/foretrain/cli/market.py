"""The verbs `foretrain data market ...`, which cli/data.py registers. Imports neither torch, pandas nor numpy."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretrain.cli.market_build import market_build
from foretrain.cli.options import prepare, require_single_process
from foretrain.cli.reading import GroupedCommand, reads_files
from foretrain.errors import ConfigError

if TYPE_CHECKING:
    from foretrain.data.market.download import SymbolOutcome
    from foretrain.data.market.sources import BarSource

market_app = typer.Typer(help="Libraries of market bars, a file for each symbol.", no_args_is_help=True)


class MarketSource(StrEnum):
    """Whose bars are downloaded."""

    yfinance = "yfinance"
    ccxt = "ccxt"


@market_app.callback()
def _group() -> None:
    """Libraries of market bars, a file for each symbol."""


market_app.command("build", cls=GroupedCommand)(reads_files()(market_build))


@market_app.command("download")
def market_download(
    symbols: Annotated[
        list[str] | None, typer.Argument(metavar="SYMBOL...", help="Symbols of the source: AAPL; BTC/USDT.")
    ] = None,
    symbols_file: Annotated[
        Path | None, typer.Option("--symbols", metavar="FILE", help="A text file of symbols, one a line.")
    ] = None,
    sample: Annotated[
        str | None, typer.Option(metavar="LIST", help="130 symbols in the package: all, stock, etf or crypto.")
    ] = None,
    source: Annotated[MarketSource | None, typer.Option(help="The package that asks (default: as in --out).")] = None,
    exchange: Annotated[str | None, typer.Option(help="ccxt: the exchange (default: binance).")] = None,
    interval: Annotated[
        str | None, typer.Option(help="Length of a bar: 1m, 1h, 1d, 1w, 1mo, ... (default: 1d).")
    ] = None,
    start: Annotated[
        str | None, typer.Option(metavar="DATE", help="Bars from this date on (default: the first bar).")
    ] = None,
    end: Annotated[str | None, typer.Option(metavar="DATE", help="Bars before this date (default: until now).")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder of the library.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Add what is new to symbols that are there (default: all of --out).")
    ] = False,
    retries: Annotated[
        int, typer.Option(min=0, max=20, help="How often a source that does not answer is asked again.")
    ] = 4,
) -> None:
    """Download bars, not adjusted for dividends, into a CSV file for each symbol. Repeat the command to go on.

    Exit code 1 if some symbols failed, 2 if all did or an argument is wrong. Names of stocks listed today know of none
    that failed since: docs/market-data.md, also on the terms of sources.
    """
    require_single_process("data market download")
    if out is None:
        raise ConfigError("data market download: give --out, the folder of the library.")
    span = {name: None if text is None else _date(name, text) for name, text in (("start", start), ("end", end))}
    if start is not None and end is not None and start >= end:
        raise ConfigError(f"--end {end}: is not after --start {start}.")
    prepare(None)
    from foretrain.data.market.download import Downloader, settle
    from foretrain.data.market.folder import MarketFolder
    from foretrain.data.market.sources import Patience

    asked = {"source": source, "exchange": exchange, "interval": interval, "start": start}
    with MarketFolder(out) as folder:
        settings = settle(folder, {name: value and str(value) for name, value in asked.items()}, update=update)
        chosen = _chosen(symbols, symbols_file, sample, settings["source"], list(folder.symbols) if update else [])
        begin = span["start"] if start is not None else settings["start"] and _date("start", settings["start"])
        found = _open(settings, Patience(retries, say=lambda text: typer.echo(f"  {text}", err=True)))
        folder.settings = settings
        wide = max(map(len, chosen)) + 2
        outcomes = Downloader(folder, found, update=update, start=begin, end=span["end"]).run(
            chosen, lambda outcome: None if outcome.state == "failed" else typer.echo(_line(outcome, wide))
        )
    raise typer.Exit(_closing(outcomes, out, wide))


def _chosen(
    symbols: list[str] | None, file: Path | None, sample: str | None, source: str, held: list[str]
) -> list[str]:
    """Return the symbols that are asked for, by one way of naming them, or those that a library holds."""
    from foretrain.data.market.symbols import once, symbols_of
    from foretrain.data.market.symbols import sample as of_sample

    ways = [way for way, given in (("SYMBOL", symbols), ("--symbols", file), ("--sample", sample)) if given]
    if len(ways) > 1:
        raise ConfigError(f"{' and '.join(ways)}: name the symbols in one way.")
    if sample is not None:
        return of_sample(sample, "ccxt" if source == "ccxt" else "yfinance")
    named = symbols_of(file) if file is not None else symbols or held
    if not named:
        raise ConfigError("data market download: name symbols, or give --symbols FILE or --sample LIST.")
    return once(name.upper() if source == "yfinance" else name for name in named)


def _open(settings: dict[str, Any], patience: Any) -> BarSource:
    from foretrain.data.market.exchanges import open_exchange
    from foretrain.data.market.yahoo import open_yahoo

    if settings["source"] == "yfinance":
        return open_yahoo(settings["interval"], patience)
    return open_exchange(settings["exchange"], settings["interval"], patience)


def _date(flag: str, text: str) -> int:
    """Return a date's midnight in UTC in milliseconds since 1970. Raises ConfigError for what is none."""
    try:
        moment = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ConfigError(f"--{flag} {text}: is no date. Write it like 2024-01-31.") from None
    if flag == "start" and moment > datetime.now(UTC):
        raise ConfigError(f"--start {text}: lies in the future.")
    return int(moment.timestamp()) * 1000


def _line(outcome: SymbolOutcome, wide: int) -> str:
    state = "FAILED" if outcome.state == "failed" else outcome.state
    return f"  {state:9}{outcome.symbol:{wide}}{outcome.text}"


def _closing(outcomes: list[SymbolOutcome], out: Path, wide: int) -> int:
    """Print which symbols failed, and a sum; return the exit code."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        typer.echo(_line(outcome, wide))
    states = ("fetched", "updated", "rebased", "kept")
    counts = {state: sum(outcome.state == state for outcome in outcomes) for state in states}
    parts = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    done = len(outcomes) - len(failed)
    typer.echo(f"{done} of {len(outcomes)} symbols done in {out}{f': {parts}' if parts else ''}.")
    return 0 if not failed else 1 if done else 2
