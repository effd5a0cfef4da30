"""Changes as data, and the one loop that carries them out.

An `Action` is what was planned: a name, arguments and the state it was planned on, all of it JSON. The `Change` of
that name is how: look, tell whether it is done, do, undo. Both live outside notebooks, so that apply, resume and
undo run from plan and journal alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar

from opskit import masking
from opskit.errors import CannotTell, Denied, Faulty, NotFound, OpskitError, Refused, Throttled, Unreachable
from opskit.journal import Event, Journal

Json = Any  # what json.loads gives: dict, list, str, int, float, bool, None
Arguments = dict[str, Json]


class Result(StrEnum):
    """How one action ended."""

    DONE = "done"
    ALREADY = "already so"  # it was like that before we began
    STALE = "stale"  # the world has changed since it was planned; not done
    UNDER_WAY = "under way"  # no end at all: how far it is
    WAITING = "waits for a person"
    SAID = "done, a person says"  # its fate could not be seen, and a person decided
    FAILED = "failed"  # it was tried, and had no effect
    UNKNOWN = "fate unknown"  # it may or may not have happened

    @property
    def good(self) -> bool:
        return self in (Result.DONE, Result.ALREADY, Result.SAID)

    @property
    def stops(self) -> bool:
        """Whether nothing more may be done after it: the first unexpected result ends an apply."""
        return self in (Result.FAILED, Result.UNKNOWN)


@dataclass(frozen=True)
class Action:
    """One planned change."""

    name: str
    arguments: dict[str, Json]
    before: Json  # None: it depends on no state
    title: str
    by_hand: str = ""
    manual: bool = False
    removes_access: bool = False
    after: Sequence[str] = ()  # ids of the actions that must be done before it may begin

    @property
    def id(self) -> str:
        """The same for the same change of the same things."""
        return digest([self.name, self.arguments])[7:23]

    def data(self) -> dict[str, Json]:
        found = asdict(self)
        return found if self.after else {key: value for key, value in found.items() if key != "after"}


class Change:
    """How to make one kind of change. Subclasses register themselves under their `name`."""

    known: ClassVar[dict[str, Change]] = {}

    name: ClassVar[str]
    title: ClassVar[str]  # with {arguments}
    right: ClassVar[str] = ""  # what the service must grant the change credential
    manual: ClassVar[bool] = False
    settles: ClassVar[float] = 0.0  # seconds that an effect may need to become visible
    final: ClassVar[str] = ""  # why it cannot be undone; empty: it can
    undo_means: ClassVar[str] = ""  # what to know before it is taken back, of {count} of them
    only_looks: ClassVar[bool] = False  # a step that changes nothing, so there is nothing to undo
    in_database: ClassVar[bool] = False  # it looks or acts there

    def __init_subclass__(cls) -> None:
        Change.known[cls.name] = cls()

    def look(self, services: Any, of: Arguments) -> Json:
        """The state that this change is about, as JSON."""
        raise NotImplementedError

    def look_after(self, services: Any, of: Arguments, before: Json) -> Json:
        """The same right after doing it; `before` was true a moment ago, so what it holds need not be asked again."""
        return self.look(services, of)

    def done(self, now: Json, before: Json) -> bool | None:
        """Whether `now` shows the change made; None if that cannot be told."""
        raise NotImplementedError

    def do(self, services: Any, of: Arguments, before: Json, key: str) -> None:
        """Make the change. Raises Refused where `before` no longer holds."""
        raise NotImplementedError

    def steps(self, services: Any, of: Arguments, before: Json, key: str, reached: Json) -> Iterator[Json]:
        """Make the change piece by piece, for what takes long: after each piece that stays, what to go on from.

        `reached` is the last of those that an earlier attempt told; None: there was none.
        """
        self.do(services, of, before, key)
        yield from ()

    def unseen(self, of: Arguments, reached: Json) -> str:
        """What of an attempt without an end `look` cannot show, so that it must not be made again; empty: nothing."""
        return ""

    def image(self, services: Any, of: Arguments) -> Json:
        """Everything that the change could spoil, whole, to be kept in `private/` before it is made; None: nothing."""
        return None

    def undo(self, services: Any, of: Arguments, before: Json, after: Json, key: str) -> None:
        """Put back what `before` says, if things still are as `after` says."""
        raise Refused(f"{self.name} cannot be undone: {self.final}")

    def back_when(self, of: Arguments) -> str:
        """The condition for taking it back, where there is one that only people can see to hold; empty: none."""
        return ""

    def by_hand(self, of: Arguments, before: Json) -> str:
        """The command for the night when Python does not work."""
        return ""

    def plan(self, of: Arguments, before: Json, removes_access: bool = False, **words: str) -> Action:
        """Describe the change of these things, planned on the state `before`; nothing happens.

        `words` fill placeholders of the title that are no arguments.
        """
        title, state = masking.addresses(self.title.format(**of, **words)), plain(before)
        return Action(self.name, of, state, title, self.by_hand(of, state), self.manual, removes_access)


# Why an action has to wait; empty: it may begin, or go on from what it has reached. Raises where none may.
MayBegin = Callable[..., str]


def telling(may_begin: MayBegin, tell: Callable[[Action, Result, str], None]) -> MayBegin:
    """The same, and people hear how far an action is that takes long."""

    def asked(action: Action, reached: Json = None) -> str:
        if reached is not None:
            tell(action, Result.UNDER_WAY, reached["said"])
        return may_begin(action, reached)

    return asked


Ended = tuple[Result, str]  # and why
UNFINISHED = (Result.WAITING, Result.FAILED, Result.UNKNOWN)  # what a resume takes up again


def carry_out(
    approved: Sequence[Action], services: Any, journal: Journal, may_begin: MayBegin = lambda *_: ""
) -> Iterator[tuple[Action, Result, str]]:
    """Make the approved changes in order, each journalled before and after; stop at the first unexpected result.

    The same loop serves a first apply and a resume: what the journal says was ended is not begun again, and for
    what was begun and never ended, the outside world is asked.
    """
    past = Past(journal.read())
    for action in approved:
        if past.result(action) not in (None, *UNFINISHED):
            continue
        if wait := _waits_for(action, approved, past) or may_begin(action):
            yield action, *_end(journal, action, Result.WAITING, wait)
            continue
        result, why = _carry_out_one(action, past, services, journal, may_begin)
        past.results[action.id] = result
        yield action, result, why
        if result.stops:
            return


def _waits_for(action: Action, approved: Sequence[Action], past: Past) -> str:
    """Which of the actions before it are not done yet, in words; empty: none."""
    if not action.after:
        return ""
    titles = {one.id: one.title for one in approved}
    done = {key for key, result in past.results.items() if result.good}
    return "; ".join(f"first: {titles.get(key, key)}" for key in action.after if key not in done)


class Past:
    """What a journal tells of earlier attempts, by action id."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.begun: dict[str, Event] = {}
        self.ended: dict[str, Event] = {}
        self.undone: dict[str, Event] = {}
        self.reached: dict[str, Json] = {}
        for event in events:
            if event["event"] == "action.begun":
                self.begun[event["action"]] = event
                self.ended.pop(event["action"], None)
            elif event["event"] == "action.ended":
                self.ended[event["action"]] = event
            elif event["event"] == "action.progress":
                self.reached[event["action"]] = event["reached"]
            elif event["event"] == "undo.ended":
                self.undone[event["action"]] = event
        self.results = {key: Result(event["result"]) for key, event in self.ended.items()}

    def result(self, action: Action) -> Result | None:
        return self.results.get(action.id)

    def taken_back(self, action: Action) -> bool:
        return action.id in self.undone and Result(self.undone[action.id]["result"]).good

    def in_doubt(self, action: Action) -> bool:
        """Whether it was begun and nobody saw how it ended."""
        return action.id in self.begun and self.result(action) in (None, Result.UNKNOWN)

    def key(self, action: Action) -> str | None:
        """The idempotency key of an attempt that was never answered: with it, the same is not done twice.

        Also where a person decided that it had no effect: they may be wrong.
        """
        unanswered = self.in_doubt(action) or "decided_by" in self.ended.get(action.id, {})
        return self.begun[action.id].get("key") if unanswered and action.id in self.begun else None


