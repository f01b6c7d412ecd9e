"""Asks an OpenAI-compatible endpoint for one answer, within bounds of time, size and tries.

The `openai` client speaks the protocol (chat completions with a strict JSON schema, streamed or not). Its own retries,
redirects and compression are off: what is retried is decided here, where it counts against time and budget, and
what a server sends is counted in bytes before anything reads it.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from foretrain.errors import ConfigError
from foretrain.printing import printable, without_secrets
from foretrain.reading import parse_json
from foretrain.tuning.adviser import prompt
from foretrain.tuning.adviser.config import AdviserConfig
from foretrain.tuning.adviser.records import Attempt, SuggestionRequest, Usage

if TYPE_CHECKING:
    from openai import OpenAI

LARGEST_ANSWER = 1 << 20  # bytes, headers aside
_LONGEST_MESSAGE = 300  # characters of a server's text in an error
_RETRIED = (408, 409, 429)  # and all from 500
_FIRST_WAIT = 1.0  # seconds before the second attempt; each further wait is twice as long
_BYTES_PER_TOKEN = 3  # of a request, below what tokenizers need for JSON, so that a reserve is rather too high


@dataclass
class Answer:
    """What came back. problem: why there is no content; usage None: the server did not say."""

    raw: str = ""
    content: str = ""
    model: str = ""
    finish_reason: str = ""
    problem: str = ""
    usage: Usage | None = None
    attempts: list[Attempt] = field(default_factory=list)
    retry_after_s: float | None = None


class _RefusedAnswer(Exception):
    """An answer that is not read on; the message says why."""


@dataclass
class _Failed(Exception):
    """An attempt without an answer. again: whether another one may help; billed: whether it may have cost tokens."""

    problem: str
    status: int | None = None
    again: bool = False
    billed: bool = False
    retry_after_s: float | None = None
    adapt: str = ""  # what the server said of a field that it does not know


class ChatClient:
    """An endpoint. It remembers which optional fields of the protocol the server refuses. Raises ConfigError."""

    def __init__(self, config: AdviserConfig) -> None:
        self._config = config
        self._key = _key(config)
        self._limit_name = "max_completion_tokens"  # older servers know max_tokens alone
        self._bounds, self._usage_in_stream = True, True
        try:
            import openai  # noqa: F401 - absent, it is missed before a study starts
        except ImportError:
            raise ConfigError("adviser: needs the package openai; pip install 'foretrain[tune]'.") from None

    def reserve(self, request: SuggestionRequest) -> Usage:
        """Return about the most that one attempt may cost."""
        size = len(json.dumps(self._arguments(request)).encode())
        return Usage(input_tokens=-(-size // _BYTES_PER_TOKEN), output_tokens=self._config.max_tokens, estimated=True)

    def ask(self, request: SuggestionRequest, allowed: Callable[[Usage], bool] = lambda spent: True) -> Answer:
        """Return the answer to a request; what went wrong is its `problem`.

        allowed: whether an attempt may follow those that cost so much, by their reserve.
        """
        answer, reserve = Answer(), self.reserve(request)
        end, doubtful, tries = time.monotonic() + self._config.total_s, 0, 0
        wait, answered = _FIRST_WAIT, False
        while not answered:
            started = time.monotonic()
            limit = min(self._config.timeout_s, end - started)
            try:
                self._attempt(request, answer, limit)
                answer.problem, answered = self._clean(answer.problem), True
                answer.attempts.append(_attempt(200, started, answer.problem))
            except _Failed as failed:
                answer.problem = self._clean(failed.problem)
                answer.attempts.append(_attempt(failed.status, started, answer.problem))
                doubtful += failed.billed
                if self._adapts(failed):
                    continue
                tries += 1
                pause = wait if failed.retry_after_s is None else failed.retry_after_s
                wait *= 2
                in_time = time.monotonic() + pause < end
                if not (failed.again and in_time and tries < self._config.attempts) or not allowed(
                    _times(reserve, doubtful)
                ):
                    answer.retry_after_s = failed.retry_after_s
                    break
                time.sleep(pause)
        answer.usage = _total(answer.usage if answered else None, reserve, doubtful, answered=answered)
        answer.raw, answer.content = self._scrub(answer.raw), self._scrub(answer.content)
        return answer

    def _adapts(self, failed: _Failed) -> bool:
        """Leave out what a server says it does not know, once each; return whether anything changed."""
        said, before = failed.adapt, (self._limit_name, self._bounds, self._usage_in_stream)
        if "max_completion_tokens" in said:
            self._limit_name = "max_tokens"
        elif "stream_options" in said:
            self._usage_in_stream = False
        elif any(word in said for word in ("minimum", "maximum", "minitems", "maxitems", "schema", "response_format")):
            self._bounds = False
        return before != (self._limit_name, self._bounds, self._usage_in_stream)

    def _arguments(self, request: SuggestionRequest) -> dict[str, Any]:
        arguments = {
            "model": self._config.model,
            "messages": prompt.messages(request),
            "response_format": prompt.response_format(request, bounds=self._bounds),
            self._limit_name: self._config.max_tokens,
        }
        if self._config.stream:
            arguments["stream"] = True
            if self._usage_in_stream:
                arguments["stream_options"] = {"include_usage": True}
        return arguments

    def _attempt(self, request: SuggestionRequest, answer: Answer, limit: float) -> None:
        """Send a request once and fill in the answer. Raises _Failed.

        It runs in a thread of its own: the time-outs of sockets count from byte to byte, and resolving a name has none.
        """
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        received = bytearray()
        filled = Answer()

        def run() -> None:
            try:
                self._exchange(request, filled, received, limit)
                done.put(None)
            except BaseException as error:  # raised again in the thread that waits
                done.put(error)

        threading.Thread(target=run, daemon=True, name="adviser").start()
        try:
            error = done.get(timeout=max(limit, 0.001))
        except queue.Empty:
            raise _Failed(f"no complete answer within {limit:.0f} s", again=True, billed=True) from None
        answer.raw = bytes(received).decode("utf-8", "replace")
        if error is not None:
            raise _as_failed(error) from None
        answer.content, answer.model, answer.finish_reason = filled.content, filled.model, filled.finish_reason
        answer.usage, answer.problem = filled.usage, filled.problem

    def _exchange(self, request: SuggestionRequest, answer: Answer, received: bytearray, limit: float) -> None:
        import openai

        with openai.DefaultHttpxClient(
            follow_redirects=False, timeout=limit, event_hooks={"response": [_bounded(received)]}
        ) as http:
            client = openai.OpenAI(
                api_key=self._key or "none",
                base_url=self._config.base_url,
                timeout=limit,
                max_retries=0,
                http_client=http,
                default_headers={"Accept-Encoding": "identity"},
            )
            # of the account that variables of the environment name, which is another server's
            client.organization = client.project = client.admin_api_key = None
            if self._config.stream:
                self._read_stream(client, request, answer)
            else:
                client.chat.completions.with_raw_response.create(**self._arguments(request))
                _read_body(parse_json(bytes(received).decode("utf-8")), answer)
        _judge(answer)

    def _read_stream(self, client: OpenAI, request: SuggestionRequest, answer: Answer) -> None:
        """Fill in an answer from server-sent events."""
        texts, refusals = list[str](), list[str]()
        with client.chat.completions.create(**self._arguments(request)) as chunks:
            for chunk in chunks:
                found = chunk.model_dump(warnings=False)
                answer.model = answer.model or _text(found.get("model"))
                answer.usage = _usage(found.get("usage")) or answer.usage
                for choice in found.get("choices") or ():
                    delta = choice.get("delta") or {}
                    texts.append(_text(delta.get("content")))
                    refusals.append(_text(delta.get("refusal")))
                    answer.finish_reason = _text(choice.get("finish_reason")) or answer.finish_reason
        answer.content = "".join(texts)
        if any(refusals):
            answer.problem = f"the model refused: {_cut(''.join(refusals))}"
        elif not answer.finish_reason:
            raise _Failed("the stream ended before the answer did", again=True, billed=True)

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key and len(self._key) > 3 else text

    def _clean(self, text: str) -> str:
        return printable(without_secrets(self._scrub(text)))


def _key(config: AdviserConfig) -> str:
    """Return the key of the environment; "" if the server wants none. Raises ConfigError, without the key."""
    name = config.api_key_env
    if name is None:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            f"adviser.api_key_env: the variable {name} is not set. Export the key in it, or, for a server that wants "
            "none, set adviser.api_key_env: null."
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"adviser.api_key_env: the variable {name} holds blanks or characters that no key has.")
    return key


def _bounded(received: bytearray) -> Callable[[Any], None]:
    """Return a hook that lets a response be read up to LARGEST_ANSWER, and keeps what was read."""

    def hook(response: Any) -> None:
        if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise _RefusedAnswer("the answer is compressed, which was not asked for")
        inner = response.stream
        # The client checks for this class, of whichever version of its HTTP library it uses
        base = next(cls for cls in type(inner).__mro__ if cls.__name__ == "SyncByteStream")

        def chunks(_: Any) -> Iterator[bytes]:
            for chunk in inner:
                received.extend(chunk)
                if len(received) > LARGEST_ANSWER:
                    del received[_LONGEST_MESSAGE:]
                    raise _RefusedAnswer(f"the answer has more than {LARGEST_ANSWER:,} bytes")
                yield chunk

        received.clear()
        response.stream = type("Bounded", (base,), {"__iter__": chunks, "close": lambda _: inner.close()})()

    return hook


def _as_failed(error: BaseException) -> _Failed:
    """Return what an exception of the client means."""
    import openai

    if isinstance(error, _Failed):
        return error
    if isinstance(error, _RefusedAnswer):
        return _Failed(str(error), status=200, billed=True)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    if isinstance(error, openai.APITimeoutError):
        return _Failed("no answer in time", again=True, billed=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return _Failed(f"no connection: {_cut(str(cause))}", again=True, billed=_was_sent(cause))
    if isinstance(error, openai.APIError):  # an error event of a stream
        return _Failed(f"the server ended the stream: {_cut(error.message)}", again=True, billed=True)
    if isinstance(error, (ValueError, TypeError, LookupError, AttributeError, RecursionError)):
        return _Failed(f"not the protocol: {_cut(str(error))}", status=200, billed=True)
    if isinstance(error, openai.OpenAIError):
        return _Failed(_cut(str(error)))
    return _Failed(f"{type(error).__name__}: {_cut(str(error))}", again=True, billed=True)


def _of_status(error: Any) -> _Failed:
    status = error.status_code
    said = f"{error.message} {error.param or ''} {error.code or ''}".lower()
    # a used-up account answers 429 too, and waiting does not fill it
    again = (status in _RETRIED or status >= 500) and "insufficient_quota" not in said
    return _Failed(
        f"HTTP {status}: {_cut(error.message)}",
        status=status,
        again=again,
        retry_after_s=_retry_after(error.response.headers) if again else None,
        adapt=said if status in (400, 422) else "",
    )


def _was_sent(cause: BaseException) -> bool:
    """Return whether a server may have got the request before a connection ended."""
    return type(cause).__name__ not in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol", "PoolTimeout")


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that a server asks to wait; None if it does not say, or nothing of sense."""
    text = str(headers.get("retry-after", "")).strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (ValueError, TypeError):
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), 86_400.0) if seconds == seconds else None


