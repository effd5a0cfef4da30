"""Background AI tasks: which of them are stuck, and what becomes of each.

The provider is asked before anything is written: a finished result is stored, not paid for twice. Each change rechecks
in its own statement that the task is still as it was read.
"""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

import pandas as pd

from opskit.actions import Action, Arguments, Change
from opskit.database import Database
from opskit.errors import Refused
from opskit.services.ai_errors import kind
from opskit.services.ai_errors import provider as provider_of
from opskit.services.providers import RESPONSE, Providers

# A task without an id at the provider may still be on its way there. The hosting kills a function after a minute, and
# the app says `running` together with the id; where it says so without one, nobody knows how, so it has longer.
LOST = """
    provider_response_id is null and created_at < now() - interval '2 minutes'
    and (status = 'queued' or status = 'running' and updated_at < now() - interval '15 minutes')
"""
# One with an id is asked about early: its result is kept for ten minutes only. When it was last written says nothing,
# since a page that is open writes `running` each time it asks, also where the provider has ended it.
STUCK = f"""
    select id::text as task, user_id::text as "user", task_type, status, provider_response_id as response,
           created_at, updated_at,
           case when provider_response_id is null then 'orphaned' else 'long-running' end as kind
    from ai_background_tasks
    where {LOST}
       or status in ('queued', 'running') and provider_response_id is not null
          and created_at < now() - interval '2 minutes'
    order by created_at
"""  # noqa: S608  # our own
ONE = """
    select t.status, t.error, t.provider_response_id as response, t.result is not null as has_result,
           exists (select 1 from ai_usage u where u.id = %(usage)s) as counted
    from ai_background_tasks t where t.id = %(task)s
"""
# What the provider still keeps, if our key is of the project that asked for it.
OTHERS = """
    select provider_response_id as response from ai_background_tasks
    where not provider_response_id = any(%(asked)s)
      and (status in ('queued', 'running') or updated_at > now() - interval '10 minutes')
    order by updated_at desc limit 10
"""
LATEST = """
    select selected_model as model, max(created_at) filter (where status = 'succeeded') as succeeded,
           max(created_at) filter (where status <> 'succeeded') as failed
    from ai_requests where created_at > now() - interval '1 day' group by 1
"""
SINCE = """
    select case when status <> 'succeeded' then coalesce(error, '') end as error
    from ai_requests where created_at > greatest(%(since)s, now() - interval '10 minutes')
"""
WHOLE = "select * from ai_background_tasks where id = %(task)s"
# Ledger and word counter go together, as the app counts what it fetches itself.
COUNT = """
    with added as (
      insert into ai_usage (id, user_id, model, words_generated) values (%s, %s, %s, %s)
      on conflict do nothing returning user_id, words_generated)
    update user_profiles p set ai_words_used_this_month = ai_words_used_this_month + added.words_generated
    from added where p.id = added.user_id
"""
NEVER_SENT, EXPIRED, UNKNOWN = "never sent", "expired", "unknown"  # beside what the provider itself says
DOUBT = {"status": UNKNOWN, "reason": "404, and yet it may still be kept: perhaps our key is another project's"}
OLD = pd.Timedelta(days=1)  # after which no provider keeps anything
KEPT = pd.Timedelta(minutes=10)  # at least, from a response's end on: what is younger cannot have expired
# The same as a person would do it: fetch the result, store it, and count its words, where the task still waits for it.
STORE_BY_HAND = r"""curl -sf -H "Authorization: Bearer $OPENAI_API_KEY" \
  https://api.openai.com/v1/responses/{response} > answer.json
psql "$DATABASE_URL" -v task={task} -v response={response} <<'SQL'
\set answer `cat answer.json`
with answer as (select :'answer'::jsonb as whole),
said as (
  select whole ->> 'model' as model, string_agg(part ->> 'text', '') as text
  from answer, jsonb_array_elements(whole -> 'output') item, jsonb_array_elements(item -> 'content') part
  where (whole ->> 'status' = 'completed' or whole #>> '{{incomplete_details,reason}}' = 'max_output_tokens')
    and item ->> 'type' = 'message' group by 1),
stored as (
  update ai_background_tasks t
  set status = 'succeeded', error = null, result = jsonb_build_object('summary', said.text)
  from said where t.id = :'task' and t.provider_response_id = :'response'
    and t.status in ('queued', 'running') and t.result is null
  returning t.user_id, said.model, said.text),
counted as (
  insert into ai_usage (id, user_id, model, words_generated)
  select gen_random_uuid(), user_id, model, cardinality(regexp_split_to_array(trim(text), '\s+')) from stored
  returning user_id, words_generated)
update user_profiles p set ai_words_used_this_month = ai_words_used_this_month + counted.words_generated
from counted where p.id = counted.user_id;
SQL"""
FAIL = f"""
    update ai_background_tasks set status = %s, error = %s
    where id = %s and status = %s and provider_response_id is not distinct from %s and result is null
      and (provider_response_id is not null and created_at < now() - interval '2 minutes' or {LOST})
"""  # noqa: S608  # our own
# The words come from the provider: a shell must not read them, so each is quoted, and psql quotes it once more.
FAIL_BY_HAND = """psql "$DATABASE_URL" {words} <<'SQL'
update ai_background_tasks set status = 'failed', error = :'why'
where id = :'task' and status = :'status' and result is null
  and {still};
SQL"""
AT_WORK = ("queued", "in_progress")  # at the provider: such a task is left alone
RIGHT = "update (status, result, error) on ai_background_tasks"
USAGE = uuid.UUID(
    "6f70736b-6974-4a1e-8f00-000000000000"
)  # of ours: one ledger row for a task, however often it is tried