def _carry_out_one(action: Action, past: Past, services: Any, journal: Journal, may_begin: MayBegin) -> Ended:
    change, begun = Change.known[action.name], action.id in past.begun
    try:
        now = plain(change.look(services, action.arguments))
    except CannotTell as error:
        return _end(journal, action, Result.UNKNOWN if past.in_doubt(action) else Result.FAILED, error.message)
    done = change.done(now, action.before)
    if done:
        return _end(journal, action, Result.DONE if begun or action.manual else Result.ALREADY, "", now)
    if action.manual:
        return _end(journal, action, Result.WAITING, "a person does this; resume when it is done", now)
    changed = action.before is not None and now != action.before
    hidden = change.unseen(action.arguments, past.reached.get(action.id)) if past.in_doubt(action) else ""
    if past.in_doubt(action) and (done is None or changed or hidden):
        why = hidden or "it was begun, and what is there now is neither before nor after"
        return _end(journal, action, Result.UNKNOWN, why, now)
    if changed:
        return _end(
            journal, action, Result.STALE, f"changed since it was planned: {difference(action.before, now)}", now
        )
    key = past.key(action) or _key(journal, action, "do")
    intent = {"name": action.name, "arguments": action.arguments, "before": action.before, "key": key}
    try:
        kept = _keep(journal, action.id, change.image(services, action.arguments))
    except CannotTell as error:
        return _end(journal, action, Result.FAILED, error.message)
    journal.write("action.begun", action=action.id, **intent, **kept)
    return _do(action, services, journal, key, past, may_begin)


