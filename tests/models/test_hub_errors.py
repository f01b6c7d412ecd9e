"""What errors of the hub library mean; answers of servers are tested in test_hub.py and suites/test_download.py."""

from __future__ import annotations

import errno

import pytest
from huggingface_hub import errors

from foretrain.models.hub_errors import hub_says, reason


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (errors.LocalEntryNotFoundError("not in the cache"), "uncached", "the hub cannot be reached (LocalEntryNotF"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "unreachable", "the hub could not be read (ConnectionReset"),
        (TimeoutError("slow"), "unreachable", "the hub could not be read (TimeoutError: slow)"),
        (ValueError("a page,\nnot JSON."), "unreachable", "the hub could not be read (ValueError: a page, not JSON)"),
    ],
)
def test_an_error_is_one_line_of_its_kind(error: Exception, kind: str, text: str):
    says = hub_says(error, "model")
    assert says.kind == kind and says.text.startswith(text) and "\n" not in says.text


def test_an_error_of_the_disk_stays_one():
    with pytest.raises(OSError, match="No space left") as caught:
        hub_says(OSError(errno.ENOSPC, "No space left on device", "/cache/x"), "model")
    assert caught.value.filename == "/cache/x"


def test_neither_the_token_nor_a_signed_address_is_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "plain-canary")
    said = reason(ValueError("GET https://hub/x?Signature=canary-2 with plain-canary: 403"))
    assert said == "ValueError: GET https://hub/x with ***: 403"
