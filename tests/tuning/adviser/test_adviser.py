"""Candidates of an adviser: checked alone, within a budget, without a name of the user's data, and replayable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tuning.adviser.fake_server import USAGE, FakeServer, Reply, failure, suggest

from foretrain.config import build
from foretrain.errors import ConfigError
from foretrain.tuning.adviser.adviser import Adviser
from foretrain.tuning.adviser.client import ChatClient
from foretrain.tuning.adviser.config import AdviserConfig
from foretrain.tuning.adviser.disclosure import CURVE_POINTS
from foretrain.tuning.adviser.log import AdviserLog
from foretrain.tuning.adviser.records import PastTrial
from foretrain.tuning.config import TuneConfig
from foretrain.tuning.space import SearchSpace

pytest.importorskip("openai", reason="needs the extra tune: openai")

pytestmark = pytest.mark.processes  # serves on a socket

SPACE = {
    "tuned": {"kind": "categorical", "choices": ["lora", "all"]},
    "adapter.rank": {"kind": "int", "low": 2, "high": 32, "log": True, "when": {"tuned": ["lora"]}},
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True},
}


def rate(value: float) -> dict[str, Any]:
    return {"tuned": "all", "adapter.rank": None, "optimizer.lr": value}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def space(tree: dict[str, Any] | None = None) -> SearchSpace:
    return SearchSpace(build(TuneConfig, {"output_dir": "o", "run": "debug", "space": tree or SPACE}).space)


def adviser(server: FakeServer | None, folder: Path, tree: dict[str, Any] | None = None, **more: Any) -> Adviser:
    settings = {"model": "fake", "base_url": server.url, "api_key_env": None} if server else {}
    return Adviser(AdviserConfig(**settings | more), space(tree), [("val_wql", "minimize")], folder)


def verdicts(one: Adviser) -> list[tuple[bool, str]]:
    answered = one.log.exchanges()[-1].answered
    assert answered is not None
    return [(verdict.accepted, verdict.reason) for verdict in answered.response.suggestions]


def test_each_proposal_is_judged_alone(tmp_path: Path) -> None:
    bad = [
        {"tuned": "all", "adapter.rank": None},
        rate(1e-3) | {"optimizer.lt": 1},
        rate(1e-3) | {"tuned": "everything"},
        rate(1e-3) | {"optimizer.lr": "1e-3"},
        rate(1e-3) | {"optimizer.lr": True},
        ["no", "object"],
        rate(1e-3) | {"x" * 1000: 1},
    ]
    with FakeServer([suggest(rate(1e9), *bad, rate(0.01), rate(2e-3) | {"adapter.rank": 8})]) as server:
        one = adviser(server, tmp_path)
        found = one.advise([], 10)
    assert [suggestion.values for suggestion in found] == [
        {"tuned": "all", "optimizer.lr": 1e-2},
        {"tuned": "all", "optimizer.lr": 2e-3},
    ]
    assert [suggestion.id for suggestion in found] == ["0-0", "0-9"]
    assert [said for said, _ in verdicts(one)] == [True, *[False] * 8, True]
    reasons = [reason for _, reason in verdicts(one)]
    assert "missing" in reasons[1] and "optimizer.lr" in reasons[2] and "everything" in reasons[3]
    assert reasons[8] == "was tried, or waits, already"  # 0.01 is what 1e9 was clipped to
    answered = one.log.exchanges()[0].answered
    assert answered and "clipped to 0.01" in answered.response.suggestions[0].changes[0]


def test_what_was_tried_or_waits_is_not_proposed_again(tmp_path: Path) -> None:
    history = [
        PastTrial(number=0, state="complete", params={"tuned": "all", "optimizer.lr": 1e-3}, values=(0.5,)),
        PastTrial(number=1, state="waiting", params={"tuned": "lora", "adapter.rank": 8, "optimizer.lr": 1e-4}),
    ]
    again = {"tuned": "lora", "adapter.rank": 8.0, "optimizer.lr": 1.0000000001e-4}
    with FakeServer([suggest(rate(1e-3), again, rate(3e-3))]) as server:
        found = adviser(server, tmp_path).advise(history, 3)
    assert [one.values["optimizer.lr"] for one in found] == [3e-3]
    told_of = server.requests[0]["messages"][1]["content"]
    assert '"values":[0.5]' in told_of and '"state":"waiting"' in told_of


@pytest.mark.parametrize("count", [1, 5])
def test_another_number_of_candidates_is_noted_and_no_more_than_n_are_used(tmp_path: Path, count: int) -> None:
    with FakeServer([suggest(*(rate(1e-3 + k * 1e-4) for k in range(count)))]) as server:
        one = adviser(server, tmp_path)
        assert len(one.advise([], 3)) == min(count, 3)
    answered = one.log.exchanges()[0].answered
    assert answered and answered.response.notes == (f"{count} candidates instead of 3",)


def test_a_fenced_answer_is_read(tmp_path: Path) -> None:
    text = json.dumps({"suggestions": [rate(1e-3)]})
    with FakeServer([Reply(f"```json\n{text}\n```")]) as server:
        assert len(adviser(server, tmp_path).advise([], 1)) == 1


@pytest.mark.parametrize(
    "content", ['{"suggestions": [{"tuned"', "[1]", '{"suggestions": 3}', '{"suggestions": []}', "[" * 5000, "1e999"]
)
def test_bad_answers_in_a_row_silence_it_for_all_workers(tmp_path: Path, content: str, logged_notes) -> None:
    script = [Reply(content), suggest(rate(1e-3)), Reply(content), Reply(content)]
    with FakeServer(script) as server:
        one = adviser(server, tmp_path, bad_answers=2)
        counts = [len(one.advise([], 1)) for _ in range(4)]
        assert counts == [0, 1, 0, 0]
        logged_notes()
        other = adviser(server, tmp_path, bad_answers=2)  # another process reads the same log
        assert other.advise([], 1) == other.advise([], 1) == [] and len(server.requests) == 4
    (note,) = logged_notes()
    assert note.code == "adviser" and "2 answers in a row" in note.text


def test_the_budget_in_tokens_holds_over_workers(tmp_path: Path, logged_notes) -> None:
    each = USAGE["prompt_tokens"] + USAGE["completion_tokens"]
    with FakeServer([suggest(rate(k * 1e-4)) for k in range(1, 9)]) as server:
        for _ in range(5):
            adviser(server, tmp_path, budget_tokens=2 * each + 800, max_tokens=200).advise([], 1)
    assert len(server.requests) == 2  # for a third one, what is left is too little: 200 and the request itself
    assert "the rest of its budget" in logged_notes()[-1].text


def test_the_budget_in_money_counts_what_each_direction_costs(tmp_path: Path, logged_notes) -> None:
    prices = {"usd_per_million_input": 1.0, "usd_per_million_output": 10.0}
    with FakeServer([suggest(rate(k * 1e-4)) for k in range(1, 9)]) as server:
        one = adviser(server, tmp_path, budget_usd=0.003, max_tokens=16, **prices)  # 0.003 each
        assert len(one.advise([], 1)) == 1 and one.advise([], 1) == []
        assert one.spent(one.log.exchanges())[1] == pytest.approx(0.003)
    assert "0.003 USD is used up" in logged_notes()[-1].text


def test_a_server_that_does_not_count_is_charged_for_the_reserve(tmp_path: Path) -> None:
    with FakeServer([suggest(rate(1e-3), usage=None), suggest(rate(2e-3), usage={"prompt_tokens": -5})]) as server:
        one = adviser(server, tmp_path)
        one.advise([], 1)
        one.advise([], 1)
        spent, _ = one.spent(one.log.exchanges())
    assert spent.estimated and spent.output_tokens == 2 * one.config.max_tokens and spent.input_tokens > 200


def test_a_killed_worker_s_request_is_charged_and_its_half_line_is_cut_off(tmp_path: Path) -> None:
    with FakeServer([suggest(rate(1e-3)), suggest(rate(2e-3))]) as server:
        one = adviser(server, tmp_path)
        one.advise([], 1)
        lines = one.log.path.read_bytes().splitlines(keepends=True)
        asked = json.loads(lines[0]) | {"exchange": 1}
        one.log.path.write_bytes(b"".join(lines) + json.dumps(asked).encode() + b"\n" + lines[1][:40])
        one.log.mend()
        exchanges = one.log.exchanges()
        assert exchanges[1].answered is None and exchanges[1].usage.output_tokens == one.config.max_tokens
        (found,) = one.advise([], 1)
    assert found.id == "2-0" and [exchange.asked.exchange for exchange in one.log.exchanges()] == [0, 1, 2]


def test_a_log_that_says_something_else_is_refused(tmp_path: Path) -> None:
    for text in ('{"kind": "response", "exchange": 0}\n', "[]\n", "{\n"):
        (tmp_path / "adviser.jsonl").write_text(text)
        with pytest.raises(ConfigError, match="line 1"):
            AdviserLog(tmp_path / "adviser.jsonl").exchanges()


def test_a_server_that_asks_for_a_long_pause_is_left_alone(tmp_path: Path) -> None:
    with FakeServer([failure(429, "later", {"Retry-After": "4000"})]) as server:
        one = adviser(server, tmp_path, bad_answers=5)
        assert one.advise([], 1) == one.advise([], 1) == [] and len(server.requests) == 1


def test_a_replay_gives_the_same_candidates_without_a_network(tmp_path: Path, logged_notes, monkeypatch) -> None:
    script = [suggest(rate(1e-3), rate(1e9)), Reply("nonsense"), suggest(rate(2e-3), rate(1e-3)), failure(401, "no")]
    with FakeServer(script) as server:
        first = adviser(server, tmp_path / "first", bad_answers=9)
        live = played(first, 4)
    monkeypatch.setattr(ChatClient, "ask", lambda *_: pytest.fail("a replay asked a server"))
    again = adviser(None, tmp_path / "again", provider="replay", replay_from=str(first.log.path), model="fake")
    assert played(again, 4) == live and sum(map(len, live)) == 3
    assert [verdicts_of(one) for one in again.log.exchanges()] == [verdicts_of(one) for one in first.log.exchanges()]
    assert again.spent(again.log.exchanges())[0].tokens == 0
    logged_notes()
    assert again.advise([], 2) == [] and "all 4 recorded answers" in logged_notes()[-1].text


def verdicts_of(exchange) -> Any:
    return exchange.answered.response.suggestions, exchange.answered.response.problem


def played(one: Adviser, rounds: int) -> list[list[Any]]:
    """Candidates of some rounds, each of which is told of those before it."""
    history: list[PastTrial] = []
    found = []
    for _ in range(rounds):
        found.append(one.advise(history, 2))
        history += [
            PastTrial(number=len(history) + k, state="complete", params=new.values, values=(0.1,))
            for k, new in enumerate(found[-1])
        ]
    return found


def test_a_replay_needs_another_study_s_log(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no file"):
        adviser(None, tmp_path, provider="replay", replay_from=str(tmp_path / "none"))
    (tmp_path / "adviser.jsonl").write_text("")
    with pytest.raises(ConfigError, match="own log"):
        adviser(None, tmp_path, provider="replay", replay_from=str(tmp_path))
    with pytest.raises(ConfigError, match="holds no answer"):
        adviser(None, tmp_path / "other", provider="replay", replay_from=str(tmp_path))


# what leaves


def test_no_name_of_the_user_s_data_leaves(tmp_path: Path) -> None:
    tree = SPACE | {
        "data.target": {"kind": "categorical", "choices": ["canary-column", "other"]},
        "model.model_id": {"kind": "categorical", "choices": ["canary/release", "plain"]},
        "loss.file": {"kind": "categorical", "choices": ["canary.csv", None]},
        "loss.name": {"kind": "categorical", "choices": ["~/canary", 5], "when": {"data.target": ["canary-column"]}},
    }
    objectives = [("val_wql/canary-corpus", "minimize"), ("canary-task/mase", "minimize")]
    params = {
        "tuned": "all", "optimizer.lr": 1e-3, "data.target": "canary-column", "model.model_id": "canary/release",
        "loss.file": "canary.csv", "loss.name": "~/canary", "canary.key": "canary",
    }  # fmt: skip
    curve = tuple((step, 1.0 / step) for step in range(1, 200))
    history = [PastTrial(number=0, state="complete", params=params, values=(0.5, 0.6), curve=curve)]
    proposal = {
        "tuned": "all", "adapter.rank": None, "optimizer.lr": 2e-3, "data.target": "choice-1",
        "model.model_id": "choice-1", "loss.file": None, "loss.name": "choice-1",
    }  # fmt: skip
    with FakeServer([suggest(proposal), suggest(proposal | {"loss.file": "choice-1"})]) as server:
        for stream in (False, True):
            settings = AdviserConfig(model="fake", base_url=server.url, api_key_env=None, stream=stream)
            (found,) = Adviser(settings, space(tree), objectives, tmp_path / "canary").advise(history, 1)
    assert server.faults == [] and b"canary" not in server.received.lower()
    assert b"corpus-1" in server.received and b"task-1/mase" in server.received
    assert found.values["model.model_id"] == "canary/release" and found.values["loss.name"] == "~/canary"
    assert found.values["loss.file"] == "canary.csv" and len(server.requests[0]["messages"]) == 2
    sent = server.requests[0]["messages"][1]["content"]
    assert f"[{curve[-1][0]},{curve[-1][1]:.6g}" in sent and sent.count("],[") == CURVE_POINTS - 1


def test_guidance_descriptions_and_scales_are_sent(tmp_path: Path) -> None:
    length = {"kind": "int", "low": 64, "high": 256, "step": 64}
    tree = SPACE | {"optimizer.lr": SPACE["optimizer.lr"] | {"description": "peak of the schedule"}, "length": length}
    with FakeServer([suggest(rate(1e-3) | {"length": 64})]) as server:
        adviser(server, tmp_path, tree, guidance="Keep the rate low.").advise([], 1)
    sent = server.requests[0]["messages"][1]["content"]
    assert "Keep the rate low." in sent and "peak of the schedule" in sent and "minimize val_wql" in sent
    assert "optimizer.lr: logarithmic" in sent and "length: steps of 64 from 64" in sent
    assert 'adapter.rank exists only with {"tuned":["lora"]}' in sent
