"""The HTTP endpoints that runbooks may name: the one place in which they are declared. The sandbox serves all of them
but those that their vendors have given up; what is documented and stands nowhere here is no runbook's business yet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from urllib.parse import parse_qsl, urlsplit

from opskit.http import Read
from opskit.linting import shell
from opskit.linting.findings import Finding
from opskit.linting.pages import Page
from opskit.linting.shell import Command
from opskit.services import providers, sentry, status, stripe, supabase, vercel

API_TOOLS = {"stripe": "stripe", "vercel": "vercel"}  # tools that take an endpoint: `stripe get /v1/events`
VERBS = {"get": "GET", "post": "POST", "delete": "DELETE", "api": "GET"}
PLACEHOLDER = re.compile(r"\[[^\]/]*\]|<[^>/]*>|\{[^}/]*\}|\$\{?\w+\}?|[A-Z_]{2,}|…")
VERSIONS = {"anthropic": {"2023-06-01", "2026-10-21"}}  # that the vendor still takes, of the header in HEADERS
HEADERS = {"anthropic": "anthropic-version"}


@dataclass(frozen=True)
class Endpoint:
    """One route. `gone` is the day on which its vendor ends it, or has; `needs` a query without which it does harm."""

    method: str
    path: str  # with {placeholders}
    gone: date | None = None
    instead: str = ""
    needs: str = ""

    def covers(self, path: str) -> bool:
        shape = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(self.path))
        return re.fullmatch(shape, path) is not None


def _reads(declared: tuple[Read, ...]) -> tuple[Endpoint, ...]:
    return tuple(Endpoint(one.method, one.path) for one in declared if one.path != "/v1/projects/{ref}/health")


SENTRY_OLD = "/api/0/organizations/{org}/issues/"
BY_VENDOR: Mapping[str, tuple[Endpoint, ...]] = {
    "stripe": (
        *_reads(stripe.READS),
        Endpoint("POST", "/v1/events/{id}/retry"),
        Endpoint("POST", "/v1/webhook_endpoints"),
        Endpoint("POST", "/v1/webhook_endpoints/{id}"),
        Endpoint("GET", "/v1/invoices"),
        Endpoint("GET", "/v1/invoices/{id}"),
        Endpoint("GET", "/v1/checkout/sessions"),
        Endpoint("GET", "/v1/prices/{id}"),
    ),
    "vercel": (
        *_reads(vercel.READS),
        Endpoint("GET", "/v13/deployments/{id}"),
        Endpoint("POST", "/v13/deployments"),
        Endpoint("POST", "/v10/projects/{id}/promote/{id}"),
        Endpoint("POST", "/v1/projects/{id}/rollback/{id}"),
        Endpoint("POST", "/v10/projects/{id}/env"),
        Endpoint("PATCH", "/v9/projects/{id}/env/{id}"),
    ),
    "supabase": (
        *_reads(supabase.READS),
        Endpoint("GET", "/v1/projects/{ref}/health", needs="services"),
        Endpoint("GET", "/v1/projects/{ref}/database/migrations"),
        Endpoint("POST", "/v1/projects/{ref}/database/query"),
        Endpoint("POST", "/v1/projects/{ref}/database/query/read-only"),
        Endpoint("GET", "/v1/projects/{ref}/analytics/endpoints/logs.all", date(2026, 9, 23), "…/endpoints/logs"),
    ),
    "sentry": (
        *_reads(sentry.READS),
        Endpoint("PUT", "/api/0/organizations/{org}/issues/", needs="id"),
        Endpoint("GET", "/api/0/organizations/{org}/issues/{id}/"),
        Endpoint("PUT", "/api/0/organizations/{org}/issues/{id}/"),
        Endpoint("GET", "/api/0/organizations/{org}/issues/{id}/events/"),
        Endpoint("GET", "/api/0/organizations/{org}/events-timeseries/"),
        Endpoint("GET", "/api/0/projects/{org}/{project}/stats/"),
        Endpoint("GET", "/api/0/projects/{org}/{project}/issues/", date(2026, 8, 16), SENTRY_OLD),  # marked so by then
    ),
    "openai": (
        *_reads(providers.READS["openai"]),
        *(Endpoint(method, f"/v1/{path}", date(2026, 8, 26), "/v1/responses")
          for method in ("GET", "POST")
          for path in ("assistants", "threads", "threads/{id}/runs", "threads/{id}/messages")),
    ),
    "anthropic": _reads(providers.READS["anthropic"]),
    "deepseek": _reads(providers.READS["deepseek"]),
    "status": (*_reads(status.READS), *(Endpoint("GET", f"/api/v2/{name}.json")
               for name in ("status", "components", "incidents/unresolved"))),
    "app": (
        Endpoint("GET", "/api/health"),
        Endpoint("POST", "/api/webhooks/stripe"),
        Endpoint("POST", "/api/documents/{id}/autosave"),
        Endpoint("POST", "/api/telemetry/autosave"),
        *(Endpoint("POST", f"/api/ai/{name}") for name in ("generate", "background-task", "ensemble", "blend")),
        Endpoint("PATCH", "/api/ai/background-task"),
    ),
}  # fmt: skip
HOSTS = {
    "api.stripe.com": "stripe", "api.vercel.com": "vercel", "api.supabase.com": "supabase", "sentry.io": "sentry",
    "us.sentry.io": "sentry", "de.sentry.io": "sentry", "api.openai.com": "openai", "api.anthropic.com": "anthropic",
    "api.deepseek.com": "deepseek", "www.stripestatus.com": "status", "status.supabase.com": "status",
    "www.vercel-status.com": "status", "status.sentry.io": "status", "status.claude.com": "status",
    "status.openai.com": "status", "status.deepseek.com": "status",
}  # fmt: skip
MOVED = {"status.anthropic.com": "status.claude.com", "status.stripe.com": "www.stripestatus.com",
         "status.vercel.com": "www.vercel-status.com"}  # fmt: skip
VALUED = "AbcCdDeEFhHKmoPQrtTuUwxXyYz"  # short flags of curl that take a value
Verdict = tuple[str, str]


def check(page: Page) -> Iterator[Finding]:
    for snippet in page.snippets("bash"):
        for command in shell.commands(snippet.text, snippet.line):
            for wrong, remedy in _judge(command):
                yield Finding(page.name, snippet.cell.id, command.line, "endpoint", wrong, remedy)


def _judge(command: Command) -> Iterator[Verdict]:
    name, *words = command.words
    if name == "curl":
        method = _method(words)
        for word in words:
            if address := _address(word.removeprefix("--url=")):
                yield from _called(method, address, words)
    elif name in API_TOOLS and len(words) > 1 and words[0] in VERBS and words[1].startswith("/"):
        yield from _route(API_TOOLS[name], VERBS[words[0]], *_split(words[1]))


def _address(word: str) -> str:
    """The address that a word is, also without its scheme; "" where it is none."""
    if re.match(r"https?://", word):
        return word
    host = re.split(r"[/?]", word, maxsplit=1)[0]
    return f"https://{word}" if host in HOSTS or host in MOVED else ""


def _method(words: list[str]) -> str:
    """What curl sends: what it is told to, or what its other flags mean."""
    flags = dict(_flags(words))
    if told := flags.get("-X") or flags.get("--request"):
        return told
    if {"-I", "--head"} & set(flags):
        return "HEAD"
    if {"-T", "--upload-file"} & set(flags):
        return "PUT"
    sends = any(flag in ("-d", "-F") or flag.startswith(("--data", "--json", "--form")) for flag in flags)
    return "POST" if sends and not {"-G", "--get"} & set(flags) else "GET"


def _flags(words: list[str]) -> Iterator[tuple[str, str]]:
    """Flags and their values; several short ones may be one word, and the last of them have its value in it."""
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            yield flag, value if equals else "".join(waiting[:1])
        elif word.startswith("-"):
            for place, char in enumerate(word[1:], 2):
                if char in VALUED:
                    yield f"-{char}", word[place:] or (waiting.pop(0) if waiting else "")
                    break
                yield f"-{char}", ""


def _called(method: str, address: str, words: list[str]) -> Iterator[Verdict]:
    host = urlsplit(PLACEHOLDER.sub("x", address)).hostname or ""
    vendor = HOSTS.get(host)
    path, query = _split(address)
    if host in MOVED:
        yield f"{host} has moved.", f"Ask {MOVED[host]}."
    elif vendor:
        yield from _route(vendor, method, path, query)
        yield from _version(vendor, words)
    elif path.startswith("/api/"):
        yield from _route("app", method, path, query)


def _split(address: str) -> tuple[str, set[str]]:
    parts = urlsplit(PLACEHOLDER.sub("x", address))
    return parts.path, {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}


def _route(vendor: str, method: str, path: str, query: set[str]) -> Iterator[Verdict]:
    known = [one for one in BY_VENDOR[vendor] if one.covers(path)]
    asked = "GET" if method == "HEAD" else method
    found = next((one for one in known if one.method == asked or asked[:1] in ("$", "[")), None)  # it stands for one
    if found is None:
        others = ", ".join(dict.fromkeys(one.method for one in known))
        near = [one.path for one in BY_VENDOR[vendor] if one.covers(f"{path}/") or one.covers(path.rstrip("/"))]
        remedy = f"There it takes {others}." if others else f"Write {near[0]}." if near else ""
        yield f"{vendor} has no {method} {path}.", remedy or "See opskit/linting/endpoints.py."
    elif found.gone:
        yield f"{vendor} gave up {method} {found.path} on {found.gone}.", f"Ask {found.instead}."
    elif found.needs and found.needs not in query:
        yield f"{method} {found.path} needs {found.needs} in its query.", f"Add ?{found.needs}=…"


def _version(vendor: str, words: list[str]) -> Iterator[Verdict]:
    header = HEADERS.get(vendor)
    for word in words:
        name, _, value = word.partition(":")
        if header and name.lower() == header and value.strip() not in VERSIONS[vendor]:
            yield (
                f"{vendor} does not take {header} {value.strip()}.",
                f"It takes {', '.join(sorted(VERSIONS[vendor]))}.",
            )
