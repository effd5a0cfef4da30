"""Changes to a Vercel project that opskit makes itself: a variable that holds no secret, and a new build.

They come in that order, and are taken back in the other: production goes back to the old build, with the value that it
was built with, before the variable is set back.
"""

from __future__ import annotations

import shlex
from typing import Any

from opskit.actions import Arguments, Change
from opskit.errors import Refused


class SetVariable(Change):
    name = "vercel.set_variable"
    title = "Set {key} to “{value}” for the builds to come"
    right = "Environment variables: write"

    def look(self, services: Any, of: Arguments) -> Any:
        return services.vercel.variable(of["key"]) | {"due": of["value"]}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["value"] == now["due"])

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        _put(services.vercel, of["key"], of["value"], before)

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        if before["there"]:
            _put(services.vercel, of["key"], before["value"], after)
        else:
            _remove(services.vercel, of["key"])

    def back_when(self, of: Arguments) -> str:
        return str(of.get("back_when", ""))

    def by_hand(self, of: Arguments, before: Any) -> str:
        verb = "update" if before["there"] else "add"
        return f"vercel env {verb} {of['key']} production --value {shlex.quote(of['value'])} --yes"


def _put(vercel: Any, key: str, value: str, before: Any) -> None:
    """Set a variable that is still as it was read. Raises Refused where it is not."""
    if vercel.variable(key)["value"] != before["value"]:
        raise Refused(f"vercel: {key} has changed since it was read; not touched.")
    if before["there"]:
        path = f"/v9/projects/{vercel.project}/env/{_id(vercel, key)}{_scope(vercel)}"
        vercel.http.change("PATCH", path, body={"value": value})
    else:
        body = {"key": key, "value": value, "type": "encrypted", "target": ["production"]}
        vercel.http.change("POST", f"/v10/projects/{vercel.project}/env{_scope(vercel)}", body=body)


def _remove(vercel: Any, key: str) -> None:
    vercel.http.change("DELETE", f"/v9/projects/{vercel.project}/env/{_id(vercel, key)}{_scope(vercel)}")


def _id(vercel: Any, key: str) -> str:
    known = vercel.variables()
    return str(known[known.key == key].id.iloc[0])


def _scope(vercel: Any) -> str:
    return f"?teamId={vercel.team['teamId']}" if vercel.team else ""


class Redeploy(Change):
    name = "vercel.redeploy"
    title = "Build {deployment} again, so that production sees its variables"
    right = "Deployments: write"
    settles = 300.0

    def look(self, services: Any, of: Arguments) -> Any:
        built = {"built": bool(services.vercel.built_with(of["variable"]))} if "variable" in of else {}
        return services.vercel.traffic() | built

    def done(self, now: Any, before: Any) -> bool | None:
        if now["building"]:
            return None
        return bool(now["live"] != before["live"] and now.get("built", True))

    def do(self, services: Any, of: Arguments, before: Any, key: str) -> None:
        vercel = services.vercel
        body = {
            "deploymentId": of["deployment"],
            "name": vercel.app_name(),
            "target": "production",
            "meta": {"action": "redeploy"},
        }
        scope = _scope(vercel)
        vercel.http.change("POST", f"/v13/deployments{scope}{'&' if scope else '?'}forceNew=1", body=body)

    def undo(self, services: Any, of: Arguments, before: Any, after: Any, key: str) -> None:
        vercel = services.vercel
        vercel.http.change("POST", f"/v1/projects/{vercel.project}/rollback/{before['live']}{_scope(vercel)}")

    def by_hand(self, of: Arguments, before: Any) -> str:
        return f"vercel redeploy {of['deployment']}"
