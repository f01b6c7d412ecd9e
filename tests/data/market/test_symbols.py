from __future__ import annotations

from collections import Counter

import pytest

from foretrain.data.market.folder import check_names
from foretrain.data.market.symbols import SAMPLES, sample, sample_symbols, symbols_of
from foretrain.errors import ConfigError, DataError


def test_the_sample_has_130_symbols_of_three_classes():
    rows = sample_symbols()
    assert Counter(row.asset_class for row in rows) == {"stock": 75, "etf": 25, "crypto": 30}
    assert len({row.name for row in rows}) == len({row.yfinance for row in rows}) == 130
    assert all(row.currency == "USD" and bool(row.exchange) != (row.asset_class == "crypto") for row in rows)
    assert {row.name for row in rows if row.ccxt} == {row.name for row in rows if row.asset_class == "crypto"}
    check_names(row.yfinance for row in rows)


def test_samples_are_in_the_words_of_a_source():
    assert len(sample("all", "yfinance")) == 130 and "BTC-USD" in sample("crypto", "yfinance")
    assert len(sample("crypto", "ccxt")) == 30 and "BTC/USDT" in sample("crypto", "ccxt")
    assert all(len(sample(name, "yfinance")) > 20 for name in SAMPLES)
    with pytest.raises(ConfigError, match=r"--sample all: ccxt has no AAPL. Choose crypto."):
        sample("all", "ccxt")
    with pytest.raises(ConfigError, match="--sample bonds: choose all, stock, etf, crypto"):
        sample("bonds", "yfinance")


def test_a_file_of_symbols_has_comments_and_any_separators(tmp_path):
    (tmp_path / "mine.txt").write_text("AAPL\n# all of them\nMSFT, BTC/USDT  AAPL # twice\n\n")
    assert symbols_of(tmp_path / "mine.txt") == ["AAPL", "MSFT", "BTC/USDT"]


def test_a_file_without_symbols_is_refused(tmp_path):
    (tmp_path / "none.txt").write_text("# none\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="holds no symbol"):
        symbols_of(tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="no such file"):
        symbols_of(tmp_path / "gone.txt")
    with pytest.raises(DataError, match="not UTF-8"):
        symbols_of(tmp_path / "bytes.txt")
