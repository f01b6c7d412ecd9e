"""Turns answers of a language model into candidates of a study, each checked alone, within a budget.

Its state is the study's log: what was spent, how many answers in a row were of no use, and which one is replayed next
are read from there, so that they hold over all workers and after a resume.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from foretrain.errors import ConfigError
from foretrain.notes import Code, Note, warn
from foretrain.printing import printable
from foretrain.processes import this_process
from foretrain.reading import Unreadable, parse_json
from foretrain.tuning.adviser.client import Answer, ChatClient
from foretrain.tuning.adviser.config import AdviserConfig
from foretrain.tuning.adviser.disclosure import Disguise, public_metrics, told
from foretrain.tuning.adviser.log import LOG, AdviserExchange, AdviserLog
from foretrain.tuning.adviser.records import (
    ObjectiveSent,
    PastTrial,
    RequestLine,
    ResponseLine,
    SuggestionRequest,
    SuggestionResponse,
    Usage,
    Verdict,
)
from foretrain.tuning.space import Candidate, SearchSpace

_logger = logging.getLogger(__name__)
_LONGEST_REASON = 300
_LONGEST_KEY = 200
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)  # as servers without schemas answer


@dataclass(frozen=True)
class Suggestion:
    """A candidate that may be enqueued. id: EXCHANGE-PLACE in the study's log."""

    id: str
    values: Candidate


