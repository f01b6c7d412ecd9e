"""The section `adviser:` of a study: which server is asked, what it is told beside the trials, and what it may cost."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from foretrain.config import Section

OPENAI = "https://api.openai.com/v1"
_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")


class AdviserConfig(Section):
    """A language model behind an OpenAI-compatible endpoint, or the answers that one gave before (replay).

    A key is named by its variable of the environment and never stored; budgets hold for a study, over all its workers.
    """

    provider: Literal["openai", "replay"] = "openai"
    base_url: str = OPENAI
    model: str | None = Field(default=None, min_length=1, max_length=200)
    api_key_env: str | None = "OPENAI_API_KEY"  # None = a server that wants no key
    guidance: str = Field(default="", max_length=20_000)  # free text, which is sent as it is
    batch: int = Field(default=4, ge=1, le=50)  # candidates of a request
    low_water: int = Field(default=1, ge=1, le=50)  # fewer waiting candidates than that are a reason to ask
    history_limit: int = Field(default=100, ge=0, le=1000)  # trials that are told
    timeout_s: float = Field(default=120, gt=0, le=3600)  # of one attempt, up to the last byte
    total_s: float = Field(default=300, gt=0, le=7200)  # of all attempts of a request, and the waits between them
    attempts: int = Field(default=4, ge=1, le=20)
    max_tokens: int = Field(default=4000, ge=16, le=1_000_000)  # of an answer
    budget_tokens: int | None = Field(default=None, ge=1)
    budget_usd: float | None = Field(default=None, gt=0)
    usd_per_million_input: float | None = Field(default=None, ge=0)
    usd_per_million_output: float | None = Field(default=None, ge=0)
    bad_answers: int = Field(default=3, ge=1)  # in a row without a usable candidate: then it is asked no more
    stream: bool = False
    replay_from: str | None = None  # provider: replay: the adviser.jsonl of an earlier study

    @model_validator(mode="after")
    def _check(self) -> AdviserConfig:
        # Not validators of the fields: their errors repeat the value, which may be a key or hold an account
        if self.api_key_env is not None and not _NAME.fullmatch(self.api_key_env):
            raise ValueError("api_key_env: takes the NAME of a variable of the environment, in capitals, and not a key")
        if (problem := _wrong_address(self.base_url)) is not None:
            raise ValueError(f"base_url: {problem}")
        if (self.provider == "replay") != (self.replay_from is not None):
            raise ValueError("replay_from: goes with provider: replay, which needs it")
        if self.provider == "openai" and self.model is None:
            raise ValueError("model: required, but not given; it is the model's name at the server")
        priced = self.usd_per_million_input is not None and self.usd_per_million_output is not None
        if self.budget_usd is not None and not priced:
            raise ValueError("budget_usd: needs usd_per_million_input and usd_per_million_output, the model's prices")
        return self


def _wrong_address(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        return "takes the address of an endpoint, such as http://127.0.0.1:8000/v1"
    if parts.username is not None or parts.password is not None or parts.query:
        return "holds an account or a query, which the study's files would keep; a key goes by api_key_env"
    return None
