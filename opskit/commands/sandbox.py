"""The living company on this machine: start, break, heal; and rehearsals on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby
from multiprocessing import Event
from pathlib import Path
from typing import Any

import click
import yaml

from opskit import approval, plan, provenance
from opskit import sandbox as company
from opskit.archive import keep
from opskit.checks import HEALTHY, UNKNOWN
from opskit.commands import answering
from opskit.commands.answering import Reply, archive, root, verb
from opskit.commands.runs import carry_out, ended, look
from opskit.drill import Score, rehearse
from opskit.errors import BadInput, OpskitError
from opskit.linting import exercised
from opskit.outcome import Exit, Outcome
from opskit.parameters import validate
from opskit.permit import signals_as_interrupt, undisturbed
from opskit.runbooks import load

NAME = click.option(
    "--name", default="sandbox", show_default=True, help="Which sandbox; several can live side by side."
)


@click.group()
def sandbox() -> None:
    """A small living company on this machine, to break and to heal."""


@sandbox.command()
@NAME
@click.option("--seed", default=1, show_default=True, help="Another seed is another company.")
@verb
def start(name: str, seed: int) -> Reply:
    """Start it in the background."""
    with _plainly():
        found = company.start(name, seed)
    following = f"opskit sandbox break SCENARIO{_named(name)}, opskit run RUNBOOK --environment {name}"
    text = f"Sandbox {name!r} lives. Next: {following}"
    return Reply(found.facts, f"{text}\n\n{_scenarios()}")


def _scenarios() -> str:
    """Their names, by the runbook that they rehearse."""
    ordered = sorted((written(name)["runbook"], name) for name in company.scenarios())
    groups = groupby(ordered, key=lambda one: one[0])
    return "\n".join(f"{runbook}: {', '.join(name for _, name in found)}" for runbook, found in groups)


@sandbox.command()
@NAME
@verb
def stop(name: str) -> Reply:
    """Stop it, and leave nothing behind."""
    with _plainly():
        was = company.stop(name)
    return Reply({"stopped": was}, f"Sandbox {name!r} is gone." if was else f"There is no sandbox {name!r}.")


@sandbox.command()
@NAME
@verb
def status(name: str) -> Reply:
    """Whether it lives, and what is broken in it."""
    found = company.find(name)
    if found is None:
        return Reply({"running": False}, f"There is no sandbox {name!r}. Next: opskit sandbox start{_named(name)}")
    with _plainly():
        facts = found.status()
    broken = f"broken by {facts['scenario']}" if facts["scenario"] else "nothing is broken"
    lines = [f"Sandbox {name!r}, company {facts['seed']}: {broken}; the database is {facts['database']}."]
    places = {"database": facts["database_address"], **{what: facts[what] for what in ("environment", "migrations")}}
    lines += [f"{what:<11} {place}" for what, place in {**facts["addresses"], **places}.items()]
    return Reply({"running": True, **facts}, "\n".join(lines))


@sandbox.command(name="break")
@click.argument("scenario")
@NAME
@click.option("--twin", is_flag=True, help="With the decisive evidence removed.")
@verb
def break_it(scenario: str, name: str, twin: bool) -> Reply:
    """Break it as a SCENARIO says: a shipped name, or the path of a file."""
    with _plainly():
        truth = living(name).break_with(scenario, twin)
    _suits_runbook(truth)
    given = "".join(f" -p {key} '{value}'" for key, value in truth["parameters"].items())
    return Reply(truth, f"Broken: {truth['title']}. Next: opskit run {truth['runbook']}{given} --environment {name}")


def _suits_runbook(truth: dict[str, Any]) -> None:
    """A scenario's parameters and causes must be its runbook's; the sandbox itself knows no runbooks."""
    book = load(truth["runbook"], root())
    validate(book.parameters, truth["parameters"], f"scenario {truth['name']!r}")
    known = {*book.causes, HEALTHY, UNKNOWN}
    if strange := [cause for cause in truth["causes"] if cause not in known]:
        raise BadInput(
            f"scenario {truth['name']!r}: {book.name} knows no cause {', '.join(strange)}.",
            f"It knows {', '.join(sorted(known))}.",
        )


@sandbox.command(name="by-hand")
@NAME
@verb
def by_hand(name: str) -> Reply:
    """Do what the scenario says a person would do, such as mending the app."""
    with _plainly():
        done = living(name).by_hand()
    return Reply(done, "\n".join(done) or "Nothing in this scenario is for a person to do.")


@sandbox.command()
@NAME
@verb
def heal(name: str) -> Reply:
    """Undo the scenario."""
    with _plainly():
        living(name).heal()
    return Reply({"healed": True}, "As it was before.")


@sandbox.command()
@NAME
@click.option("--seed", type=int, help="Begin again as another company.")
@verb
def reset(name: str, seed: int | None) -> Reply:
    """Begin again, as at the start."""
    with _plainly():
        living(name).reset(seed)
    return Reply({"reset": True}, "As at the start.")


@contextmanager
def _plainly() -> Iterator[None]:
    """The sandbox knows nothing of opskit's errors; here its own become bad input."""
    try:
        yield
    except company.SandboxError as error:
        raise BadInput(str(error)) from None


