"""What a person asks for: parameters from files and words, validated together before anything happens."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from opskit import environment, parameters, record, runbooks
from opskit.commands.answering import outputs, root
from opskit.environment import Environment
from opskit.errors import BadInput
from opskit.parameters import refuse_secrets
from opskit.redaction import Redactor, redactor
from opskit.services import Secrets


def asked(
    files: tuple[Path, ...], pairs: tuple[tuple[str, str], ...], incident: str | None, target: str | None
) -> dict[str, Any]:
    """The parameters as somebody wrote them: what is named last counts."""
    given: dict[str, Any] = {}
    for file in files:
        given |= parameters.from_file(file)
    given |= {name: parameters.from_text(name, value) for name, value in pairs}
    return given | {k: v for k, v in (("incident", incident), ("environment", target)) if v}


def accepted(runbook: str, given: dict[str, Any]) -> tuple[dict[str, Any], Environment, Secrets]:
    """Parameters as validated, where they lead, and the secrets for looking there.

    Raises BadInput for whatever is wrong with them, before anything has happened.
    """
    book = runbooks.load(runbook, root())
    try:
        checked = parameters.validate(book.parameters, given, runbook).model_dump(mode="json")
    except BadInput:
        refuse_secrets(given, _known(book.parameters, given))  # the message repeats what was given
        raise
    target = environment.load(checked.get("environment") or "sandbox", root())
    secrets = {"read": environment.resolve(target, "read")}
    refuse_secrets({**given, **checked}, redactor(secrets, environment.standing(target)))
    refuse_secrets({**given, **checked}, every_secret())
    record.check_writable(outputs())
    return checked, target, secrets


def _known(model: type[BaseModel], given: dict[str, Any]) -> Redactor:
    """Of the environment that was meant, as far as its secrets can be had."""
    default = model.model_fields["environment"].default if "environment" in model.model_fields else None
    with suppress(BadInput):
        target = environment.load(str(given.get("environment") or default or "sandbox"), root())
        return redactor({"read": environment.resolve(target, "read")}, environment.standing(target))
    return redactor({})


def every_secret() -> Redactor:
    """Of all environments that the repository names, as far as this process holds their secrets."""
    return redactor(*(environment.standing(target) for target in environment.known(root())))