def _read_body(body: Any, answer: Answer) -> None:
    """Fill in an answer from the JSON of a chat completion. Raises what its lies cause."""
    answer.model, answer.usage = _text(body.get("model")), _usage(body.get("usage"))
    choices = body["choices"]
    if not choices:
        answer.problem = "the answer is empty"
        return
    message = choices[0]["message"]
    answer.finish_reason = _text(choices[0].get("finish_reason"))
    answer.content = _text(message.get("content"))
    if message.get("refusal"):
        answer.problem = f"the model refused: {_cut(str(message['refusal']))}"


def _judge(answer: Answer) -> None:
    """Name the problem of an answer that can hold no candidate."""
    if answer.problem:
        return
    if answer.finish_reason == "length":
        answer.problem = "the answer was cut off at its largest length; raise adviser.max_tokens"
    elif answer.finish_reason == "content_filter":
        answer.problem = "the server withheld the answer (content_filter)"
    elif not answer.content.strip():
        answer.problem = "the answer is empty"


def _usage(found: Any) -> Usage | None:
    """Return what a server says that it counted; None for what are no counts."""
    if not isinstance(found, dict):
        return None
    counts = [found.get("prompt_tokens"), found.get("completion_tokens")]
    if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**40 for n in counts):
        return None
    return Usage(input_tokens=counts[0] or 0, output_tokens=counts[1] or 0)


def _times(reserve: Usage, count: int) -> Usage:
    return Usage(
        input_tokens=reserve.input_tokens * count, output_tokens=reserve.output_tokens * count, estimated=count > 0
    )


def _total(said: Usage | None, reserve: Usage, doubtful: int, *, answered: bool) -> Usage:
    """Return the cost of all attempts: what the server said of the last, and the reserve of all others that it may
    have counted."""
    lost = _times(reserve, doubtful + (answered and said is None))
    if said is None:
        return lost
    return Usage(
        input_tokens=said.input_tokens + lost.input_tokens,
        output_tokens=said.output_tokens + lost.output_tokens,
        estimated=lost.estimated,
    )


def _attempt(status: int | None, started: float, problem: str) -> Attempt:
    return Attempt(status=status, seconds=round(time.monotonic() - started, 3), problem=problem)


def _text(value: Any) -> str:
    """Return a text; "" for None. Raises TypeError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} where the protocol has text")
    return value


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}..."
