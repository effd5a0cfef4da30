"""Approvals as engineers live through them: production, two people, and a night when the second cannot be reached."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import SMALL, TWO, Opskit, allow, data, events, everything, keep

from opskit import approval as approvals
from opskit import record
from opskit.archive import countersignature
from opskit.journal import Journal
from opskit.plan import load
from opskit.sandbox import Sandbox


class Person:
    """Somebody at the command line, by name and key."""

    def __init__(self, name: str, key: Path, opskit: Opskit, patch: pytest.MonkeyPatch) -> None:
        self._who = {"OPSKIT_OPERATOR": name, "OPSKIT_SIGNING_KEY": str(key)}
        self._opskit = opskit
        self._patch = patch

    def __call__(self, *arguments: object) -> Any:
        for name, value in self._who.items():
            self._patch.setenv(name, value)
        return self._opskit(*arguments)


@pytest.fixture
def ana_types(ana: Path, opskit: Opskit, monkeypatch: pytest.MonkeyPatch) -> Person:
    return Person("ana", ana, opskit, monkeypatch)


@pytest.fixture
def bo_types(bo: Path, opskit: Opskit, monkeypatch: pytest.MonkeyPatch) -> Person:
    return Person("bo", bo, opskit, monkeypatch)


@pytest.fixture
def waiting(ana_types: Person, firm: Sandbox, repository: Path, ana: Path, bo: Path) -> Path:
    """Ana's run in production, whose plan of one action awaits approval. Who may sign is listed."""
    firm.break_with("endpoint-disabled")
    target = yaml.safe_load(firm.environment.read_text()) | {"name": "live", "production": True}
    (repository / "parameters" / "environments" / "live.yaml").write_text(yaml.safe_dump(target))
    (repository / "parameters" / "allowed_signers").unlink(missing_ok=True)
    allow(repository / "parameters" / "allowed_signers", ("ana", ana), ("bo", bo))
    keep(repository, *SMALL)
    return Path(data(ana_types("run", "small", "--environment", "live", "--json"))["folder"])


TYPED = ("--type", "live 1")


