"""What is asked of an adviser, what it answers, and what became of each proposal: the lines of adviser.jsonl."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from foretrain.config import Section
from foretrain.tuning.space import Value


def _aware(text: str) -> str:
    if datetime.fromisoformat(text).utcoffset() is None:
        raise ValueError("has no time zone")
    return text


AwareText = Annotated[str, AfterValidator(_aware)]  # a time of ISO 8601 with its zone
PastState = Literal["complete", "pruned", "failed", "running", "waiting"]


class PastTrial(Section):
    """A trial as an adviser is told of it, and as its proposals are compared with."""

    number: int = Field(ge=0)
    state: PastState
    params: dict[str, Value]
    values: tuple[float, ...] | None = None  # of the objectives, in their order
    curve: tuple[tuple[int, float], ...] = ()  # (step, first objective) of validations
    feasible: bool | None = None  # whether it kept the constraints; None = the study has none, or not measured


class ObjectiveSent(Section):
    """An objective by the name under which the server knows it."""

    name: str
    direction: Literal["minimize", "maximize"]


class SuggestionRequest(Section):
    """All that leaves this machine, before it is put into words."""

    hyperparam_schema: dict[str, Any]  # JSON schema of one candidate
    scales: dict[str, str]  # keys whose values are spaced otherwise than evenly, which a schema cannot say
    conditions: dict[str, dict[str, tuple[Value, ...]]]  # keys that exist only beside certain values of others
    objectives: tuple[ObjectiveSent, ...]
    guidance: str
    history: tuple[PastTrial, ...]
    history_limit: int
    n: int = Field(ge=1)  # candidates that are wanted
    model: str | None


class Usage(Section):
    """What an exchange cost. estimated: the server did not say, so an upper bound by the length of the request."""

    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    estimated: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of both directions."""
        return self.input_tokens + self.output_tokens


class Attempt(Section):
    """One try to reach the server. status: of HTTP, None without an answer. problem: "" if the answer was complete."""

    status: int | None
    seconds: float
    problem: str = ""


class Verdict(Section):
    """What became of one proposal. id: EXCHANGE-PLACE; values: as enqueued, None if it was refused."""

    id: str
    accepted: bool
    values: dict[str, Value] | None
    reason: str = ""  # why it was refused
    changes: tuple[str, ...] = ()  # what was clipped or dropped


class SuggestionResponse(Section):
    """An answer with all that was made of it. raw: what the server sent, with *** for the key."""

    raw: str = ""
    content: str = ""  # the message in it
    model: str = ""  # as the server calls it
    finish_reason: str = ""
    problem: str = ""  # why it holds no usable candidate
    suggestions: tuple[Verdict, ...] = ()
    notes: tuple[str, ...] = ()  # such as another number of candidates than was asked for
    usage: Usage = Usage()
    attempts: tuple[Attempt, ...] = ()
    retry_after_s: float | None = None  # how long the server asked to be left alone


class RequestLine(Section):
    """A line of the log, written before the request is sent. reserve: what it may cost at most, about."""

    kind: Literal["request"] = "request"
    exchange: int = Field(ge=0)
    time: str
    worker: str
    provider: Literal["openai", "replay"]
    reserve: Usage
    request: SuggestionRequest


class ResponseLine(Section):
    """The line after it. seconds: of all attempts."""

    kind: Literal["response"] = "response"
    exchange: int = Field(ge=0)
    time: AwareText
    seconds: float
    response: SuggestionResponse
