"""What must hold whatever is written, printed, cut or typed: the journal, the redactor, parameters, scenarios."""

from __future__ import annotations

import json
import math
import string
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from disguises import disguises, in_base64, traces
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from opskit.errors import BadInput
from opskit.journal import Journal, read
from opskit.parameters import declared, from_file, from_text, refuse_secrets, validate
from opskit.redaction import SHORTEST, Redactor, Stream, each
from opskit.sandbox import SCENARIOS, SandboxError, scenario
from opskit.spelling import sound

QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
THOROUGH = settings(QUICK, max_examples=2000)
FOUND = (Phase.explicit, Phase.generate)  # what a whole scenario shrinks to takes minutes, and says little more

# Secrets as people and vendors make them, and worse. Brackets would stand in the label itself.
common = st.text(string.ascii_letters + string.digits + "_-", min_size=SHORTEST, max_size=40)
punctuated = st.text(string.ascii_letters + string.punctuation.translate({91: None, 93: None}), min_size=SHORTEST)
strange = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="[]"), min_size=SHORTEST, max_size=30)
secrets = (common | punctuated | strange).filter(lambda s: len(s.strip()) >= SHORTEST and s not in "[secret token]")
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\r\\%&'\" "), max_size=80)
places = st.lists(st.integers(0, 400), max_size=8)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def cut(text: str, at: list[int]) -> list[str]:
    """`text` in pieces, cut at these places."""
    ends = [0, *sorted(place % (len(text) + 1) for place in at), len(text)]
    return [text[one:two] for one, two in pairwise(ends)]


def streamed(redactor: Redactor, pieces: list[str]) -> str:
    stream = Stream(redactor)
    return "".join(stream.feed(piece) for piece in pieces) + stream.flush()


# The redactor.


def no_form_survives(secret: str, form: str, before: str, after: str, at: list[int]) -> None:
    redactor = Redactor({"token": secret})
    spelt = {**disguises(secret), **{f"base64, {n} before": text for n, text in enumerate(in_base64(secret))}}[form]
    assume(len(spelt) >= SHORTEST)
    whole = f"{before}{spelt}{after}"
    clean = redactor.text(whole)
    assert spelt not in clean
    assert redactor.text(clean) == clean  # idempotent
    assert spelt not in streamed(redactor, cut(whole, at))
    apart = redactor.across(cut(whole, at))
    assert len(apart) == len(cut(whole, at))
    assert "".join(apart) == clean
    assert redactor.named(whole) == ["token"]


FORMS = [*disguises("x"), *(f"base64, {n} before" for n in range(3))]
hidden = given(secrets, st.sampled_from(FORMS), texts, texts, places)
test_no_form_survives_whatever_stands_around_and_however_it_is_cut = QUICK(hidden(no_form_survives))
test_no_form_survives_thoroughly = pytest.mark.deep(THOROUGH(hidden(no_form_survives)))


@QUICK
@given(st.lists(secrets, min_size=1, max_size=4), texts, places)
def test_what_holds_no_secret_is_unchanged(some: list[str], text: str, at: list[int]) -> None:
    redactor = Redactor({f"name {n}": secret for n, secret in enumerate(some)})
    assume(not any(mark.decode() in text for secret in some for mark in traces(secret)))
    assume(not redactor.spans(text))  # another mixture of spellings
    assert redactor.text(text) == text
    assert streamed(redactor, cut(text, at)) == text
    assert redactor.across(cut(text, at)) == cut(text, at)


@QUICK
@given(st.lists(common, min_size=1, max_size=3), st.data(), places)
def test_a_stream_says_what_the_whole_says(some: list[str], data: st.DataObject, at: list[int]) -> None:
    redactor = Redactor({f"name {n}": secret for n, secret in enumerate(some)})
    pieces = st.sampled_from([*some, *(s[:9] for s in some), *(s[3:] for s in some), " ", "x", "%"])
    text = "".join(data.draw(st.lists(pieces, max_size=8)))
    assert streamed(redactor, cut(text, at)) == redactor.text(text)


@QUICK
@given(st.text(st.characters()))
def test_any_text_can_be_written(text: str) -> None:
    written = sound(text)
    assert written.encode().decode() == written
    assert sound(written) == written


# The journal.

EVENT = b'{"event": "x"}'


