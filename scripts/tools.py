"""Records which commands and flags the vendors' tools have, from their own help: `opskit lint` goes by that.

    python scripts/tools.py                            # every tool that is on PATH
    python scripts/tools.py stripe vercel=bin/vercel   # these, the second from a path
    python scripts/tools.py --check                    # fail where one on PATH, of the recorded version, says otherwise

Nothing but help is asked for. Each tool gets a home and a folder of its own, that of nobody: it cannot be logged in.
`supabase@2=PATH` beside `supabase` names an earlier version: what only that one shows in its help, and the present one
still takes, is recorded too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parents[1] / "opskit" / "linting" / "recorded"
QUIET = {
    "STRIPE_CLI_TELEMETRY_OPTOUT": "1", "SUPABASE_TELEMETRY_DISABLED": "1", "VERCEL_TELEMETRY_DISABLED": "1",
    "DO_NOT_TRACK": "1", "NO_COLOR": "1", "COLUMNS": "200", "PAGER": "cat", "GIT_PAGER": "cat", "GH_PAGER": "cat",
}  # fmt: skip
NOBODY = "no-such-command"
NAMES = r"[a-z][\w-]*(?:(?:\s*\|\s*|,\s*)[a-z][\w-]*)*"  # a command and its aliases, as in "ls | list"
HEAD = re.compile(r"^\s{0,4}(?=\S)[\w\s]*(commands|operations):?\s*$", re.IGNORECASE)
LISTED = re.compile(rf"^\s{{1,6}}({NAMES}):?(?:\s{{2,}}\S|\s*$|\s+[\[<A-Z])")
FLAG = re.compile(r"(?<!\S)(-[A-Za-z0-9#](?![\w-])|--\[no-\][a-z][\w.-]*|--[a-z][\w.-]*)")
SHORT = {"list": "ls", "remove": "rm"}
SAID = 25  # commands in which a set of flags must be the same, to be written down once

Flags = dict[str, str]  # flag -> "" for a switch, else what kind of value it takes
Commands = dict[str, Flags]  # "" is the tool itself
Ask = Callable[..., str]


class Program:
    """A tool that is asked for its help."""

    def __init__(self, path: str, home: Path) -> None:
        self.path, self.home = path, home

    def ask(self, *words: str) -> str:
        return self.run(*words).stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.path, *words], env={"PATH": os.environ["PATH"], "HOME": str(self.home), **QUIET}, cwd=self.home,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=60,
        )  # fmt: skip


def flags(said: str) -> Flags:
    """The flags that a help page lists: at the beginning of a line, before their meaning."""
    found: Flags = {}
    for line in said.splitlines():
        if not line.lstrip().startswith("-"):
            continue
        spec = re.split(r"\s{2,}", re.sub(r",\s+", ", ", line.strip()), maxsplit=1)[0]
        spec = re.sub(r"\(.*?\)", "", spec)
        names = FLAG.findall(spec)
        rest = FLAG.sub("", spec).strip(" ,|/[]")
        kind = (
            ""
            if not rest or "[=" in spec
            else "integer"
            if re.fullmatch(r"<?(integer|int|NUM)>?", rest.strip("="))
            else "value"
        )
        for name in names:
            if name.startswith("--[no-]"):
                found["--" + name[7:]] = found["--no-" + name[7:]] = kind
            else:
                found[name] = kind
    return found


def listed(said: str) -> Iterator[list[str]]:
    """The commands that a help page lists, each with its aliases."""
    within = False
    for line in said.splitlines():
        if HEAD.match(line):
            within = True
        elif line.strip() and (not line.startswith(" ") or line.rstrip().endswith(":")):
            within = False
        elif within and (found := LISTED.match(line)):
            yield re.findall(r"[a-z][\w-]*", found[1])


def walked(ask: Ask, help_: str = "--help", depth: int = 3) -> Commands:
    """Every command of a tool whose help lists its commands."""
    known: Commands = {}
    waiting = [((), ask(help_))]
    with ThreadPoolExecutor(2) as pool:
        while waiting:
            asked: list[tuple[str, ...]] = []
            for path, said in waiting:
                known[" ".join(path)] = flags(said)
                if len(path) < depth:
                    asked += [(*path, name) for names in listed(said) for name in names if name != "help"]
            asked = [path for path in dict.fromkeys(asked) if " ".join(path) not in known]
            pages = list(pool.map(lambda path: ask(*path, help_), asked))
            above = dict(waiting)
            # A tool that answers with the page above does not know the command.
            waiting = [(p, said) for p, said in zip(asked, pages, strict=True) if said != above.get(p[:-1])]
    return known


def stripe(program: Program) -> Commands:
    """Its own map of commands, and the help of each."""

    def below(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for child in node.get("commands", ()):
            yield from below(child, (*path, child["name"]))

    paths = list(below(json.loads(program.ask("--map=json")), ()))
    with ThreadPoolExecutor(2) as pool:
        pages = pool.map(lambda path: program.ask(*path, "--help"), paths)
        return {" ".join(path): flags(_stripe(page)) for path, page in zip(paths, pages, strict=True)}


def _stripe(page: str) -> str:
    """Request parameters that take one of two words are no switches, and some are marked as required."""
    page = re.sub(r"^(\s+--[\w-]+) +(true\|false|<\w+>).*$", r"\1 \2", page, flags=re.MULTILINE)
    return re.sub(r"<string>", "string", page)


def supabase(program: Program, earlier: Program | None) -> Commands:
    known = walked(program.ask)
    if earlier:
        before = walked(earlier.ask)
        for name, old in before.items():
            for flag in sorted(set(old) - set(before[""]) - set(known.get(name, old))):
                # Two flags, of which the second is wrong: only a known first one lets it complain of the second.
                if "Unrecognized flag: --nothing" in program.ask(*name.split(), flag, "--nothing"):
                    known[name][flag] = old[flag]
    return known


def vercel(program: Program) -> Commands:
    """Its help says nothing of other names that its commands have; the name of a command of old makes it list them."""
    known = walked(program.ask)
    for path in [path for path in known if path.rpartition(" ")[2] in SHORT]:
        above, _, last = path.rpartition(" ")
        short = f"{above} {SHORT[last]}".strip()
        if short not in known and flags(program.ask(*short.split(), "--help")) == known[path]:
            known[short] = known[path]
    accepted = re.search(r"Accepted commands: ([\w, -]+)", program.ask("deployments", "--help"))
    for name in set(re.findall(r"[\w-]+", accepted[1] if accepted else "")) - known.keys():
        page = program.ask(name, "--help")
        real = re.search(r"▲ vercel ([\w-]+)", page)
        same = real[1] if real and real[1] != name else ""
        below = {path.replace(same, name, 1): of for path, of in known.items() if f"{path} ".startswith(f"{same} ")}
        known |= below if same else {name: flags(page)}
    return known


def git(program: Program) -> Commands:
    """The commands for people. Of their flags the short help leaves out many, so that none is held against it."""
    names = program.ask("--list-cmds=list-mainporcelain,list-ancillarymanipulators,list-ancillaryinterrogators").split()
    return {"": {"*": "", "-C": "value", "-c": "value"}, **{name: {"*": ""} for name in names}}


def alone(program: Program, *words: str) -> Commands:
    """A tool without commands."""
    return {"": flags(program.ask(*words))}


def version(program: Program, *words: str) -> str:
    found = re.search(r"\d+\.\d+(\.\d+)?", program.ask(*words))
    return found[0] if found else "?"


WALKS: dict[str, Callable[[Program], Commands]] = {
    "stripe": stripe,
    "supabase": lambda program: supabase(program, None),
    "vercel": vercel,
    "sentry-cli": lambda program: walked(program.ask),
    "gh": lambda program: walked(program.ask),
    "squawk": lambda program: walked(program.ask),
    "git": git,
    "curl": lambda program: alone(program, "--help", "all"),
    "psql": lambda program: alone(program, "--help"),
}


def record(name: str, program: Program, earlier: Program | None = None) -> dict[str, Any]:
    """What is written down of a tool."""
    known = supabase(program, earlier) if earlier else WALKS[name](program)
    groups = [path for path in known if path and any(other.startswith(f"{path} ") for other in known)]
    silent = bool(groups) and all(program.run(*path.split(), NOBODY).returncode == 0 for path in groups[:3])
    return {
        "tool": name,
        "version": version(program, "--version"),
        "recorded": datetime.now(UTC).date().isoformat(),
        "silent": silent,  # whether a command that it does not have ends with exit code 0, and nothing done
        **packed(known),
    }


def packed(known: Commands) -> dict[str, Any]:
    """Flags as words (`--limit=integer`), what many commands have in common under a name of its own."""
    words = {path: {f"{flag}={kind}" if kind else flag for flag, kind in of.items()} for path, of in known.items()}
    counts: dict[str, int] = {}
    for of in words.values():
        for word in of:
            counts[word] = counts.get(word, 0) + 1
    common = {word for word, n in counts.items() if n >= max(SAID, 0.6 * len(words))}
    return {
        "common": " ".join(sorted(common)),
        "commands": {
            path: " ".join(
                (["@common"] if common and common <= of else []) + sorted(of - common if common <= of else of)
            )
            for path, of in sorted(words.items())
        },
    }


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--check"]
    named = dict(word.partition("=")[::2] for word in words) or dict.fromkeys(WALKS, "")
    stale = []
    for name, place in named.items():
        path = place or shutil.which(name)
        if name not in WALKS or not path:
            continue
        with tempfile.TemporaryDirectory() as home:
            before = named.get(f"{name}@2")
            earlier = Program(str(Path(before).absolute()), Path(home)) if before else None
            found = record(name, Program(str(Path(path).absolute()), Path(home)), earlier)
        file = RECORDED / f"{name}.json"
        if "--check" not in sys.argv[1:]:
            file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        elif (known := json.loads(file.read_text(encoding="utf-8")))["version"] == found["version"]:
            stale += [name] if known["commands"] != found["commands"] else []
    if stale:
        sys.exit(f"recorded differently: {', '.join(stale)}. Run: python scripts/tools.py")


if __name__ == "__main__":
    main()
