"""The protocol: what reaches a server, and what each kind of answer becomes. The server is local and real."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.tuning.adviser.fake_server import USAGE, FakeServer, Reply, Step, failure, suggest

from foretrain.config import build
from foretrain.errors import ConfigError
from foretrain.tuning.adviser import client
from foretrain.tuning.adviser.adviser import Adviser
from foretrain.tuning.adviser.client import LARGEST_ANSWER, Answer, ChatClient
from foretrain.tuning.adviser.config import AdviserConfig
from foretrain.tuning.adviser.records import Usage
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.space import SearchSpace

pytest.importorskip("openai", reason="needs the extra tune: openai")

pytestmark = pytest.mark.processes  # serves on a socket

SPACE = {
    "tuned": {"kind": "categorical", "choices": ["lora", "all", None, True, 3]},
    "adapter.rank": {"kind": "int", "low": 2, "high": 32, "log": True, "when": {"tuned": ["lora"]}},
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True, "description": "peak rate"},
}
GOOD = {"tuned": "all", "adapter.rank": None, "optimizer.lr": 1e-3}
KEY = "sk-canary-0123456789"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which are not waited for."""
    waits: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=waits.append))
    monkeypatch.setenv("ADVISER_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return waits


def config(server: FakeServer, **more: Any) -> AdviserConfig:
    return AdviserConfig(**{"model": "fake", "base_url": server.url, "api_key_env": "ADVISER_KEY"} | more)


def space() -> SearchSpace:
    return SearchSpace(build(TuneConfig, {"output_dir": "o", "run": "debug", "space": SPACE}).space)


def ask(server: FakeServer, n: int = 2, **more: Any) -> Answer:
    settings = config(server, **more)
    return ChatClient(settings).ask(Adviser(settings, space(), [("val_wql", "minimize")], Path("none")).request([], n))


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_comes_back_whole_with_what_it_cost(stream: bool) -> None:
    with FakeServer([suggest(GOOD, GOOD)]) as server:
        found = ask(server, stream=stream)
    assert server.faults == [] and found.problem == "" and found.finish_reason == "stop"
    assert json.loads(found.content) == {"suggestions": [GOOD, GOOD]}
    assert found.usage == Usage(input_tokens=USAGE["prompt_tokens"], output_tokens=USAGE["completion_tokens"])
    assert [one.status for one in found.attempts] == [200]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert server.headers[0]["accept-encoding"] == "identity"


def test_a_request_has_the_strict_schema_of_exactly_n_candidates() -> None:
    with FakeServer([suggest(GOOD)]) as server:
        ask(server, n=3)
    body = server.requests[0]
    array = body["response_format"]["json_schema"]["schema"]["properties"]["suggestions"]
    assert array["minItems"] == array["maxItems"] == 3
    assert list(array["items"]["properties"]) == ["tuned", "adapter.rank", "optimizer.lr"]
    assert array["items"]["properties"]["optimizer.lr"]["maximum"] == 1e-2
    assert "exactly 3" in body["messages"][1]["content"] and body["max_completion_tokens"] == 4000


@pytest.mark.parametrize("word", ["max_completion_tokens", "minItems", "maximum", "stream_options"])
def test_what_a_server_refuses_of_the_protocol_is_left_out(word: str) -> None:
    with FakeServer([suggest(GOOD), suggest(GOOD)], refuses=(word,)) as server:
        found = ask(server, stream=True)
    assert found.problem == "" and [one.status for one in found.attempts] == [400, 200] and server.faults == []
    assert found.usage is not None and found.usage.estimated == (word == "stream_options")


def test_variables_of_another_server_s_account_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "canary-account")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    with FakeServer([suggest(GOOD)]) as server:
        assert ask(server).problem == ""
    assert b"canary-account" not in server.received


# name, steps, what is said, statuses of the attempts
FAULTS: list[tuple[str, list[Step], str, list[int | None]]] = [
    ("refusal", [Reply(None, refusal="I cannot \x1b[2J help")], "the model refused: I cannot", [200]),
    ("truncated", [Reply('{"suggestions": [', finish_reason="length")], "cut off", [200]),
    ("filtered", [Reply("", finish_reason="content_filter")], "withheld", [200]),
    ("empty", [Reply("  ")], "the answer is empty", [200]),
    ("no choices", [Reply(body=b'{"choices": []}')], "the answer is empty", [200]),
    ("no JSON", [Reply(body=b"<html>hello</html>")], "not the protocol", [200]),
    ("a list", [Reply(body=b"[1, 2]")], "not the protocol", [200]),
    ("content of numbers", [Reply(body=b'{"choices": [{"message": {"content": 5}}]}')], "not the protocol", [200]),
    ("deep", [Reply(body=b"[" * 100_000)], "not the protocol", [200]),
    ("oversized", [Reply("x" * (LARGEST_ANSWER + 1))], "more than 1,048,576 bytes", [200]),
    ("compressed", [suggest(GOOD, headers={"Content-Encoding": "gzip"})], "compressed", [200]),
    ("no rights", [failure(401, "Incorrect key")], "HTTP 401: ", [401]),
    ("redirected", [Reply(status=307, body=b"", headers={"Location": "http://127.0.0.1:1/"})], "HTTP 307", [307]),
    ("no money", [failure(429, "quota", code="insufficient_quota")], "HTTP 429", [429]),
]


