"""How Vercel's API shows what the store holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opskit.sandbox.vercel import Deployment, RequestLog, Variable, VercelStore

JSON = dict[str, Any]


def millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def pagination(page: Sequence[Any], following: int | None = None) -> JSON:
    return {"count": len(page), "next": following, "prev": None}


def user(store: VercelStore) -> JSON:
    return {
        "id": store.user_id,
        "email": f"{store.username}@{store.domain}",
        "name": "Deploys",
        "username": store.username,
        "avatar": None,
        "defaultTeamId": store.team_id,
        "limited": True,
    }


def team(store: VercelStore) -> JSON:
    return {
        "id": store.team_id,
        "slug": store.team_slug,
        "name": "Quillfolio",
        "avatar": None,
        "createdAt": millis(store.opened),
        "billing": {"plan": "pro"},
        "membership": {"role": "MEMBER", "confirmed": True, "uid": store.user_id, "teamId": store.team_id},
    }


def project(store: VercelStore) -> JSON:
    live, last = store.live(), store.last_alias_request
    shown: JSON = {
        "id": store.project_id,
        "name": store.name,
        "accountId": store.team_id,
        "framework": "nextjs",
        "nodeVersion": "22.x",
        "createdAt": millis(store.opened),
        "updatedAt": millis(live.created),
        "live": True,
        "alias": [{"domain": store.domain, "target": "PRODUCTION"}],
        "targets": {"production": {**deployment_details(store, live), "alias": [store.domain]}},
        "latestDeployments": [deployment_details(store, one) for one in store.deployments[:-3:-1]],
    }
    if last is not None:
        shown["lastAliasRequest"] = {
            "type": last.type,
            "toDeploymentId": last.deployment,
            "fromDeploymentId": None,
            "jobStatus": "succeeded",
            "requestedAt": millis(last.requested),
        }
    return shown


def branch(one: Deployment) -> str:
    return "main" if one.target == "production" else f"change-{one.commit[:7]}"


def rollback_candidate(store: VercelStore, one: Deployment) -> bool:
    return one.target == "production" and one.state == "READY" and one.id != store.production


def deployment(store: VercelStore, one: Deployment) -> JSON:
    """As a list shows it. A preview's target is null."""
    created = millis(one.created)
    shown: JSON = {
        "uid": one.id,
        "name": store.name,
        "projectId": store.project_id,
        "url": one.url,
        "created": created,
        "createdAt": created,
        "buildingAt": created + 1000,
        "state": one.state,
        "readyState": one.state,
        "type": "LAMBDAS",
        "source": "git",
        "target": one.target if one.target == "production" else None,
        "creator": {"uid": store.user_id, "username": one.creator, "email": f"{one.creator}@{store.domain}"},
        "inspectorUrl": f"https://vercel.com/{store.team_slug}/{store.name}/{one.id[4:]}",
        "meta": {
            "githubCommitSha": one.commit,
            "githubCommitMessage": one.message,
            "githubCommitRef": branch(one),
            "githubCommitAuthorName": one.creator,
            **({"action": one.action} if one.action else {}),
        },
        "isRollbackCandidate": rollback_candidate(store, one),
        "aliasError": None,
        "aliasAssigned": created + 60_000 if one.id == store.production else None,
    }
    if one.state == "READY":
        shown["ready"] = created + 55_000
        if one.target == "production":
            shown["readySubstate"] = "PROMOTED"
    return shown


def deployment_details(store: VercelStore, one: Deployment) -> JSON:
    serving = one.id == store.production
    return {
        **deployment(store, one),
        "id": one.id,
        "team": {"id": store.team_id, "name": "Quillfolio", "slug": store.team_slug},
        "project": {"id": store.project_id, "name": store.name},
        "ownerId": store.team_id,
        "alias": [store.domain] if serving else [],
        "aliasAssigned": serving,
        "regions": ["iad1"],
        "public": False,
        "env": sorted(one.env),
        "build": {"env": sorted(one.env)},
        "gitSource": {"type": "github", "sha": one.commit, "ref": branch(one)},
    }


def variable(one: Variable, readable: bool) -> JSON:
    """A sensitive value is never shown again; any other only when asked for."""
    shown = readable and one.type != "sensitive"
    return {
        "id": one.id,
        "key": one.key,
        "value": one.value if shown or one.type == "plain" else "",
        "type": one.type,
        "target": list(one.target),
        "decrypted": shown,
        "configurationId": None,
        "createdAt": millis(one.created),
        "updatedAt": millis(one.updated),
        "createdBy": None,
        "updatedBy": None,
        "securityIssues": [],
    }


def runtime_lines(store: VercelStore, row: RequestLog) -> Iterator[JSON]:
    """A line for each thing printed; a request of which nothing was printed shows as itself."""
    common = {
        "domain": store.domain,
        "messageTruncated": False,
        "requestMethod": row.method,
        "requestPath": row.path,
        "responseStatusCode": row.status,
    }
    for number, line in enumerate(row.lines):
        yield {
            "rowId": f"{row.id}-{number}",
            "level": line.level,
            "message": line.message,
            "source": "serverless",
            "timestampInMs": millis(line.at),
            **common,
        }
    if not row.lines:
        level = "error" if row.status >= 500 else "info"
        yield {"rowId": row.id, "level": level, "message": "", "source": "request", "timestampInMs": millis(row.at),
               **common}  # fmt: skip


def request_row(store: VercelStore, row: RequestLog) -> JSON:
    deployed = store.deployment(row.deployment)
    return {
        "requestId": row.id,
        "timestamp": row.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "deploymentId": row.deployment,
        "deploymentDomain": deployed.url,
        "domain": store.domain,
        "environment": deployed.target,
        "branch": branch(deployed),
        "requestMethod": row.method,
        "requestPath": row.path,
        "statusCode": row.status,
        "events": [{"source": "serverless" if row.lines or row.status < 500 else "static"}],
        "logs": [{"level": line.level, "message": line.message, "messageTruncated": False} for line in row.lines],
    }
