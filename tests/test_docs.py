"""What the documentation says is so: its commands exist, its links lead somewhere, its generated parts are fresh."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from support import as_bash_reads, script

from opskit import parameters, runbooks
from opskit.cli import main
from opskit.linting import cells
from opskit.priorities import RESPONSE
from opskit.runbooks import TEMPLATE
from opskit.sandbox import SCENARIOS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
OURS = {"opskit", "make", "papermill", "jupyter", "python"}


generate = script("generate")
shown = script("shown")


# Commands.


def commands() -> Iterator[tuple[str, list[str]]]:
    """(where, words) of every command of ours in a bash or console block."""
    for page in PAGES:
        text = as_made(page.read_text(encoding="utf-8"))
        for kind, block in re.findall(r"^```(bash|console)\n(.*?)^```", text, re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if kind == "console" and not line.startswith("$ "):
                    continue
                for part in re.split(r"\s(?:\||&&|;)\s", line.removeprefix("$ ")):
                    words = shlex.split(part, comments=True)
                    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                        words = words[1:]
                    if words and words[0] in OURS:
                        yield f"{page.name}: {' '.join(words)}", words


def as_made(text: str) -> str:
    """A page, in which a runbook that it makes itself goes by the name of the template: that one exists."""
    for name in re.findall(r"^opskit new ([a-z-]+)", text, re.MULTILINE):
        text = text.replace(name, TEMPLATE).replace(name.replace("-", "_"), TEMPLATE.replace("-", "_"))
    return text


COMMANDS = dict(commands())


def test_the_documentation_holds_commands() -> None:
    assert len(COMMANDS) > 20
    assert {"opskit run", "make demo", "make test"} <= {" ".join(words[:2]) for words in COMMANDS.values()}


@pytest.mark.parametrize("where", COMMANDS)
def test_every_command_in_the_documentation_exists(where: str) -> None:
    tool, *words = COMMANDS[where]
    if tool == "opskit":
        parse(words)
    elif tool == "make":
        assert set(words) <= TARGETS, f"Makefile has no {words}"
    else:
        for word in words:
            if re.match(r"(notebooks|parameters|scripts|tests)/", word):
                assert (ROOT / word).exists(), f"there is no {word}"


def parse(words: list[str]) -> None:
    """Raises where the command line would not understand the words, or they name nothing that there is."""
    command: click.Command = main
    while isinstance(command, click.Group):
        name, *words = words
        command = command.commands[name]
    given = command.make_context(command.name, list(words)).params
    if given.get("runbook"):
        book = runbooks.load(given["runbook"], ROOT)
        values = dict(given.get("pairs", ()))
        for file in given.get("files", ()):
            values |= parameters.from_file(ROOT / file)
        parameters.validate(book.parameters, values, book.name)
    if scenario := given.get("scenario") or (command.name == "drill" and given.get("what")):
        known = {p.stem for p in SCENARIOS.glob("*.yaml")} | {p.stem for p in NOTEBOOKS}
        assert scenario in known or Path(scenario).suffix == ".yaml", f"there is no scenario {scenario}"


@pytest.mark.parametrize(
    "wrong",
    ["opskit frobnicate", "opskit run", "opskit run no-such-runbook", "opskit apply last --no-such-option",
     "opskit run stripe-webhook-replay -p sinse 6h", "opskit sandbox break no-such-scenario"],
)  # fmt: skip
def test_a_wrong_command_would_be_seen(wrong: str) -> None:
    with pytest.raises((KeyError, click.ClickException, AssertionError, parameters.BadInput)):
        parse(shlex.split(wrong)[1:])


def test_installing_says_what_it_does_before_pip_is_silent() -> None:
    """Two minutes without a word look like a command that hangs."""
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "install"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    steps = done.stdout.splitlines()
    said = next(number for number, line in enumerate(steps) if line.startswith("echo ") and "two minutes" in line)
    assert said < min(number for number, line in enumerate(steps) if " -m venv " in line or " pip install " in line)


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for typed, _ in generate.verbs(main, "opskit"):
        verb = " ".join(word for word in typed.split() if word.islower())
        assert verb in text, f"README.md says nothing of `{verb}`"


def test_every_exit_code_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for code in generate.Exit:
        assert f"| {int(code)} |" in text


def test_every_command_under_a_step_is_one_of_ours_or_a_vendors() -> None:
    """“By hand” names what to type; a typing error in the tool's own name would be found at the worst moment."""
    tools = {"psql", "stripe", "vercel", "curl", "opskit", "supabase", "squawk"}
    for path in NOTEBOOKS:
        for typed in re.findall(r"By hand[^`]*`([^`]+)`", markdown(path)):
            assert typed.split()[0] in tools, f"{path.name}: {typed}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_command_under_a_step_can_be_pasted_into_bash(path: Path, tmp_path: Path) -> None:
    for typed in re.findall(r"By hand[^`]*`([^`]+)`", markdown(path)):
        words = as_bash_reads(typed, tmp_path)
        for claims in re.findall(r"'(\{.*?\})'", " ".join(words)):
            if "sub" in claims:
                assert json.loads(claims)["sub"], typed


