"""What an AI provider's refusal means, told from its text. Pure functions.

The status alone misleads: 429 is pace (wait), ramp (grow slowly), money (waiting never helps) or our own app's
limit; 503 may be pace as well. So the words of the body go first, the status only where they say nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import pandas as pd

from opskit import masking
from opskit.errors import CannotTell

PROVIDERS = ("openai", "anthropic", "deepseek")
NAMES = {  # how each begins its models' names, also tuned ones (`ft:gpt-4o:…`)
    "openai": re.compile(r"gpt[-\d]|o\d|chatgpt"),
    "anthropic": re.compile(r"claude"),
    "deepseek": re.compile(r"deepseek"),
}


class Kind(StrEnum):
    """Why a request to a model did not succeed."""

    OURS = "our own limit"  # the app's quota or pace for one user; no provider was asked
    MONEY = "money"  # credit, balance or spending limit: it never clears by waiting
    RAMP = "ramp"  # traffic grew faster than the provider allows
    PACE = "pace"  # too many requests or tokens a minute
    LENGTH = "length"  # the prompt is too long
    KEY = "key"  # refused
    ACCESS = "access"  # a good key, which may not have this model, or not from this region
    MODEL = "model"  # no such model, or a parameter that it does not take
    TIMEOUT = "timeout"
    CONNECTION = "connection"  # no answer at all
    OUTAGE = "outage"  # the provider's own failure, or overload
    OTHER = "other"


# In this order; the first that matches decides.
WORDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    # Upper case is ours: OpenAI's `rate_limit_exceeded` is its pace.
    (Kind.OURS, re.compile(r"\b(AI_REQUEST_LIMIT_EXCEEDED|AI_WORD_LIMIT_EXCEEDED|RATE_LIMIT_EXCEEDED)\b")),
    (
        Kind.MONEY,
        re.compile(
            r"insufficient[_ ](quota|balance)|credit[_ ]balance|(spend|usage)_limit_(exceeded|reached)|billing_error"
            r"|exceeded your current quota|enforced_spend_limit",
            re.IGNORECASE,
        ),
    ),
    (Kind.RAMP, re.compile(r"\bslow_down\b|\bslow down\b|acceleration limit", re.IGNORECASE)),
    (Kind.PACE, re.compile(r"rate[_ ]limit", re.IGNORECASE)),
    (
        Kind.LENGTH,
        re.compile(
            r"context[_ ]length|maximum context|(prompt|input|text|messages?|is|are)[_ ]too[_ ]long|too many tokens"
            r"|exceeds? .{0,40}(length|characters)|above_max_length|longer than \d+ char|50,?000 char|50k",
            re.IGNORECASE,
        ),
    ),
    (
        Kind.KEY,
        re.compile(r"authentication_error|invalid[_ ]api[_ ]key|incorrect api key", re.IGNORECASE),
    ),
    (
        Kind.ACCESS,
        re.compile(
            r"permission_error|does not have access to|unsupported_country|country, region,? or territory",
            re.IGNORECASE,
        ),
    ),
    (
        Kind.MODEL,
        re.compile(
            r"model_not_found|not_found_error|model not exist|(unsupported|unknown)[_ ](parameter|value|model)"
            r"|invalid model|invalid max_tokens|unrecognized request argument|extra inputs are not permitted",
            re.IGNORECASE,
        ),
    ),
    # A 5xx of theirs is their failure also where it speaks of time: a function of ours that is killed leaves no row.
    (Kind.OUTAGE, re.compile(r"overloaded|^\s*(HTTP )?5\d\d\b", re.IGNORECASE)),
    (Kind.CONNECTION, re.compile(r"ETIMEDOUT|connect(ion)?[_ ]time(d[_ ]?)?[_ ]?out", re.IGNORECASE)),
    (Kind.TIMEOUT, re.compile(r"timed? ?out|timeout_error", re.IGNORECASE)),
    (Kind.CONNECTION, re.compile(r"connection error|ECONN|fetch failed|socket hang up", re.IGNORECASE)),
)
# 400 and 422 are not here: their words say what it is, and a text that is refused is not mended by another model's id.
STATUSES = {
    401: Kind.KEY,
    402: Kind.MONEY,
    403: Kind.ACCESS,
    404: Kind.MODEL,
    408: Kind.TIMEOUT,
    413: Kind.LENGTH,
    429: Kind.PACE,
}


def kind(error: str) -> Kind:
    """Of an error as the vendors' libraries print it: mostly the status first, then the message or the body."""
    for found, words in WORDS:
        if words.search(error):
            return found
    status = re.match(r"\s*(?:HTTP )?(\d{3})\b", error)
    number = int(status[1]) if status else 0
    return STATUSES.get(number, Kind.OUTAGE if number >= 500 else Kind.OTHER)


def provider(model: str, named: Mapping[str, str] | None = None) -> str:
    """Whose model it is: as the environment says, else by its name; `unknown` where neither tells."""
    if named and model in named:
        return named[model]
    vendor, slash, name = model.lower().rpartition("/")
    if slash:  # whoever else stands there, such as azure, answers himself, whatever the model is called
        return vendor if vendor in PROVIDERS else "unknown"
    return next((whose for whose, names in NAMES.items() if names.match(name.removeprefix("ft:"))), "unknown")


def strangers(requests: pd.DataFrame) -> pd.DataFrame:
    """The failures of models of which nobody knows whose they are. Our own limit asked nobody, so it is none."""
    return requests[~requests.provider.isin(PROVIDERS) & ~requests.kind.isin(["ok", Kind.OURS])]


