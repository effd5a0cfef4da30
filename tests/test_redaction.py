"""Secrets stay out of everything that a kernel sends, in whatever form and however split."""

from __future__ import annotations

import base64
import html
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jupyter_client.manager import KernelManager

from opskit.redaction import SHORTEST, Redactor, Stream, base64_forms, forms

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


@pytest.mark.parametrize(
    "spell",
    [
        str,
        quote,
        lambda s: quote(s, safe=""),
        quote_plus,
        html.escape,
        lambda s: html.escape(s, quote=False),
        lambda s: json.dumps(s)[1:-1],
        lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    ],
)
def test_every_form_in_which_text_travels_is_recognised(spell: Callable[[str], str]) -> None:
    assert Redactor({"token": SECRET}).text(f"before {spell(SECRET)} after") == f"before {LABEL} after"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("before", ["", "x", "xy", "user:", "Basic of "])
@pytest.mark.parametrize("after", ["", "y", "yz", ":", "\n"])
def test_base64_is_recognised_whatever_stands_around(encode: Callable[[bytes], bytes], before: str, after: str) -> None:
    shown = Redactor({"token": SECRET}).text(encode(f"{before}{SECRET}{after}".encode()).decode())
    assert LABEL in shown
    assert all(form not in shown for form in base64_forms(SECRET.encode()))


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
    if not any(form in text for form in forms(secret)):
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
from IPython.display import HTML, JSON, SVG, Markdown, display
from opskit.redaction import Redactor, guard
S = os.environ["TOKEN"]
guard(get_ipython().kernel.session, Redactor({"token": S}))
"""

Say = Callable[[str], str]


@pytest.fixture(scope="module")
def say() -> Iterator[Say]:
    """Runs code in a guarded kernel over IPC; answers every message it sent, as JSON."""
    folder = Path(tempfile.mkdtemp(prefix="opskit-"))  # sockets need a short path
    manager = KernelManager(transport="ipc", connection_file=str(folder / "k.json"))
    manager.start_kernel(
        extra_arguments=["--HistoryManager.enabled=False"],
        env={**os.environ, "TOKEN": SECRET, "IPYTHONDIR": str(folder), "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
        stdout=subprocess.DEVNULL,  # what child processes print is also echoed there, raw
        stderr=subprocess.DEVNULL,
    )
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def run(code: str) -> str:
        sent: list[object] = []
        reply = client.execute_interactive(code, output_hook=lambda m: sent.append(m["content"]), timeout=30)
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
    "comm": "from comm import create_comm; create_comm(target_name='t', data={'v': S}).close(data={'v': S})",
    "log": "import logging; logging.getLogger('x').warning('with %s', S)",
    "warning": "import warnings; warnings.warn(S)",
}


@pytest.mark.parametrize("code", SPEECH.values(), ids=SPEECH.keys())
def test_a_kernel_says_the_label_instead(say: Say, code: str) -> None:
    heard = say(code)
    assert LABEL in heard
    assert not [form for form in forms(SECRET) if form in heard]


def test_what_a_kernel_says_otherwise_arrives_whole_and_in_order(say: Say) -> None:
    heard = json.loads(say("print('sk_te', end='')\ndisplay('between')\nprint('sk_test_Q', end='')\n'sk_test'"))
    texts = [m["text"] for m in heard if m.get("name") == "stdout"]
    assert texts == ["sk_te", "sk_test_Q"]
    shown = [m.get("text") or m["data"]["text/plain"] for m in heard if "text" in m or "data" in m]
    assert shown == ["sk_te", "'between'", "sk_test_Q", "'sk_test'"]


def test_a_held_back_tail_is_not_lost_at_the_end_of_a_cell(say: Say) -> None:
    assert "sk_test_Qu" in say("print('sk_test_Qu', end='')")
    assert "sk_test_Qu" not in say("pass")