# Links.


def markdown(path: Path) -> str:
    """The prose of a page or a notebook, without code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def links(path: Path) -> Iterator[str]:
    prose = re.sub(r"`[^`\n]*`", "", markdown(path))
    yield from re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", prose)
    yield from re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    heads = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", markdown(path), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", head) for head in heads)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https://|mailto:", link):
            continue
        assert "://" not in link, f"{page.name}: {link} is not https"
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leads out of the repository"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} names no heading"


# What is generated, and what a picture costs.


def test_generated_parts_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_stale_part_would_be_seen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert generate.rewritten(text.replace("| HIGH |", "| LOW |")) == text
    assert generate.rewritten(text.replace("taken back", "given back", 1)) == text
    with pytest.raises(KeyError):
        generate.rewritten("<!-- generated: weather -->\n<!-- end -->")


def test_missing_runbooks_are_told_as_missing() -> None:
    rows = list(generate.catalogue())
    for name, (title, _) in generate.WANTED.items():
        row = next(r for r in rows if title in r)
        there = (ROOT / "notebooks" / f"{name}.ipynb").exists()
        assert (f"notebooks/{name}.ipynb" in row, "not yet" in row) == (there, not there)


def test_a_runbooks_response_time_is_its_prioritys() -> None:
    for book in runbooks.catalogue(ROOT):
        assert book.facts["Respond within"] == generate.span(RESPONSE[book.priority]), book.name


@pytest.mark.parametrize("name", shown.PICTURES)
def test_a_picture_is_a_small_png(name: str) -> None:
    found = (ROOT / "docs" / name).read_bytes()
    assert found.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(found) < 300_000
    width, height = (int.from_bytes(found[at : at + 4], "big") for at in (16, 20))
    assert 1000 <= width <= 1400 and 200 <= height <= 1000


def test_the_pictures_show_what_is_so() -> None:
    assert shown.stale() == [], "run: python scripts/shown.py, or scripts/picture.py"


def test_a_stale_picture_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shown.PICTURES, "lab-plan.png", lambda: iter(["something else"]))
    assert shown.stale() == ["lab-plan.png"]


def test_the_picture_shows_steps_that_there_are() -> None:
    cells = json.loads((ROOT / "notebooks" / "stripe-webhook-replay.ipynb").read_text(encoding="utf-8"))["cells"]
    assert {*shown.STEPS, *shown.SECTIONS, *shown.PLAN} <= {cell["id"] for cell in cells}


# Notebooks in git.


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_in_git_are_clean(path: Path) -> None:
    assert list(cells.unclean(json.loads(path.read_text(encoding="utf-8")))) == []


def test_what_a_session_leaves_behind_is_seen_and_stripped() -> None:
    used = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    cell = next(c for c in used["cells"] if c["cell_type"] == "code")
    cell |= {"execution_count": 3, "outputs": [{"output_type": "stream", "name": "stdout", "text": "a@b.example"}]}
    cell["metadata"] |= {"collapsed": True}
    used["metadata"]["widgets"] = {}
    assert list(cells.unclean(used))
    assert list(cells.unclean(cells.cleaned(used))) == []
    cell["id"] = "1f2e3d4c"
    assert any("needs a name" in p for *_, p in cells.unclean(cells.cleaned(used)))
    used["cells"][0]["id"] = used["cells"][1]["id"]
    assert any("as another is" in p for *_, p in cells.unclean(cells.cleaned(used)))
