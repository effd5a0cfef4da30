"""The billing columns of `user_profiles`: what they say beside Stripe, and the changes to them.

A profile is only ever changed from exactly the state in which it was read, in one statement that says so, and the
word counter is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pandas as pd

from opskit.actions import Action, Arguments, Change
from opskit.database import Database
from opskit.errors import CannotTell, Refused
from opskit.services import billing
from opskit.services.stripe import AgreesWithStripe, Stripe

SELECT = f"select id::text, email, {', '.join(billing.COLUMNS)} from user_profiles"  # noqa: S608  # our own names
PAYING = f"{SELECT} where subscription_tier <> 'free' or stripe_customer_id is not null"
# Those that pay, and those that a listing of subscriptions names. Any other has no tier and is owed none.
CONCERNED = f"""{SELECT}
    where subscription_tier <> 'free' or id::text = any(%(users)s)
      or stripe_subscription_id = any(%(subscriptions)s) or stripe_customer_id = any(%(customers)s)
"""
# Only confirmed addresses count, and a profile that belongs to another customer is nobody else's.
OWNERS = """
    select p.id::text from user_profiles p join auth.users u on u.id = p.id
    where lower(p.email) = lower(%(email)s) and u.email_confirmed_at is not null
      and (p.stripe_customer_id is null or p.stripe_customer_id = %(customer)s)
"""
WHOLE = "select * from user_profiles where id = %(profile)s"
# Words written since the counter was last rightly reset: when the paid period began. A free user's is reset monthly,
# and who has not paid for a new period has not been reset for it.
RESET = """
    case when p.subscription_status in ('active', 'trialing')
         then coalesce(p.subscription_current_period_start, p.ai_words_reset_date) else p.ai_words_reset_date end
"""
# Where nobody wrote down when that was, or it has yet to come, a ledger of nothing says nothing: it is `unsure`.
LEDGER = f"""
    select p.id::text as profile, p.subscription_tier as tier, p.ai_words_used_this_month as counter,
           coalesce(sum(u.words_generated), 0)::int as ledger, {RESET} as since,
           coalesce({RESET} > now(), true) as unsure
    from user_profiles p
    left join ai_usage u on u.user_id = p.id and u.created_at >= {RESET}
"""  # noqa: S608  # our own
WORDS = f"{LEDGER} where p.id = %(profile)s group by p.id"
MISCOUNTED = f"""
    select * from ({LEDGER} group by p.id) as counted where counter <> ledger order by abs(counter - ledger) desc
"""  # noqa: S608  # our own


class Profiles:
    """User profiles in the database, beside Stripe."""

    def __init__(self, database: Database, stripe: Stripe, tiers: Mapping[str, str]) -> None:
        self.database = database
        self.stripe = stripe
        self.tiers = tiers

    def paying(self) -> list[dict[str, Any]]:
        """Every profile that pays, or that Stripe knows."""
        return self.database.rows(PAYING)

    def drift(self) -> list[billing.Drift]:
        """Where profiles and Stripe disagree.

        The absence of a live subscription counts only once the whole listing has been read, and that customer has
        been read again by itself with `status=all`.
        """
        subscriptions = self.stripe.subscriptions()
        named = {f"{key}s": [s[key] for s in subscriptions if s[key]] for key in ("user", "subscription", "customer")}
        profiles = self.database.rows(CONCERNED, **named)
        found = billing.drift(profiles, subscriptions, self.tiers)
        again = [d for d in found if d.due == "free" and d.customer]
        for one in again:
            subscriptions += [s for s in self.stripe.subscriptions(one.customer, "all") if s not in subscriptions]
        return billing.drift(profiles, subscriptions, self.tiers) if again else found

    def owner(self, customer: str) -> str | None:
        """The one profile that a Stripe customer belongs to by its confirmed e-mail address, if there is just one."""
        email = self.stripe.customer(customer).get("email") or ""
        found = self.database.rows(OWNERS, email=email, customer=customer)
        return str(found[0]["id"]) if len(found) == 1 else None

    def beside_stripe(self, profile: str, customer: str) -> dict[str, Any]:
        """One profile, what Stripe calls for now, and the columns in which they differ."""
        try:
            due = billing.expected(customer, self.stripe.subscriptions(customer, "all"), self.tiers)
        except billing.Ambiguous as error:
            raise CannotTell(f"stripe: {customer}: {error}") from None
        return self.beside(profile, due)

    def beside(self, profile: str, due: dict[str, Any]) -> dict[str, Any]:
        """One profile beside what it should say, without asking Stripe again. `due` may come from a plan."""
        rows = self.database.rows(f"{SELECT} where id = %(id)s", id=profile)
        if not rows:
            raise CannotTell(f"database: profile {profile} does not exist.")
        due = {
            c: datetime.fromisoformat(v) if c in billing.PERIODS and isinstance(v, str) else v for c, v in due.items()
        }
        now = {column: rows[0][column] for column in billing.COLUMNS}
        return {"profile": now, "due": due, "differ": billing.differences(now, due)}

    def words(self, profile: str) -> dict[str, Any]:
        """A profile's word counter, and what its ledger says it should be.

        Raises CannotTell where they differ and nobody knows since when the words count.
        """
        rows = self.database.rows(WORDS, profile=profile)
        if not rows:
            raise CannotTell(f"database: profile {profile} does not exist.")
        found = {"counter": rows[0]["counter"], "ledger": rows[0]["ledger"]}
        if rows[0]["unsure"] and found["counter"] != found["ledger"]:
            raise CannotTell(f"database: profile {profile} does not say since when its words count.")
        return found

    def miscounted(self) -> pd.DataFrame:
        """Profiles whose word counter differs from its ledger, the most wrong first: profile, tier, counter, ledger,
        since (from when the ledger is read), unsure (nobody wrote that down, or it has yet to come)."""
        return self.database.read(MISCOUNTED)

    # What a plan may ask for. Each of these only describes; nothing happens.

    def reconcile(self, profile: str, customer: str, state: dict[str, Any] | None = None) -> Action:
        """Write into a profile what Stripe says, nothing else. `state` as `beside_stripe` gives it, if known."""
        state = state or self.beside_stripe(profile, customer)
        due, now = state["due"], state["profile"]
        removes = billing.takes_away(now, due)
        of = {"profile": profile, "customer": customer}
        return Reconcile().plan(of, state, removes, now=_standing(now), due=_standing(due))

    def recount_words(self, profile: str) -> Action:
        """Set a profile's word counter to what its ledger says."""
        return RecountWords().plan({"profile": profile}, self.words(profile))

    def settle_by_hand(self, customer: str, why: str) -> Action:
        """Have a person decide what a customer's profile should say."""
        return SettleByHand().plan({"customer": customer, "why": why}, {"settled": False})

    def look_again(self, pairs: list[list[str]]) -> Action:
        """A second look at [profile, customer] pairs: events still on their way may have overwritten them."""
        return LookAgain().plan({"pairs": pairs}, None)


