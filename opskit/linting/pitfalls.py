"""Commands that exist and do something else than their writer thought. Each was tried with the tool itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Test = Callable[[list[str]], bool]  # of the words after the tool's name


@dataclass(frozen=True)
class Pitfall:
    """One way of being misled. `when` judges the words; `path` is the command, or the beginning of some."""

    tool: str
    path: str
    when: Test
    does: str
    remedy: str

    def applies(self, tool: str, path: str, words: list[str]) -> bool:
        return tool == self.tool and f"{path} ".startswith(f"{self.path} ".lstrip()) and self.when(words)


def always(_: list[str]) -> bool:
    return True


def without(*flags: str) -> Test:
    """Whether none of these flags is among the words."""
    return lambda words: not any(word.partition("=")[0] in flags for word in words)


def operands(words: list[str], path: str) -> list[str]:
    """What is neither a flag nor a word of the command."""
    return [word for word in words if not word.startswith("-") and word not in path.split()]


def forced(words: list[str]) -> bool:
    """Whether a push overwrites: `--force`, `-f` also among other short flags, or a `+` before what is pushed."""
    return any(word == "--force" or re.fullmatch(r"-[a-np-zA-Z46]*f.*|\+.+", word) for word in words)


def pooled(words: list[str]) -> bool:
    """Whether psql is sent to port 6543: in an address, or by `-p 6543`, `--port=6543`, `port=6543`."""
    return re.search(r":6543\b|(^|\s)(-[A-Za-z]*p|--port)[\s=]?6543\b|\bport=6543\b", " ".join(words)) is not None


TARGET = ("--linked", "--remote", "--db-url", "--local", "--project-ref", "--help")
ON_THIS_MACHINE = "without a target means, since version 3, the database on this machine."
NAME_TARGET = "Say --linked, --remote or --db-url."
VERSION = r"\d+|\$.*|<.*|\[.*|[A-Z_]{2,}|.*…"  # or what stands for one
LIVE = ("--live", "--api-key", "--help")

PITFALLS = (
    Pitfall("stripe", "events resend", without("--webhook-endpoint", "--help"),
            "reaches only a `stripe listen` session, not your server.", "Add --webhook-endpoint=we_…"),
    *(
        Pitfall("stripe", f"{what} {how}", without(*LIVE), "asks test mode, where no customer is.", "Add --live.")
        for what in ("events", "webhook_endpoints", "subscriptions", "customers", "invoices", "prices")
        for how in ("list", "retrieve", "resend", "update")
    ),
    *(
        Pitfall("supabase", path, without(*TARGET), ON_THIS_MACHINE, NAME_TARGET)
        for path in ("db push", "db diff", "db dump", "db pull", "db query", "db reset", "db lint", "migration list",
                     "migration repair", "migration up", "migration fetch", "migration squash", "inspect db")
    ),
    Pitfall("supabase", "migration repair", lambda words: not any(re.fullmatch(VERSION, word) for word in words),
            "without a version replaces the whole history.", "Name the versions."),
    Pitfall("supabase", "migration down", always, "resets the database; it undoes no migration.",
            "Write a migration forward."),
    Pitfall("vercel", "logs", lambda words: any(w in ("production", "preview") for w in words[1:2]),
            "takes a deployment there, and refuses an environment.", "Say --environment production."),
    Pitfall("vercel", "rollback", lambda words: not operands(words, "rollback") and "--help" not in words,
            "without a deployment only tells how a rollback goes on.", "Name the deployment to go back to."),
    Pitfall("vercel", "env add", without("--type", "--no-sensitive", "--sensitive"),
            "keeps what nobody can read again.", "Say --no-sensitive where it is no secret."),
    Pitfall("git", "push", forced, "takes away what others pushed.",
            "Use --force-with-lease."),
    Pitfall("psql", "", pooled, "goes to the pooler of transactions, which forgets SET and locks.", "Use port 5432."),
)  # fmt: skip