class Adviser:
    """The adviser of a study.

    objectives: (metric, "minimize" or "maximize"), the first of which is the one of curves. folder: the study's; its
    log is adviser.jsonl. Raises ConfigError for a missing key or an unusable log.
    """

    def __init__(
        self, config: AdviserConfig, space: SearchSpace, objectives: Sequence[tuple[str, str]], folder: Path
    ) -> None:
        self.config, self.folder = config, folder
        self._space, self._disguise = space, Disguise(space)
        self._directions = [direction for _, direction in objectives]
        names = public_metrics([name for name, _ in objectives])
        self._objectives = tuple(
            ObjectiveSent.model_validate({"name": name, "direction": direction})
            for name, direction in zip(names, self._directions, strict=True)
        )
        self.log = AdviserLog(folder / LOG)
        self._client = ChatClient(config) if config.provider == "openai" else None
        self._recorded = self._recording()
        self._said: set[str] = set()

    def request(self, history: Sequence[PastTrial], n: int) -> SuggestionRequest:
        """Return the record of all that a server is told."""
        shown = told(history, self.config.history_limit, self._directions)
        return SuggestionRequest(
            hyperparam_schema=self._disguise.schema(),
            scales=self._disguise.scales(),
            conditions=self._disguise.conditions(),
            objectives=self._objectives,
            guidance=self.config.guidance,
            history=tuple(self._disguise.trial(trial) for trial in shown),
            history_limit=self.config.history_limit,
            n=n,
            model=self.config.model,
        )

    def silence(self, exchanges: Sequence[AdviserExchange]) -> str | None:
        """Return why it is asked no more, for good; None while it is."""
        spent, usd = self.spent(exchanges)
        config = self.config
        if config.budget_tokens is not None and spent.tokens >= config.budget_tokens:
            return f"its budget of {config.budget_tokens:,} tokens is used up ({spent.tokens:,})"
        if config.budget_usd is not None and usd >= config.budget_usd:
            return f"its budget of {config.budget_usd:g} USD is used up ({usd:.4g})"
        bad = _bad_in_a_row(exchanges)
        if bad >= config.bad_answers:
            last = next((one.answered.response.problem for one in reversed(exchanges) if one.answered), "")
            return f"{bad} answers in a row held no usable candidate (the last: {last})"
        if config.provider == "replay" and _answered(exchanges) >= len(self._recorded):
            return f"all {len(self._recorded)} recorded answers of {config.replay_from} are used"
        return None

    def spent(self, exchanges: Sequence[AdviserExchange]) -> tuple[Usage, float]:
        """Return the tokens of all exchanges and their price in USD (0 without prices)."""
        usage = Usage(
            input_tokens=sum(one.usage.input_tokens for one in exchanges),
            output_tokens=sum(one.usage.output_tokens for one in exchanges),
            estimated=any(one.usage.estimated for one in exchanges),
        )
        return usage, self._price(usage)

    def advise(self, history: Sequence[PastTrial], n: int) -> list[Suggestion]:
        """Ask for n candidates and return those that are new and fit the space; [] if it is silent.

        history: all trials of the study, those that run or wait too. Only for a holder of the lease.
        """
        exchanges = self.log.exchanges()
        reason = self.silence(exchanges)
        if reason is None and _must_wait(exchanges):
            return []
        request = self.request(history, n)
        reserve = Usage() if self._client is None else self._client.reserve(request)
        if reason is None and not self._affordable(exchanges, reserve):
            reason = "the rest of its budget is less than a request may cost"
        if reason is not None:
            self._say(f"The adviser is asked no more: {reason}. The sampler behind it goes on.")
            return []
        number = 1 + max((one.asked.exchange for one in exchanges), default=-1)
        self.log.append(
            RequestLine(
                exchange=number,
                time=_now(),
                worker="{host}:{pid}".format(**this_process()),
                provider=self.config.provider,
                reserve=reserve,
                request=request,
            )
        )
        started = time.monotonic()
        answer = self._answer(request, exchanges, reserve)
        response = self._response(answer, number, n, history)
        seconds = round(time.monotonic() - started, 3)
        self.log.append(ResponseLine(exchange=number, time=_now(), seconds=seconds, response=response))
        accepted = [one for one in response.suggestions if one.accepted]
        if not accepted:
            self._say(f"An answer of the adviser held no usable candidate: {response.problem}.")
        return [Suggestion(one.id, one.values) for one in accepted if one.values is not None]

    def _answer(self, request: SuggestionRequest, exchanges: Sequence[AdviserExchange], reserve: Usage) -> Answer:
        if self._client is not None:
            return self._client.ask(request, lambda lost: self._affordable(exchanges, _sum(lost, reserve)))
        recorded = self._recorded[_answered(exchanges)]
        assert recorded.answered is not None  # _recording() keeps no other
        if recorded.asked.request != request:
            self._say("A request differs from the recorded one: its recorded answer is checked against this study.")
        found = recorded.answered.response
        # A response without content says why in its problem; one with content is read anew
        problem = "" if found.content else found.problem
        return Answer(found.raw, found.content, found.model, found.finish_reason, problem, Usage())

    def _response(self, answer: Answer, number: int, n: int, history: Sequence[PastTrial]) -> SuggestionResponse:
        """Return the record of an answer, with a verdict on each proposal."""
        problem, notes, proposals = answer.problem, list[str](), list[Any]()
        if not problem:
            try:
                proposals = _proposals(answer.content)
            except Unreadable as error:
                problem = f"not an object with an array `suggestions`: {error}"
            if len(proposals) != n and not problem:
                notes.append(f"{len(proposals)} candidates instead of {n}")
        seen, verdicts = {_identity(trial.params) for trial in history}, list[Verdict]()
        for place, proposal in enumerate(proposals[:n]):
            verdicts.append(self._verdict(proposal, f"{number}-{place}", seen))
        if not any(one.accepted for one in verdicts) and not problem:
            problem = f"all {len(verdicts)} refused ({verdicts[0].reason})" if verdicts else "no candidates"
        return SuggestionResponse(
            raw=answer.raw,
            content=answer.content,
            model=answer.model[:_LONGEST_KEY],
            finish_reason=answer.finish_reason[:_LONGEST_KEY],
            problem=_short(problem),
            suggestions=tuple(verdicts),
            notes=tuple(notes),
            usage=answer.usage or Usage(),
            attempts=tuple(answer.attempts),
            retry_after_s=answer.retry_after_s,
        )

    def _verdict(self, proposal: Any, name: str, seen: set[str]) -> Verdict:
        """Judge one proposal alone, and remember it as seen."""
        if not isinstance(proposal, dict):
            return Verdict(id=name, accepted=False, values=None, reason=f"a {type(proposal).__name__}, no object")
        if len(proposal) > 2 * len(self._space) + 10 or any(len(key) > _LONGEST_KEY for key in proposal):
            return Verdict(id=name, accepted=False, values=None, reason="has keys too many or too long")
        try:
            checked = self._space.check(self._disguise.reveal(proposal))
        except ConfigError as error:
            return Verdict(id=name, accepted=False, values=None, reason=_short(str(error)))
        identity = _identity(checked.values)
        if identity in seen:
            return Verdict(id=name, accepted=False, values=None, reason="was tried, or waits, already")
        seen.add(identity)
        return Verdict(id=name, accepted=True, values=checked.values, changes=tuple(map(_short, checked.changes)))

    def _affordable(self, exchanges: Sequence[AdviserExchange], more: Usage) -> bool:
        spent, _ = self.spent(exchanges)
        after = _sum(spent, more)
        tokens, usd = self.config.budget_tokens, self.config.budget_usd
        return (tokens is None or after.tokens <= tokens) and (usd is None or self._price(after) <= usd)

    def _price(self, usage: Usage) -> float:
        config = self.config
        return (
            usage.input_tokens * (config.usd_per_million_input or 0.0)
            + usage.output_tokens * (config.usd_per_million_output or 0.0)
        ) / 1e6

    def _recording(self) -> list[AdviserExchange]:
        """Return the exchanges that are replayed. Raises ConfigError."""
        if self.config.replay_from is None:
            return []
        path = Path(self.config.replay_from)
        if path.is_dir():
            path = path / LOG
        if not path.is_file():
            raise ConfigError(f"adviser.replay_from: {path} is no file. Name the adviser.jsonl of an earlier study.")
        if path.resolve() == self.log.path.resolve():
            raise ConfigError(f"adviser.replay_from: {path} is this study's own log. Give the study another folder.")
        found = [one for one in AdviserLog(path).exchanges() if one.answered is not None]
        if not found:
            raise ConfigError(f"adviser.replay_from: {path} holds no answer.")
        return found

    def _say(self, text: str) -> None:
        """Log a line, each once in a process."""
        if text not in self._said:
            self._said.add(text)
            warn(_logger, Note(Code.ADVISER, printable(text)))


