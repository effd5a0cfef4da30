"""The AI providers: does a key work, what does a background result say, and (only when asked to pay) do models answer?

The list of models proves that the key is good and the provider is there. It does not prove credit, nor that any model
would answer: only a canary does that, and a canary costs money.
"""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from opskit.actions import Action, Arguments, Change
from opskit.errors import CannotTell, Denied, NotFound, ServiceError
from opskit.http import Http, Read, documented
from opskit.services.ai_errors import PROVIDERS, kind

MODELS = {"openai": "/v1/models", "anthropic": "/v1/models", "deepseek": "/models"}
INFERENCE = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages", "deepseek": "/chat/completions"}
READS = {  # a canary is a declared read: it changes nothing but the bill
    "openai": (
        Read("GET", "/v1/models", "Models: read"),
        Read("GET", "/v1/responses/{id}", "Responses: read"),
        Read("POST", "/v1/chat/completions", "Model capabilities: write, only for paid probes"),
    ),
    "anthropic": (Read("GET", "/v1/models", "any key"), Read("POST", "/v1/messages", "any key; paid probes")),
    "deepseek": (
        Read("GET", "/models", "any key"),
        Read("GET", "/user/balance", "any key"),
        Read("POST", "/chat/completions", "any key; paid probes"),
    ),
}
RESPONSE = re.compile(r"[A-Za-z0-9_-]+")  # how OpenAI names one
VERSION = "2023-06-01"  # of Anthropic's API: the oldest that it still takes


def headers(provider: str, key: str) -> dict[str, str]:
    """How a provider wants its key."""
    if provider == "anthropic":
        return {"x-api-key": key, "anthropic-version": VERSION}
    return {"Authorization": f"Bearer {key}"}


class Providers:
    """Those of the three that the environment names."""

    def __init__(self, named: dict[str, Http]) -> None:
        self.named = named

    def look(self) -> pd.DataFrame:
        """One row for each provider: provider, reached, key (accepted), said. None is: cannot be told.

        Asks for the list of models, which costs nothing.
        """
        columns = ["provider", "reached", "key", "said"]
        return pd.DataFrame([(name, *self._look(name)) for name in PROVIDERS], columns=columns, dtype=object)

    def _look(self, provider: str) -> tuple[bool | None, bool | None, str]:
        if provider not in self.named:
            return None, None, "this environment does not name it"
        try:
            return True, True, f"lists {len(self.models(provider))} models"
        except Denied as error:
            return True, False, error.message
        except ServiceError as error:
            return False, None, error.message

    def models(self, provider: str) -> list[str]:
        """The ids that our key may see."""
        query = {"limit": 1000} if provider == "anthropic" else None
        return Face(self._http(provider)).listed(MODELS[provider], query)

    def canary(self, model: str, provider: str) -> tuple[bool, str]:
        """Ask a model for one word, which costs money: (did it answer, what it said or why not)."""
        try:
            Face(self._http(provider)).word(INFERENCE[provider], model.removeprefix(f"{provider}/"))
        except ServiceError as error:
            said = error.message.partition("answered ")[2] or error.message
            return False, f"{kind(said)}: {error.message}"
        return True, "answers"

    def response(self, key: str) -> dict[str, Any]:
        """A background response at OpenAI: status, text, model, reason (also why a finished one has no text).

        `expired` where it answers 404: the ten minutes are over, or our key is another project's.
        """
        if not RESPONSE.fullmatch(key):
            raise CannotTell(f"openai: {key!r} is no id of a response.")
        try:
            return Face(self._http("openai")).response(key)
        except NotFound:
            return {"status": "expired", "text": None, "model": None, "reason": "no longer kept by the provider"}

    def balance(self) -> dict[str, Any]:
        """DeepSeek's: available, balance."""
        return Face(self._http("deepseek")).balance()

    def _http(self, provider: str) -> Http:
        if provider not in self.named:
            raise CannotTell(f"{provider}: this environment does not name it.")
        return self.named[provider]

    # What a plan may ask for. Each of these only describes; nothing happens.

    def rotate_key(self, provider: str, variable: str, deployment: str, known: pd.DataFrame) -> Action:
        """Have a person make a new key and deploy it; done once users' requests succeed with it.

        `known`: production's variables as they are now, as Vercel gives them.
        """
        of = {"provider": provider, "variable": variable, "deployment": deployment}
        return RotateKey().plan(of, {"set": str(known[known.key == variable].updated.max())})

    def revoke_key(self, provider: str) -> Action:
        """Have a person revoke the old key, last of all. Nobody can see that from here: a person says so."""
        return RevokeKey().plan({"provider": provider}, None)

    def top_up(self, provider: str) -> Action:
        """Have a person pay, or raise the spending limit."""
        return TopUp().plan({"provider": provider}, None)

    def grant_access(self, provider: str, models: list[str]) -> Action:
        """Have a person let our project use these models, or ask from where the provider serves."""
        return GrantAccess().plan({"provider": provider, "models": models}, None, of_models=", ".join(models))

    def relieve(self, provider: str) -> Action:
        """Have people ask less of a provider that limits our pace, background work first."""
        return Relieve().plan({"provider": provider}, None)


