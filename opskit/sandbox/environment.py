"""What the sandbox leaves in its folder for others: secrets, and the environment file that names them."""

from __future__ import annotations

import os
import shlex
import urllib.parse
from pathlib import Path
from typing import Any

import yaml

from opskit.sandbox.migrations import OWNER
from opskit.sandbox.world import World

PROVIDERS = ("openai", "anthropic", "deepseek")
SECRETS = (
    "database_read", "database_change", "stripe_read", "stripe_change", "vercel", "sentry", "supabase", "control",
    *(f"{name}_read" for name in PROVIDERS),
)  # fmt: skip
STATUS_PAGES = ("stripe", "vercel", "supabase", "sentry", "openai", "anthropic", "deepseek")
WEBHOOK_PATH = "/api/webhooks/stripe"


def write_secrets(world: World, folder: Path) -> None:
    (folder / "secrets").mkdir(mode=0o700, exist_ok=True)
    for name in SECRETS:
        write(folder / "secrets" / name, world.secrets[name])


def write_environment(world: World, folder: Path, overrides: dict[str, Any]) -> None:
    """The file is written again whenever the company changes, since ids and facts may be others."""
    content = yaml.safe_dump(described(world, folder, overrides), sort_keys=False, width=1000)
    write(folder / "environment.yaml", content)


def described(world: World, folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    with world.database.connect() as connection:
        row = connection.execute("select system_identifier::text from pg_control_system()").fetchone()
    facts = {
        "webhook_path": WEBHOOK_PATH,
        "webhook_max_event_age": 300,
        "webhook_requests_per_hour": 1000,
        "price_tiers": dict(world.stripe.price_tiers),
        "ai_background_model": "gpt-5-chat-latest",
        "ai_function_seconds": 60,
    }
    return {
        "name": folder.name,
        "production": False,
        "about": "A living company on this machine",
        "services": _services(world, folder),
        "pins": {
            "stripe_account": world.stripe.account["id"],
            "stripe_livemode": True,
            "vercel_project": world.vercel.project_id,
            "database_system": row[0] if row else None,
        },
        "facts": {**facts, **overrides.get("facts", {})},
        # No live traffic shares Stripe's limit here, which is 25 for one endpoint.
        "limits": {"max_actions": 25, "stripe_requests_per_second": 20, **overrides.get("limits", {})},
        "retention_days": 90,
    }


def _services(world: World, folder: Path) -> dict[str, Any]:
    def secret(name: str) -> dict[str, Any]:
        return {"command": f"cat {shlex.quote(str(folder / 'secrets' / name))}"}

    status = world.addresses["status"]
    return {
        "database": {
            "address": f"postgresql://127.0.0.1:{world.database.port}/postgres?sslmode=disable",
            "read": {"user": "opskit_read", "secret": secret("database_read")},
            "change": {"user": "opskit_change", "secret": secret("database_change")},
            "owner": OWNER,
        },
        "stripe": {
            "address": world.addresses["stripe"],
            "webhook_endpoint": app_endpoint(world),
            "read": {"secret": secret("stripe_read")},
            "change": {"secret": secret("stripe_change")},
        },
        "vercel": {
            "address": world.addresses["vercel"],
            "team": world.vercel.team_id,
            "project": world.vercel.project_id,
            "read": {"secret": secret("vercel")},
            "change": {"secret": secret("vercel")},  # Vercel has no tokens that may only look
        },
        "sentry": {
            "address": world.addresses["sentry"],
            "organization": world.sentry.organization,
            "project": world.sentry.project,
            "read": {"secret": secret("sentry")},
        },
        "supabase": {
            "address": world.addresses["supabase"],
            "project": world.supabase.ref,
            "read": {"secret": secret("supabase")},
        },
        "app": {"address": world.addresses["app"]},
        **{name: {"address": world.addresses[name], "read": {"secret": secret(f"{name}_read")}} for name in PROVIDERS},
        "status": {vendor: f"{status}/{vendor}" for vendor in STATUS_PAGES},
    }


def app_endpoint(world: World) -> str:
    """The id of the webhook endpoint that leads to the app."""
    for key, endpoint in world.stripe.webhook_endpoints.items():
        if urllib.parse.urlsplit(endpoint["url"]).path == WEBHOOK_PATH:
            return key
    return next(iter(world.stripe.webhook_endpoints))


def write(path: Path, content: str) -> None:
    """Readable for its owner only, and never half written."""
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
    new.replace(path)