class Tasks:
    """Background tasks in the database, beside the provider that works on them."""

    def __init__(self, database: Database, providers: Providers, models: Mapping[str, str], model: str | None) -> None:
        self.database = database
        self.providers = providers
        self.models = models
        self.model = model

    def stuck(self) -> pd.DataFrame:
        """Tasks that should have ended, oldest first: task, user, task_type, status, response, kind.

        Of a `long-running` one only the provider knows whether it has; an `orphaned` one will not end by itself.
        """
        return self.database.read(STUCK)

    def at_provider(self, stuck: pd.DataFrame) -> pd.DataFrame:
        """The same, with what the provider says of each that has an id there: state, reason, usable (there is a text).

        `expired` only where that is certain: whoever asks with the key of another project is told the same.
        """
        said = [self._said(one) for one in stuck.response]
        gone = [one["status"] == EXPIRED for one in said]
        ages = pd.Timestamp.now("UTC") - pd.to_datetime(stuck.created_at, utc=True)
        least = KEPT
        if any(gone) and not (any(map(is_seen, said)) or self._sees_others(stuck.response)):
            least = OLD
        said = [DOUBT if lost and age <= least else one for one, lost, age in zip(said, gone, ages, strict=True)]
        return stuck.assign(
            state=[str(s["status"]) for s in said],
            reason=[s["reason"] or "" for s in said],
            usable=[is_usable(s) for s in said],
        )

    def _said(self, response: Any) -> dict[str, Any]:
        if not isinstance(response, str):
            return {"status": NEVER_SENT, "reason": None}
        if not RESPONSE.fullmatch(response):
            return {"status": UNKNOWN, "reason": f"{response!r} is no id of a response"}
        return self.providers.response(response)

    def _sees_others(self, asked: Iterable[Any]) -> bool:
        """Whether the provider shows our key the response of any task that it must still keep."""
        others = self.database.rows(OTHERS, asked=[one for one in asked if isinstance(one, str)])
        return any(is_seen(self._said(one["response"])) for one in others)

    def state(self, task: str) -> dict[str, Any] | None:
        """A task's row without its text."""
        found = self.database.rows(ONE, task=task, usage=usage_id(task))
        return found[0] if found else None

    def succeeding(self, provider: str) -> bool:
        """Whether users' last requests to each of a provider's models succeeded."""
        rows = [row for row in self.database.rows(LATEST) if provider_of(row["model"], self.models) == provider]
        return bool(rows) and all(r["succeeded"] and (not r["failed"] or r["succeeded"] > r["failed"]) for r in rows)

    def failing(self, kinds: Collection[str], since: datetime) -> bool | None:
        """Whether 5 % of the requests that came since a moment, of the last ten minutes, failed in these ways.

        None where none came: nothing has shown that they no longer do.
        """
        found = self.database.rows(SINCE, since=since)
        failed = sum(row["error"] is not None and kind(row["error"]) in kinds for row in found)
        return failed >= max(1, 0.05 * len(found)) if found else None

    # What a plan may ask for. Each of these only describes; nothing happens.

    def settle(self, task: str, state: str, reason: str | None, response: str | None) -> Action | None:
        """What is to be done about a stuck task, by what its provider says. None: it works on it, or it is unclear."""
        before = self.state(task)
        if state in ("completed", "incomplete") and response:
            said = self.providers.response(response)
            if is_usable(said):
                what = "finished" if said["status"] == "completed" else "cut off"
                return StoreResult().plan({"task": task, "response": response}, before, what=what)
            if said["status"] != state:  # a fault, or it has just expired: the next look tells
                return None
            reason = said["reason"]
        if state in ("completed", "failed", "incomplete", "cancelled"):
            return Finish().plan({"task": task, "error": f"{state}: {reason}" if reason else state}, before)
        if state == EXPIRED:
            return Expire().plan({"task": task, "response": response}, before)
        return FailOrphan().plan({"task": task}, before) if state == NEVER_SENT else None


def is_seen(said: Mapping[str, Any]) -> bool:
    """Whether the provider knows a response, and shows it to our key."""
    return said["status"] not in (NEVER_SENT, EXPIRED, UNKNOWN)


