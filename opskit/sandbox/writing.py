"""What users wrote: projects, documents with their history, and what they asked of the AI, as rows of the database."""

from __future__ import annotations

import json
import random
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from opskit.sandbox import app_autosave

Row = dict[str, Any]


def listed(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WEEKS = timedelta(weeks=5)
# How much is written in each hour of the day (UTC): nobody sleeps everywhere at once.
HOURS = (3, 2, 2, 2, 2, 3, 4, 6, 8, 9, 9, 8, 7, 8, 9, 9, 8, 8, 9, 10, 10, 9, 7, 5)
CAPS = {"free": 9, "hobbyist": 14, "professional": 22, "studio": 28}  # documents, well within what the tier allows
REQUESTS = {"free": 0.25, "hobbyist": 0.6, "professional": 1.1, "studio": 1.8}  # a day
GENRES = ("fantasy", "mystery", "memoir", "romance", "science fiction", "essay", "thriller", "poetry")
WORDS = listed(
    "the harbour kept its lamps low that winter and nobody asked why Marta carried a letter which she "
    "never opened until rain had washed the name away so her brother counted boats instead of days while "
    "gulls quarrelled over bread above the old customs house where two clocks disagreed about noon and a "
    "child drew maps of streets that were not yet built"
)
TITLES = ("Harbour", "Letter", "Winter", "Clock", "Map", "Lamp", "Brother", "Street", "Noon", "Tide", "Salt", "Orchard")
MODELS = {  # command: the model that the router picks
    "rewrite": "gpt-5-chat-latest",
    "tone_shift": "gpt-5-chat-latest",
    "continue": "claude-sonnet-4-5-20250929",
    "expand": "claude-sonnet-4-5-20250929",
    "brainstorm": "claude-sonnet-4-5-20250929",
    "shorten": "deepseek-chat",
    "summarize": "deepseek-chat",
}
ERRORS = (
    "Request timed out.",
    "429 Rate limit reached for requests",
    "529 Overloaded",
    "500 The server had an error while processing your request",
)
NOT_FOR_FREE = "gpt-5-chat-latest"  # what free users asked it for, DeepSeek does
BACKGROUND_MODEL = "gpt-5-chat-latest"
TASKS = ("manuscript_analysis", "expanded_outline", "chapter_critique")
AGENTS = (
    "Mozilla/5.0 (Macintosh) Safari/605.1.15",
    "Mozilla/5.0 (Windows NT 10.0) Chrome/141.0",
    "Mozilla/5.0 Firefox/144.0",
)


@dataclass(frozen=True)
class Author:
    id: str
    tier: str
    joined: datetime
    counts_from: datetime  # since when words count against the month


@dataclass
class Pages:
    """Rows by table, and the words that each author's counter shows."""

    tables: dict[str, list[Row]]
    words: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def write(rng: random.Random, authors: list[Author], now: datetime) -> Pages:
    """Some weeks of writing. The longest-standing tables come first, so that rows may refer to earlier ones."""
    names = (
        "projects documents document_branches document_versions document_snapshots document_undo_history "
        "autosave_failures ai_requests ai_usage ai_background_tasks"
    )
    pages = Pages({name: [] for name in names.split()})
    for author in authors:
        documents = _projects(rng, pages, author, now)
        _ask(rng, pages, author, documents, now)
    _stumble(rng, pages, now)
    return pages


def identifier(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _moment(rng: random.Random, earliest: datetime, now: datetime) -> datetime:
    """A moment between the two, more often in the hours when people write."""
    while True:
        moment = earliest + (now - earliest) * rng.random()
        if rng.random() * max(HOURS) <= HOURS[moment.hour]:
            return moment


# Documents


def _projects(rng: random.Random, pages: Pages, author: Author, now: datetime) -> list[Row]:
    documents: list[Row] = []
    room = rng.randint(1, CAPS[author.tier])
    for _ in range(rng.choice((1, 1, 2, 3))):
        created = author.joined + (now - author.joined) * rng.random() * 0.8
        title = f"The {rng.choice(TITLES)} and the {rng.choice(TITLES)}"
        project = {"id": identifier(rng), "user_id": author.id, "title": title, "genre": rng.choice(GENRES)}
        pages.tables["projects"].append({**project, "created_at": created, "updated_at": created})
        for number in range(1, rng.randint(1, 8)):
            if len(documents) < room:
                documents.append(_document(rng, pages, author, project["id"], (number, created), now))
    return documents


def _document(
    rng: random.Random, pages: Pages, author: Author, project: str, place: tuple[int, datetime], now: datetime
) -> Row:
    """A document that grew by a few paragraphs with each session; the sessions of late are still in its history."""
    number, earliest = place
    created = earliest + (now - earliest) * rng.random() * 0.9
    since = max(created, now - WEEKS)
    sessions = sorted(_moment(rng, since, now) for _ in range(rng.choice((0, 1, 1, 2, 3, 5))))
    if author.tier == "free":
        sessions = [at for at in sessions if now - at < timedelta(days=30)]
    paragraphs = [paragraph(rng) for _ in range(rng.randint(1, 3))]
    chapters = [_chapter(rng, order) for order in range(rng.choice((0, 0, 0, 2, 3, 6)))]
    document: Row = {
        "id": identifier(rng),
        "project_id": project,
        "user_id": author.id,
        "title": f"Chapter {number}: {rng.choice(TITLES)}",
        "content": json.dumps(_content(paragraphs, chapters)),
        "status": rng.choice(("draft", "draft", "todo", "complete")),
        "word_count": _count(paragraphs),
        "created_at": created,
        "updated_at": created,
    }
    base = {"document_id": document["id"], "user_id": author.id}
    main = {"name": "main", "is_main": True, "content": document["content"]}
    pages.tables["document_branches"].append({"id": identifier(rng), **base, **main, "created_at": created})
    for version, at in enumerate(sessions, 1):
        if len(paragraphs) > 4 and rng.random() < 0.15:  # they cut their own text, and not by half
            paragraphs = paragraphs[:-1]
        else:
            paragraphs = paragraphs + [paragraph(rng) for _ in range(rng.randint(1, 2))]
        body, words = _content(paragraphs, chapters), _count(paragraphs)
        content = json.dumps(body)
        document |= {"content": content, "word_count": words, "updated_at": at}
        kept = {"title": document["title"], "content": content, "word_count": words, "created_at": at}
        pages.tables["document_versions"].append({"id": identifier(rng), **base, "version_number": version, **kept})
        snapshot = {
            "autosave_hash": app_autosave.hashed(body),
            "payload": content,
            "created_at": at - timedelta(milliseconds=80),
        }
        pages.tables["document_snapshots"].append({"id": identifier(rng), **base, **snapshot})
    if sessions:
        stack = [{"timestamp": (at - timedelta(seconds=1)).isoformat(), "delta": rng.randint(5, 60)} for at in sessions]
        stack[-1]["words"] = document["word_count"]
        history = {"undo_stack": json.dumps(stack), "redo_stack": "[]", "updated_at": sessions[-1]}
        pages.tables["document_undo_history"].append({**base, **history})
    pages.tables["documents"].append(document)
    return document


def paragraph(rng: random.Random) -> str:
    start = rng.randrange(len(WORDS))
    words = [WORDS[(start + step) % len(WORDS)] for step in range(rng.randint(12, 40))]
    return f"{' '.join(words).capitalize()}."


def manuscript(length: int) -> str:
    """So many characters of prose."""
    page = " ".join(WORDS) + ". "
    return (page * (length // len(page) + 1))[:length]


def title(rng: random.Random) -> str:
    return f"The {rng.choice(TITLES)}"


def _chapter(rng: random.Random, order: int) -> Row:
    """With its keys as the database keeps them."""
    return {"id": identifier(rng), "order": order, "title": title(rng)}


def _content(paragraphs: list[str], chapters: list[Row]) -> Row:
    html = "".join(f"<p>{one}</p>" for one in paragraphs)
    return {"html": html, "structure": chapters, "metadata": {}}


def _count(paragraphs: list[str]) -> int:
    return sum(one.count(" ") + 1 for one in paragraphs)


def _stumble(rng: random.Random, pages: Pages, now: datetime) -> None:
    """The autosaves that fail on ordinary days: a train in a tunnel, two open tabs."""
    until = now - timedelta(hours=2)
    documents = [document for document in pages.tables["documents"] if document["created_at"] < until]
    for _ in range(rng.randint(60, 90)):
        document = rng.choice(documents)
        at = _moment(rng, max(now - WEEKS, document["created_at"]), until)
        kind = rng.choice(("network", "network", "conflict"))
        pages.tables["autosave_failures"].append(
            {
                "id": identifier(rng),
                "user_id": document["user_id"],
                "document_id": document["id"],
                "failure_type": kind,
                "error_message": "Failed to fetch" if kind == "network" else "[object Object]",
                "client_hash": f"{rng.getrandbits(256):064x}",
                "retry_count": rng.choice((0, 0, 0, 1)),
                "user_agent": rng.choice(AGENTS),
                "created_at": at,
            }
        )


# AI


def _ask(rng: random.Random, pages: Pages, author: Author, documents: list[Row], now: datetime) -> None:
    since = max(now - WEEKS, author.joined)
    days = (now - since).total_seconds() / 86400
    for _ in range(round(days * rng.uniform(0, 2 * REQUESTS[author.tier]))):
        at = _moment(rng, since, now)
        request = _request(rng, author, documents, at)
        pages.tables["ai_requests"].append(request)
        if request["status"] == "succeeded":
            words = max(1, int(request["completion_tokens"] * 0.75))
            use = {"model": request["selected_model"], "words_generated": words, "created_at": at}
            use = {"id": identifier(rng), "user_id": author.id, "request_id": request["id"], **use}
            pages.tables["ai_usage"].append(use)
            pages.words[author.id] += words if at >= author.counts_from else 0
    if author.tier != "free" and rng.random() < 0.4:
        pages.tables["ai_background_tasks"].append(_task(rng, author, documents, since, now))


def model_for(command: str, tier: str) -> str:
    """The model that the router picks."""
    model = MODELS[command]
    return "deepseek-chat" if tier == "free" and model == NOT_FOR_FREE else model


def _request(rng: random.Random, author: Author, documents: list[Row], at: datetime) -> Row:
    command = rng.choice(list(MODELS))
    failed = rng.random() < 0.012
    return {
        "id": identifier(rng),
        "user_id": author.id,
        "document_id": rng.choice(documents)["id"] if documents else None,
        "requested_model": "auto",
        "selected_model": model_for(command, author.tier),
        "command": command,
        "intent": command,
        "latency_ms": rng.randint(900, 9000) if not failed else rng.randint(200, 60000),
        "prompt_tokens": rng.randint(200, 3000),
        "completion_tokens": None if failed else rng.randint(60, 700),
        "status": "failed" if failed else "succeeded",
        "error": rng.choice(ERRORS) if failed else None,
        "routing_metadata": json.dumps({"reason": "intent"}),
        "created_at": at,
    }


def _task(rng: random.Random, author: Author, documents: list[Row], since: datetime, now: datetime) -> Row:
    at = _moment(rng, since, now)
    failed = rng.random() < 0.05
    return {
        "id": identifier(rng),
        "user_id": author.id,
        "document_id": rng.choice(documents)["id"] if documents else None,
        "task_type": rng.choice(TASKS),
        "status": "failed" if failed else "succeeded",
        "provider_response_id": f"resp_{rng.getrandbits(128):032x}",
        "result": None if failed else json.dumps({"summary": paragraph(rng)}),
        "error": "Provider returned an error" if failed else None,
        "created_at": at,
        "updated_at": min(at + timedelta(seconds=rng.randint(8, 55)), now),
    }