def _proposals(content: str) -> list[Any]:
    """Return the proposals of an answer. Raises Unreadable."""
    fenced = _FENCE.match(content)
    found = parse_json(fenced[1] if fenced else content)
    if not isinstance(found, dict) or not isinstance(found.get("suggestions"), list):
        raise Unreadable("the JSON is something else")
    return found["suggestions"]


def _identity(values: Mapping[str, Any]) -> str:
    """Return a text that two candidates share if they are equal to six digits."""
    return json.dumps({key: _digits(values[key]) for key in sorted(values)}, default=str)


def _digits(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return value
    return f"{float(value) + 0.0:.6g}"


def _bad_in_a_row(exchanges: Sequence[AdviserExchange]) -> int:
    count = 0
    for one in reversed(exchanges):
        if one.accepted:
            break
        count += one.answered is not None
    return count


def _answered(exchanges: Sequence[AdviserExchange]) -> int:
    return sum(one.answered is not None for one in exchanges)


def _must_wait(exchanges: Sequence[AdviserExchange]) -> bool:
    """Return whether the server asked to be left alone for longer than has passed since."""
    last = exchanges[-1].answered if exchanges else None
    if last is None or last.response.retry_after_s is None:
        return False
    passed = datetime.now(UTC) - datetime.fromisoformat(last.time)
    return passed.total_seconds() < last.response.retry_after_s


def _sum(first: Usage, second: Usage) -> Usage:
    return Usage(
        input_tokens=first.input_tokens + second.input_tokens,
        output_tokens=first.output_tokens + second.output_tokens,
        estimated=first.estimated or second.estimated,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}..."
