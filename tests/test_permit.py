"""Whether the next action may begin: nobody asked us to stop, the lock is ours, and the database is there if needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import BEGIN, ENABLE, ENDPOINT, TWO, Opskit, data, events, keep
from test_actions import Put, put

from opskit.actions import Result, carry_out
from opskit.errors import Refused, Unreachable
from opskit.journal import Journal
from opskit.permit import STOPPING, Interrupted, permit
from opskit.sandbox import Sandbox


class Witness:
    """A database that says whether the lock is held."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)

    def holds_lock(self, backend: int) -> bool:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Stored(Put):
    name = "shelf.stored"
    in_database = True


def test_while_the_lock_is_ours_actions_may_begin() -> None:
    with permit({"backend": 5}, Witness(True, True)) as may_begin:
        assert (may_begin(put("a")), may_begin(put("b"))) == ("", "")


def test_where_there_is_nothing_to_hold_nothing_is_asked() -> None:
    with permit(None, Witness()) as may_begin:
        assert may_begin(put("a")) == ""


def test_a_lost_lock_ends_it() -> None:
    with permit({"backend": 5}, Witness(True, False)) as may_begin:
        may_begin(put("a"))
        with pytest.raises(Refused, match=r"the lock on the environment was lost.*resume last"):
            may_begin(put("b"))


def test_a_lock_that_cannot_be_seen_counts_as_lost() -> None:
    with (
        permit({"backend": 5}, Witness(Unreachable("database", "gone"))) as may_begin,
        pytest.raises(Refused, match=r"whether the lock is still ours cannot be seen.*gone"),
    ):
        may_begin(put("a"))


def test_without_a_lock_only_what_needs_no_database_begins() -> None:
    with permit({"without": "it burns"}, Witness()) as may_begin:
        assert may_begin(put("a")) == ""
        assert "needs the database" in may_begin(put("b", change=Stored))


@pytest.mark.parametrize("sign", STOPPING)
def test_a_signal_lets_the_action_in_flight_finish(tmp_path: Path, sign: signal.Signals) -> None:
    class Signalled(Put):
        name = f"shelf.signalled.{sign}"

        def do(self, shelf: Any, of: dict[str, Any], before: Any, key: str) -> None:
            os.kill(os.getpid(), sign)
            super().do(shelf, of, before, key)

    from test_actions import Shelf  # noqa: PLC0415

    shelf, journal, before = Shelf(tmp_path), Journal(tmp_path / "journal.jsonl"), signal.getsignal(sign)
    done = []
    with permit(None, Witness()) as may_begin, pytest.raises(Interrupted, match="stopped between two actions"):
        for _, result, _ in carry_out([put("a", change=Signalled), put("b")], shelf, journal, may_begin):
            done.append(result)
    assert done == [Result.DONE]
    assert (shelf.read("a"), shelf.read("b")) == ("new", None)
    assert signal.getsignal(sign) is before


