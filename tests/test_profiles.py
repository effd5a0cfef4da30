"""Word counters beside their ledger, in the sandbox's own database."""

from __future__ import annotations

import pytest
from support import everything

from opskit.errors import CannotTell
from opskit.sandbox import Sandbox

UNDATED = """
    update user_profiles set subscription_current_period_start = {start}, ai_words_reset_date = {start},
      ai_words_used_this_month = 5000
    where id = (select id from user_profiles order by id offset {nth} limit 1) returning id::text
"""


def test_a_counter_is_not_measured_by_a_ledger_that_begins_nowhere(firm: Sandbox) -> None:
    _, company = everything(firm.name)
    with company.database.transaction() as cursor:
        changed = []
        for nth, start in enumerate(("null", "now() + interval '3 days'", "now() - interval '1 second'")):
            cursor.execute(UNDATED.format(start=start, nth=nth))
            changed.append(cursor.fetchone()["id"])
    missing, to_come, wrong = changed
    found = company.profiles.miscounted().set_index("profile")
    assert found.unsure.to_dict() == {missing: True, to_come: True, wrong: False}
    assert found.ledger[missing] == 0
    for profile in (missing, to_come):
        with pytest.raises(CannotTell, match="since when its words count"):
            company.profiles.recount_words(profile)
    assert company.profiles.recount_words(wrong).before == {"counter": 5000, "ledger": 0}
