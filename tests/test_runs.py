"""Runs, end to end: look, plan, approve, apply, take back; and everything that must stop one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import BEGIN, ENABLE, ENDPOINT, RUNBOOK, SMALL, Opskit, data, events, held, keep, wrong

from opskit import record
from opskit.permit import STOPPING, handled_by
from opskit.sandbox import Sandbox


def look(opskit: Opskit, firm: Sandbox, runbook: str = "small") -> tuple[int, Path, dict[str, Any]]:
    """Run a runbook; its exit code, its record, and what the command said."""
    result = opskit("run", runbook, "--environment", firm.name, "--json")
    found = data(result)
    return result.exit_code, Path(found["folder"]), found


def secrets(firm: Sandbox) -> list[str]:
    return [path.read_text().strip() for path in sorted((firm.folder / "secrets").iterdir())]


def leaks(firm: Sandbox, *places: Path) -> list[str]:
    """Files in which one of the sandbox's secrets stands."""
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return [str(path) for path in files if any(secret.encode() in path.read_bytes() for secret in secrets(firm))]


def besides_clocks(changes: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What a comparison found, without rows of which only the time of the last change differs."""
    found = [change for kind in changes.values() for change in kind]
    return [change for change in found if set(change.get("fields") or {"?"}) != {"updated_at"}]


# The runbook, as an engineer lives through it.


def test_only_events_that_carry_their_whole_state_are_sent_again(opskit: Opskit, firm: Sandbox) -> None:
    actors = firm.break_with("endpoint-disabled-resendable")["actors"]
    code, folder, _ = look(opskit, firm, RUNBOOK)
    planned = json.loads((folder / "plan.json").read_text())["actions"]
    by_name = {name: {a["arguments"].get("profile") for a in planned if a["name"] == name} for name in
               ("stripe.resend_event", "profiles.reconcile")}  # fmt: skip
    assert code == 3
    assert planned[0]["name"] == "stripe.enable_endpoint"
    assert by_name["stripe.resend_event"] == {*actors["changed"], *actors["canceled"]}
    assert by_name["profiles.reconcile"] == {*actors["renewed"], *actors["subscribed"]}
    assert planned[-1]["name"] == "profiles.look_again"


def test_a_healthy_company(opskit: Opskit, firm: Sandbox, outputs: Path) -> None:
    before = firm.state()
    code, folder, found = look(opskit, firm, RUNBOOK)
    assert (code, found["outcome"], found["causes"]) == (0, "healthy", ["healthy"])
    assert besides_clocks(firm.changes(before)) == []
    assert wrong(folder) == ()
    assert opskit("approve", "last", "--type", f"{firm.name} 0").exit_code == 4
    assert opskit("apply", "last").exit_code == 4
    assert leaks(firm, outputs) == []


def test_look_plan_approve_apply_take_back(opskit: Opskit, firm: Sandbox, outputs: Path) -> None:
    firm.break_with("endpoint-disabled")
    before = firm.state()
    code, planned, found = look(opskit, firm, RUNBOOK)
    assert (code, found["outcome"], found["causes"]) == (3, "plan awaits approval", ["endpoint-disabled"])
    assert besides_clocks(firm.changes(before)) == []
    assert not events(planned, "action.begun")

    typed = f"{firm.name} {found['actions']}"
    assert opskit("apply", "last").exit_code == 4
    assert opskit("approve", "last", "--type", f"{firm.name} {found['actions'] + 1}", "--with-removals").exit_code == 4
    assert opskit("approve", "last", "--type", typed).exit_code == 4  # some are let in wrongly: say so by name
    assert opskit("apply", "last").exit_code == 4
    assert opskit("approve", "last", "--type", typed, "--with-removals").exit_code == 0

    result = opskit("apply", "last", "--json")
    applied = data(result)
    assert (result.exit_code, applied["outcome"], applied["done"]) == (0, "done and verified", found["actions"])
    assert [h for h in firm.healed() if not h["ok"]] == []
    assert firm.changes(before)["stray"] == []
    assert firm.disagreements() == []

    assert opskit("apply", planned.name).exit_code == 4  # carried out already
    assert opskit("undo", "last").exit_code == 2  # it asks a person, and there is none
    assert opskit("undo", "last", "--type", f"{firm.name} 1").exit_code == 4
    standing = f"{firm.name} {found['actions'] - 1}"  # the second look changed nothing
    result = opskit("undo", "last", "--type", standing, "--json")
    assert (result.exit_code, data(result)["outcome"]) == (0, "taken back")
    assert besides_clocks(firm.changes(before)) == []
    assert opskit("undo", applied["run"], "--type", standing).exit_code == 4  # taken back already
    assert opskit("resume", applied["run"]).exit_code == 4  # what was taken back is not there to be finished

    assert opskit("verify").exit_code == 0
    assert [run["outcome"] for run in data(opskit("history", "--json"))] == [
        "taken back", "done and verified", "plan awaits approval",
    ]  # fmt: skip
    assert leaks(firm, outputs) == []
    assert Path(applied["folder"], "notebook.ipynb").stat().st_size < 2_000_000


@pytest.mark.deep
def test_the_same_change_is_made_again_in_another_run(opskit: Opskit, firm: Sandbox, repository: Path) -> None:
    """Stripe answers a known idempotency key from memory, and does nothing: each run needs keys of its own."""
    firm.break_with("endpoint-disabled")
    keep(repository, *SMALL)
    for _ in range(2):
        _, planned, _ = look(opskit, firm)
        assert opskit("approve", planned.name, "--type", f"{firm.name} 1").exit_code == 0
        assert opskit("apply", planned.name).exit_code == 0
        assert opskit("undo", "last", "--type", f"{firm.name} 1").exit_code == 0


def test_one_change_at_a_time(opskit: Opskit, firm: Sandbox, repository: Path, outputs: Path) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, *SMALL)
    _, planned, _ = look(opskit, firm)
    assert opskit("approve", planned.name, "--type", f"{firm.name} 1").exit_code == 0
    with held(firm, outputs):
        result = opskit("apply", planned.name)
    assert result.exit_code == 4
    assert f"{firm.name} is being changed: opskit test ana@" in result.stderr
    assert ", since " in result.stderr
    assert opskit("apply", planned.name).exit_code == 0


# A small runbook, for everything that does not need the large one.


def approve(opskit: Opskit, standing: Sandbox) -> None:
    result = opskit("approve", "last", "--type", f"{standing.name} 1")
    assert result.exit_code == 0, result.output


def test_the_plan_is_shown_and_exported(opskit: Opskit, planned: Path, tmp_path: Path) -> None:
    shown = opskit("plan", "last").stdout
    assert "Plan of 1 actions" in shown
    assert f"Next: opskit approve {planned.name}" in shown
    exported = opskit("plan", "last", "--export", tmp_path / "plan.json").stdout
    assert f"There: opskit approve {tmp_path / 'plan.json'}" in exported
    assert (tmp_path / "plan.json").read_bytes() == (planned / "plan.json").read_bytes()


def test_a_stale_runbook_is_refused(opskit: Opskit, standing: Sandbox, planned: Path, repository: Path) -> None:
    approve(opskit, standing)
    keep(repository, *SMALL[:-1], "run.apply()  # changed")
    result = opskit("apply", planned.name)
    assert result.exit_code == 4
    assert "the plan is stale: the runbook changed since" in result.stderr


def test_a_stale_environment_is_refused(opskit: Opskit, standing: Sandbox, planned: Path) -> None:
    approve(opskit, standing)
    before = standing.environment.read_text()
    try:
        standing.environment.write_text(before.replace("max_actions: 25", "max_actions: 24"))
        result = opskit("apply", planned.name)
    finally:
        standing.environment.write_text(before)
    assert result.exit_code == 4
    assert "the plan is stale: the environment's file changed since" in result.stderr


def test_an_expired_approval_is_refused(opskit: Opskit, standing: Sandbox, planned: Path) -> None:
    approve(opskit, standing)
    path = planned.parent / "approvals" / f"{planned.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "expires": "2026-01-01T00:00:00+00:00"}))
    result = opskit("apply", planned.name)
    assert result.exit_code == 4
    assert "the approval expired" in result.stderr


def test_an_altered_record_is_refused(opskit: Opskit, standing: Sandbox, planned: Path) -> None:
    approve(opskit, standing)
    journal_file = planned / record.JOURNAL
    journal_file.write_text(journal_file.read_text().replace("endpoint-disabled", "healthy"))
    result = opskit("apply", planned.name)
    assert result.exit_code == 4
    assert "altered: journal.jsonl" in result.stderr
    assert opskit("verify").exit_code == 1


def test_an_altered_plan_is_refused(opskit: Opskit, standing: Sandbox, planned: Path) -> None:
    approve(opskit, standing)
    path = planned / "plan.json"
    path.write_text(path.read_text().replace("we_", "we_other"))
    assert opskit("apply", planned.name).exit_code == 4


@pytest.mark.parametrize("verb", ["resume", "undo"])
def test_an_altered_record_is_not_followed_up(opskit: Opskit, planned: Path, verb: str) -> None:
    path = planned / "plan.json"
    path.write_text(path.read_text().replace("disabled", "deleted"))
    result = opskit(verb, planned.name)
    assert result.exit_code == 4
    assert "altered: plan.json" in result.stderr


def test_another_plans_approval_is_refused(opskit: Opskit, standing: Sandbox, planned: Path) -> None:
    approve(opskit, standing)
    path = planned.parent / "approvals" / f"{planned.name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "plan": "sha256:another"}))
    result = opskit("apply", planned.name)
    assert result.exit_code == 4
    assert "the approval is for another plan" in result.stderr


@pytest.mark.parametrize("typed", ["", "yes", "1", "production 1", "{name} 2"])
def test_approving_with_the_wrong_words(opskit: Opskit, standing: Sandbox, planned: Path, typed: str) -> None:
    assert opskit("approve", "last", "--type", typed.format(name=standing.name)).exit_code == 4
    assert opskit("apply", "last").exit_code == 4


def test_a_copy_without_its_manifest_proves_nothing(opskit: Opskit, planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned, tmp_path / "copy")
    assert opskit("verify", tmp_path / "copy").exit_code == 0
    (tmp_path / "copy" / record.MANIFEST).unlink()
    assert opskit("verify", tmp_path / "copy").exit_code == 1


def test_what_became_true_meanwhile_is_not_done(opskit: Opskit, firm: Sandbox, planned: Path) -> None:
    """The endpoint is enabled again by the time the plan is applied."""
    approve(opskit, firm)
    result = opskit("apply", planned.name, "--json")
    assert (result.exit_code, data(result)["outcome"]) == (0, "done and verified")
    folder = Path(data(result)["folder"])
    assert [e["result"] for e in events(folder, "action.ended")] == ["already so"]
    assert not events(folder, "action.begun")
    assert [len(e["gone"]) for e in events(folder, "difference")] == [1]


# What can happen to a run.


def test_a_kernel_that_dies_is_an_error_with_a_truthful_journal(
    opskit: Opskit, standing: Sandbox, repository: Path
) -> None:
    keep(
        repository, BEGIN, "import os, signal\nprint('so far')\nos.kill(os.getpid(), signal.SIGKILL)", "print('never')"
    )
    code, folder, found = look(opskit, standing)
    assert (code, found["outcome"]) == (1, "error")
    assert [e["why"] for e in events(folder, "failed")] == ["the kernel died"]
    assert [e["cell"] for e in events(folder, "cell.started")] == [
        "parameters", "injected-parameters", "cell-0", "cell-1",
    ]  # fmt: skip
    assert [e["cell"] for e in events(folder, "cell.ended")] == ["parameters", "injected-parameters", "cell-0"]
    assert events(folder)[-1]["event"] == "run.ended"
    assert wrong(folder) == ()
    cells = {c["id"]: c for c in json.loads((folder / "notebook.ipynb").read_text())["cells"]}
    assert cells["cell-2"]["outputs"] == []


def test_a_cell_that_fails_ends_the_run(opskit: Opskit, standing: Sandbox, repository: Path) -> None:
    keep(repository, BEGIN, "1 / 0", "print('never')")
    code, folder, found = look(opskit, standing)
    assert (code, found["outcome"]) == (1, "error")
    assert [e["why"] for e in events(folder, "failed")] == ["ZeroDivisionError: division by zero"]
    assert "cell-2" not in {e["cell"] for e in events(folder, "cell.started")}


def test_an_unanswered_question_does_not_end_it(opskit: Opskit, firm: Sandbox, repository: Path) -> None:
    firm.break_with("stripe-unreachable")
    keep(repository, BEGIN, ENDPOINT, ENABLE, 'run.check("other", True, "Fine?")', "run.apply()")
    code, folder, found = look(opskit, firm)
    assert (code, found["outcome"], found["causes"]) == (6, "unknown", ["unknown"])
    assert {e["name"]: e["answer"] for e in events(folder, "check")} == {"enabled": "unknown", "other": "yes"}
    assert wrong(folder) == ()


def test_plan_mode_cannot_change_anything(opskit: Opskit, standing: Sandbox, repository: Path) -> None:
    path = 'f"/v1/webhook_endpoints/{run.stripe.endpoint_id}"'
    attempt = f'run.stripe.http.change("POST", {path}, form={{"disabled": "true"}})'
    keep(repository, BEGIN, "import os\nprint(sorted(k for k in os.environ if k.startswith('OPSKIT')))", attempt)
    before = standing.state()
    code, folder, found = look(opskit, standing)
    assert (code, found["outcome"]) == (4, "refused")
    assert "OPSKIT_SECRETS" not in (folder / "notebook.ipynb").read_text()
    assert besides_clocks(standing.changes(before)) == []


def test_a_wrong_target_is_refused(opskit: Opskit, standing: Sandbox, repository: Path) -> None:
    target = yaml.safe_load(standing.environment.read_text())
    target |= {"name": "mistaken", "pins": {**target["pins"], "stripe_account": "acct_another"}}
    (repository / "parameters" / "environments" / "mistaken.yaml").write_text(yaml.safe_dump(target))
    keep(repository, *SMALL)
    result = opskit("run", "small", "--environment", "mistaken")
    assert result.exit_code == 4
    assert "reaches another target: stripe_account is" in result.output


def test_secrets_that_a_notebook_prints_are_not_kept(
    opskit: Opskit, standing: Sandbox, repository: Path, outputs: Path
) -> None:
    folder = standing.folder / "secrets"
    own = f"s = [open(f'{folder}/' + n).read().strip() for n in ('stripe_read', 'database_read')]"
    slowly = "import sys\nfor c in s[0]:\n    sys.stdout.write(c)\n    sys.stdout.flush()"
    apart = "print(s[1][:9], end='')\nprint(s[1][9:])\ndisplay({'text/html': s[1]}, raw=True)"
    keep(repository, BEGIN, own, slowly, apart, "!cat " + str(folder / "stripe_read"), "raise ValueError(s)")
    code, kept, _ = look(opskit, standing)
    assert code == 1
    assert "[secret stripe read]" in (kept / "notebook.ipynb").read_text()
    assert leaks(standing, outputs) == []


def test_what_waits_for_a_person_is_finished_by_resume(opskit: Opskit, firm: Sandbox, repository: Path) -> None:
    firm.break_with("endpoint-down")
    check = 'run.check("reachable", run.app.takes_deliveries(), "Reachable?", cause="endpoint-unreachable")'
    restore = """if run.causes != ['healthy']:
    endpoint = run.stripe.endpoint()
    run.plan.add(run.app.restore(endpoint['url'], endpoint['id']))"""
    keep(repository, BEGIN, check, restore, "run.apply()")
    code, planned, found = look(opskit, firm)
    assert (code, found["outcome"]) == (6, "only people can")
    assert opskit("approve", "last", "--type", f"{firm.name} 1").exit_code == 0
    result = opskit("apply", planned.name, "--json")
    assert (result.exit_code, data(result)["outcome"]) == (5, "partly applied")
    firm.by_hand()
    resumed = opskit("resume", data(result)["run"], "--json")
    assert (resumed.exit_code, data(resumed)["outcome"]) == (0, "done and verified")
    assert opskit("verify").exit_code == 0


# Signals, on a runner of its own.

SLEEPING = (BEGIN, "import time\ntime.sleep(60)")


@pytest.fixture
def sleeper(standing: Sandbox, repository: Path, outputs: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    """A run in a process of its own, asleep in its second cell: the process, its record, its kernel."""
    keep(repository, *SLEEPING)
    command = [str(Path(sys.executable).with_name("opskit")), "run", "small", "--environment", standing.name]
    short = tempfile.mkdtemp(prefix="o-")  # what a killed runner leaves behind goes with it
    surroundings = {**os.environ, "TMPDIR": short}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=surroundings, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while not (asleep := [p for p in outputs.glob("*/*/journal.jsonl") if '"cell-1"' in p.read_text()]):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            folder = asleep[0].parent
            yield process, folder, events(folder, "run.begun")[0]["kernel"]
        finally:
            process.kill()
            shutil.rmtree(short, ignore_errors=True)


def gone(pid: int) -> bool:
    """Whether a process has ended, within a few seconds; one that nobody reaps has ended too."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_is_sealed_as_such(
    sleeper: tuple[subprocess.Popen[str], Path, int], sign: signal.Signals
) -> None:
    process, folder, kernel = sleeper
    process.send_signal(sign)
    said, trouble = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted" in said, trouble
    assert "Traceback" not in trouble
    assert events(folder)[-1]["outcome"] == "interrupted"
    assert wrong(folder) == ()
    assert gone(kernel)


