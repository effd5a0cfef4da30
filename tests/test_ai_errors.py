"""What a provider's refusal means: one table of real messages, and the routes that lead around it."""

from __future__ import annotations

import pandas as pd
import pytest

from opskit.errors import CannotTell
from opskit.services.ai_errors import (
    Kind,
    answering,
    ever_since,
    hanging,
    kind,
    ours_to_ask,
    provider,
    refuge,
    rerouted,
    routes,
    several,
    strangers,
    trouble,
    unproven,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # 429 is four things, and only the words tell.
        ("429 Rate limit reached for gpt-5-chat-latest on tokens per min (TPM): Limit 30000", Kind.PACE),
        ('429 {"type":"error","error":{"type":"rate_limit_error","message":"Number of request tokens"}}', Kind.PACE),
        ("429 slow_down: your traffic grew too fast", Kind.RAMP),
        ("503 Slow down", Kind.RAMP),
        ("429 You exceeded your current quota, please check your plan and billing details.", Kind.MONEY),
        ("429 insufficient_quota", Kind.MONEY),
        ("429 organization_spend_limit_exceeded", Kind.MONEY),
        (
            '429 {"error":{"type":"rate_limit_error","details":{"error_code":"enforced_spend_limit_reached"}}}',
            Kind.MONEY,
        ),
        ("402 Insufficient Balance", Kind.MONEY),
        ("429 AI_REQUEST_LIMIT_EXCEEDED", Kind.OURS),
        ("429 RATE_LIMIT_EXCEEDED", Kind.OURS),
        ("429 rate_limit_exceeded", Kind.PACE),
        # 400 is three, and what is refused for its text is not mended by another model's id.
        ("400 Invalid prompt: your prompt was flagged as potentially violating our usage policy.", Kind.OTHER),
        ("400 Model Not Exist", Kind.MODEL),
        ("400 This model's maximum context length is 128000 tokens", Kind.LENGTH),
        ("400 prompt is too long: 210000 tokens > 200000 maximum", Kind.LENGTH),
        ("400 Unsupported parameter: 'max_tokens' is not supported with this model.", Kind.MODEL),
        ("422 Prompt exceeds 50,000 characters", Kind.LENGTH),
        ("404 The model `claude-sonnet-4.5` does not exist", Kind.MODEL),
        ("401 Incorrect API key provided: sk-…", Kind.KEY),
        # 403 is no bad key: a new one of the same project is refused as well.
        ("403 Your key may not use this model", Kind.ACCESS),
        ("403 Project `proj_x` does not have access to model `gpt-5`", Kind.ACCESS),
        ("403 Country, region, or territory not supported", Kind.ACCESS),
        ('403 {"type":"error","error":{"type":"permission_error","message":"Your API key may not"}}', Kind.ACCESS),
        ("404 The model `gpt-5` does not exist or you do not have access to it.", Kind.MODEL),
        ('529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', Kind.OUTAGE),
        ("503 The server is overloaded or not ready yet", Kind.OUTAGE),
        ("500 Internal server error", Kind.OUTAGE),
        # What a provider's edge gives up on is its failure; a function of ours that is killed leaves no error.
        ("504 timeout_error", Kind.OUTAGE),
        ("504 Gateway Time-out", Kind.OUTAGE),
        ("522 Connection timed out", Kind.OUTAGE),
        ("connect ETIMEDOUT 162.159.140.245:443", Kind.CONNECTION),
        ("Connect Timeout Error (attempted address: api.openai.com:443)", Kind.CONNECTION),
        ("Request timed out.", Kind.TIMEOUT),
        ("408 Request took too long", Kind.TIMEOUT),
        # 422 is a text's length only where its words say so.
        ("422 Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", Kind.MODEL),
        ("422 Failed to deserialize the JSON body into the target type: missing field `content`", Kind.OTHER),
        ("422 Prompt is longer than 50000 characters", Kind.LENGTH),
        ("422 PROMPT_TOO_LONG", Kind.LENGTH),
        ("Connection error.", Kind.CONNECTION),
        ("something else", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_the_words_decide_and_the_status_only_where_they_say_nothing(error: str, expected: Kind) -> None:
    assert kind(error) is expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("gpt-5-chat-latest", "openai"),
        ("o4-mini", "openai"),
        ("claude-sonnet-4-5-20250929", "anthropic"),
        ("deepseek-chat", "deepseek"),
        ("gpt5", "openai"),
        ("ft:gpt-4o-2024-08-06:acme::9xYz", "openai"),
        ("openai/gpt-5", "openai"),
        ("anthropic/claude-sonnet-4-5", "anthropic"),
        ("deepseek/some-new-name", "deepseek"),
        ("azure/gpt-5", "unknown"),  # the model's maker is not who answers
        ("sonnet", "unknown"),
        ("house-blend", "unknown"),
    ],
)
def test_a_models_name_tells_whose_it_is(model: str, expected: str) -> None:
    assert provider(model) == expected


def test_the_environment_knows_better_than_a_name() -> None:
    assert provider("house-blend", {"house-blend": "openai"}) == "openai"


def test_failures_of_nobody_knows_whose_model_are_told_and_no_step_is_planned_for_them() -> None:
    rows = [("unknown", "outage", 200), ("unknown", "ok", 9), ("openai", "outage", 9), ("google", "key", 7)]
    seen = requests(*rows, ("unknown", Kind.OURS, 3))
    assert [tuple(row) for row in strangers(seen)[["provider", "requests"]].values] == [("unknown", 200), ("google", 7)]
    assert list(ours_to_ask(trouble(seen, [Kind.OUTAGE]))) == ["openai"]