def test_the_second_signal_does_not_wait() -> None:
    with permit(None, Witness()), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_signals_are_not_ours_to_hear() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with permit({"backend": 1}, Witness(True)) as may_begin:
            seen.append((may_begin(put("a")), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [("", before)]


# In a real apply. What a notebook made up must be known to whoever resumes it, by name.


class Cut(Put):
    name = "test.cut"


class Slow(Put):
    name = "test.slow"


CUT = """import json
from opskit.actions import Change

class Cut(Change):
    name, title = "test.cut", "Cut the session that holds the lock"
    settles = 20.0

    def look(self, services, of):
        return services.database.holds_lock(run.about.get("lock", {}).get("backend", 0))

    def done(self, now, before):
        return not now

    def do(self, services, of, before, key):
        with services.database.transaction() as cursor:
            cursor.execute("select pg_terminate_backend(%s)", [run.about["lock"]["backend"]])

run.plan.add(Cut().plan({}, None))"""


def test_losing_the_lock_stops_an_apply_before_its_next_action(opskit: Opskit, firm: Sandbox, repository: Path) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, BEGIN, CUT, ENDPOINT, ENABLE, "run.apply()")
    planned = opskit("run", "small", "--environment", firm.name)
    assert planned.exit_code == 3, planned.output
    approved = opskit("approve", "last", "--type", f"{firm.name} 2")
    assert approved.exit_code == 0, approved.output
    result = opskit("apply", "last", "--json")
    assert (result.exit_code, data(result)["outcome"], data(result)["done"]) == (5, "partly applied", 1)
    folder = Path(data(result)["folder"])
    assert [e["name"] for e in events(folder, "action.begun")] == ["test.cut"]
    assert any("the lock on the environment was lost" in e["why"] for e in events(folder, "refused"))
    resumed = opskit("resume", "last", "--json")
    assert (resumed.exit_code, data(resumed)["outcome"]) == (0, "done and verified"), resumed.output
    assert [e["name"] for e in events(Path(data(resumed)["folder"]), "action.begun") if "carried_over" not in e] == [
        "stripe.enable_endpoint"
    ]


def test_with_the_database_down_only_what_does_not_need_it_is_done(
    opskit: Opskit, firm: Sandbox, repository: Path
) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, *TWO)
    opskit("run", "small", "--environment", firm.name)
    assert opskit("approve", "last", "--with-removals", "--type", f"{firm.name} 3").exit_code == 0
    firm.misbehave(service="database", down=True)
    refused = opskit("apply", "last")
    assert refused.exit_code == 4
    assert "cannot be locked, so nothing was changed. database: " in refused.stderr
    assert "--no-lock REASON" in refused.stderr

    result = opskit("apply", "last", "--no-lock", "the host burns, ben is told", "--json")
    assert (result.exit_code, data(result)["outcome"], data(result)["done"]) == (5, "partly applied", 1)
    folder = Path(data(result)["folder"])
    assert [e["name"] for e in events(folder, "action.begun")] == ["stripe.enable_endpoint"]
    waiting = [e["why"] for e in events(folder, "action.ended") if e["result"] == "waits for a person"]
    assert waiting == ["it needs the database, which could not be locked; resume when it is back"] * 2
    assert data(opskit("show", "last", "--json"))["lock"]["without"] == "the host burns, ben is told"

    firm.lift()
    resumed = opskit("resume", "last", "--json")
    assert (resumed.exit_code, data(resumed)["outcome"]) == (0, "done and verified"), resumed.output
    assert opskit("verify").exit_code == 0


SLOW = """from opskit.actions import Change
import time

class Slow(Change):
    name, title = "test.slow", "Take two seconds"
    done_already = False

    def look(self, services, of):
        return Slow.done_already

    def done(self, now, before):
        return now

    def do(self, services, of, before, key):
        time.sleep(2)
        Slow.done_already = True

run.plan.add(Slow().plan({}, False))"""


def test_an_apply_that_is_asked_to_stop_ends_between_two_actions(
    opskit: Opskit, firm: Sandbox, repository: Path, outputs: Path
) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, BEGIN, SLOW, ENDPOINT, ENABLE, "run.apply()")
    opskit("run", "small", "--environment", firm.name)
    assert opskit("approve", "last", "--type", f"{firm.name} 2").exit_code == 0
    command = [str(Path(sys.executable).with_name("opskit")), "apply", "last"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not [p for p in outputs.glob("*/*/journal.jsonl") if '"action.begun"' in p.read_text()]:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, trouble = process.communicate(timeout=60)
    assert process.returncode == 5, said + trouble
    assert "interrupted midway: 1 of 2 actions" in said
    assert "SIGTERM came" in said
    resumed = opskit("resume", "last", "--json")
    assert (resumed.exit_code, data(resumed)["outcome"]) == (0, "done and verified"), resumed.output