def living(name: str) -> company.Sandbox:
    found = company.find(name)
    if found is None:
        raise BadInput(f"there is no running sandbox {name!r}.", f"Next: opskit sandbox start{_named(name)}")
    return found


def _named(name: str) -> str:
    """What a command says of a sandbox that is not the one it would take by itself."""
    return "" if name == "sandbox" else f" --name {name}"


@click.command()
@click.argument("what", required=False, metavar="[RUNBOOK|SCENARIO]")
@click.option("--seed", "seeds", multiple=True, type=int, help="Which companies; by default 1, 2 and 3.")
@click.option("--jobs", default=2, show_default=True, help="How many sandboxes at once.")
@click.option("--twins/--no-twins", default=True, show_default=True, help="Also without the decisive evidence.")
@click.option("--note", is_flag=True, help="Write into the title of each runbook when all of its scenarios passed.")
@verb
def drill(what: str | None, seeds: tuple[int, ...], jobs: int, twins: bool, note: bool) -> Reply:
    """Rehearse scenarios end to end and score them: all of them, a runbook's, or one."""
    with _plainly():
        scenarios = [what] if what and (what in company.scenarios() or Path(what).suffix) else company.scenarios()
        if what and what not in scenarios:
            load(what, root())
            scenarios = [s for s in scenarios if written(s)["runbook"] == what]
        if what and Path(what).suffix:
            from opskit.sandbox.scenario import load as load_scenario  # noqa: PLC0415  # heavy, and only needed here

            load_scenario(what)  # or what is wrong with a file would be no more than a drill that failed
    wanted = [
        (scenario, seed, twin)
        for seed in seeds or (1, 2, 3)
        for scenario in scenarios
        for twin in (False, True)
        if not twin or (twins and written(scenario).get("twin"))
    ]
    scores = _rehearse_all(wanted, min(jobs, len(wanted)))
    failed = [s for s in scores if not s.passed]
    text = f"{len(scores) - len(failed)} of {len(scores)} drills passed."
    if note:
        text += _noted(scores)
    return Reply([s.data() for s in scores], text, Exit.ERROR if failed else Exit.OK)


def _noted(scores: list[Score]) -> str:
    """Writes down which runbooks were rehearsed wholly; says so."""
    scenarios: dict[str, dict[str, bool]] = {}
    for name in company.scenarios():
        scenarios.setdefault(written(name)["runbook"], {})[name] = bool(written(name).get("twin"))
    done = [book for book, of in scenarios.items() if exercised.wholly(scores, of)]
    for book in done:
        exercised.note(load(book, root()).path, datetime.now(UTC).date())
    return f" Noted in: {', '.join(done) or 'no runbook; not all of its scenarios passed'}."


def written(scenario: str) -> dict[str, Any]:
    """A scenario's file as it was written; a sandbox validates it."""
    path = Path(scenario) if Path(scenario).suffix else company.SCENARIOS / f"{scenario}.yaml"
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


Wanted = tuple[str, int, bool]