def test_a_routing_variable_is_read_and_nonsense_in_it_is_refused() -> None:
    assert routes("") == {}
    assert routes("a=b, c=d") == {"a": "b", "c": "d"}
    with pytest.raises(CannotTell, match="MODEL=MODEL"):
        routes("a=b=c")


def test_a_new_route_keeps_the_others_and_leads_them_on() -> None:
    assert rerouted("a=b,x=y", {"b": "c"}) == "a=c,b=c,x=y"


def test_a_route_that_leads_back_home_is_dropped() -> None:
    assert rerouted("a=b", {"b": "a"}) == "b=a"


def test_the_way_out_is_a_model_that_free_users_may_use_too() -> None:
    assert refuge({"openai"}) == "deepseek-chat"
    assert (refuge({"deepseek"}) or "").startswith("claude")
    assert refuge({"deepseek", "anthropic"}) is None


def requests(*rows: tuple[str, str, int]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["provider", "kind", "requests"]).assign(error="500")


@pytest.mark.parametrize(
    ("failed", "succeeded", "counts"),
    [(4, 0, False), (5, 0, True), (5, 95, True), (5, 96, False), (60, 1000, True)],
)
def test_failures_count_from_five_and_from_five_percent_on(failed: int, succeeded: int, counts: bool) -> None:
    seen = requests(("openai", "outage", failed), ("openai", "ok", succeeded), ("anthropic", "ok", 1))
    assert set(trouble(seen, [Kind.OUTAGE])) == ({"openai"} if counts else set())


@pytest.mark.parametrize(
    ("people", "found"),
    [([["a", "b"]], True), ([["a"], ["b"]], True), ([["a"], ["a"]], False), ([["a"]], False), ([], False)],
)
def test_one_person_with_two_errors_is_one(people: list[list[str]], found: bool) -> None:
    assert several(pd.DataFrame({"some_users": people})) is found


def test_without_a_request_nothing_can_be_told() -> None:
    with pytest.raises(CannotTell, match="nothing to judge by"):
        trouble(requests(), [Kind.OUTAGE])


@pytest.mark.parametrize(("succeeded_last", "hit_all"), [(9, True), (11, False)])
def test_a_refusal_is_the_keys_only_where_nothing_succeeded_since(succeeded_last: int, hit_all: bool) -> None:
    rows = [("openai", "key", 5, 10, 20), ("openai", "ok", 95, 0, succeeded_last), ("anthropic", "ok", 9, 0, 30)]
    seen = pd.DataFrame(rows, columns=["provider", "kind", "requests", "first", "last"]).assign(error="401")
    assert set(ever_since(trouble(seen, [Kind.KEY]), seen)) == ({"openai"} if hit_all else set())


def test_nobody_is_led_to_a_provider_that_nobody_could_look_at() -> None:
    rows = [("openai", True, True), ("anthropic", True, False), ("deepseek", None, None), ("other", False, None)]
    probes = pd.DataFrame(rows, columns=["provider", "reached", "key"], dtype=object)
    assert unproven(probes) == {"anthropic", "deepseek", "other"}
    assert refuge({"openai"} | unproven(probes)) is None


@pytest.mark.parametrize(
    ("rows", "answers", "said", "asked"),
    [
        ([("ok", 9), ("outage", 4)], True, "requests succeed", 13),
        ([("outage", 4)], None, "none succeeded, 4 times 500", 4),  # too few for an outage, and no sign of life
        ([("outage", 20), (Kind.OURS, 7)], None, "none succeeded, 20 times 500", 20),  # of a single person
        ([("outage", 1)], None, "none succeeded, 1 times 500", 1),
        ([(Kind.OURS, 7)], None, "not asked", 0),
        ([], None, "not asked", 0),
    ],
)
def test_a_provider_answers_only_where_a_request_succeeded(
    rows: list[tuple[str, int]], answers: bool | None, said: str, asked: int
) -> None:
    seen = requests(("anthropic", "ok", 9), *(("openai", *row) for row in rows))
    assert answering(seen, "openai", {}, {}) == (answers, said, asked)


def test_a_provider_that_is_down_does_not_answer_whatever_succeeded_before() -> None:
    seen = requests(("openai", "ok", 9), ("openai", "outage", 30))
    assert answering(seen, "openai", trouble(seen, [Kind.OUTAGE]), {}) == (False, "30 times 500", 39)


@pytest.mark.parametrize(
    ("rows", "hang"),
    [
        ([("openai", "timeout", 19), ("openai", "ok", 1), ("anthropic", "ok", 9)], {"openai"}),
        ([("openai", "timeout", 19), ("anthropic", "timeout", 6), ("anthropic", "ok", 9)], {"openai"}),
        ([("openai", "timeout", 19), ("openai", "ok", 9), ("anthropic", "ok", 9)], set()),  # these are slow
        ([("openai", "timeout", 19), ("anthropic", "timeout", 9)], set()),  # so is our own way to all of them
        ([("openai", "timeout", 19)], {"openai"}),
        ([("openai", "timeout", 4), ("anthropic", "ok", 9)], set()),
    ],
)
def test_what_times_out_at_one_provider_only_hangs_there(rows: list[tuple[str, str, int]], hang: set[str]) -> None:
    seen = requests(*rows)
    hung = hanging(seen)
    assert set(hung) == hang
    answer, said, _ = answering(seen, "openai", {}, hung)
    if hang:
        assert answer is None
        assert said.startswith("nearly all time out")
