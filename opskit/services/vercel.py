"""Vercel: which deployment is live, and what the app logged.

The log of past requests comes from the runtime logs of each production deployment (documented, one JSON object per
line); the app writes one JSON object per message, with its `context.operation`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import MAXYEAR, UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from opskit.actions import Action, Arguments, Change
from opskit.errors import CannotTell
from opskit.http import Http, Read, documented
from opskit.services.vercel_changes import Redeploy, SetVariable

READS = (
    Read("GET", "/v7/deployments", "Deployments: read"),
    Read("GET", "/v9/projects/{id}", "Project: read"),
    Read("GET", "/v1/projects/{id}/deployments/{id}/runtime-logs", "Logs: read"),
    Read("GET", "/v10/projects/{id}/env", "Environment variables: read"),
    Read("GET", "/v1/projects/{id}/env/{id}", "Environment variables: read"),
)
LOG = ["at", "status", "operation", "event", "code", "deployment", "path", "text"]
PAGE = 20
MOST_DEPLOYMENTS = 200  # of one window; more than that is not an ordinary month
UNDER_WAY = ("BUILDING", "INITIALIZING", "QUEUED")
QUIET = timedelta(hours=3)  # how long an app may say nothing at all before we doubt that we see its whole log
BEFORE = timedelta(minutes=15)  # of the log, to see that it is whole


@documented
class Vercel:
    """One Vercel project. Times are aware and in UTC."""

    def __init__(self, http: Http, project: str, team: str | None = None) -> None:
        self.http = http
        self.project = project
        self.team = {"teamId": team} if team else {}

    def project_id(self) -> str:
        return str(self.http.read(f"/v9/projects/{self.project}", self.team).body["id"])

    def app_name(self) -> str:
        return str(self.http.read(f"/v9/projects/{self.project}", self.team).body["name"])

    def deployments(self, since: datetime | None = None) -> pd.DataFrame:
        """Production deployments, newest first: deployment, created, state, live, message.

        The newest ones; with `since`, all back to the one that was live then.
        """
        query = {**self.team, "projectId": self.project, "target": "production", "limit": PAGE}
        live = self.live()
        rows: list[tuple[Any, ...]] = []
        while len(rows) < MOST_DEPLOYMENTS:
            page = self.http.read("/v7/deployments", query).body
            rows += [
                (d["uid"], _time(d["created"]), d.get("readyState"), d["uid"] == live, _message(d))
                for d in page["deployments"]
            ]
            query["until"] = page["pagination"]["next"]
            if query["until"] is None or since is None or rows[-1][1] < since:
                return pd.DataFrame(rows, columns=["deployment", "created", "state", "live", "message"])
        raise CannotTell(f"vercel: more than {MOST_DEPLOYMENTS} deployments; look at a shorter time.")

    def live(self) -> str | None:
        """The deployment that production traffic reaches now."""
        project = self.http.read(f"/v9/projects/{self.project}", self.team).body
        target = (project.get("targets") or {}).get("production") or {}
        return target.get("id")

    def built_again(self, failing: str) -> bool:
        """Whether what is live is the code of a failing build, only built again later: with other variables.

        Also where other builds came between: a chain of redeployments leads back to some code that we do not know.
        """
        query = {**self.team, "projectId": self.project, "target": "production", "limit": PAGE}
        newest = {d["uid"]: d for d in self.http.read("/v7/deployments", query).body["deployments"]}
        live = newest.get(self.live() or "")
        if live is None or (live.get("meta") or {}).get("action") != "redeploy":
            return False
        return failing not in newest or bool(live["created"] > newest[failing]["created"])

    def live_since(self) -> datetime:
        """When what is live went live: built then, or promoted or rolled back to later."""
        project = self.http.read(f"/v9/projects/{self.project}", {**self.team, "rollbackInfo": "true"}).body
        target = project["targets"]["production"]
        last = project.get("lastAliasRequest") or {}
        served = last.get("toDeploymentId") == target["id"] and last.get("jobStatus") == "succeeded"
        return _time(last["requestedAt"] if served else target["createdAt"])

    def failing(self, paths: Collection[str], since: datetime) -> bool | None:
        """Whether 5 % of what was asked on these paths since a moment was answered with 500 or more; None: nothing was.

        Raises CannotTell where the log does not tell.
        """
        lines = self.log(since - BEFORE, "/*")
        lines = lines[lines.path.isin(paths) & (lines["at"] >= since)]
        return bool((lines.status >= 500).sum() >= max(1, 0.05 * len(lines))) if len(lines) else None

    def blamed(self, lines: pd.DataFrame) -> pd.DataFrame:
        """The builds that some lines of the log came from, what is live, and the last one built before each.

        Newest first, as `deployments` gives them, with `lines`: how many came from each.
        """
        counts = lines.deployment.value_counts()
        known = self.deployments(lines["at"].min())
        if len(oldest := known[known.deployment.isin(counts.index)].created):
            known = self.deployments(oldest.min() - timedelta(milliseconds=1))  # and the one before
        known = known.assign(lines=known.deployment.map(counts).fillna(0).astype(int))
        known = known[(known.state == "READY") | known.live | (known.lines > 0)].reset_index(drop=True)
        asked = known.live | (known.lines > 0)
        return known[asked | asked.shift(fill_value=False)].reset_index(drop=True)

    def variables(self) -> pd.DataFrame:
        """Production's environment variables, latest change first: id, key, type, updated. No values.

        Vercel gives those of previews and branches along with them, under the same names.
        """
        found = self.http.read(f"/v10/projects/{self.project}/env", self.team).body["envs"]
        found = [one for one in found if "production" in (one["target"] or ()) and not one.get("gitBranch")]
        rows = [(one["id"], one["key"], one["type"], _time(one.get("updatedAt") or one["createdAt"])) for one in found]
        frame = pd.DataFrame(rows, columns=["id", "key", "type", "updated"])
        return frame.sort_values("updated", ascending=False, kind="stable", ignore_index=True)

    def variable(self, key: str) -> dict[str, Any]:
        """One variable: there, readable, value (None where it is not there, or cannot be read back)."""
        known = self.variables()
        found = known[known.key == key]
        if found.empty:
            return {"there": False, "readable": True, "value": None}
        if found.type.iloc[0] == "sensitive":
            return {"there": True, "readable": False, "value": None}
        value = self.http.read(f"/v1/projects/{self.project}/env/{found.id.iloc[0]}", self.team).body["value"]
        return {"there": True, "readable": True, "value": str(value)}

    def built_with(self, key: str) -> datetime | None:
        """When production was first built with a variable's present value; None: what is live was not.

        A build takes a minute or two, in which the one before still serves.
        """
        known = self.variables()
        found = known[known.key == key]
        if found.empty:
            return None
        changed = found.updated.max()
        builds = self.deployments(changed)
        builds = builds[(builds.created >= changed) & (builds.state == "READY")]
        return builds.created.min() if builds.live.any() else None

    def traffic(self) -> dict[str, Any]:
        """What production runs on, and what is being built for it: live, building."""
        known = self.deployments()
        return {"live": self.live(), "building": sorted(known[known.state.isin(UNDER_WAY)].deployment)}

    def log(self, since: datetime, path: str) -> pd.DataFrame:
        """What the app answered on one path since a moment, oldest first. `path` may hold * for any one id.

        Columns: at, status, operation, event (Stripe's id, where logged), code (SQLSTATE, where logged), deployment,
        path, text. Raises CannotTell where the
        log, of all paths, does not reach back that far: logs are kept for a day or so, and an empty one proves nothing.
        """
        rows: list[tuple[Any, ...]] = []
        oldest = datetime.max.replace(tzinfo=UTC)
        live = self.live()
        for name in dict.fromkeys([*self.deployments(since).deployment, *([live] if live else [])]):
            route = f"/v1/projects/{self.project}/deployments/{name}/runtime-logs"
            for line in self.http.read(route, self.team).lines:
                at = _time(line["timestampInMs"])
                oldest = min(oldest, at)
                asked = str(line.get("requestPath"))
                if at >= since and fnmatchcase(asked, path):
                    rows.append(
                        (at, line.get("responseStatusCode"), *_said(line), name, asked, line.get("message", ""))
                    )
        if oldest > since + min(QUIET, (datetime.now(UTC) - since) / 4):  # of a short time, less may be missing
            reach = "is empty" if oldest.year == MAXYEAR else f"reaches back only to {oldest:%Y-%m-%d %H:%M} UTC"
            raise CannotTell(f"vercel: the log {reach}.")
        frame = pd.DataFrame(rows, columns=LOG)
        return frame.sort_values("at", kind="stable", ignore_index=True)

    def replace_deployment(self, failing: str, advice: str, in_code: bool = False) -> Action:
        """Have a person put another deployment live than the one that fails. `advice` says what to mend in it.

        `in_code`: it is the code that must become another; the same code, built again, mends nothing.
        """
        code = {"in_code": True} if in_code else {}
        return ReplaceDeployment().plan({"failing": failing, "advice": advice, **code}, {"live": failing})

    def mend_requests(self, failing: str, advice: str, kinds: Sequence[str], paths: Sequence[str] = ()) -> Action:
        """Have a person mend what the app asks of AI providers, in its code.

        Done once requests that came to another build no longer fail in these ways, nor with 500 or more on these paths.
        """
        of = {"failing": failing, "advice": advice, "in_code": True, "kinds": [*kinds], "paths": [*paths]}
        return MendRequests().plan(of, {"live": failing})

    def go_back(self, builds: pd.DataFrame, advice: str) -> Action | None:
        """Have a person put back the build from before the failing one; None where what is live has not failed.

        `builds` is what `blamed` told. `advice` says what else would help.
        """
        live = builds[builds.live & (builds.lines > 0)]
        if not len(live):
            return None
        failing = live.iloc[0]
        good = builds[(builds.created < failing.created) & (builds.lines == 0)]
        back_to = {"id": good.deployment.iloc[0], "is": _said_of(good.iloc[0])} if len(good) else None
        target = f"go back to {back_to['id']} ({back_to['is']}), or " if back_to else ""
        of = {"failing": failing.deployment, "advice": f"{target}{advice}", "back_to": back_to}
        return ReplaceDeployment().plan(of, {"live": failing.deployment})

    def set_variable(self, key: str, value: str, back_when: str = "") -> Action:
        """Set a variable of production that holds no secret. What runs sees it only after a new build.

        `back_when`: the condition for taking it back, told to whoever does.
        Raises CannotTell where its old value cannot be read back: that could not be undone.
        """
        before = self.variable(key)
        if not before["readable"]:
            raise CannotTell(f"vercel: {key} is sensitive, so its old value cannot be read back.")
        condition = {"back_when": back_when} if back_when else {}
        return SetVariable().plan({"key": key, "value": value, **condition}, before | {"due": value})

    def redeploy(self, deployment: str, variable: str | None = None) -> Action:
        """Build what is live again, with today's variables.

        Where it is for the sake of one `variable`, set just before, a build from before that is none: somebody else's
        may have gone live while the variable waited for a person.
        """
        sake, built = ({"variable": variable}, {"built": False}) if variable else ({}, {})
        return Redeploy().plan({"deployment": deployment, **sake}, self.traffic() | built)


def _said(line: dict[str, Any]) -> tuple[str | None, str | None, str | None]:
    """operation, Stripe event id and SQLSTATE of a message, where it is one of the app's JSON lines."""
    try:
        context = json.loads(line["message"])["context"]
        return context["operation"], context.get("eventId") or context.get("event_id"), context.get("code")
    except (ValueError, KeyError, TypeError):
        return None, None, None


def _said_of(build: Any) -> str:
    return f"built {build.created:%Y-%m-%d %H:%M} UTC, “{' '.join(build.message.split())[:60]}”"


def _message(deployment: dict[str, Any]) -> str:
    meta = deployment.get("meta") or {}
    return str(meta.get("githubCommitMessage") or meta.get("action") or deployment.get("name") or "")


def _time(milliseconds: float) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


class ReplaceDeployment(Change):
    """Done once production no longer runs on the deployment that failed: mended, redeployed or rolled back."""

    name = "vercel.replace_deployment"
    title = "By hand: {advice}"
    manual = True

    def look(self, services: Any, of: Arguments) -> Any:
        if services.vercel is None:
            raise CannotTell("vercel: this environment names none, so nobody but you can see whether it is done.")
        again = {"built_again": services.vercel.built_again(of["failing"])} if of.get("in_code") else {}
        return {"live": services.vercel.live(), **again}

    def done(self, now: Any, before: Any) -> bool:
        return bool(now["live"] != before["live"] and not now.get("built_again"))

    def by_hand(self, of: Arguments, before: Any) -> str:
        if of.get("in_code"):
            return "vercel deploy --prod  # the mended code, from its folder; or go back: vercel rollback DEPLOYMENT"
        if "back_to" not in of:
            return f"vercel redeploy {of['failing']}  # once it is mended; or go back: vercel rollback DEPLOYMENT"
        mended = "vercel deploy --prod  # the mended code, from its folder"
        return f"vercel rollback {of['back_to']['id']}  # {of['back_to']['is']}" if of["back_to"] else mended


class MendRequests(ReplaceDeployment):
    """Another build alone may be anybody's: some requests must have come since, and not have failed as they did."""

    name = "vercel.mend_requests"
    in_database = True

    def look(self, services: Any, of: Arguments) -> Any:
        since = services.vercel.live_since()
        found = [services.tasks.failing(of["kinds"], since)] if of["kinds"] else []
        found += [services.vercel.failing(of["paths"], since)] if of["paths"] else []
        return super().look(services, of) | {"failing": True if True in found else None if None in found else False}

    def done(self, now: Any, before: Any) -> bool:
        return super().done(now, before) and now["failing"] is False