def ours_to_ask(troubled: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Those of `trouble` at a provider that there is: nobody can be asked to mend a key of `unknown`."""
    return {name: rows for name, rows in troubled.items() if name in PROVIDERS}


def routes(value: str) -> dict[str, str]:
    """What a routing variable says, model -> model. Raises CannotTell where it is not `MODEL=MODEL,…`."""
    pairs = [part.split("=") for part in value.split(",") if part.strip()]
    if any(len(pair) != 2 or not all(word.strip() for word in pair) for pair in pairs):
        raise CannotTell(f"vercel: the routing variable says {value!r}, which is not MODEL=MODEL,MODEL=MODEL.")
    return {model.strip(): instead.strip() for model, instead in pairs}


def rerouted(value: str, wanted: Mapping[str, str]) -> str:
    """The same routing variable with these routes too. One that leads to a model now left is led on."""
    now = {model: wanted.get(instead, instead) for model, instead in routes(value).items()} | dict(wanted)
    return ",".join(f"{model}={instead}" for model, instead in sorted(now.items()) if model != instead)


def leading(value: str, troubled: Collection[str], named: Mapping[str, str] | None = None) -> dict[str, str]:
    """Those routes of a routing variable that lead to a provider that is not in trouble, model -> model."""
    return {model: instead for model, instead in routes(value).items() if provider(instead, named) not in troubled}


def refuge(provider_down: set[str]) -> str | None:
    """The model to reroute to. DeepSeek first: every tier may use it, and the free one may not use GPT-5."""
    choice = {"deepseek": "deepseek-chat", "anthropic": "claude-sonnet-4-5-20250929"}
    return next((model for name, model in choice.items() if name not in provider_down), None)


def trouble(
    requests: pd.DataFrame, kinds: Collection[str], least: int = 5, share: float = 0.05
) -> dict[str, pd.DataFrame]:
    """provider -> its rows of these kinds, where they are more than noise: so many requests, and such a share.

    `requests` has one row for each provider, kind and error, with `requests` counted. Without any, nothing can be told.
    """
    if requests.empty:
        raise CannotTell("database: no AI request in this time, so there is nothing to judge by.")
    found = {}
    for name, rows in requests.groupby("provider"):
        hit = rows[rows.kind.isin(kinds)]
        if hit.requests.sum() >= max(least, share * rows.requests.sum()):
            found[str(name)] = hit
    return found


def hanging(requests: pd.DataFrame, nearly: float = 0.9) -> dict[str, pd.DataFrame]:
    """provider -> its rows that timed out, where nearly all that it was asked did, and not so at all others.

    That is no function of ours with too little time. Where all hang, and there are several, it is: nobody is named.
    """
    asked = requests[requests.kind != Kind.OURS].groupby("provider")["requests"].sum()
    late = trouble(requests, [Kind.TIMEOUT])
    found = {name: rows for name, rows in late.items() if rows.requests.sum() >= nearly * asked[name]}
    return {} if len(found) == len(asked) > 1 else found


def answering(
    requests: pd.DataFrame, provider: str, down: Mapping[str, pd.DataFrame], hung: Mapping[str, pd.DataFrame]
) -> tuple[bool | None, str, int]:
    """Whether a provider answers, what says so, and how many requests reached it or tried to.

    It does where a request succeeded. Where some failed and none did, they are too few, or of too few people, for an
    outage, and nothing shows that it answers. Our own limit asked nobody.
    """
    asked = requests[(requests.provider == provider) & (requests.kind != Kind.OURS)]
    count, failed = int(asked.requests.sum()), asked[asked.kind != "ok"]
    if provider in down:
        return False, told(down[provider]), count
    if provider in hung:
        return None, f"nearly all time out, and not so at the others: {told(hung[provider])}", count
    if len(failed) < len(asked):
        return True, "requests succeed", count
    return None, f"none succeeded, {told(failed)}" if count else "not asked", count


def several(rows: pd.DataFrame) -> bool:
    """Whether more than one person met these errors; `some_users` names two of each row's, if there are two."""
    return len(set().union(*rows.some_users)) > 1


def ever_since(troubled: Mapping[str, pd.DataFrame], requests: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Those providers with this trouble, of `trouble`, of which no request succeeded after its first: it hit all."""
    well = requests[requests.kind == "ok"].groupby("provider")["last"].max()
    return {name: rows for name, rows in troubled.items() if name not in well or well[name] <= rows["first"].min()}


def unproven(probes: pd.DataFrame) -> set[str]:
    """Providers that nobody may be led to: they could not be reached, or did not take our key, or nobody asked."""
    good = [reached is True and key is True for reached, key in zip(probes.reached, probes.key, strict=True)]
    return {name for name, fine in zip(probes.provider, good, strict=True) if not fine}


def told(rows: pd.DataFrame | None) -> str:
    """The commonest of these errors in a few words, and none of a user's."""
    return "" if rows is None else f"{rows.requests.sum()} times {masking.words(rows.error.iloc[0])[:90]}"


def led_around(around: bool, built: datetime | None, route: str, since: datetime, lately: pd.Series[Any]) -> str:
    """Whether requests are led around a provider, since when, and how `lately` they fared: `requests`, `failed`."""
    if not built:
        return "a route is set, but production is not built with it" if around else "no"
    counted = f"{lately.requests} requests, {lately.failed} failures"
    return f"rerouted at {built:%H:%M} UTC ({route}); since {max(built, since):%H:%M} {counted}"