@documented
class Face:
    """What one provider answers, in the shape it documents."""

    def __init__(self, http: Http) -> None:
        self.http = http

    def listed(self, path: str, query: dict[str, Any] | None) -> list[str]:
        return [str(model["id"]) for model in self.http.read(path, query).body["data"]]

    def word(self, path: str, model: str) -> None:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Answer with: ok"}]}
        limit = "max_completion_tokens" if model.removeprefix("ft:").startswith(("gpt-5", "o")) else "max_tokens"
        answer = self.http.read(path, method="POST", body=body | {limit: 16}).body
        answer["content" if "content" in answer else "choices"][0]

    def response(self, key: str) -> dict[str, Any]:
        found = self.http.read(f"/v1/responses/{key}").body
        parts = [p for item in found.get("output") or [] if item["type"] == "message" for p in item["content"]]
        text = "".join(part.get("text", "") for part in parts)
        reason = (found.get("incomplete_details") or {}).get("reason") or (found.get("error") or {}).get("message")
        if found["status"] == "completed" and not text.strip():  # it refused, only reasoned, or only called a function
            reason = "refused by the model" if any(part.get("type") == "refusal" for part in parts) else "no text"
        return {"status": found["status"], "text": text or None, "model": found.get("model"), "reason": reason}

    def balance(self) -> dict[str, Any]:
        found = self.http.read("/user/balance").body
        amounts = [f"{one['total_balance']} {one['currency']}" for one in found["balance_infos"]]
        return {"available": bool(found["is_available"]), "balance": ", ".join(amounts)}


class RotateKey(Change):
    """Done once the variable is another than when this was planned, production is built with it, and users' last
    requests to the provider succeed. Any other build proves nothing: our own reroute makes one."""

    name = "providers.rotate_key"
    title = "By hand: make a new {provider} key, set {variable}, redeploy; keep the old key until requests succeed"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        known = services.vercel.variables()
        return {
            "set": str(known[known.key == of["variable"]].updated.max()),
            "built": bool(services.vercel.built_with(of["variable"])),
            "succeeding": services.tasks.succeeding(of["provider"]),
        }

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["set"] != before["set"] and now["built"] and now["succeeding"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return (
            f"vercel env update {of['variable']} production --yes < NEW_KEY_FILE && vercel redeploy {of['deployment']}"
        )


class Succeeding:
    """What only a person can do at a provider. Done once users' requests to it succeed again."""

    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"succeeding": services.tasks.succeeding(of["provider"])}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["succeeding"])


class RevokeKey(Change):
    """Nobody can see from here that a key is gone, so it is done when a person says so.

    Requests that succeed do not show it: the old key, which may have leaked, is good for as long as nobody revokes it.
    """

    name = "providers.revoke_key"
    title = "By hand: once requests succeed, revoke the old {provider} key in its console, then say that it is done"
    manual = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"revoked": None}

    def done(self, now: Any, before: Any) -> bool | None:
        return None

    def by_hand(self, of: Arguments, before: Any) -> str:
        return (
            f"the console of {of['provider']}: API keys, the old one, revoke (re-enable it only if it never leaked); "
            "then: opskit resume RUN --decided ACTION=done --because TEXT"
        )


class TopUp(Succeeding, Change):
    name = "providers.top_up"
    title = "By hand: add credit at {provider}, or raise its spending limit; waiting does not help"

    def look(self, services: Any, of: Arguments) -> Any:
        tells = of["provider"] == "deepseek" and "deepseek" in services.providers.named
        credit = {"credit": services.providers.balance()["available"]} if tells else {}
        return super().look(services, of) | credit

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["succeeding"] and now.get("credit", True))  # old requests succeeded with what is spent now

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"the console of {of['provider']}: billing; then one request of the feature in the app"


class GrantAccess(Succeeding, Change):
    name = "providers.grant_access"
    title = (
        "By hand: let our project at {provider} use {of_models}, or ask from a region that it serves; no new key helps"
    )

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"the console of {of['provider']}: the project's limits and models; then one request in the app"


class Relieve(Succeeding, Change):
    name = "providers.relieve"
    title = (
        "By hand: hold background tasks back, wait as long as {provider} says in retry-after, ask it for a higher tier"
    )

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"the console of {of['provider']}: limits; its refusals carry retry-after and what remains"