def _keep(journal: Journal, name: str, image: Json) -> dict[str, str]:
    """Keep a before-image beside the journal, on disk before the change is begun; answers its digest."""
    if image is None:
        return {}
    text = json.dumps(image, indent=1, ensure_ascii=False, default=str)
    folder = journal.path.parent / "private"
    folder.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(folder / f"{name}.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(journal.redactor.text(text))
        file.flush()
        os.fsync(file.fileno())
    return {"image": digest(image)}


def difference(before: Json, now: Json) -> str:
    """In a few words, what of a state is not as it was."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return f"{_short(before)} is now {_short(now)}"
    parts = []
    for name in sorted({*before, *now}):
        was, found = before.get(name), now.get(name)
        if was == found:
            continue
        inner = isinstance(was, dict) and isinstance(found, dict)
        parts.append(difference(was, found) if inner else f"{name} was {_short(was)}, is {_short(found)}")
    return "; ".join(parts)


def _short(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _do(action: Action, services: Any, journal: Journal, key: str, past: Past, may_begin: MayBegin) -> Ended:
    """Make a change and see what came of it."""
    change, given = Change.known[action.name], (services, action.arguments, action.before, key)
    trouble, unanswered, stop = "", False, None
    try:
        reached = past.reached.get(action.id)
        stop = _patiently(lambda: _go(change.steps(*given, reached), action, journal, may_begin))
    except Refused as error:  # where in doubt, an earlier attempt may still be taking effect
        return _refused(change, action, services, journal, error.message, past.in_doubt(action))
    except (Denied, NotFound) as error:  # the vendor keeps this from us; a person may be let in
        return _end(journal, action, Result.WAITING, f"{error.message} By hand: {action.by_hand}")
    except OpskitError as error:
        trouble, unanswered = error.message, _is_unanswered(error)
    if stop:
        _end(journal, action, Result.WAITING, "stopped on the way; resume goes on from there")
        raise stop
    try:
        now, done = _settled(change, action, services)
    except CannotTell as error:
        return _end(journal, action, Result.UNKNOWN, f"{trouble} {error.message}".strip())
    if done:
        return _end(journal, action, Result.DONE, "", now)
    if done is None:
        return _end(journal, action, Result.UNKNOWN, trouble or "whether it worked cannot be seen", now)
    why = trouble or f"afterwards still: {json.dumps(now)[:200]}"
    return _end(journal, action, Result.UNKNOWN if unanswered else Result.FAILED, why, now)  # it may still happen


def _go(steps: Iterator[Json], action: Action, journal: Journal, may_begin: MayBegin) -> BaseException | None:
    """Make the change; what asked us to stop on the way, which every piece that was made outlives."""
    for reached in steps:
        journal.write("action.progress", action=action.id, name=action.name, reached=reached)
        try:
            may_begin(action, reached)
        except (KeyboardInterrupt, Refused) as stop:
            return stop
    return None


def _is_unanswered(error: OpskitError) -> bool:
    """Whether what was sent may have been done all the same: a service that failed does not know that either."""
    if isinstance(error, Unreachable):
        return error.was_sent
    return isinstance(error, Faulty) and (error.status or 0) >= 500


def _refused(change: Change, action: Action, services: Any, journal: Journal, why: str, again: bool) -> Ended:
    """What it means that `before` no longer held: somebody was quicker, or an earlier attempt of ours was late."""
    try:
        now = plain(change.look(services, action.arguments))
    except CannotTell as error:
        return _end(journal, action, *((Result.UNKNOWN, error.message) if again else (Result.STALE, why)))
    if change.done(now, action.before):
        return _end(journal, action, Result.DONE if again else Result.ALREADY, "", now)
    if again:
        return _end(journal, action, Result.UNKNOWN, f"it was begun, and then {why}", now)
    return _end(journal, action, Result.STALE, why, now)


def _key(journal: Journal, action: Action, verb: str) -> str:
    """The idempotency key: of doing or undoing this change in this run. In another run it is meant anew."""
    return f"opskit-{journal.path.parent.name}-{verb}-{action.id}"


def _patiently(change: Callable[[], Any]) -> Any:
    """Make a change; when told to slow down, wait and send the same again: it was not accepted the first time."""
    for wait in (1, 2, 4, 8, None):
        try:
            return change()
        except Throttled as error:
            if wait is None:
                raise
            time.sleep(min(error.retry_after or wait, 30))
    return None


def _settled(change: Change, action: Action, services: Any) -> tuple[Json, bool | None]:
    """Look until the effect shows or its time is up."""
    deadline = time.monotonic() + change.settles
    pause = min(0.15, change.settles)  # what needs time never shows at once: a look less at a paced service
    while True:
        time.sleep(pause)
        now = plain(change.look_after(services, action.arguments, action.before))
        done = change.done(now, action.before)
        if done or time.monotonic() >= deadline:
            return now, done
        pause = min(pause * 2, 2.0)


def _end(journal: Journal, action: Action, result: Result, why: str, after: Json = None) -> Ended:
    journal.write("action.ended", action=action.id, name=action.name, result=result, why=why, after=after)
    return result, masking.addresses(why)


@dataclass(frozen=True)
class Decision:
    """A person's word for what became of an action, where that could not be seen."""

    action: Action
    done: bool
    because: str


def write(decided: Sequence[Decision], journal: Journal, by: str) -> None:
    """Write down what a person decided, and who it was."""
    for one in decided:
        why = f"{by} decided that it was {'done' if one.done else 'not done'}: {one.because}"
        result = Result.SAID if one.done else Result.FAILED
        about = {"action": one.action.id, "name": one.action.name, "why": why, "after": None, "decided_by": by}
        journal.write("action.ended", result=result, **about)


def to_take_back(actions: Sequence[Action], events: Sequence[Event]) -> list[Action]:
    """Those of the actions that made a change of their own, last first."""
    past = Past(events)
    return [action for action in reversed(actions) if past.result(action) is Result.DONE and _is_ours(action)]


def undo_means(actions: Sequence[Action]) -> list[str]:
    """What a person should know before these are taken back."""
    counts = Counter(action.name for action in actions)
    said = [said.format(count=n) for name, n in counts.items() if (said := Change.known[name].undo_means)]
    conditions = ((action, Change.known[action.name].back_when(action.arguments)) for action in actions)
    return said + [
        f"“{action.title}” is to be taken back once {when}; that is not shown to hold, so look before you go on"
        for action, when in conditions
        if when
    ]


def _is_ours(action: Action) -> bool:
    return not action.manual and not Change.known[action.name].only_looks


def take_back(
    actions: Sequence[Action], services: Any, journal: Journal, may_begin: MayBegin = lambda *_: ""
) -> Iterator[tuple[Action, Result, str]]:
    """Undo what the journal says was done, last first; never over somebody's newer change.

    What was taken back once is not again: if it stands there now, another run has made it since.
    """
    past = Past(journal.read())
    for action in reversed(actions):
        if past.taken_back(action):
            yield action, Result.ALREADY, "an earlier undo took it back"
            continue
        found = _take_back_one(action, past, services, journal, may_begin)
        if found is None:
            continue
        result, why = found
        journal.write("undo.ended", action=action.id, name=action.name, result=result, why=why)
        yield action, result, why
        if result.stops:
            return


def _take_back_one(action: Action, past: Past, services: Any, journal: Journal, may_begin: MayBegin) -> Ended | None:
    """None: there is nothing of ours to take back."""
    if past.in_doubt(action):
        return Result.UNKNOWN, "it was begun, and nobody found out whether it happened: resume first"
    if past.result(action) not in (Result.DONE, Result.SAID) or not _is_ours(action):
        return None
    if past.result(action) is Result.SAID:
        return Result.STALE, "a person said that it was done, and nobody saw it: take it back by hand"
    if wait := may_begin(action):
        return Result.WAITING, wait
    try:
        return _put_back(action, past.ended[action.id]["after"], services, journal)
    except OpskitError as error:
        return Result.UNKNOWN, error.message


def _put_back(action: Action, after: Json, services: Any, journal: Journal) -> Ended:
    change = Change.known[action.name]
    if change.final:
        return Result.STALE, f"cannot be undone: {change.final}"
    now = plain(change.look(services, action.arguments))
    if now == action.before:
        return Result.ALREADY, "it is as it was before"
    if now != after:
        return Result.STALE, f"changed since, so not touched: {difference(after, now)}"
    journal.write("undo.begun", action=action.id, name=action.name)
    _patiently(lambda: change.undo(services, action.arguments, action.before, after, _key(journal, action, "undo")))
    restored = plain(change.look(services, action.arguments))
    if restored == action.before:
        return Result.DONE, ""
    return Result.FAILED, f"afterwards not as before: {difference(action.before, restored)}"


def plain(value: Any) -> Json:
    """`value` as JSON would give it back, so that states read now compare with states read from a plan."""
    return json.loads(json.dumps(value, default=str))


def digest(value: Json) -> str:
    """Of `value` in its one canonical spelling."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return "sha256:" + hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