def _rehearse_all(wanted: list[Wanted], jobs: int) -> list[Score]:
    """Every drill, spread over `jobs` sandboxes of their own, each in a process of its own."""
    scores, over = [], Event()
    with signals_as_interrupt(), ProcessPoolExecutor(max(jobs, 1), initializer=_hear, initargs=(over,)) as pool:
        shares = [pool.submit(_rehearse_some, wanted[n::jobs], f"drill-{os.getpid()}-{n}") for n in range(jobs)]
        try:
            for share in shares:
                scores += share.result()
        except KeyboardInterrupt:
            over.set()
            answering.trouble.print("Stopping: no other drill begins.")
            raise
    return sorted(scores, key=lambda s: (s.scenario, s.seed, s.twin))


_over: list[Any] = []  # set once no other drill is to begin: a run that is interrupted ends well, and tells nobody


def _hear(over: Any) -> None:
    _over[:] = [over]


def _rehearse_some(wanted: list[Wanted], name: str) -> list[Score]:
    with _company(name) as found:
        return [_told(_rehearse_one(found, *one)) for one in wanted if not _over[0].is_set()]


@contextmanager
def _company(name: str) -> Iterator[company.Sandbox]:
    """A company of its own, gone afterwards, also where a terminal is closed or a job cancelled meanwhile."""
    with signals_as_interrupt():
        try:
            yield company.start(name)
        finally:
            with undisturbed():
                company.stop(name)


def _rehearse_one(found: company.Sandbox, scenario: str, seed: int, twin: bool) -> Score:
    """One drill; one that cannot be held has failed, and the others go on."""
    try:
        return rehearse(found, scenario, seed, twin, look, approve_and_apply)
    except (OpskitError, company.SandboxError) as error:
        return Score(Path(scenario).stem, seed, twin, wrong=[f"could not be held: {error}"])


def _told(score: Score) -> Score:
    mark = "passed" if score.passed else "FAILED"
    twin = " (twin)" if score.twin else ""
    line = f"{mark}  {score.scenario}{twin}, seed {score.seed}: {', '.join(score.causes)}; {score.seconds} s"
    answering.trouble.print("\n    ".join([line, *score.wrong]), markup=False)
    return score


def approve_and_apply(folder: Path) -> tuple[Path, Outcome]:
    """What the engineer does between plan and result; a drill approves whatever was planned, and is scored on it."""
    proposed = plan.load(folder / "plan.json")
    typed = f"{proposed.made_for['environment']} {len(proposed)}"
    word = approval.approve(proposed, provenance.operator(), typed, with_removals=True, max_actions=len(proposed))
    word.save(place := archive().approval(folder))
    keep(f"{folder.name} approved by {word.approver}", place)
    return carry_out(folder)


@click.command()
@verb
def demo() -> Reply:
    """The two-minute tour: break the sandbox, diagnose, plan, approve, apply, verify, seal."""
    say = answering.people.print
    say("[bold]1. A company of its own on this machine[/bold] (opskit sandbox start)")
    name = "demo"
    with _plainly():
        company.stop(name)
        with _company(name) as found:
            return _tour(found, say)


def _tour(found: company.Sandbox, say: Any) -> Reply:
    truth = found.break_with("endpoint-disabled")
    say(f"[bold]2. Something breaks[/bold] (opskit sandbox break endpoint-disabled): {truth['title']}")
    say(f"   {len(found.disagreements())} profiles now disagree with Stripe.\n")
    say(f"[bold]3. Look, diagnose, plan[/bold] (opskit run {truth['runbook']} --environment {found.name})")
    given = {**truth["parameters"], "environment": found.name, "incident": f"demo-{os.getpid()}"}
    folder, outcome = look(truth["runbook"], given)
    say(ended(folder, outcome).text + "\n", markup=False)
    if outcome is not Outcome.PLANNED:  # somebody stopped it
        return Reply(exit=outcome.exit)
    proposed = plan.load(folder / "plan.json")
    say(f"{proposed}\n", markup=False)
    say("[bold]4. Approve and apply exactly that plan[/bold] (opskit approve last, opskit apply last)")
    found.by_hand()
    applied, outcome = approve_and_apply(folder)
    reply = ended(applied, outcome)
    say(reply.text + "\n", markup=False)
    left = len(found.disagreements())
    say(f"[bold]5. The sandbox's own count[/bold]: {left} profiles disagree with Stripe.")
    good = outcome is Outcome.VERIFIED and not left
    reply.text = f"The record: {applied}/notebook.ipynb\nProve it: opskit verify {applied}"
    reply.exit = Exit.OK if good else Exit.ERROR
    return reply