def test_another_person_approves_on_another_machine(
    waiting: Path, ana_types: Person, bo_types: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = tmp_path / "plan.json"
    assert ana_types("plan", "last", "--export", exported).exit_code == 0
    assert ana_types("approve", exported, *TYPED).exit_code == 4  # her own, there as here
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("OPSKIT_OUTPUTS", str(tmp_path / "elsewhere"))
        word = bo_types("approve", exported, *TYPED, "--json")
        said = bo_types("approve", exported, *TYPED).stdout
    assert word.exit_code == 0
    token = data(word)["token"]
    assert said.startswith("Approved and signed, until ")
    assert f"opskit apply {waiting.name} --approval '{approvals.TOKEN}" in said
    assert not (tmp_path / "elsewhere").exists()

    assert ana_types("apply", "last").exit_code == 4  # not approved here yet
    broken = "\n".join(textwrap.wrap(token, 70))
    result = ana_types("apply", "last", "--approval", broken, "--json")
    assert (result.exit_code, data(result)["outcome"]) == (0, "done and verified"), result.output
    kept = approvals.load(Path(data(result)["folder"]) / "approval.json")
    assert kept is not None
    assert (kept.approver, kept.token) == ("bo", token)
    assert data(ana_types("verify", "--json"))["wrong"] == []


def test_a_pasted_approval_for_another_plan_is_refused_and_not_kept(
    waiting: Path, ana_types: Person, bo_types: Person, tmp_path: Path
) -> None:
    content = json.loads((waiting / "plan.json").read_text())
    content["actions"][0]["title"] = "Something harmless"
    (tmp_path / "forged.json").write_text(json.dumps(content))
    token = data(bo_types("approve", tmp_path / "forged.json", *TYPED, "--json"))["token"]
    refused = ana_types("apply", "last", "--approval", token)
    assert refused.exit_code == 4
    assert "the approval is for another plan" in refused.stderr
    assert not list(waiting.parent.glob("approvals/*"))
    assert ana_types("apply", "last", "--approval", token[:-9]).exit_code == 2


def test_ana_cannot_approve_in_bos_name(waiting: Path, ana: Path, opskit: Opskit, ana_types: Person,
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("OPSKIT_OPERATOR", "bo")
    assert opskit("approve", "last", *TYPED).exit_code == 0
    refused = ana_types("apply", "last")
    assert refused.exit_code == 4
    assert "in the name of bo is signed by ana" in refused.stderr
    assert "bo must approve with a key that" in refused.stderr


def test_one_person_alone_breaks_glass_until_somebody_countersigns(
    waiting: Path, ana_types: Person, bo_types: Person
) -> None:
    refused = ana_types("approve", "last", *TYPED)
    assert refused.exit_code == 4
    assert "--break-glass REASON" in refused.stderr
    assert ana_types("approve", "last", *TYPED, "--break-glass", "nobody answers").exit_code == 0
    result = ana_types("apply", "last")
    assert result.exit_code == 0
    assert "BREAK GLASS: approved by one person alone: nobody answers" in result.stdout

    def shown() -> list[str]:
        (first, *_) = data(ana_types("history", "--json"))
        return [first["break_glass"], data(ana_types("show", "last", "--json"))["break_glass"]]

    assert shown() == ["nobody answers"] * 2
    assert "BREAK GLASS" in ana_types("history").stdout
    assert "BREAK GLASS" in ana_types("show", "last").stdout
    assert ana_types("approve", waiting.name, *TYPED).exit_code == 4  # she is no second person
    ana_types("approve", waiting.name, *TYPED, "--break-glass", "again")
    assert shown() == ["nobody answers"] * 2
    countersigned = bo_types("approve", waiting.name, *TYPED)
    assert "Countersigned and signed." in countersigned.stdout
    assert shown() == ["", ""]
    assert data(ana_types("verify", "--json"))["wrong"] == []


def test_a_countersignature_that_nobody_gave_counts_for_nothing(waiting: Path, ana_types: Person) -> None:
    ana_types("approve", "last", *TYPED, "--break-glass", "nobody answers")
    applied = Path(data(ana_types("apply", "last", "--json"))["folder"])
    word = approvals.load(applied / "approval.json")
    assert word is not None
    forged = replace(word, approver="bo", break_glass="", signature="")
    forged.save(countersignature(waiting.parent, word.plan))
    assert data(ana_types("show", "last", "--json"))["break_glass"] == "nobody answers"
    ana_types("run", "small", "--environment", "live", "--incident", waiting.parent.name)  # its seal vouches for itself
    (wrong,) = data(ana_types("verify", "--json"))["wrong"]
    assert "countersigned-" in wrong and "added" in wrong


# An apply that nobody approved, or that was made once already, under whatever appearance.


@pytest.mark.parametrize("begun", [False, True])
def test_a_folder_that_claims_an_approval_is_not_resumed(
    waiting: Path, ana_types: Person, tmp_path: Path, firm: Sandbox, begun: bool
) -> None:
    proposed, forged = load(waiting / "plan.json"), tmp_path / "x" / "20260101T000000000-beef"
    shutil.copytree(waiting, forged)
    for name in ("manifest.json", "manifest.json.sig"):
        (forged / name).unlink()
    head = json.loads((forged / "run.json").read_text()) | {"run": forged.name, "applies": waiting.name}
    (forged / "run.json").write_text(json.dumps(head))
    approvals.Approval(
        proposed.digest, "live", 1, 0, "bo", "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"
    ).save(forged / "approval.json")
    journal = Journal(forged / "journal.jsonl")
    journal.path.write_text("")
    journal.write("run.accepted", runner=1)
    if begun:
        (action,) = proposed.actions
        journal.write("action.begun", action=action.id, name=action.name, arguments=action.arguments)
    before = len(firm.traffic())
    refused = ana_types("resume", forged)
    assert (refused.exit_code, "is signed not at all" in refused.stderr) == (4, True)
    assert ana_types("undo", forged, "--type", "live 1").exit_code == 4
    assert len(firm.traffic()) == before


def test_an_approval_that_expired_unused_is_not_used_by_a_resume(
    opskit: Opskit, firm: Sandbox, planned: Path, outputs: Path
) -> None:
    assert opskit("approve", planned.name, "--type", f"{firm.name} 1").exit_code == 0
    word = approvals.load(planned.parent / "approvals" / f"{planned.name}.json")
    assert word is not None
    lost = record.prepare(outputs, {**json.loads((planned / "run.json").read_text()),
                                    "run": "20260101T000000000-beef", "applies": planned.name})  # fmt: skip
    shutil.copy(planned / "plan.json", lost)
    old = replace(word, at="2026-01-01T00:00:00+00:00", expires="2026-01-01T01:00:00+00:00", signature="")
    old.save(lost / "approval.json")
    Journal(lost / "journal.jsonl").write("run.accepted", runner=1)
    refused = opskit("resume", lost.name)
    assert (refused.exit_code, "had begun nothing when its approval expired" in refused.stderr) == (4, True)


@pytest.mark.parametrize("what", ["moved", "removed"])
def test_a_plan_whose_record_is_out_of_sight_is_not_applied_again(
    opskit: Opskit, firm: Sandbox, planned: Path, tmp_path: Path, what: str
) -> None:
    firm.break_with("endpoint-disabled")
    assert opskit("approve", planned.name, "--type", f"{firm.name} 1").exit_code == 0
    applied = Path(data(opskit("apply", planned.name, "--json"))["folder"])
    assert opskit("approve", planned.name, "--type", f"{firm.name} 1").exit_code == 4
    firm.break_with("endpoint-disabled")  # or the plan would be found done already
    shutil.move(applied, tmp_path) if what == "moved" else shutil.rmtree(applied)
    again = opskit("apply", planned.name)
    assert again.exit_code == 4
    assert f"{applied.name} began to carry out this plan, and its record is not here" in again.stderr
    note = planned.parent / "approvals" / f"{planned.name}.begun.json"
    note.write_text(json.dumps({"run": planned.name}))  # a run that there is, and that did nothing
    forged = opskit("apply", planned.name)
    assert (forged.exit_code, "is not as in the archive's history" in forged.stderr) == (4, True)
    note.write_text(json.dumps({"run": applied.name}))
    assert any("missing: it began to carry out the plan" in line for line in data(opskit("verify", "--json"))["wrong"])


def test_a_row_that_changed_since_the_approval_is_named_and_skipped(
    opskit: Opskit, firm: Sandbox, repository: Path
) -> None:
    firm.break_with("endpoint-disabled")
    keep(repository, *TWO)
    planned = Path(data(opskit("run", "small", "--environment", firm.name, "--json"))["folder"])
    assert opskit("approve", "last", "--with-removals", "--type", f"{firm.name} 3").exit_code == 0
    _, first, second = json.loads((planned / "plan.json").read_text())["actions"]
    _, services = everything(firm.name)
    with services.database.transaction() as cursor:
        moved = "update user_profiles set stripe_price_id = 'price_newer' where id = %s"
        cursor.execute(moved, (first["arguments"]["profile"],))
    result = opskit("apply", "last", "--json")
    assert (result.exit_code, data(result)["outcome"], data(result)["done"]) == (5, "partly applied", 2)
    told = {e["name"]: e for e in events(Path(data(result)["folder"]), "action.ended") if e["result"] == "stale"}
    assert list(told) == ["profiles.reconcile"]
    assert "stripe_price_id was" in told["profiles.reconcile"]["why"]
    assert '"price_newer"' in told["profiles.reconcile"]["why"]
    found = services.database.rows("select stripe_price_id from user_profiles where id = %(id)s",
                                   id=first["arguments"]["profile"])  # fmt: skip
    assert found == [{"stripe_price_id": "price_newer"}]
    assert second["arguments"]["profile"] != first["arguments"]["profile"]
