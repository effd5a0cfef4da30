"""Parameters: one declaration, the same answer from the command line, papermill and a hand-edited cell."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from papermill.inspection import inspect_notebook
from support import REPOSITORY, RUNBOOK

from opskit import parameters, runbooks
from opskit.errors import BadInput
from opskit.parameters import (
    KINDS,
    REMEMBERED,
    declared,
    declared_here,
    from_file,
    from_text,
    refuse_secrets,
    span,
    undeclared,
    validate,
)
from opskit.redaction import Redactor

NOW = datetime.now(UTC)

GOOD: dict[str, list[Any]] = {
    "Text": ["", "some text", "ü" * 2000],
    "Flag": [True, False],
    "Count": [0, 1, 10**9],
    "Hours": [0.5, 24, 720],
    "Moment": ["90m", "2h", "3d", "45s", "2026-11-23T03:10:00Z", "2026-11-23T03:10:00+02:00", NOW],
    "IncidentId": ["INC-1", "2026-11-23.a_b"],
    "EnvironmentName": ["sandbox", "eu-west.1"],
    "CustomerId": ["cus_abc123"],
    "DocumentId": ["0b1f1f9e-5d2c-4a56-9f0a-3f2d8c1e7a10"],
    "EndpointId": ["we_1AbC"],
    "EventId": ["evt_1AbC"],
    "Folder": ["supabase/migrations", "/a b/c"],
    "Versions": ["pending", "20260101000000", "20260101000000, 20260102000000"],
    "Work": ["preflight", "apply", "diagnose", "backfill", "rollback"],
    "Base": ["target", "empty"],
    "Seconds": [4, 0.5],
}
BAD: dict[str, list[Any]] = {
    "Text": [5, None, "x" * 2001, ["a"]],
    "Flag": ["yes", 1, None, "true"],
    "Count": [-1, 1.0, "1", True, None],
    "Hours": [0, -1, 720.5, "many", float("nan"), float("inf"), None],
    "Moment": [
        "2026-11-23T03:10:00",
        "2026-11-23",
        "yesterday",
        "90",
        "-2h",
        "2 weeks",
        "",
        5,
        None,
        datetime(2026, 11, 23, 3, 10),
        "99999999999d",
        "9999999d",
        "0001-01-01T00:00:00+02:00",
        "2026-13-45T00:00:00Z",
    ],
    "IncidentId": ["", "../etc", "a b", "-x", ".hidden", "x" * 65, "a/b", 5, "a\n"],
    "EnvironmentName": ["", "../production", "a/b", "a\0b"],
    "CustomerId": ["cus_", "we_1", "cus_a b", "cus_a\n", "cus_a;drop", "CUS_1"],
    "DocumentId": ["", "0b1f1f9e", "0b1f1f9e-5d2c-4a56-9f0a-3f2d8c1e7a1g", 7, None],
    "EndpointId": ["we_", "cus_1", "we_../x"],
    "EventId": ["evt_", "evt_1/retry", "ev_1"],
    "Folder": ["", 5, None],
    "Versions": ["", "all", "20260101000000;", ","],
    "Work": ["", "push", None],
    "Base": ["", "staging"],
    "Seconds": [0, -1, 1e9, "soon"],
}


def given_as(kind: str, value: Any) -> Any:
    model = parameters._model({"x": (KINDS[kind], ...)})
    return validate(model, {"x": value}, "here").x  # type: ignore[attr-defined]


def test_every_kind_is_tested() -> None:
    assert set(GOOD) == set(BAD) == set(KINDS)


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in GOOD.items() for v in values])
def test_good_values_are_taken(kind: str, value: Any) -> None:
    found = given_as(kind, value)
    if kind == "Moment":
        assert found.utcoffset() == timedelta(0)
    else:
        assert found == value


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_bad_values_are_refused_by_name(kind: str, value: Any) -> None:
    with pytest.raises(BadInput, match=r"^here: parameter 'x': ") as caught:
        given_as(kind, value)
    assert "opskit describe" in caught.value.remedy


def test_every_wrong_parameter_is_named_at_once() -> None:
    model = declared("from opskit.parameters import Count, Flag\na: Count = 1\nb: Flag = True\nc: Count = 2")
    with pytest.raises(BadInput, match=r"'a'.*'b'"):
        validate(model, {"a": -1, "b": "maybe"}, "here")


def test_an_unknown_parameter_is_answered_with_the_known_ones() -> None:
    model = declared("from opskit.parameters import Count\nhours: Count = 1")
    with pytest.raises(BadInput, match=r"unknown parameter 'hour'\. This runbook has: hours\."):
        validate(model, {"hour": 1}, "here")


def test_a_default_is_validated_too() -> None:
    with pytest.raises(BadInput, match="parameter 'x'"):
        validate(declared("x: Count = -1"), {}, "here")


def test_spans_count_back_from_now() -> None:
    found = given_as("Moment", "90m")
    assert timedelta(minutes=90) <= datetime.now(UTC) - found < timedelta(minutes=91)


@given(st.text(max_size=20))
def test_a_span_or_a_clear_refusal(text: str) -> None:
    try:
        assert span(text) >= timedelta(0)
    except (ValueError, OverflowError):
        return


@given(st.text(max_size=30))
def test_no_text_breaks_a_moment(text: str) -> None:
    try:
        found = given_as("Moment", text)
    except BadInput:
        return
    assert found.tzinfo is not None


@given(st.datetimes(timezones=st.timezones()))
def test_zoned_times_survive_as_json(at: datetime) -> None:
    model = parameters._model({"x": (KINDS["Moment"], ...)})
    try:
        first = validate(model, {"x": at.isoformat()}, "here")
    except BadInput:  # before the year 1 in UTC, or an offset with seconds
        return
    assert validate(model, first.model_dump(mode="json"), "here") == first


# The cell.


def test_a_declaration_gives_kind_default_and_meaning() -> None:
    model = declared(
        "from typing import Optional\n\nfrom opskit.parameters import CustomerId, Moment\n\n"
        'since: Moment = "24h"  # how far back to look\ncustomer: Optional[CustomerId] = None\n'
    )
    since, customer = model.model_fields["since"], model.model_fields["customer"]
    assert (since.default, since.description) == ("24h", "how far back to look")
    assert (customer.default, customer.json_schema_extra) == (None, {"kind": "Optional[CustomerId]"})


HOSTILE = {
    "a call": 'x: Text = __import__("os").system("true")',
    "an f-string": 'x: Text = f"{1}"',
    "a name": "x: Text = secret",
    "an unhashable key": "x: Text = {[]: 1}",
    "an expression": 'x: Text = "a" * 10**9',
    "an annotation that runs": 'x: print("boo") = "a"',
    "an unknown kind": 'x: Shell = "a"',
    "an attribute": 'import os\nx: os.PathLike = "a"',
    "a union": "x: Text | None = None",
    "a plain assignment": 'x = "a"',
    "a declaration without value": "x: Text",
    "a second statement": 'x: Text = "a"; import os',
    "an import of something else": 'from os import system\nx: Text = "a"',
    "an attribute target": 'a.x: Text = "a"',
    "a function": "def f(): ...",
    "a loop": "while True: pass",
    "a magic": "!rm -rf /",
    "no Python": "x: Text = (",
    "a null byte": "x: Text = 'a\0'",
    "deep nesting": f"x: Text = {'(' * 500}1",
    "deep operators": f"x: Text = {'-' * 5000}1",
    "a private name": '_x: Text = "a"',
    "a name that pydantic keeps": 'model_config: Text = "a"',
    "a name that hides a method": 'copy: Text = "a"',
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_cell_is_refused_and_never_run(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput):
        declared(source)
    assert capsys.readouterr().out == ""


@given(st.text(max_size=60))
def test_no_cell_crashes_the_parser(source: str) -> None:
    try:
        declared(source)
    except BadInput:
        return


def test_in_the_kernel_the_same_declaration_judges_what_was_injected() -> None:
    namespace: dict[str, Any] = {"In": [], "Out": {}}
    exec('from opskit.parameters import Count, Moment\nhours: Count = 1\nsince: Moment = "1h"', namespace)  # noqa: S102
    namespace["hours"] = "many"  # as papermill's injected cell would set it
    model = declared_here(namespace)
    with pytest.raises(BadInput, match="parameter 'hours'"):
        validate(model, {k: namespace[k] for k in model.model_fields}, "here")


def test_in_the_kernel_a_mistyped_parameter_is_seen() -> None:
    namespace: dict[str, Any] = {"In": [], "Out": {}, "_": 1, "__doc__": "x"}
    exec("from opskit.parameters import Count\nhours: Count = 1\nhour = 2\nimport os", namespace)  # noqa: S102
    assert undeclared(namespace) == ["hour"]
    with pytest.raises(BadInput, match=r"unknown parameter 'hour'\. This runbook has: hours\..* restart the kernel"):
        validate(declared_here(namespace), {"hours": 1, "hour": 2}, "here", REMEMBERED)


@pytest.mark.parametrize("kind", ["DocumentId", "CustomerId", "EndpointId", "EventId", "Versions"])
def test_what_is_written_otherwise_is_answered_with_an_example_that_is_right(kind: str) -> None:
    model = declared(f"from opskit.parameters import {kind}\nit: {kind} = 'pending'")
    with pytest.raises(BadInput, match="give ") as refused:
        validate(model, {"it": "../never"}, "here")
    example = re.findall(r"such as (\S+?)[,.)]? ", refused.value.message)[0]
    assert validate(model, {"it": example}, "here")


# Files and -p.


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "given.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_gives_its_values(tmp_path: Path) -> None:
    path = write(tmp_path, "hours: 5\ncustomer: cus_1 # note\nflag: true\nnothing:\n")
    assert from_file(path) == {"hours": 5, "customer": "cus_1", "flag": True, "nothing": None}


def test_an_empty_file_gives_nothing(tmp_path: Path) -> None:
    assert from_file(write(tmp_path, "# nothing\n")) == {}


def test_yaml_does_not_lend_a_naive_time_a_zone(tmp_path: Path) -> None:
    found = from_file(write(tmp_path, "since: 2026-11-23 03:10:00\nday: 2026-11-23\nzoned: 2026-11-23T03:10:00Z\n"))
    assert found == {"since": "2026-11-23T03:10:00", "day": "2026-11-23", "zoned": "2026-11-23T03:10:00+00:00"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", r"given\.yaml, line 3: is not YAML"),
        ("a: 1\n\tb: 2\n", r"given\.yaml, line 2: is not YAML"),
        ("a: 1\na: b: c\n", r"given\.yaml, line 2: is not YAML"),
        ("- 1\n- 2\n", "must hold parameters as `name: value` lines"),
        ("just words\n", "must hold parameters as `name: value` lines"),
        ("my-hours: 5\n", "'my-hours' cannot be a parameter's name"),
        ("5: five\n", "5 cannot be a parameter's name"),
        ("a b: 5\n", "'a b' cannot be a parameter's name"),
        ("since: 2026-13-45\n", "is not YAML"),
        ("x: !!python/object/apply:os.system [true]\n", r"line 1: is not YAML"),
        (b"\xff\xfe\x00bad", "is not UTF-8|is not YAML"),
        (b"caf\xe9: 1", "is not UTF-8"),
        ("a: \0\n", "is not YAML"),
        ("a: " + "[" * 3000, "is not YAML"),
        ("a: *nowhere\n", "line 1: is not YAML"),
    ],
)
def test_a_bad_file_is_named_with_the_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        from_file(write(tmp_path, text))


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(BadInput, match=str(path)):
            from_file(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("true", True),
        ("null", None),
        ("24h", "24h"),
        ("2026-11-23T03:10:00", "2026-11-23T03:10:00"),
        ("2026-11-23", "2026-11-23"),
        ("2026-13-45", "2026-13-45"),
        ("[", "["),
        ("", None),
        ("cus_1", "cus_1"),
    ],
)
def test_values_on_the_command_line_mean_what_they_say(text: str, value: Any) -> None:
    assert from_text("x", text) == value


@given(st.text(max_size=30))
def test_no_value_on_the_command_line_crashes(text: str) -> None:
    from_text("x", text)


@pytest.mark.parametrize("name", ["a-b", "", "1a", "a b", "a.b", "--x"])
def test_a_name_that_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be a parameter's name"):
        from_text(name, "1")


# Secrets are no parameters.


@pytest.mark.parametrize(
    "value", ["sk_live_ab/cdef", "x sk_live_ab%2Fcdef y", ["a", {"b": "sk_live_ab/cdef"}], {"sk_live_ab/cdef": 1}]
)
def test_a_secret_as_a_parameter_is_refused_by_name_and_not_repeated(value: Any) -> None:
    redactor = Redactor({"stripe read": "sk_live_ab/cdef"})
    with pytest.raises(BadInput, match="parameter 'note' holds the secret 'stripe read'") as caught:
        refuse_secrets({"fine": "sk_live", "note": value}, redactor)
    assert "cdef" not in str(caught.value)


def test_a_secret_as_a_parameters_name_is_not_repeated_either() -> None:
    with pytest.raises(BadInput, match=r"parameter '\[secret token\]' holds the secret 'token'"):
        refuse_secrets({"sk_live_abcdef": 1}, Redactor({"token": "sk_live_abcdef"}))


def test_other_parameters_are_not_refused() -> None:
    refuse_secrets({"note": "sk_live_", "n": 5, "none": None, "at": NOW}, Redactor({"token": "sk_live_abcdef"}))
    refuse_secrets({"note": "anything"}, Redactor({}))


# The runbooks' own declarations.


def test_papermill_sees_every_parameter_of_a_runbook() -> None:
    for book in runbooks.catalogue(REPOSITORY):
        seen = inspect_notebook(str(book.path))
        assert list(seen) == list(book.parameters.model_fields)
        assert all(one["help"] for one in seen.values())


def test_every_parameter_file_in_the_repository_is_valid() -> None:
    for book in runbooks.catalogue(REPOSITORY):
        for path in sorted((REPOSITORY / "parameters" / book.name).glob("*.yaml")):
            validate(book.parameters, from_file(path), path.name)
    assert (REPOSITORY / "parameters" / RUNBOOK).is_dir()
