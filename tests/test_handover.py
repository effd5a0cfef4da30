"""Handing a run over: another engineer, on another machine, finishes it from its folder; the record names both."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from support import TWO, Machine, Opskit, data, events, wrong

from opskit.archive import Archive
from opskit.sandbox import Sandbox


def test_another_engineer_resumes_what_died_on_another_machine(
    firm: Sandbox, ana: Path, bo: Path, tmp_path: Path
) -> None:
    firm.break_with("endpoint-disabled")
    here, there = Machine("ana", ana, tmp_path, firm, *TWO), Machine("bo", bo, tmp_path, firm, *TWO)
    here.plans()
    with here.begins("apply", "last") as process:
        while not here.acted():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    (lost,) = (run for run in Archive(here.outputs).runs() if (run / "approval.json").exists())
    kernel = events(lost, "run.begun")[0]["kernel"]
    while Path(f"/proc/{kernel}").exists() and ") Z " not in Path(f"/proc/{kernel}/stat").read_text():
        time.sleep(0.05)

    inbox = tmp_path / "inbox" / lost.name
    shutil.copytree(lost, inbox)
    resumed = there.types("resume", str(inbox), "--json")
    assert resumed.returncode == 0, resumed
    found = json.loads(resumed.stdout)["data"]
    assert (found["outcome"], found["done"], found["follows"]) == ("done and verified", 3, {"resumes": lost.name})
    head = json.loads(Path(found["folder"], "run.json").read_text())
    assert (head["operator"], head["after"]["operator"], head["after"]["host"]) == ("bo", "ana", head["host"])
    shown = there.types("show", found["run"]).stdout
    assert f"{lost.name}, of ana on " in shown
    for told in (resumed.stderr, shown):
        assert f"{lost.name} was begun in another archive: what was done there since this copy" in told
    assert wrong(inbox) == wrong(Path(found["folder"])) == ()
    assert not (tmp_path / ".git").exists()  # what was mailed lies in no archive, and makes none
    assert there.types("verify").returncode == 0


@pytest.mark.parametrize("how", ["copied", "cloned"])
def test_an_approval_is_used_in_one_archive_only(
    how: str,
    opskit: Opskit,
    firm: Sandbox,
    planned: Path,
    outputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the same plan could be carried out again elsewhere, over an undo of which nobody knows there."""
    firm.break_with("endpoint-disabled")
    approved = opskit("approve", planned.name, "--type", f"{firm.name} 1", "--json")
    other = tmp_path / "other"
    if how == "copied":
        shutil.copytree(outputs, other)
    else:
        subprocess.run(["git", "clone", "--quiet", outputs, other], check=True)
    assert opskit("apply", planned.name).exit_code == 0
    assert opskit("undo", "last", "--type", f"{firm.name} 1").exit_code == 0
    before = len(firm.traffic())
    for place, words in (
        (outputs, ["apply", planned.name]),
        (other, ["apply", planned.name]),
        (other, ["apply", planned.name, "--approval", data(approved)["token"]]),
        (other, ["apply", str(planned)]),
        (outputs, ["apply", str(other / planned.relative_to(outputs))]),
    ):
        monkeypatch.setenv("OPSKIT_OUTPUTS", str(place))
        result = opskit(*words)
        assert result.exit_code == 4, (place, words)
        expected = "has carried out this plan already" if place == outputs else "was made in another archive"
        assert expected in result.stderr
    assert len(firm.traffic()) == before


def test_an_approval_given_in_a_clone_says_where_it_is_used(
    opskit: Opskit, firm: Sandbox, planned: Path, outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "clone", "--quiet", outputs, tmp_path / "other"], check=True)
    monkeypatch.setenv("OPSKIT_OUTPUTS", str(tmp_path / "other"))
    said = opskit("approve", planned.name, "--type", f"{firm.name} 1").stdout
    assert "on the other machine" in said
    monkeypatch.setenv("OPSKIT_OUTPUTS", str(outputs))
    assert opskit("apply", planned.name, "--approval", said.split("'")[1]).exit_code == 0


def test_a_copy_of_a_runs_folder_is_the_same_run(opskit: Opskit, firm: Sandbox, planned: Path, tmp_path: Path) -> None:
    """Whatever it is called."""
    assert opskit("approve", planned.name, "--type", f"{firm.name} 1").exit_code == 0
    assert opskit("apply", planned.name).exit_code == 0
    shutil.copytree(planned, tmp_path / "x" / "another-name")
    for words in (
        ["approve", tmp_path / "x" / "another-name", "--type", f"{firm.name} 1"],
        ["apply", tmp_path / "x" / "another-name"],
    ):
        again = opskit(*words)
        assert (again.exit_code, "has carried out this plan already" in again.stderr) == (4, True)