def is_usable(said: Mapping[str, Any]) -> bool:
    """Whether a response holds text to be stored: all of it, or what there was when its length was used up."""
    ended = said["status"] == "completed" or (said["status"], said["reason"]) == ("incomplete", "max_output_tokens")
    return ended and bool((said["text"] or "").strip())


def usage_id(task: str) -> str:
    """The id of a task's ledger row, always the same."""
    return str(uuid.uuid5(USAGE, task))


class Settle:
    """Ends a stuck task. Subclasses say how, in one statement that holds only while it is still stuck."""

    ends_as = "failed"
    in_database = True

    def image(self, services: Any, of: Arguments) -> Any:
        return services.database.rows(WHOLE, task=of["task"])

    def look(self, services: Any, of: Arguments) -> Any:
        return services.tasks.state(of["task"])

    def done(self, now: Any, before: Any) -> bool:
        return bool(now and now["status"] == self.ends_as and now != before)

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        write(services.database, of["task"], before, "failed", self.why(of))

    def why(self, of: Arguments) -> str:
        raise NotImplementedError

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        with services.database.transaction() as cursor:
            cursor.execute(
                "update ai_background_tasks set status = %s, error = %s "
                "where id = %s and status = %s and error is not distinct from %s and result is null",
                (before["status"], before["error"], of["task"], after["status"], after["error"]),
            )
            if cursor.rowcount != 1:
                raise Refused(f"task {of['task']} has changed since; not touched.")

    def by_hand(self, of: Arguments, before: Any) -> str:
        given = {"task": of["task"], "status": before["status"], "response": before["response"], "why": self.why(of)}
        words = " ".join(f"-v {name}={shlex.quote(str(value))}" for name, value in given.items() if value is not None)
        known = "provider_response_id = :'response' and created_at < now() - interval '2 minutes'"
        return FAIL_BY_HAND.format(words=words, still=known if before["response"] else " ".join(LOST.split()))


class StoreResult(Settle, Change):
    name = "tasks.store_result"
    title = "Task {task:.8}: store the {what} result {response}, and count its words"
    right = f"{RIGHT}; insert on ai_usage; update (ai_words_used_this_month) on user_profiles"
    ends_as = "succeeded"
    final = "the provider forgets within minutes what was paid for: the result stays, and its words stay counted"

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        found = services.providers.response(of["response"])
        if not is_usable(found):
            raise Refused(f"{of['response']} is {found['status']} now; there is no result to store.")
        model = found["model"] or services.tasks.model or "unknown"
        store(services.database, of["task"], of["response"], before, found["text"], model)

    def by_hand(self, of: Arguments, before: Any) -> str:
        return STORE_BY_HAND.format(**of)


class Finish(Settle, Change):
    name = "tasks.finish"
    title = "Task {task:.8}: write down how it ended at the provider ({error})"
    right = RIGHT

    def why(self, of: Arguments) -> str:
        return str(of["error"])


class Expire(Settle, Change):
    name = "tasks.expire"
    title = "Task {task:.8}: its result has expired at the provider; the writer starts it anew"
    right = RIGHT

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        found = services.providers.response(of["response"])
        if found["status"] != EXPIRED:
            raise Refused(f"{of['response']} is {found['status']} at the provider, and has not expired; not touched.")
        super().do(services, of, before, key)

    def why(self, of: Arguments) -> str:
        return "expired: the provider no longer keeps the result"


class FailOrphan(Settle, Change):
    name = "tasks.fail_orphan"
    title = "Task {task:.8}: never reached the provider; mark it failed, the writer starts it anew"
    right = RIGHT

    def why(self, of: Arguments) -> str:
        return "orphaned: it never reached the provider"


def write(database: Database, task: str, before: Mapping[str, Any], status: str, error: str) -> None:
    """End a task that is still as it was read. Raises Refused where it is not."""
    with database.transaction() as cursor:
        cursor.execute(
            FAIL,
            (status, error, task, before["status"], before["response"]),
        )
        if cursor.rowcount != 1:
            raise Refused(f"task {task} has moved on since it was read; not touched.")


def store(database: Database, task: str, response: str, before: Mapping[str, Any], text: str, model: str) -> None:
    """Store a result, and count its words. Raises Refused where the task is no longer as it was read."""
    with database.transaction() as cursor:
        cursor.execute(
            "update ai_background_tasks set status = 'succeeded', error = null, "
            "result = jsonb_build_object('summary', %s::text) "
            "where id = %s and status = %s and provider_response_id = %s and result is null returning user_id",
            (text, task, before["status"], response),
        )
        if cursor.rowcount != 1:
            raise Refused(f"task {task} has moved on since it was read; not touched.")
        user = cursor.fetchone()
        cursor.execute(COUNT, (usage_id(task), user["user_id"] if user else None, model, len(text.split())))
