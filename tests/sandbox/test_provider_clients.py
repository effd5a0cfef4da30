"""The vendors' own clients judge the imitated AI providers: what they accept, and what they make of a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from specs import conforms, openapi, spec

from opskit.sandbox import Sandbox

GPT, CLAUDE, DEEPSEEK = "gpt-5-chat-latest", "claude-sonnet-4-5-20250929", "deepseek-chat"
ASK: list[Any] = [{"role": "user", "content": "Answer with: ok"}]
Client = Callable[..., Any]


def key(firm: Sandbox, name: str) -> str:
    return (firm.folder / "secrets" / f"{name}_read").read_text()


@pytest.fixture
def gpt(company: Sandbox) -> Client:
    base = f"{company.facts['addresses']['openai']}/v1"

    def client(secret: str | None = None, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=base, api_key=secret or key(company, "openai"), **{"max_retries": 0, **more})

    return client


@pytest.fixture
def claude(company: Sandbox) -> Client:
    base = company.facts["addresses"]["anthropic"]

    def client(secret: str | None = None, **more: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(
            base_url=base, api_key=secret or key(company, "anthropic"), **{"max_retries": 0, **more}
        )

    return client


@pytest.fixture
def deepseek(company: Sandbox) -> openai.OpenAI:
    base = company.facts["addresses"]["deepseek"]
    return openai.OpenAI(base_url=base, api_key=key(company, "deepseek"), max_retries=0)


# Looking.


def test_the_lists_of_models(gpt: Client, claude: Client, deepseek: openai.OpenAI) -> None:
    assert GPT in {model.id for model in gpt().models.list()}
    assert CLAUDE in {model.id for model in claude().models.list(limit=20)}
    page = claude().models.list(limit=1)
    assert (len(page.data), page.has_more, page.first_id == page.last_id == page.data[0].id) == (1, True, True)
    assert [m.id for m in page] == [m.id for m in claude().models.list()]  # page by page, and all at once
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        claude().models.list(limit=0)
    assert DEEPSEEK in {model.id for model in deepseek.models.list()}


def test_a_wrong_key(gpt: Client, claude: Client) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        gpt("sk-wrong-and-long-enough").models.list()
    assert refused.value.code == "invalid_api_key"
    assert refused.value.request_id
    with pytest.raises(anthropic.AuthenticationError) as denied:
        claude("sk-ant-wrong-and-long-enough").models.list()
    assert denied.value.body["error"]["type"] == "authentication_error"
    assert denied.value.request_id == denied.value.body["request_id"]


# Asking.


def test_a_text_of_each(gpt: Client, claude: Client, deepseek: openai.OpenAI) -> None:
    for client, model in ((gpt(), GPT), (deepseek, DEEPSEEK)):
        said = client.chat.completions.create(model=model, messages=ASK)
        assert said.choices[0].message.content
        assert said.choices[0].finish_reason == "stop"
        assert said.usage.total_tokens == said.usage.prompt_tokens + said.usage.completion_tokens
    message = claude().messages.create(model=CLAUDE, messages=ASK, max_tokens=2000)
    assert message.content[0].text
    assert message.stop_reason == "end_turn"


def test_a_text_that_is_cut_off_says_so(gpt: Client, claude: Client) -> None:
    said = gpt().chat.completions.create(model=GPT, messages=ASK, max_completion_tokens=5)
    assert (said.choices[0].finish_reason, said.usage.completion_tokens) == ("length", 5)
    assert claude().messages.create(model=CLAUDE, messages=ASK, max_tokens=5).stop_reason == "max_tokens"


def test_an_unknown_model(gpt: Client, claude: Client) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        gpt().chat.completions.create(model="gpt-5-responses", messages=ASK)
    assert missing.value.code == "model_not_found"
    with pytest.raises(anthropic.NotFoundError):
        claude().messages.create(model="claude-sonnet-4.5", messages=ASK, max_tokens=5)


def test_a_parameter_that_gpt_5_does_not_take(gpt: Client) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        gpt().chat.completions.create(model=GPT, messages=ASK, max_tokens=5)
    assert refused.value.code == "unsupported_parameter"


def test_too_long_a_text(gpt: Client, claude: Client) -> None:
    long: list[Any] = [{"role": "user", "content": "word " * 200_000}]
    with pytest.raises(openai.BadRequestError) as refused:
        gpt().chat.completions.create(model=GPT, messages=long)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        claude().messages.create(model=CLAUDE, messages=long, max_tokens=5)


def test_a_response_in_the_background_is_polled_and_canceled(gpt: Client) -> None:
    client = gpt()
    begun = client.responses.create(model=GPT, input="An outline, please.", background=True)
    assert begun.status == "queued"
    assert client.responses.retrieve(begun.id).status == "in_progress"
    assert client.responses.cancel(begun.id).status == "cancelled"
    assert client.responses.cancel(begun.id).status == "cancelled"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_unknown")


def test_what_a_runbook_pays_for_or_cancels_is_seen_by_a_drill(company: Sandbox, gpt: Client) -> None:
    before = company.state()
    gpt().models.list()
    assert company.changes(before)["stray"] == []
    gpt().chat.completions.create(model=GPT, messages=ASK)
    (stray,) = company.changes(before)["stray"]
    assert (stray["place"], stray["key"]) == ("providers", "accounts/openai")


# Refusals that pass, and one that does not.


def test_a_client_waits_and_asks_again_when_it_is_overloaded(company: Sandbox, claude: Client) -> None:
    body = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    company.misbehave(service="anthropic", route="/v1/messages", status=529, body=body, times=1)
    assert claude(max_retries=2).messages.create(model=CLAUDE, messages=ASK, max_tokens=5).content
    company.misbehave(service="anthropic", route="/v1/messages", status=529, body=body)
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        claude().messages.create(model=CLAUDE, messages=ASK, max_tokens=5)


def test_blank_lines_of_deepseek_are_no_answer_yet(company: Sandbox, deepseek: openai.OpenAI) -> None:
    raw = deepseek.chat.completions.with_raw_response.create(model=DEEPSEEK, messages=ASK)
    assert raw.http_response.content.startswith(b"\n")
    assert json.loads(raw.http_response.content)["choices"]


# The published shapes.


def test_openai_answers_in_its_published_shape(gpt: Client) -> None:
    published = spec("openai-openapi.json")["components"]
    client = gpt()
    answers = {
        "ListModelsResponse": client.models.with_raw_response.list(),
        "CreateChatCompletionResponse": client.chat.completions.with_raw_response.create(model=GPT, messages=ASK),
        "Response": client.responses.with_raw_response.create(model=GPT, input="One word."),
    }
    for name, raw in answers.items():
        schema = openapi({"$ref": f"#/components/schemas/{name}", "components": published})
        conforms(json.loads(raw.http_response.content), schema)


def test_anthropic_answers_in_its_published_shape(claude: Client) -> None:
    published = spec("anthropic-selected.schema.json")["schemas"]
    message = claude().messages.with_raw_response.create(model=CLAUDE, messages=ASK, max_tokens=5)
    conforms(json.loads(message.http_response.content), published["Message"])
    first = json.loads(claude().models.with_raw_response.list(limit=1).http_response.content)["data"][0]
    conforms(first, published["ModelInfo"])
