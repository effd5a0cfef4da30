"""What a night of failed saves means: how urgent it is, what explains a loss, and what to tell each writer.

Pure functions over plain tables. A loss is put right only where a log line says what happened; an author who deletes
their own text leaves the same traces, and is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from opskit.services.texts import told

QUIET = timedelta(minutes=15)  # without an attempt: before that, an open tab may hold newer text than anything stored
OFTEN = 3  # conflicts or broken connections of one writer
MANY = 5  # writers who have them at the same time
SHARE = 0.05  # of those who write then: where thousands do, a few are cut off or in conflict at any time
HOURLY = 50  # conflicts; an alert's number
RARE = 0.01  # of the documents written in; on an ordinary day some are open on two devices
NEAR = timedelta(seconds=60)  # between a log line and what it is about
SLACK = timedelta(seconds=2)  # a request is logged at its beginning, and keeps its snapshot a little later
WAITED = ("55P03", "57014")  # lock not available; statement timeout
BROKEN = ("42P01", "42702", "42703", "42883", "42P13")  # the code of a trigger, for everybody
FORBIDDEN = ("42501", "42P17")  # a policy
CAP = r"Plan \S+ allows"  # what the trigger says that counts an account's snapshots; its code is that of any rule

EXPLAINED = "because"
CUT_OFF = "the save was cut off"  # by the host, between the snapshot and the update
LEVELS = {"P0": "CRITICAL", "P1": "HIGH", "P2": "HIGH", "P3": "MEDIUM", "none": "LOW"}


@dataclass(frozen=True)
class Hit:
    """Whom it hits. Counts of people; `attempts` and `failed` of saves in the last hour of trouble."""

    hard: int  # users whose saves fail, conflicts apart
    conflicts: int  # users whose saves are refused as conflicts
    lost: int  # users with a confirmed loss: a stored text that is worse, for a reason that we can see
    attempts: int = 0
    failed: int = 0
    most_by_one: int = 0  # failures of the one user who has the most

    @property
    def broken(self) -> bool:
        """Saving is broken: for several people, or for most attempts. Few writers never make many errors a minute."""
        return self.hard >= 3 or (self.attempts >= 4 and self.failed >= self.attempts / 2)


def urgency(hit: Hit) -> tuple[str, str, str]:
    """(priority, level, why). What the levels left open is decided here.

    More than ten users without a confirmed loss are P0 where saves fail: their text is in their tabs only, and each
    closed tab is a loss. Conflicts alone never are: what was stored stays stored. Of two clocks that disagree, the
    stricter counts: a confirmed loss is CRITICAL, whoever has it; P2 has an hour, P3 four.
    """
    worse = f"{hit.lost} users have text that is stored worse than a copy of it"
    failed = f"the latest saves of {hit.hard} users failed"
    if hit.lost > 10 or (hit.lost and hit.hard > 10):
        level, why = "P0", f"{worse}; {failed}"
    elif hit.hard > 10:
        level, why = "P0", f"{failed}; whether text is lost shows only when their tabs close"
    elif hit.lost:
        level, why = "P1", f"{worse}; {failed}" if hit.hard else worse
    elif hit.broken:
        level, why = "P1", f"{failed}; of {hit.attempts} attempts in the last hour {hit.failed}"
    elif hit.conflicts >= 3 or hit.most_by_one > 5:
        level, why = "P2", f"{hit.conflicts} users run into conflicts, again and again"
    elif hit.hard or hit.conflicts:
        level, why = "P3", f"{hit.hard + hit.conflicts} users, once or twice"
    else:
        level, why = "none", "nobody's save failed"
    return "CRITICAL" if hit.lost else LEVELS[level], level, why


def ongoing(failures: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame:
    """The reported failures that still matter.

    Over are those after which a save of that document succeeded. A conflict or a broken connection now and then is an
    ordinary day: these count where one writer has often had them, or many had them together, over or not. A
    connection that broke often and holds again is over all the same; a conflict that a save ended may have been won by
    the other device.
    """
    saved = log[log.status == 200].groupby("document")["at"].max().to_dict()
    over = pd.to_datetime(failures.document.map(saved), utc=True) > pd.to_datetime(failures.created_at, utc=True)
    often = failures.groupby(["failure_type", "user_id"]).user_id.transform("size") >= OFTEN
    crowd = together(failures, log)
    conflict, network = failures.failure_type == "conflict", failures.failure_type == "network"
    return failures[
        (conflict & (often | crowd)) | (network & ((often & ~over) | crowd)) | (~conflict & ~network & ~over)
    ]


def together(failures: pd.DataFrame, log: pd.DataFrame) -> pd.Series[bool]:
    """Which reports are of many writers within an hour, and of a share of all who wrote then."""
    found = pd.Series(False, index=failures.index)
    for shift in ("0min", "30min"):  # so that no half an hour falls between two hours
        hour, wrote = _hours(failures.created_at, shift), log.groupby(_hours(log["at"], shift)).document.nunique()
        writers = failures.groupby([hour, "failure_type"]).user_id.transform("nunique")
        found |= (writers > MANY) & (writers >= SHARE * hour.map(wrote).fillna(0))
    return found


def _hours(moments: pd.Series, shift: str = "0min") -> pd.Series:
    return (pd.to_datetime(moments, utc=True) + pd.Timedelta(shift)).dt.floor("h")


def frequent(torn: pd.DataFrame, failures: pd.DataFrame, log: pd.DataFrame) -> bool:
    """Whether writers run into each other's saves more than on an ordinary day; `torn`: documents with two devices."""
    refusals = failures[(failures.failure_type == "conflict") & failures.document.isin(torn.document)]
    hourly = _hours(refusals.created_at).value_counts()
    return len(torn) >= max(3, RARE * log.document.nunique()) or bool((hourly > HOURLY).any())


