"""Bad input: one clear message with the remedy, the right exit code, no kernel, nothing written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import RUNBOOK, Opskit, sealed

from opskit import plan as plans
from opskit import provenance, record
from opskit.sandbox import Sandbox


@pytest.fixture(autouse=True)
def no_kernel(kernels: Callable[[], list[str]]) -> Iterator[None]:
    """Nothing in this module starts a kernel."""
    yield
    assert kernels() == []


def written() -> dict[Path, float]:
    """All that lies in the outputs."""
    place = Path(os.environ["OPSKIT_OUTPUTS"])
    return {path: path.stat().st_mtime for path in place.rglob("*")} if place.is_dir() else {}


def refused(opskit: Opskit, *arguments: object, code: int = 2) -> str:
    """The one message of a refusal, on standard error; nothing was written."""
    before = written()
    result = opskit(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert 0 < len(result.stderr.strip().splitlines()) <= 4
    as_json = opskit(*arguments, "--json")
    assert as_json.exit_code == code
    answer = json.loads(as_json.stdout)
    assert answer["exit"] == code
    assert answer["data"]["error"] in result.stderr
    assert written() == before
    return result.stderr


PARAMETERS: dict[str, tuple[tuple[str, str], list[str]]] = {
    "unknown": (("customr", "cus_1"), ["unknown parameter 'customr'", "This runbook has: incident, environment"]),
    "mistyped": (("customer", "5"), ["parameter 'customer'", "valid string", "given: 5", "opskit describe"]),
    "of another kind": (
        ("endpoint", "cus_1"),
        ["parameter 'endpoint'", "such as we_", "given: 'cus_1'"],
    ),
    "a flag that is none": (("unmask", "maybe"), ["parameter 'unmask'", "valid boolean"]),
    "out of the calendar": (("since", "99999999d"), ["parameter 'since'", "outside the times that a calendar has"]),
    "naive": (("since", "2026-11-23T03:10:00"), ["parameter 'since'", "no zone; add Z for UTC or an offset"]),
    "naive day": (("since", "2026-11-23"), ["parameter 'since'", "no zone"]),
    "no time": (("since", "yesterday"), ["parameter 'since'", "2026-11-23T03:10:00Z, or a span such as 90m"]),
    "no date": (("since", "2026-13-45"), ["parameter 'since'"]),
    "no identifier": (
        ("my-hours", "5"),
        ["'my-hours' cannot be a parameter's name", "letters, digits and underscores"],
    ),
    "a path for an incident": (("incident", "../../etc"), ["parameter 'incident'", "give up to 64 letters"]),
    "a path for an environment": (
        ("environment", "../production"),
        ["parameter 'environment'", "give up to 64 letters"],
    ),
}


@pytest.mark.parametrize(("pair", "said"), PARAMETERS.values(), ids=PARAMETERS.keys())
def test_a_bad_parameter(opskit: Opskit, pair: tuple[str, str], said: list[str]) -> None:
    message = refused(opskit, "run", RUNBOOK, "-p", *pair)
    assert all(part in message for part in said), message


def test_several_bad_parameters_are_named_together(opskit: Opskit) -> None:
    message = refused(opskit, "run", RUNBOOK, "-p", "customer", "me", "-p", "endpoint", "5")
    assert "'customer'" in message
    assert "'endpoint'" in message


FILES: dict[str, tuple[str, list[str]]] = {
    "malformed": ("since: 24h\ncustomer: [cus_1\n", ["given.yaml, line 3", "is not YAML"]),
    "with a tab": ("since: 24h\n\tcustomer: x\n", ["given.yaml, line 2", "is not YAML"]),
    "a list": ("- since\n", ["given.yaml", "`name: value` lines"]),
    "no identifier": ("my hours: 5\n", ["given.yaml", "'my hours' cannot be a parameter's name"]),
    "naive": ("since: 2026-11-23 03:10:00\n", ["'since'", "no zone"]),
    "unknown": ("sinse: 24h\n", ["unknown parameter 'sinse'"]),
}


@pytest.mark.parametrize(("text", "said"), FILES.values(), ids=FILES.keys())
def test_a_bad_file(opskit: Opskit, tmp_path: Path, text: str, said: list[str]) -> None:
    (tmp_path / "given.yaml").write_text(text)
    message = refused(opskit, "run", RUNBOOK, "-f", tmp_path / "given.yaml")
    assert all(part in message for part in said), message


def test_a_missing_file(opskit: Opskit, tmp_path: Path) -> None:
    assert "none.yaml: No such file" in refused(opskit, "run", RUNBOOK, "-f", tmp_path / "none.yaml")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=12), st.text(max_size=12))
def test_whatever_is_typed_there_is_no_traceback(opskit: Opskit, name: str, value: str) -> None:
    result = opskit("run", RUNBOOK, "-p", name, value, "--environment", "no-such-environment")
    assert result.exit_code == 2


def test_an_unknown_runbook(opskit: Opskit) -> None:
    for verb in ("run", "describe"):
        message = refused(opskit, verb, "strpe")
        assert "there is no runbook 'strpe'" in message
        assert RUNBOOK in message


def test_an_unknown_environment(opskit: Opskit) -> None:
    message = refused(opskit, "run", RUNBOOK, "--environment", "prod")
    assert "there is no environment 'prod'" in message
    assert "production" in message


def test_a_bad_scenario_is_told_as_a_bad_file_of_parameters_is(
    opskit: Opskit, standing: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("name: x\ntitle: [a\nb: c\n")
    said = refused(opskit, "run", RUNBOOK, "-f", tmp_path / "bad.yaml")
    assert "bad.yaml, line 3: is not YAML" in said
    assert refused(opskit, "sandbox", "break", tmp_path / "bad.yaml", "--name", standing.name) == said
    assert refused(opskit, "drill", tmp_path / "bad.yaml") == said
    assert "none.yaml: No such file" in refused(opskit, "drill", tmp_path / "none.yaml")


def test_no_sandbox_running(opskit: Opskit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSKIT_STATE", str(tmp_path / "none"))
    assert "opskit sandbox start" in refused(opskit, "run", RUNBOOK)


@pytest.mark.parametrize("words", [["status"], ["break", "endpoint-disabled"], ["heal"], ["reset"], ["by-hand"]])
def test_a_named_sandbox_that_does_not_run_is_named_in_the_remedy(opskit: Opskit, words: list[str]) -> None:
    assert "Next: opskit sandbox start --name other" in opskit("sandbox", *words, "--name", "other").output
    assert opskit("sandbox", *words).output.strip().endswith("Next: opskit sandbox start")


@pytest.mark.parametrize("verb", ["plan", "approve", "apply", "resume", "undo", "show"])
@pytest.mark.parametrize("name", ["20200101T000000-abcd", "last"])
def test_an_unknown_run(opskit: Opskit, verb: str, name: str) -> None:
    message = refused(opskit, verb, name)
    assert f"there is no run '{name}'" in message
    assert "opskit history" in message


MISUSED: dict[str, tuple[list[str], str, str]] = {
    "a missing argument": (["describe"], "describe", "Missing argument 'RUNBOOK'"),
    "an unknown option": (["undo", "last", "--yes"], "undo", "No such option '--yes'"),
    "an unknown command": (["frobnicate"], "main", "No such command 'frobnicate'"),
    "an unknown command of the sandbox": (["sandbox", "frobnicate"], "sandbox", "No such command 'frobnicate'"),
    "an option before the command": (["--frob", "runbooks"], "main", "No such option '--frob'"),
    "a value of another kind": (["history", "--since", "soon"], "history", "a span such as 90m"),
}


@pytest.mark.parametrize(("words", "command", "said"), MISUSED.values(), ids=MISUSED.keys())
def test_misuse_is_answered_like_any_bad_input(opskit: Opskit, words: list[str], command: str, said: str) -> None:
    message = refused(opskit, *words)
    assert message.startswith("Usage: ")
    assert said in message
    answer = json.loads(opskit(*words, "--json").stdout)
    assert (answer["opskit"], answer["command"]) == (1, command)
    assert answer["data"]["remedy"].startswith("Usage: ")


def test_an_ambiguous_run(opskit: Opskit, outputs: Path) -> None:
    for name in ("20260101T000000-aaaa", "20260101T000000-bbbb"):
        sealed(outputs, run=name)
    message = refused(opskit, "show", "20260101")
    assert "means 2 runs: 20260101T000000-bbbb, 20260101T000000-aaaa." in message
    assert "Give more of it" in message
    for letter in "cdef":
        sealed(outputs, run=f"20260101T000000-{letter * 4}")
    assert "means 6 runs" in (message := refused(opskit, "show", "20260101"))
    assert "20260101T000000-bbbb, …." in message


# Secrets.


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_or_empty_secret(opskit: Opskit, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    for name in ("OPSKIT_DATABASE_READ", "OPSKIT_VERCEL", "OPSKIT_SENTRY"):
        monkeypatch.setenv(name, "long-enough-to-be-one")
    monkeypatch.delenv("OPSKIT_STRIPE_READ", raising=False)
    if value is not None:
        monkeypatch.setenv("OPSKIT_STRIPE_READ", value)
    message = refused(opskit, "run", RUNBOOK, "--environment", "production")
    assert "stripe (read): environment variable OPSKIT_STRIPE_READ is missing or empty" in message
    assert "long-enough" not in message


def test_a_secret_too_short_to_be_kept_out(opskit: Opskit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSKIT_DATABASE_READ", "abc1234")
    message = refused(opskit, "run", RUNBOOK, "--environment", "production")
    assert "fewer than 8 characters" in message
    assert "abc1234" not in message


@pytest.mark.parametrize("text", ["name: [", "name: bad\nservices: {}\n", "just words\n"])
def test_a_bad_environment_file(opskit: Opskit, repository: Path, text: str) -> None:
    (repository / "parameters" / "environments" / "bad.yaml").write_text(text)
    assert "bad.yaml" in refused(opskit, "run", RUNBOOK, "--environment", "bad")


# Outputs.


@pytest.mark.parametrize("place", ["/proc/outputs", "{tmp}/kept", "{tmp}/kept/outputs"])
def test_outputs_not_writable(
    opskit: Opskit, standing: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "kept").write_text("in the way")
    monkeypatch.setenv("OPSKIT_OUTPUTS", place.format(tmp=tmp_path))
    message = refused(opskit, "run", RUNBOOK, "--environment", standing.name)
    assert "cannot write to" in message
    assert "make it writable" in message
    assert (tmp_path / "kept").read_text() == "in the way"


def test_outside_a_repository(opskit: Opskit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSKIT_ROOT", str(tmp_path))
    for arguments in (("run", RUNBOOK), ("runbooks",)):
        assert "Run this in the repository that holds notebooks/ and parameters/" in refused(opskit, *arguments)


# Approvals.


@pytest.fixture
def planned(outputs: Path, repository: Path) -> str:
    """A run in production that ended in a plan, as its record is kept."""
    environments = repository / "parameters" / "environments"
    target: dict[str, Any] = yaml.safe_load((environments / "production.yaml").read_text())
    assert target["production"]
    folder = outputs / "INC-1" / "20260101T000000-aaaa"
    folder.mkdir(parents=True)
    head = {"run": folder.name, "incident": "INC-1", "runbook": RUNBOOK, "environment": "production", "operator": "ana",
            "started": "2026-01-01T00:00:00+00:00", "parameters": {"environment": "production"}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(head))
    action = plans.Action("stripe.enable_endpoint", {"endpoint": "we_1"}, {"status": "disabled"}, "Enable we_1")
    made_for = {"environment": "production", "operator": "ana", "archive": provenance.archive(outputs)}
    plans.Plan(made_for, [action]).save(folder / "plan.json")
    record.seal(folder, "ana")
    return folder.name


def test_production_without_approval(opskit: Opskit, planned: str) -> None:
    message = refused(opskit, "apply", planned, code=4)
    assert "not approved" in message
    assert f"opskit approve {planned}" in message


def test_production_approved_by_its_own_operator(opskit: Opskit, planned: str) -> None:
    message = refused(opskit, "approve", planned, "--type", "production 1", code=4)
    assert "in production another person approves" in message


@pytest.mark.parametrize("typed", ["production 2", "sandbox 1", "yes"])
def test_production_approved_with_the_wrong_words(
    opskit: Opskit, planned: str, typed: str, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSKIT_OPERATOR", "bo")
    assert "is not 'production 1'" in refused(opskit, "approve", planned, "--type", typed, code=4)
    assert not (outputs / "INC-1" / "approvals").exists()


def test_approving_without_a_person(opskit: Opskit, planned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPSKIT_OPERATOR", "bo")
    message = refused(opskit, "approve", planned)
    assert "no terminal" in message
    assert "--type" in message


@pytest.mark.parametrize("verb", ["resume", "undo"])
def test_nothing_to_follow_up(
    opskit: Opskit, planned: str, verb: str, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    path = repository / "parameters" / "environments" / "production.yaml"
    target = yaml.safe_load(path.read_text())
    for service in target["services"].values():
        for access in ("read", "change"):
            if isinstance(service, dict) and access in service:
                service[access]["secret"] = {"env": "TEST_SECRET"}
    path.write_text(yaml.safe_dump(target))
    monkeypatch.setenv("TEST_SECRET", "long-enough-to-be-one")
    assert "there is nothing to" in refused(opskit, verb, planned, code=4)


WRONG: list[list[str]] = [
    ["no-such-verb"],
    ["run"],
    ["run", RUNBOOK, "-p", "only"],
    ["apply", "x", "--rate", "0"],
    ["drill", "no-such-scenario"],
    ["sandbox", "break", "x", "--name", "no-such"],
]


@pytest.mark.parametrize("arguments", WRONG)
def test_a_command_that_is_wrong(opskit: Opskit, arguments: list[str]) -> None:
    assert opskit(*arguments).exit_code == 2
