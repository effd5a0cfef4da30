"""Secrets stay out of everything that a kernel sends, in whatever form and however split."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from disguises import disguises, traces
from hypothesis import example, given
from hypothesis import strategies as st
from jupyter_client.manager import KernelManager
from support import quickly

from opskit.guard import CUT, EACH, LONGEST_ERROR, MOST
from opskit.redaction import SHORTEST, Redactor, Stream

SECRET = "sk_test_Quo\"te'/slash&<9>+é=ü"
LABEL = "[secret token]"

# The label itself is written with brackets: a secret made of brackets could stand in its own replacement.
letters = st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_characters="[]", exclude_categories=["Cc"])
secrets = st.text(letters, min_size=SHORTEST, max_size=40)
texts = st.text(letters | st.sampled_from(" \n"), max_size=60)


def cut(text: str, places: list[int]) -> list[str]:
    """`text` in pieces, cut at these places."""
    at = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[one:two] for one, two in pairwise(at)]


def streamed(redactor: Redactor, pieces: list[str]) -> str:
    stream = Stream(redactor)
    return "".join(stream.feed(piece) for piece in pieces) + stream.flush()


def held(text: str, secret: str = SECRET) -> list[str]:
    """The forms of the secret that stand in a text."""
    return [mark.decode() for mark in traces(secret) if mark.decode() in text]


@pytest.mark.parametrize("name", disguises(SECRET))
def test_every_form_in_which_text_travels_is_recognised(name: str) -> None:
    said = disguises(SECRET)[name]
    assert Redactor({"token": SECRET}).text(f"before {said} after") == f"before {LABEL} after"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "x", "xy", "user:", "Basic of "])
@pytest.mark.parametrize("after", ["", "y", "yz", ":", "\n"])
def test_base64_is_recognised_whatever_stands_around(encode: Callable[[bytes], bytes], before: str, after: str) -> None:
    shown = Redactor({"token": SECRET}).text(encode(f"{before}{SECRET}{after}".encode()).decode())
    assert LABEL in shown
    assert held(shown) == []


@pytest.mark.parametrize("before", range(90))
def test_base64_is_recognised_across_its_lines(before: int) -> None:
    for broken in ("\n", "\r\n", "\\n"):
        said = base64.encodebytes(b"x" * before + SECRET.encode() + b"y" * 30).decode().replace("\n", broken)
        shown = Redactor({"token": SECRET}).text(said)
        assert LABEL in shown
        assert held(shown.replace(broken, "")) == []


def test_mixed_spellings_are_recognised() -> None:
    said = "sk_test_Quo%22te&#39;/slash&amp;\\u003C9%3e+%C3%a9=\\xfc"
    assert Redactor({"token": SECRET}).text(said) == LABEL


def test_colours_do_not_hide_it() -> None:
    said = f"\x1b[32m{SECRET[:9]}\x1b[39m{SECRET[9:12]}\x1b[38;5;241m{SECRET[12:]}\x1b[0m \x1b[1mfine\x1b[0m"
    assert Redactor({"token": SECRET}).text(said) == f"\x1b[32m{LABEL}\x1b[0m \x1b[1mfine\x1b[0m"


KEY = "-----BEGIN PRIVATE KEY-----\n" + "\n".join(c * 64 for c in "abc") + "\nAbCd==\n-----END PRIVATE KEY-----\n"


def test_a_key_of_several_lines_is_recognised_whole_and_line_by_line() -> None:
    redactor = Redactor({"key": KEY})
    assert redactor.text(f"<{KEY}>") == "<[secret key]>"
    assert redactor.text(json.dumps({"key": KEY})) == '{"key": "[secret key]"}'
    assert redactor.text(KEY.replace("\n", "\r\n")) == "[secret key]"
    assert redactor.text("bbb " + "b" * 64) == "bbb [secret key]"
    assert redactor.text("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"


def test_a_line_break_at_the_end_of_a_secret_is_not_needed() -> None:
    assert Redactor({"token": "correct horse\n"}).text("correct horse.") == "[secret token]."


@pytest.mark.parametrize(
    "said",
    [
        "postgresql://user:{url}@host:5432/db",
        "https://api.example.com/v1?key={url}&x=1",
        "{{'Authorization': 'Bearer {python}'}}",
        'psql "host=db password={sql}"',
        "curl -H 'Authorization: Bearer {shell}'",
        "Bearer {raw}",
    ],
)
def test_where_secrets_are_met(said: str) -> None:
    spelt = disguises(SECRET)
    text = said.format(
        url=spelt["URL"], python=spelt["Python"], sql=spelt["SQL"], shell=spelt["shell"], raw=spelt["raw"]
    )
    shown = Redactor({"token": SECRET}).text(text)
    assert LABEL in shown
    assert held(shown) == []


def test_what_is_not_claimed() -> None:
    """The limits that the module names; whoever lifts one changes this test."""
    redactor = Redactor({"token": "sk_test_abcdefgh"})
    for said in ("hgfedcba_tset_ks", "SK_TEST_ABCDEFGH", "s k _ t e s t _ a b c d e f g h", "sk_test_abcd…"):
        assert redactor.text(said) == said


def test_a_secret_made_of_what_is_escaped_takes_no_time() -> None:
    for secret in ("'" * 40 + "x", "\\" * 40 + "x", "%" * 40 + "x", "&amp;" * 20 + "x", '\\"' * 20 + "x"):
        began = time.perf_counter()
        Redactor({"token": secret}).text(secret[0] * 2000 + secret[:-1] * 5)
        assert time.perf_counter() - began < 2


@pytest.mark.parametrize("pieces", [2, 3, len(SECRET)])
def test_a_secret_across_several_texts_is_in_none_of_them(pieces: int) -> None:
    at = [round(n * len(SECRET) / pieces) for n in range(pieces + 1)]
    texts = [f"before {SECRET[: at[1]]}", *(SECRET[a:b] for a, b in pairwise(at[1:])), "", " after"]
    shown = Redactor({"token": SECRET}).across(texts)
    assert len(shown) == len(texts)
    assert "".join(shown) == f"before {LABEL} after"
    assert shown[0] == f"before {LABEL}"


def test_several_secrets_in_several_texts() -> None:
    redactor = Redactor({"one": "abcdefgh", "two": "12345678"})
    shown = redactor.across(["abcdefgh abcd", "efgh1234", "5678 abcdefgh", "x"])
    assert shown == ["[secret one] [secret one]", "[secret two]", " [secret one]", "x"]


def test_secrets_that_overlap_are_both_gone() -> None:
    redactor = Redactor({"one": "abcdefgh", "two": "efghijkl"})
    assert redactor.text("abcdefghijkl") == "[secret one]"
    assert streamed(redactor, ["abcdefgh", "ijkl"]) == "[secret one]"


def test_the_label_names_the_secret_and_not_its_value() -> None:
    redactor = Redactor({"stripe read": "rk_live_abcdefgh", "database read": "correct horse battery"})
    assert redactor.text("rk_live_abcdefgh, correct horse battery") == "[secret stripe read], [secret database read]"


def test_of_two_secrets_the_longer_one_wins() -> None:
    redactor = Redactor({"short": "abcdefgh", "long": "abcdefghijkl"})
    assert redactor.text("abcdefghijkl abcdefghx") == "[secret long] [secret short]x"


def test_trees_are_redacted_to_their_leaves_and_keys() -> None:
    tree = {SECRET: [{"deep": (f"<{SECRET}>", 1, None)}], "number": 5}
    assert Redactor({"token": SECRET}).tree(tree) == {LABEL: [{"deep": (f"<{LABEL}>", 1, None)}], "number": 5}


def test_without_secrets_nothing_changes() -> None:
    assert Redactor({}).text("anything") == "anything"
    assert streamed(Redactor({}), ["any", "thing"]) == "anything"


@given(secrets, texts, texts)
def test_a_secret_never_appears(secret: str, before: str, after: str) -> None:
    assert secret not in Redactor({"token": secret}).text(before + secret + after + secret)


@given(secrets, texts, texts, st.lists(st.integers(0, 200), max_size=6))
@example("aaaaaaaab", "aaaa", "", [3, 9])  # its beginning repeats in what stands before it
@example("abababab", "ab", "ab", [1, 2, 3, 4, 5])
def test_a_secret_never_appears_however_a_stream_is_split(
    secret: str, before: str, after: str, places: list[int]
) -> None:
    whole = before + secret + after
    redactor = Redactor({"token": secret})
    assert streamed(redactor, cut(whole, places)) == redactor.text(whole)


@given(secrets, texts, st.lists(st.integers(0, 200), max_size=6))
def test_text_without_secrets_is_unchanged_and_complete(secret: str, text: str, places: list[int]) -> None:
    redactor = Redactor({"token": secret})
    if not redactor.spans(text):
        assert redactor.text(text) == text
        assert streamed(redactor, cut(text, places)) == text


@given(secrets, st.binary(max_size=8), st.binary(max_size=8))
def test_base64_never_holds_a_decodable_secret(secret: str, before: bytes, after: bytes) -> None:
    spelt = base64.b64encode(before + secret.encode() + after).decode()
    assert "[secret token]" in Redactor({"token": secret}).text(spelt)


def test_only_what_could_begin_a_secret_is_held_back() -> None:
    stream = Stream(Redactor({"token": "password-123"}))
    assert stream.feed("progress: 50 %\r") == "progress: 50 %\r"
    assert stream.feed("the pass") == "the "
    assert stream.feed("age is clear") == "passage is clear"
    assert stream.feed("passw") == ""
    assert stream.flush() == "passw"
    assert stream.flush() == ""


# A real kernel, guarded as `begin` guards it.

GUARD = """
import base64, json, os, subprocess, sys, threading
from comm import create_comm
from IPython.display import HTML, JSON, SVG, Markdown, display
from opskit.guard import guard
from opskit.redaction import Redactor
S = os.environ["TOKEN"]
guard(get_ipython().kernel.session, Redactor({"token": S}))
"""

Say = Callable[[str], str]


@pytest.fixture(scope="module")
def say() -> Iterator[Say]:
    """Runs code in a guarded kernel over IPC; answers every message it sent, as JSON."""
    folder = Path(tempfile.mkdtemp(prefix="opskit-"))  # sockets need a short path
    surroundings = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    # … or the kernel would not listen to what its child processes say
    manager = KernelManager(transport="ipc", connection_file=str(folder / "k.json"))
    manager.start_kernel(
        extra_arguments=["--HistoryManager.enabled=False"],
        env={**surroundings, "TOKEN": SECRET, "IPYTHONDIR": str(folder), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        stdout=subprocess.DEVNULL,  # what child processes print is also echoed there, raw
        stderr=subprocess.DEVNULL,
    )
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def run(code: str) -> str:
        sent: list[object] = []

        def hear(message: dict[str, Any]) -> None:
            sent.append(message["content"])
            sent.extend(bytes(part).decode(errors="replace") for part in message["buffers"])

        reply = client.execute_interactive(code, output_hook=hear, timeout=30)
        return json.dumps([*sent, reply["content"]], ensure_ascii=False)

    run(GUARD)
    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()
    shutil.rmtree(folder)


SPEECH = {
    "print": "print(S)",
    "two writes": "sys.stdout.write(S[:7]); sys.stdout.flush(); sys.stdout.write(S[7:]); sys.stdout.flush()",
    "character by character": "for c in S: sys.stdout.write(c); sys.stdout.flush()",
    "stderr": "print(S, file=sys.stderr)",
    "stderr in pieces": "for c in S: sys.stderr.write(c); sys.stderr.flush()",
    "both streams in turn": "for c in S: print(c, end='', flush=True); print('.', end='', file=sys.stderr, flush=True)",
    "result": "S",
    "result inside": "{'deep': [S, {S: S}]}",
    "HTML": "HTML(f'<b>{S}</b>')",
    "SVG": 'SVG(f\'<svg xmlns="http://www.w3.org/2000/svg"><desc>{__import__("html").escape(S)}</desc></svg>\')',
    "JSON": "JSON({'a': [S, {'b': S}]})",
    "Markdown": "Markdown(f'**{S}**')",
    "display": "display({'text/html': f'<p>{S}</p>', 'text/plain': S}, raw=True)",
    "update_display": "h = display('waiting', display_id=True); h.update(S)",
    "metadata": "display({'text/plain': 'x'}, raw=True, metadata={'note': S})",
    "traceback": "raise ValueError(f'refused: {S}')",
    "chained traceback": "try:\n    raise KeyError(S)\nexcept KeyError as e:\n    raise RuntimeError(S) from e",
    "base64": "print(base64.b64encode(f'user:{S}'.encode()).decode())",
    "shell command": '!printf %s "$TOKEN"',
    "subprocess's output": "print(subprocess.run(['printenv', 'TOKEN'], capture_output=True, text=True).stdout)",
    "thread": "t = threading.Thread(target=print, args=(S,)); t.start(); t.join()",
    "next input": "get_ipython().set_next_input(S)",
    "comm": "create_comm(target_name='t', data={'v': S}).close(data={'v': S})",
    "log": "import logging; logging.getLogger('x').warning('with %s', S)",
    "warning": "import warnings; warnings.warn(S)",
    "bytes": "print(S.encode())",
    "hexadecimal": "print(S.encode().hex(), memoryview(S.encode()).hex(':'))",
    "broken base64": "print(base64.encodebytes(b'x' * 50 + S.encode() + b'y' * 50).decode())",
    "a forked process": "p = os.fork() or (print(S), sys.stdout.flush(), os._exit(0)); os.waitpid(p, 0)",
    "a child's own stdout": "subprocess.run(['printenv', 'TOKEN']); __import__('time').sleep(0.5)",
    "stdout, then stderr": "sys.stdout.write(S[:7]); sys.stdout.flush(); sys.stderr.write(S[7:]); sys.stderr.flush()",
    "stdout, then a display": "print(S[:7], end='', flush=True); display({'text/plain': S[7:]}, raw=True)",
    "a display's binary part": "create_comm(target_name='t', buffers=[S.encode()])",
    "its own log": "get_ipython().log.warning(S); print(S)",
    "a table": "import pandas as pd; pd.DataFrame({S: [S]}, index=pd.Index([S], name=S))",
    "halves of letters": "print('\\ud800', S, '\\udc80'); display({'text/plain': '\\ud800' + S}, raw=True)",
}


@pytest.mark.parametrize("code", SPEECH.values(), ids=SPEECH.keys())
def test_a_kernel_says_the_label_instead(say: Say, code: str) -> None:
    heard = say(code)
    assert LABEL in heard
    assert held(heard) == []


def test_what_a_kernel_says_otherwise_arrives_whole_and_in_order(say: Say) -> None:
    heard = json.loads(say("print('sk_te', end='')\ndisplay('between')\nprint('sk_test_Q', end='')\n'sk_test'"))
    texts = [m["text"] for m in heard if m.get("name") == "stdout"]
    assert texts == ["sk_te", "sk_test_Q"]
    shown = [m.get("text") or m["data"]["text/plain"] for m in heard if "text" in m or "data" in m]
    assert shown == ["sk_te", "'between'", "sk_test_Q", "'sk_test'"]


def test_a_held_back_tail_is_not_lost_at_the_end_of_a_cell(say: Say) -> None:
    assert "sk_test_Qu" in say("print('sk_test_Qu', end='')")
    assert "sk_test_Qu" not in say("pass")


# A kernel that does not stop talking.

FLOODS = {
    "stdout": "for n in range(5000): print('x' * 1000)",
    "stderr": "for n in range(5000): print('x' * 1000, file=sys.stderr)",
    "one print": "print('x' * 5_000_000)",
    "many short prints": "for n in range(300_000): print('x' * 9)",
    "one display": "display({'text/plain': 'x' * 5_000_000}, raw=True)",
    "displays": "for n in range(9000): display({'text/plain': 'x' * 1000}, raw=True)",
    "updates": "h = display('', display_id=True)\nfor n in range(9000): h.update('x' * 1000)",
    "tiny displays": "for n in range(9000): display({'text/plain': 'x'}, raw=True)",
    "both streams in turn": "for n in range(9000): print('x', flush=True); print('x', file=sys.stderr, flush=True)",
    "a child process": "subprocess.run(['head', '-c', '5000000', '/dev/zero'])",
    "a widget": "c = create_comm(target_name='t')\nfor n in range(9000): c.send('x' * 1000)",
}


@pytest.mark.parametrize("flood", quickly(FLOODS, "one print", "displays", "both streams in turn", "a widget"))
def test_a_flood_is_cut_with_one_plain_notice(say: Say, flood: str) -> None:
    heard = json.loads(say(FLOODS[flood] + "\n1 / 0"))
    texts = [str(m.get("text") or m.get("data") or "") for m in heard if isinstance(m, dict)]
    assert sum(map(len, texts)) < MOST + 30 * len(heard)
    assert len(heard) < 2 * MOST / EACH
    assert len([text for text in texts if CUT in text]) == 1
    assert [m["ename"] for m in heard if "ename" in m][:1] == ["ZeroDivisionError"]  # an error is told all the same
    assert "next" in say("print('next')")


def test_what_is_cut_in_the_middle_of_a_secret_shows_neither_half(say: Say) -> None:
    heard = say(f"print('x' * {MOST - EACH - 9} + S * 5)")
    assert CUT in heard
    assert "xs" not in heard


def test_an_errors_bulk_is_left_out(say: Say) -> None:
    heard = say("raise ValueError('x' * 9_000_000)")
    assert len(heard) < 10 * LONGEST_ERROR
    assert "characters left out" in heard