@pytest.mark.parametrize(("name", "steps", "said", "statuses"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_a_bad_answer_is_named_and_not_asked_for_again(
    name: str, steps: list[Step], said: str, statuses: list[int | None]
) -> None:
    with FakeServer(steps) as server:
        found = ask(server)
    assert said in found.problem and "\x1b" not in found.problem
    assert [one.status for one in found.attempts] == statuses and len(server.requests) == 1
    assert len(found.raw) <= LARGEST_ANSWER


STREAM_FAULTS: list[tuple[str, Reply, str]] = [
    ("refusal", Reply(None, refusal="I cannot help"), "the model refused: I cannot help"),
    ("truncated", Reply('{"suggestions": [', finish_reason="length"), "cut off"),
    ("empty", Reply(""), "the answer is empty"),
    ("no events", Reply(body=b"data: nonsense\n\n", headers={"Content-Type": "text/event-stream"}), "not the protocol"),
    ("one endless line", Reply(body=b"data: " + b"x" * (LARGEST_ANSWER + 9)), "more than 1,048,576 bytes"),
]


@pytest.mark.parametrize(("name", "reply", "said"), STREAM_FAULTS, ids=[fault[0] for fault in STREAM_FAULTS])
def test_a_bad_stream_is_named(name: str, reply: Reply, said: str) -> None:
    with FakeServer([reply]) as server:
        found = ask(server, stream=True)
    assert said in found.problem and len(server.requests) == 1


def test_a_stream_that_breaks_off_is_asked_for_again_and_its_cost_is_reserved() -> None:
    with FakeServer([suggest(GOOD, cut_after=3), suggest(GOOD)]) as server:
        found = ask(server, stream=True)
    assert found.problem == "" and len(found.attempts) == 2
    assert found.usage is not None and found.usage.estimated and found.usage.output_tokens == 4000 + 200


def test_an_error_event_ends_a_stream() -> None:
    event = b'data: {"error": {"message": "overloaded"}}\n\n'
    reply = Reply(body=event, headers={"Content-Type": "text/event-stream"})
    with FakeServer([reply, suggest(GOOD)]) as server:
        found = ask(server, stream=True)
    assert found.problem == "" and "overloaded" in found.attempts[0].problem


def test_what_may_pass_is_tried_again_after_the_wait_that_the_server_names(no_waits: list[float]) -> None:
    steps: list[Step] = [failure(429, "slow down", {"Retry-After": "7"}), failure(500, "oops"), suggest(GOOD)]
    with FakeServer(steps) as server:
        found = ask(server)
    assert found.problem == "" and [one.status for one in found.attempts] == [429, 500, 200]
    assert no_waits == [7.0, 2.0] and found.usage is not None and not found.usage.estimated


def test_a_wait_beyond_the_total_time_is_not_begun(no_waits: list[float]) -> None:
    with FakeServer([failure(429, "tomorrow", {"Retry-After": "4000"})]) as server:
        found = ask(server)
    assert found.retry_after_s == 4000 and no_waits == [] and len(server.requests) == 1


def test_attempts_are_bounded_and_free_where_nothing_was_sent() -> None:
    with FakeServer() as server:
        settings = config(server, attempts=3)
    request = Adviser(settings, space(), [("val_wql", "minimize")], Path("none")).request([], 1)
    found = ChatClient(settings).ask(request)  # nobody listens any more
    assert [one.status for one in found.attempts] == [None] * 3 and "no connection" in found.problem
    assert found.usage == Usage()


@pytest.mark.parametrize("reply", [Reply(hang=True), Reply(drip=True)], ids=["silent", "a byte at a time"])
def test_a_slow_server_is_left_in_time_and_may_have_counted_tokens(reply: Reply) -> None:
    with FakeServer([reply, reply, suggest(GOOD)]) as server:
        found = ask(server, timeout_s=0.3, attempts=2)
    assert found.content == "" and len(found.attempts) == 2
    assert all("in time" in one.problem or "no complete answer" in one.problem for one in found.attempts)
    assert found.usage is not None and found.usage.estimated and found.usage.output_tokens == 8000


def test_a_key_is_named_by_its_variable_and_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer([Reply(f"your key is {KEY}"), failure(401, f"wrong key {KEY}")]) as server:
        answers = [ask(server), ask(server)]
        assert KEY not in repr(answers) and "***" in answers[0].content and "***" in answers[1].problem
        monkeypatch.delenv("ADVISER_KEY")
        with pytest.raises(ConfigError, match="the variable ADVISER_KEY is not set"):
            ask(server)
        monkeypatch.setenv("ADVISER_KEY", "two words")
        with pytest.raises(ConfigError, match="blanks or characters") as error:
            ask(server)
    assert "two words" not in str(error.value)


def test_a_server_without_keys_gets_none() -> None:
    with FakeServer([suggest(GOOD)]) as server:
        assert ask(server, api_key_env=None).problem == ""
    assert server.headers[0]["authorization"] == "Bearer none"