def whole_lines_are_read(folder: Path, events: list[Any], at: int, garbage: bytes, data: st.DataObject) -> None:
    path = folder / "journal.jsonl"
    path.unlink(missing_ok=True)
    journal, ends = Journal(path), [0]
    for number, value in enumerate(events):
        journal.write("said", number=number, value=value)
        ends.append(path.stat().st_size)
    raw = path.read_bytes()
    at %= len(raw) + 1
    match data.draw(st.sampled_from(["torn", "torn, then more", "overwritten", "zeros"])):
        case "torn":
            path.write_bytes(raw[:at])
        case "torn, then more":
            path.write_bytes(raw[:at])
            journal.write("later")
        case "overwritten":
            path.write_bytes(raw[:at] + garbage + raw[at + len(garbage) :])
        case "zeros":
            path.write_bytes(raw[:at] + bytes(len(raw) - at))
    found = list(read(path))
    numbers = [event["number"] for event in found if "number" in event]
    before = [number for number in range(len(events)) if ends[number + 1] <= at]
    assert numbers[: len(before)] == before  # all that was whole
    assert numbers == sorted(set(numbers))
    for event in found:
        if event["event"] == "said" and event.get("number") in before:
            assert event["value"] == events[event["number"]]


torn = given(
    st.lists(json_values.filter(lambda v: "inf" not in repr(v).lower()), min_size=1, max_size=6),
    st.integers(0, 10**6),
    st.binary(max_size=40),
    st.data(),
)


@QUICK
@torn
def test_a_damaged_journal_gives_every_event_before_the_damage(
    tmp_path: Path, events: list[Any], at: int, garbage: bytes, data: st.DataObject
) -> None:
    whole_lines_are_read(tmp_path, events, at, garbage, data)


@pytest.mark.deep
@THOROUGH
@torn
def test_a_damaged_journal_thoroughly(
    tmp_path: Path, events: list[Any], at: int, garbage: bytes, data: st.DataObject
) -> None:
    whole_lines_are_read(tmp_path, events, at, garbage, data)


@QUICK
@given(
    st.lists(st.sampled_from([b'{"event": "x"}', b"\n", b"\0", b"[" * 2000, b'"', b"{", b"}", b"\xff", b"9" * 5000]))
)
def test_a_reader_raises_nothing_and_invents_nothing(tmp_path: Path, parts: list[bytes]) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(parts))
    assert len(list(read(path))) <= parts.count(EVENT)


# Parameters.

names = st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True)
kinds: dict[str, st.SearchStrategy[Any]] = {
    "Text": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60),
    "Flag": st.booleans(),
    "Count": st.integers(0, 10**12),
    "Hours": st.floats(0.01, 720),
    "CustomerId": st.from_regex(r"cus_[A-Za-z0-9]{1,20}", fullmatch=True),
}
lines = st.lists(
    st.tuples(names, st.sampled_from([*kinds])).flatmap(lambda pair: st.tuples(*map(st.just, pair), kinds[pair[1]])),
    min_size=1, max_size=5, unique_by=lambda line: line[0],
)  # fmt: skip
comments = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=30)


@QUICK
@given(lines, comments)
def test_what_a_cell_declares_comes_back(declaration: list[tuple[str, str, Any]], comment: str) -> None:
    source = "\n".join(f"{name}: {kind} = {value!r}  # {comment}" for name, kind, value in declaration)
    try:
        model = declared(source)
    except BadInput as error:  # a keyword, or a name that pydantic keeps
        assert "not Python" in str(error) or "cannot be a parameter's name" in str(error)
        return
    found = validate(model, {}, "here").model_dump(mode="json")
    assert found == {name: value for name, _, value in declaration}
    assert [(f.json_schema_extra, f.description) for f in model.model_fields.values()] == [
        ({"kind": kind}, comment.strip("# ").strip() and comment.lstrip("# ").strip()) for _, kind, _ in declaration
    ]
    assert validate(model, found, "here").model_dump(mode="json") == found


@QUICK
@given(st.dictionaries(names, json_values, max_size=5))
def test_what_a_file_gives_is_what_was_written(tmp_path: Path, written: dict[str, Any]) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(written))
    try:
        assert from_file(path) == each(written, sound)
    except BadInput as error:
        assert "YAML" in str(error)


SPRUNG = Path("sprung")
traps = st.sampled_from(
    ["__import__('pathlib').Path('sprung').touch()", "open('sprung', 'w')", "exec('open(\"sprung\", \"w\")')",
     "[open('sprung', 'w') for _ in [0]]", "(lambda: open('sprung', 'w'))()", "f'{open(\"sprung\", \"w\")}'"]
)  # fmt: skip
shapes = st.sampled_from(
    ["x: Text = {}", "x: {} = 1", "x: Optional[{}] = 1", "{}", "x = {}", "from {} import x", "@{}\nclass A: ...",
     "def f(a={}): ...", "x: Text = 'a'; {}", "x: Text = ['a', {}]", "x: Text = {{{}: 1}}", "if True: {}",
     "x: Text = 'a' if {} else 'b'", "x: Text = 'a' # \n{}", "from opskit.parameters import Text\nx: Text = -{}"]
)  # fmt: skip


