"""In which words each AI provider answers and refuses. Pure functions."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

from opskit.sandbox import writing
from opskit.sandbox.app_call import JSON, Answer, answer

CONTEXT = {"openai": 128_000, "anthropic": 200_000, "deepseek": 131_072}  # tokens that a model takes
LETTERS_A_TOKEN = 4

# What can be wrong: status; type and code; message. OpenAI and DeepSeek tell both words, Anthropic the first alone.
Words = tuple[int, str, str | None, str]
REFUSALS: dict[str, dict[str, Words]] = {
    "openai": {
        "key": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
        "money": (429, "insufficient_quota", "credit_balance_exhausted",
                  "You exceeded your current quota, please check your plan and billing details."),
        "pace": (429, "requests", "rate_limit_exceeded",
                 "Rate limit reached for {model} on requests per min: Limit {limit}. Please try again in {wait}s."),
        "model": (404, "invalid_request_error", "model_not_found",
                  "The model `{model}` does not exist or you do not have access to it."),
        "parameter": (400, "invalid_request_error", "unsupported_parameter",
                      "Unsupported parameter: 'max_tokens' is not supported with this model. "
                      "Use 'max_completion_tokens' instead."),
        "length": (400, "invalid_request_error", "context_length_exceeded",
                   "This model's maximum context length is {most} tokens. However, your messages resulted in {tokens} "
                   "tokens. Please reduce the length of the messages."),
        "response": (404, "invalid_request_error", None, "Response with id '{response}' not found."),
        "path": (404, "invalid_request_error", None, "Invalid URL ({path})"),
        "body": (400, "invalid_request_error", None, "We could not parse the JSON body of your request."),
    },
    "anthropic": {
        "key": (401, "authentication_error", None, "invalid x-api-key"),
        "money": (402, "billing_error", None, "Your credit balance is too low to access the Anthropic API."),
        "pace": (429, "rate_limit_error", None,
                 "This request would exceed your organization's rate limit of {limit} requests per minute."),
        "model": (404, "not_found_error", None, "model: {model}"),
        "length": (400, "invalid_request_error", None, "prompt is too long: {tokens} tokens > {most} maximum"),
        "version": (400, "invalid_request_error", None, "anthropic-version: header is required"),
        "limit": (400, "invalid_request_error", None, "limit: must be a number from 1 to 1000"),
        "path": (404, "not_found_error", None, "Not found"),
        "body": (400, "invalid_request_error", None, "The request body is not valid JSON"),
    },
    "deepseek": {
        "key": (401, "authentication_error", "invalid_request_error", "Authentication Fails, Your api key is invalid"),
        "money": (402, "unknown_error", "invalid_request_error", "Insufficient Balance"),
        "pace": (429, "rate_limit_reached_error", "invalid_request_error", "Rate Limit Reached"),
        "model": (400, "invalid_request_error", "invalid_request_error", "Model Not Exist"),
        "length": (400, "invalid_request_error", "invalid_request_error",
                   "This model's maximum context length is {most} tokens. However, you requested {tokens} tokens."),
        "path": (404, "invalid_request_error", None, "Not found"),
        "body": (400, "invalid_request_error", "invalid_request_error", "Failed to parse the request body as JSON"),
    },
}  # fmt: skip


def refused(name: str, why: str, retry_after: int | None = None, **known: Any) -> Answer:
    """A provider's refusal, as it puts it."""
    status, kind, code, message = REFUSALS[name][why]
    said = message.format(**known)
    more = {} if retry_after is None else {"retry-after": str(retry_after)}
    if name == "anthropic":
        more["request-id"] = f"req_{_id(said)}"
        body: JSON = {"type": "error", "error": {"type": kind, "message": said}, "request_id": more["request-id"]}
    else:
        body = {"error": {"message": said, "type": kind, "param": None, "code": code}}
    found = answer(status, body)
    return Answer(found.status, found.body, {**found.headers, **more})


def tokens(asked: JSON) -> int:
    """About so many does a request hold."""
    return len(json.dumps(asked.get("messages", asked.get("input", "")))) // LETTERS_A_TOKEN


def prose(asked: JSON, most: int | None) -> tuple[str, int, bool]:
    """What a model writes: the text, its tokens, and whether it was cut off. The same for the same request."""
    rng = random.Random(hashlib.sha256(json.dumps(asked).encode()).digest())
    wanted = rng.randint(60, 700)
    length = wanted if most is None else min(wanted, most)
    words = " ".join(writing.paragraph(rng) for _ in range(length // 12 + 1)).split()
    return " ".join(words[: max(length * 3 // 4, 1)]), length, length < wanted


def models(name: str, known: list[str], limit: int = 20, after: str | None = None) -> JSON:
    """The list of models. Anthropic's comes in pages of `limit`, each going on after a model."""
    if name == "anthropic":
        rest = known[known.index(after) + 1 :] if after in known else known
        page = rest[:limit]
        data = [
            {
                "type": "model",
                "id": one,
                "display_name": one,
                "created_at": "2025-09-29T00:00:00Z",
                "lifecycle": "active",
            }
            for one in page
        ]
        return {
            "data": data,
            "has_more": len(page) < len(rest),
            "first_id": next(iter(page), None),
            "last_id": next(reversed(page), None),
        }
    created = {"created": 1_759_000_000} if name == "openai" else {}
    return {"object": "list", "data": [{"id": one, "object": "model", **created, "owned_by": name} for one in known]}


def written(name: str, asked: JSON, created: int) -> JSON:
    """A finished answer of chat completions, or of Anthropic's messages."""
    text, length, cut = prose(asked, asked.get("max_completion_tokens") or asked.get("max_tokens"))
    key, given = _id(json.dumps(asked) + str(created)), tokens(asked)
    if name == "anthropic":
        return {
            "id": f"msg_{key}",
            "type": "message",
            "role": "assistant",
            "model": asked["model"],
            "content": [{"type": "text", "text": text}],
            "stop_reason": "max_tokens" if cut else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": given, "output_tokens": length},
        }
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None}
    return {
        "id": f"chatcmpl-{key}",
        "object": "chat.completion",
        "created": created,
        "model": asked["model"],
        "choices": [{**choice, "finish_reason": "length" if cut else "stop"}],
        "usage": {"prompt_tokens": given, "completion_tokens": length, "total_tokens": given + length},
    }


def response(key: str, asked: JSON, created: int, status: str) -> JSON:
    """A response of OpenAI's, as far as it has come."""
    text, length, _ = prose(asked, asked.get("max_output_tokens"))
    given, ended = tokens(asked), status in ("completed", "incomplete")
    message = {
        "id": f"msg_{key.removeprefix('resp_')}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }
    usage: JSON = {"input_tokens": given, "output_tokens": length, "total_tokens": given + length}
    usage |= {
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": key,
        "object": "response",
        "created_at": created,
        "status": status,
        "background": bool(asked.get("background")),
        "model": asked["model"],
        "output": [message] if ended else [],
        "error": {"code": "server_error", "message": "The model failed to answer."} if status == "failed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if ended else None,
    }


def balance(funded: bool) -> JSON:
    """DeepSeek's."""
    amount = "110.00" if funded else "0.00"
    info = {"currency": "USD", "total_balance": amount, "granted_balance": "0.00", "topped_up_balance": amount}
    return {"is_available": funded, "balance_infos": [info]}


def _id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