def test_a_signal_between_two_runs_of_one_process_ends_neither(
    opskit: Opskit, standing: Sandbox, repository: Path
) -> None:
    keep(repository, *SMALL)
    first = look(opskit, standing)
    with handled_by(lambda *_: None):
        for sign in STOPPING:
            os.kill(os.getpid(), sign)
    again = look(opskit, standing)
    assert (first[2]["outcome"], again[2]["outcome"]) == ("healthy", "healthy")


def test_a_runner_that_is_killed_leaves_a_lost_run_and_no_kernel(
    opskit: Opskit, sleeper: tuple[subprocess.Popen[str], Path, int]
) -> None:
    process, folder, kernel = sleeper
    process.kill()
    process.wait(60)
    assert gone(kernel)
    deadline = time.monotonic() + 15
    while (found := data(opskit("history", "--json"))[0])["outcome"] == "under way":  # its threads are still ending
        assert time.monotonic() < deadline
    assert (found["outcome"], found["sealed"]) == ("lost", False)
    assert opskit("apply", folder.name).exit_code in (2, 4)


# Without our command line.


def test_plain_papermill_looks_and_touches_nothing(
    firm: Sandbox, repository: Path, outputs: Path, tmp_path: Path
) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, *SMALL)
    before = firm.state()
    notebooks, executed = repository / "notebooks", tmp_path / "executed.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebooks / "small.ipynb"), str(executed),
         "-p", "environment", firm.name],
        capture_output=True, text=True, check=False, timeout=120, cwd=repository,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Nothing was done: not approved" in executed.read_text()
    (folder,) = (path.parent for path in outputs.glob("*/*/run.json"))
    assert [e["actions"] for e in events(folder, "plan")] == [1]
    assert besides_clocks(firm.changes(before)) == []
    assert not (repository / "outputs").exists()
    assert leaks(firm, outputs, executed.parent) == []