@QUICK
@given(shapes, traps)
def test_a_hostile_cell_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, trap: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput):
        declared(shape.format(trap))
    assert not SPRUNG.exists()


def nothing_typed_breaks_anything(folder: Path, text: str, raw: bytes) -> None:
    from_text("x", text)
    path = folder / "given.yaml"
    for content in (raw, text.encode(errors="surrogatepass")):
        path.write_bytes(content)
        try:
            from_file(path)
        except BadInput as error:
            assert str(path) in str(error)
    try:
        declared(text)
    except BadInput:
        return


typed = given(st.text(st.characters() | st.sampled_from("[]{}:-!&*#\"'\n\t"), max_size=80), st.binary(max_size=80))


@QUICK
@typed
def test_nothing_that_is_typed_breaks_anything(tmp_path: Path, text: str, raw: bytes) -> None:
    nothing_typed_breaks_anything(tmp_path, text, raw)


@pytest.mark.deep
@THOROUGH
@typed
def test_nothing_that_is_typed_breaks_anything_thoroughly(tmp_path: Path, text: str, raw: bytes) -> None:
    nothing_typed_breaks_anything(tmp_path, text, raw)


@QUICK
@given(secrets, texts, texts, names)
def test_a_secret_is_never_taken_as_a_parameter(secret: str, before: str, after: str, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        refuse_secrets({name: f"{before}{secret}{after}"}, Redactor({"token": secret}))
    assert f"{secret}" not in caught.value.message.replace(name, "")


# Scenarios.

SHIPPED = [yaml.safe_load(path.read_text()) for path in sorted(SCENARIOS.glob("*.yaml"))]
FIELDS = sorted({key for content in SHIPPED for key in content})
wild = json_values | st.sampled_from(
    [10**400, -1, math.inf, "", "now", "9" * 400 + " days ago", "1e9 days ago", "0001-01-01T00:00:00+14:00", "..",
     "1 day ago .. now", [None], {"": {}}, [[]], {"what": "renew"}, [{"what": "renew", "when": "9" * 40 + " d ago"}],
     [{"service": "app", "status": 500, "from": "9" * 400 + " days ago"}], [{"service": "app", "route": "(?P<x"}]]
)  # fmt: skip


@st.composite
def altered(draw: st.DrawFn) -> Any:
    """A shipped scenario in which something, at any depth, is something else."""
    content = json.loads(json.dumps(draw(st.sampled_from(SHIPPED)), default=str))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = content
        while True:
            keys = [*place] if isinstance(place, dict) else [*range(len(place))]
            key = draw(st.sampled_from([*keys, *(FIELDS if place is content else [])])) if keys else None
            if key is None:
                break
            inner = place.get(key) if isinstance(place, dict) else place[key]
            if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
                place[key] = deepcopy(draw(wild))
                break
            place = inner
    return content


def a_scenario_or_a_message(folder: Path, raw: bytes) -> None:
    path = folder / "mine.yaml"
    path.write_bytes(raw)
    try:
        found = scenario.load(str(path))
    except SandboxError as error:
        assert "mine.yaml" in str(error)
        return
    again = folder / "again.yaml"
    plain = json.loads(json.dumps(found.model_dump(by_alias=True, exclude_unset=True), ensure_ascii=False))
    again.write_text(yaml.safe_dump(plain))
    assert scenario.load(str(again)) == found


@pytest.mark.parametrize("content", SHIPPED, ids=lambda content: content["name"])
def test_a_shipped_scenario_survives_being_written_and_read(tmp_path: Path, content: dict[str, Any]) -> None:
    a_scenario_or_a_message(tmp_path, yaml.safe_dump(content).encode())


@settings(QUICK, phases=FOUND)
@given(altered())
def test_an_altered_scenario_is_one_or_is_explained(tmp_path: Path, content: Any) -> None:
    a_scenario_or_a_message(tmp_path, yaml.safe_dump(content).encode())


@QUICK
@given(st.binary(max_size=100) | texts.map(str.encode))
def test_any_file_is_a_scenario_or_is_explained(tmp_path: Path, raw: bytes) -> None:
    a_scenario_or_a_message(tmp_path, raw)


@pytest.mark.deep
@settings(THOROUGH, phases=FOUND)
@given(altered())
def test_altered_scenarios_thoroughly(tmp_path: Path, content: Any) -> None:
    a_scenario_or_a_message(tmp_path, yaml.safe_dump(content).encode())