class Reconcile(AgreesWithStripe, Change):
    name = "profiles.reconcile"
    title = "Profile {profile:.8} of {customer}: {now} becomes {due}"
    right = f"update ({', '.join(billing.COLUMNS)}) on user_profiles"
    in_database = True

    def image(self, services: Any, of: Arguments) -> Any:
        return services.database.rows(WHOLE, profile=of["profile"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        _write(services.database, of["profile"], before["profile"], before["due"])

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        _write(services.database, of["profile"], after["profile"], before["profile"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        due = {c: v for c, v in before["due"].items() if before["profile"][c] != v}
        assign = ", ".join(f"{column} = {_literal(value)}" for column, value in due.items())
        tier = _literal(before["profile"]["subscription_tier"])
        where = f"id = {_literal(of['profile'])} and subscription_tier = {tier}"
        # For a person to read and to run, never for us.
        return f'psql "$DATABASE_URL" -c "update user_profiles set {assign} where {where}"'  # noqa: S608


def _literal(value: Any) -> str:
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


def _standing(row: Mapping[str, Any]) -> str:
    """A profile's standing in a few words: `professional until 2026-12-23`, `free, canceled`."""
    tier, status, end = (row[c] for c in ("subscription_tier", "subscription_status", billing.PERIODS[1]))
    known = tier if status == "active" else f"{tier}, {status}"
    return f"{known} until {end:%Y-%m-%d}" if end else known


def _write(database: Database, profile: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Change a profile from exactly `old` to `new`. Raises Refused where it is no longer `old`."""
    assign = ", ".join(f"{column} = %(new_{column})s" for column in billing.COLUMNS)
    unchanged = " and ".join(f"{column} is not distinct from %(old_{column})s" for column in billing.COLUMNS)
    values = {f"new_{c}": new[c] for c in billing.COLUMNS} | {f"old_{c}": old[c] for c in billing.COLUMNS}
    with database.transaction() as cursor:
        cursor.execute(
            f"update user_profiles set {assign} where id = %(id)s and {unchanged}",  # noqa: S608  # our own names
            {**values, "id": profile},
        )
        if cursor.rowcount != 1:
            raise Refused(f"profile {profile} has changed since it was read; not touched.")


class RecountWords(Change):
    name = "profiles.recount_words"
    title = "Profile {profile:.8}: set the AI word counter to its ledger"
    right = "update (ai_words_used_this_month) on user_profiles; select on ai_usage"
    in_database = True

    def image(self, services: Any, of: Arguments) -> Any:
        return services.database.rows(WHOLE, profile=of["profile"])

    def look(self, services: Any, of: Arguments) -> Any:
        return services.profiles.words(of["profile"])

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["counter"] == now["ledger"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        self._set(services.database, of["profile"], before["counter"], before["ledger"])

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        self._set(services.database, of["profile"], after["counter"], before["counter"])

    def _set(self, database: Database, profile: str, old: int, new: int) -> None:
        with database.transaction() as cursor:
            cursor.execute(
                "update user_profiles set ai_words_used_this_month = %s "
                "where id = %s and ai_words_used_this_month = %s",
                (new, profile, old),
            )
            if cursor.rowcount != 1:
                raise Refused(f"profile {profile} has counted on since it was read; not touched.")


class SettleByHand(Change):
    name = "profiles.settle_by_hand"
    title = "By hand: decide what {customer} is owed ({why})"
    manual = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        return {"settled": all(d.customer != of["customer"] for d in services.profiles.drift())}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["settled"])

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"stripe customers retrieve {of['customer']} --live"


class LookAgain(Change):
    name = "profiles.look_again"
    title = "Look again: every profile of this plan agrees with Stripe"
    settles = 5.0
    only_looks = True
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        beside = services.profiles.beside_stripe
        return {"differ": [profile for profile, customer in of["pairs"] if beside(profile, customer)["differ"]]}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["differ"] == [])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        """Nothing to do but wait: the loop looks until they agree or the time is up."""
