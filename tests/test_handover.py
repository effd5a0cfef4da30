"""Handing a run over: another engineer, on another machine, finishes it from its folder; the record names both."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from support import TWO, Machine, events, wrong

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
    assert f"{lost.name}, of ana on " in there.types("show", found["run"]).stdout
    assert wrong(inbox) == wrong(Path(found["folder"])) == ()
    assert not (tmp_path / ".git").exists()  # what was mailed lies in no archive, and makes none
    assert there.types("verify").returncode == 0
