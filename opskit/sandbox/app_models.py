"""How the app asks the AI providers: which model, in which words, and what it takes from the answer.

As with the real one, the vendors' errors are kept as their libraries print them, and whether an answer was cut off at
the cap is nobody's question. Its clients are set to ask once: no retries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opskit.sandbox import providers, writing

if TYPE_CHECKING:
    from opskit.sandbox.app_call import JSON, Answer, Call

FUNCTION_SECONDS = 60.0  # after which the hosting kills a function
CAP = 2000  # tokens of an answer
ROUTES = "AI_MODEL_ROUTES"  # the variable that leads requests elsewhere: MODEL=MODEL,MODEL=MODEL
VERSION = "2023-06-01"
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "deepseek": "/chat/completions"}
RESPONSES = "/v1/responses"
PREFIXES = {"gpt-": "openai", "claude-": "anthropic", "deepseek-": "deepseek"}


class ModelError(Exception):
    """A provider refused, or could not be reached."""


class Killed(Exception):
    """The provider took so long that the hosting ended the function in the middle."""


@dataclass(frozen=True)
class Text:
    """What a model wrote."""

    words: str
    prompt_tokens: int
    completion_tokens: int


def provider_of(model: str) -> str:
    return next(name for prefix, name in PREFIXES.items() if model.startswith(prefix))


def routed(call: Call, command: str, tier: str) -> str:
    """The model for a command: as the build says, led elsewhere where the environment says so."""
    model = call.deployment.behaviour["models"].get(command) or writing.model_for(command, tier)
    pairs = (pair.partition("=") for pair in call.deployment.env.get(ROUTES, "").split(","))
    return {left.strip(): right.strip() for left, _, right in pairs}.get(model) or model


def write(call: Call, model: str, prompt: str) -> Text:
    """Have a model write. Raises ModelError with the text that the vendor's library gives its error."""
    name = provider_of(model)
    limit = "max_completion_tokens" if name == "openai" else "max_tokens"
    asked = {"model": model, limit: CAP, "messages": [{"role": "user", "content": prompt}]}
    said = ask(call, name, "POST", PATHS[name], asked)
    if name == "anthropic":
        usage, words = said["usage"], "".join(part["text"] for part in said["content"])
        return Text(words, usage["input_tokens"], usage["output_tokens"])
    usage, words = said["usage"], said["choices"][0]["message"]["content"]
    return Text(words, usage["prompt_tokens"], usage["completion_tokens"])


def ask(call: Call, name: str, method: str, path: str, asked: JSON | None = None) -> JSON:
    """One request to a provider."""
    key = call.deployment.env.get(f"{name.upper()}_API_KEY", "")
    headers = {"content-type": "application/json", **_credential(name, key)}
    body = b"" if asked is None else json.dumps(asked).encode()
    said = providers.ask(call.world, name, method, path, headers, body, FUNCTION_SECONDS)
    if said is None:
        raise ModelError("Connection error.")
    if said is providers.TOO_LATE:
        raise Killed
    try:
        content = json.loads(said.body)
    except ValueError:
        content = None
    if said.status >= 400:
        raise ModelError(_printed(said, content))
    if not isinstance(content, dict):
        raise ModelError("Unexpected end of JSON input")
    return content


def _credential(name: str, key: str) -> Mapping[str, str]:
    if name == "anthropic":
        return {"x-api-key": key, "anthropic-version": VERSION}
    return {"authorization": f"Bearer {key}"}


def _printed(said: Answer, content: Any) -> str:
    """OpenAI's library prints the status and the message; Anthropic's prints the status and the whole body."""
    text = said.body.decode(errors="replace")
    if isinstance(content, dict):
        error = content.get("error")
        openai = content.get("type") != "error" and isinstance(error, dict)
        text = str(error["message"]) if openai and isinstance(error, dict) and error.get("message") else text
    return f"{said.status} {text}" if text else f"{said.status} status code (no body)"