def refused_for_good(failures: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame:
    """document, refused, last: refused as conflicts again and again, by reports or the log, and never saved since."""
    reports = failures[failures.failure_type == "conflict"].rename(columns={"created_at": "at"})
    seen = [rows.groupby("document")["at"].agg(["size", "max"]) for rows in (reports, log[log.status == 409])]
    counted = pd.concat(seen).groupby(level=0).max().rename_axis("document").reset_index()
    counted.columns = pd.Index(["document", "refused", "last"])
    saved = log[log.status == 200].groupby("document")["at"].max().to_dict()
    since = pd.to_datetime(counted.document.map(saved), utc=True) > pd.to_datetime(counted["last"], utc=True)
    return counted[(counted.refused >= OFTEN) & ~since]


def unclaimed(log: pd.DataFrame, losses: pd.DataFrame, found: Callable[[str], bool]) -> pd.DataFrame:
    """The failed saves that no other check answers for; `standing`: a rule of the schema refuses that document still.

    A wait and a full account answer for their failures while they last, and for those that are over: the document
    was saved later, or holds by now what its snapshot does.
    """
    failed = log[(log.status >= 500) | log.code.notna()]
    saved = log[log.status == 200].groupby("document")["at"].max().to_dict()
    later = pd.to_datetime(failed.document.map(saved), utc=True) > pd.to_datetime(failed["at"], utc=True)
    held = (failed.operation == "autosave:update_document") & ~failed.document.isin(losses.document)
    code = failed.code.fillna("").astype(str)
    cap = (code == "23514") & failed.text.fillna("").astype(str).str.contains(CAP, regex=True)
    edge = failed.status.isin([502, 503, 504]) & failed.operation.isna()
    waited = code.isin(WAITED) & (later | held | found("lock"))
    full = cap & (later | found("snapshot-cap"))
    left = ~(edge | code.isin([*BROKEN, *FORBIDDEN]) | waited | full)
    return failed.assign(standing=code.str.startswith("23") & ~cap & ~later)[left]


def unanswered(reports: pd.DataFrame, log: pd.DataFrame, left: pd.DataFrame, found: Callable[[str], bool]) -> int:
    """How many reported errors have no line of the log, at their time, that a check answers for."""
    hidden = (log.status == 404) & (not found("rls-denial"))
    known = dict(iter(log[(log.status >= 400) & ~hidden & ~log.index.isin(left.index)].groupby("document")["at"]))
    errors = reports[~reports.failure_type.isin(["conflict", "network"])]
    pairs = zip(errors.document, pd.to_datetime(errors.created_at, utc=True), strict=True)
    return sum(not (document in known and ((known[document] - at).abs() <= NEAR).any()) for document, at in pairs)


def explained(risky: pd.DataFrame, log: pd.DataFrame) -> pd.DataFrame:
    """The documents at risk, with what explains each loss in `because`; empty where nothing does."""
    lines = dict(iter(log.groupby("document")))
    nothing = log.head(0)
    because = [_because(row, lines.get(row["document"], nothing)) for row in risky.to_dict("records")]
    return risky.assign(**{EXPLAINED: pd.Series(because, index=risky.index, dtype=object)})


def _because(row: Mapping[Hashable, Any], lines: pd.DataFrame) -> str:
    lost = pd.Timestamp(row["lost_at"])
    near = lines[(lines["at"] >= lost - NEAR) & (lines["at"] <= lost + NEAR)]
    if row["sign"] == "shrunk" and (near.operation == "sanitize:html").any():
        return "the sanitiser failed"
    return _unstored(near, lost, row["touched"]) if row["sign"] == "never-stored" and row["dated"] else ""


def _unstored(near: pd.DataFrame, kept: pd.Timestamp, touched: bool) -> str:
    """Why a text reached its snapshot at `kept`, and no further: the last answer that was no refusal decides.

    Saves are seconds apart: an answer of 200 may be the one before, and proves nothing beside a save that failed. Nor
    does it where the document was `touched` later: it may have been stored, and written over by an older text.
    """
    answers = near[(near["at"] >= kept - SLACK) & ~near.status.between(400, 499)].sort_values("at", kind="stable")
    if answers.empty:
        return ""
    last = answers.iloc[-1]
    if last.operation == "autosave:update_document":
        return f"the update failed with {last.code}"
    if last.status >= 500 and pd.isna(last.operation):
        return CUT_OFF
    changed_none = last.status == 200 and not touched and not (near.status >= 500).any()
    return "answered 200, and no row was changed" if changed_none else ""


def held_up(losses: pd.DataFrame) -> pd.Series:
    """Which losses are of saves that gave up waiting for a lock."""
    return losses[EXPLAINED].map(lambda said: any(code in said for code in WAITED)).astype(bool)


def restorable(losses: pd.DataFrame, now: datetime, blocked: bool) -> pd.Series:
    """Which losses may be put right: explained, quiet for a while, and not about to be stored by the open tab.

    Behind a lock that is still held (`blocked`), the tab's next save stores the newest text by itself as soon as the
    lock is gone; a restore would turn that save into a conflict.
    """
    quiet = pd.to_datetime(losses.last_attempt, utc=True) < pd.Timestamp(now) - QUIET
    return _ours(losses) & quiet & ~(held_up(losses) & blocked)


def waiting(losses: pd.DataFrame, now: datetime, blocked: bool) -> pd.Series:
    """Which losses will be restorable later, unless a tab stores them first; each with the time from when on."""
    later = losses[_ours(losses) & ~restorable(losses, now, blocked)]
    last = pd.to_datetime(later.last_attempt, utc=True).mask(held_up(later) & blocked, pd.Timestamp(now))
    return last + QUIET


def _ours(losses: pd.DataFrame) -> pd.Series:
    """Which losses are for us to put right: explained, and neither text lost by it."""
    return (losses[EXPLAINED] != "") & ~two_texts(losses)


def two_texts(losses: pd.DataFrame) -> pd.Series:
    """Which documents hold a text of their own beside the copy: only their authors know which they want.

    An old text was saved over a newer one, or they were written on after the loss, and going back would lose that:
    words, or chapters and anchors, for a copy's whole body replaces the document's. Or they were touched after a text
    that never was stored, and nobody can say with what.
    """
    newer = losses.own_structure | (losses.written_on & (losses.words_only_stored > 0))
    return (losses.sign == "jumped-back") | losses.touched | newer


def kinds(losses: pd.DataFrame, chosen: pd.DataFrame) -> pd.Series:
    """Which message the author of each loss gets; `chosen` are those that will be put right."""
    unexplained = (losses[EXPLAINED] == "") & (losses.sign != "jumped-back")
    found = pd.Series("open-tab", index=losses.index).mask(losses.document.isin(chosen.document), "restored")
    found = found.mask(two_texts(losses), "two-texts").mask(unexplained, "question")
    return found.mask(unexplained & (losses.sign == "never-stored"), "unfinished")


def mail(kind: str, documents: list[tuple[str, datetime]]) -> str:
    """A message to one writer: what to do, and the time of the last stored copy of each document. Promises nothing."""
    copies = "\n".join(f"- {title}: last stored copy {at:%Y-%m-%d %H:%M} UTC" for title, at in documents)
    return f"{WORDS[kind]}\n\n{copies}\n"


WORDS = {
    "open-tab": "Some of your latest text may exist only in your open tab. Please do not close or reload it. "
    "Copy the text into a file first; then we go on together.",
    "restored": "A fault of ours took text out of your document. We have a copy from the time below and are putting it "
    "back. Please look through it, and tell us if anything newer is missing.",
    "question": "Your document became much shorter at about the time of a fault. If you shortened it yourself, all is "
    "well and you need do nothing. If not, tell us: a longer copy from the time below still exists.",
    "unfinished": "A copy of your document from the time below differs from what the document itself holds, and we "
    "cannot tell which of the two you want. Both still exist. If the document is open in a tab, please leave it open. "
    "Look whether your latest text is in it: if it is, all is well and you need do nothing. If not, tell us.",
    "two-texts": "Your document holds one text, and a copy from the time below another: an older text was saved over a "
    "newer one, or a fault of ours took text out and you wrote on. Both still exist. Please tell us which you want, or "
    "merge them from the document's history.",
}


def briefly(losses: pd.DataFrame) -> str:
    """The losses in one line."""
    counted = losses.groupby("sign").document.nunique()
    return told([f"{n} {sign}" for sign, n in counted.items()]) or "none"


SILENT = ("documents", "UPDATE")  # the one denial that is no error


def mending(cause: str, denied: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What a person does about a policy or a trigger, and how. `denied`: table and command that owners may not."""
    if cause == "broken-trigger":
        step = "as the owner of documents, put the last working create_document_version() back"
        return [(step, 'psql "$OWNER_DATABASE_URL" -f LAST_WORKING_MIGRATION.sql  # the ledger names it')]
    pairs = {"silent-zero-row": [SILENT], "rls-denial": [pair for pair in denied if pair != SILENT]}[cause]
    return [
        (
            f"as the owner of {table}, let owners {command.lower()} it again: the policy as it was",
            f'psql "$OWNER_DATABASE_URL" -f POLICY_AS_IT_WAS.sql  # of {table}, for {command}: the migrations hold it',
        )
        for table, command in pairs
    ]
