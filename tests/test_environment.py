"""Environments: what they must say, and where their secrets come from."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import REPOSITORY

from opskit import environment
from opskit.environment import Environment
from opskit.errors import BadInput

SMALL: dict[str, Any] = {
    "name": "small",
    "services": {
        "database": {
            "address": "postgresql://127.0.0.1:5432/postgres",
            "read": {"user": "reader", "secret": {"env": "DB_READ"}},
            "change": {"user": "changer", "secret": {"env": "DB_CHANGE"}},
        },
        "stripe": {"address": "https://api.stripe.com", "read": {"secret": {"env": "STRIPE_READ"}}},
    },
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


def small(**changes: Any) -> Environment:
    return Environment.model_validate(changed(**changes))


def with_command(command: str) -> Environment:
    services = {**SMALL["services"], "stripe": {"address": "x", "read": {"secret": {"command": command}}}}
    return small(services=services)


@pytest.fixture
def save(repository: Path) -> Any:
    def write(content: Any, name: str = "small") -> Path:
        path = repository / "parameters" / "environments" / f"{name}.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def test_an_environment_is_found_by_name(repository: Path, save: Any) -> None:
    save(SMALL)
    assert environment.load("small", repository) == small()


def test_an_environment_is_production_unless_it_says_otherwise() -> None:
    assert small().production
    assert not small(production=False).production


def test_an_unknown_environment_is_answered_with_the_known_ones(repository: Path) -> None:
    with pytest.raises(BadInput, match=r"there is no environment 'prod'\. Known: production.*; add parameters/"):
        environment.load("prod", repository)


def test_without_a_sandbox_the_remedy_is_to_start_one(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSKIT_STATE", str(tmp_path / "none"))
    with pytest.raises(BadInput, match="opskit sandbox start"):
        environment.load("sandbox", repository)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1", r"small\.yaml"),
        ("just words", r"small\.yaml"),
        ("", r"small\.yaml"),
        (changed(services={}), "services.database: field required"),
        (changed(colour="red"), "colour: extra inputs are not permitted"),
        (changed(limits={"max_actions": 0}), "limits.max_actions"),
        (changed(limits={"max_action": 5}), "limits.max_action"),
        (changed(pins={"stripe_acount": "x"}), "pins.stripe_acount"),
        (changed(facts={"webhook_max_event_age": "soon"}), "facts.webhook_max_event_age"),
        (
            changed(services={**SMALL["services"], "stripe": {"address": "https://me:secret@x"}}),
            "the address holds a password",
        ),
        *(
            (changed(services={**SMALL["services"], "stripe": {"address": address}}), f"the address holds .*{what}")
            for address, what in {
                "https://token@x": "a user",
                "postgresql://ana@x/db?sslmode=require&password=hunter22": "'password' in its query",
                "https://x/?api_key=abcdefgh": "'api_key' in its query",
                "https://x/?access_token=": "'access_token' in its query",
                "postgresql://ana@x/db?options=-c%20app.key%3Dhunter22": "'options' in its query",
                "host=x password=hunter22": "settings such as `password",
            }.items()
        ),
        (
            changed(services={**SMALL["services"], "stripe": {"address": "x", "webhook_secret": "whsec_1"}}),
            "'webhook_secret' looks like a secret",
        ),
        (
            changed(services={**SMALL["services"], "status": {"stripe": "https://x/?token=1"}}),
            "the address of stripe holds 'token'",
        ),
        (
            changed(services={**SMALL["services"], "stripe": {"address": "x", "read": {"secret": {}}}}),
            "a secret comes from `env: NAME` or from `command: …`, one of them",
        ),
        (
            changed(services={**SMALL["services"], "stripe": {"address": "x", "read": {"secret": "sk_live_1"}}}),
            "services.stripe.read.secret",
        ),
    ],
)
def test_a_bad_file_is_named_with_the_field(repository: Path, save: Any, content: Any, said: str) -> None:
    save(content)
    with pytest.raises(BadInput, match=f"(?i){said}"):
        environment.load("small", repository)


@pytest.mark.parametrize("secret", [{"env": "A", "command": "b"}, {"env": ""}, {"command": " "}, {"command": "cat 'x"}])
def test_a_secret_has_one_usable_source(secret: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"(?i)one of them|quotation"):
        environment.Secret.model_validate(secret)


@pytest.mark.parametrize(
    "command",
    [
        "supabase db push --linked",
        'supabase db push --db-url "$DATABASE_URL"',
        "PGPASSWORD=$OPS_PW psql -p 5432 -f all.sql",
    ],
)
def test_the_teams_own_command_stays_as_it_is(command: str) -> None:
    assert environment.Facts(migrate_with=command).migrate_with == command


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "one command in one line"),
        ("supabase link\nsupabase db push", "one command in one line"),
        ("supabase db push 'x", "no command that a shell could read"),
        ("supabase db push --db-url postgresql://ana:hunter2@db.example.com/postgres", "a password; let the command"),
        ("supabase db push -p hunter2", "a value for -p"),
        ("supabase db push --password=hunter2", "a value for --password"),
        ("PGPASSWORD=hunter2 npm run db:migrate", "a value for PGPASSWORD"),
    ],
)
def test_a_command_of_the_teams_that_cannot_be_shown_is_refused(
    repository: Path, save: Any, command: str, said: str
) -> None:
    save(changed(facts={"migrate_with": command}))
    with pytest.raises(BadInput, match=f"facts.migrate_with: .*{said}") as refused:
        environment.load("small", repository)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("pair", ["public.profiles select", 'public."Big Names" delete by stranger'])
def test_what_is_open_on_purpose_is_a_table_and_a_command(pair: str) -> None:
    assert environment.Facts(open_on_purpose=[pair]).open_on_purpose == [pair]


@pytest.mark.parametrize(
    "pair",
    ["public.profiles", "profiles select", "public.profiles all", "public.* select", "public.profiles select by owner",
     "app.profiles select", "public.profiles select, update"],
)  # fmt: skip
def test_more_than_a_command_on_a_table_is_never_open_on_purpose(repository: Path, save: Any, pair: str) -> None:
    save(changed(facts={"open_on_purpose": ["public.names select", pair]}))
    with pytest.raises(BadInput, match=f"facts.open_on_purpose: '{re.escape(pair)}': each is a table of public"):
        environment.load("small", repository)


# Resolving.


def test_only_the_access_asked_for_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_READ", "reading-secret")
    monkeypatch.setenv("STRIPE_READ", "rk_live_reading")
    monkeypatch.delenv("DB_CHANGE", raising=False)
    assert environment.resolve(small(), "read") == {"database": "reading-secret", "stripe": "rk_live_reading"}


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_secret_is_named_with_its_source(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.setenv("DB_READ", "reading-secret")
    monkeypatch.delenv("STRIPE_READ", raising=False)
    if value is not None:
        monkeypatch.setenv("STRIPE_READ", value)
    with pytest.raises(BadInput, match=r"stripe \(read\): environment variable STRIPE_READ is missing or empty"):
        environment.resolve(small(), "read")


def test_a_short_secret_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_READ", "abc1234")
    with pytest.raises(BadInput, match="fewer than 8 characters") as caught:
        environment.resolve(small(), "read")
    assert "abc1234" not in str(caught.value)


def test_a_command_prints_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_READ", "reading-secret")
    kept = tmp_path / "it's a secret"
    kept.write_text("from-a-file\n")
    assert environment.resolve(with_command(f"cat {shlex.quote(str(kept))}"), "read")["stripe"] == "from-a-file"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program-anywhere", "No such file"),
        (f"{sys.executable} -c 'print(\"loud-secret\"); raise SystemExit(3)'", "ended with exit code 3"),
        ("true", "is missing or empty"),
        ("printf loud", "fewer than 8"),
    ],
)
def test_a_command_that_fails_is_named_and_its_output_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.setenv("DB_READ", "reading-secret")
    with pytest.raises(BadInput, match=said) as caught:
        environment.resolve(with_command(command), "read")
    assert "loud-secret\n" not in str(caught.value)
    assert "stripe (read)" in str(caught.value)


def test_a_command_is_no_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_READ", "reading-secret")
    found = environment.resolve(with_command(f"echo long-enough; touch {tmp_path}/made"), "read")
    assert found["stripe"].startswith("long-enough; touch")
    assert not (tmp_path / "made").exists()


# What else it tells.


def test_variables_of_both_kinds_are_known_so_that_kernels_do_not_inherit_them() -> None:
    assert environment.variables(small()) == {"DB_READ", "DB_CHANGE", "STRIPE_READ"}


def test_services_with_one_secret_for_everything_are_known() -> None:
    assert small().single_secrets == ["stripe"]


def test_any_change_of_it_changes_its_digest() -> None:
    digests = {small().digest, small(production=False).digest, small(limits={"max_actions": 26}).digest}
    assert len(digests) == 3
    assert small().digest == small().digest


def test_further_keys_of_a_service_name_its_parts() -> None:
    services = {**SMALL["services"], "vercel": {"address": "x", "project": "prj_1"}}
    vercel = small(services=services).services.vercel
    assert vercel is not None
    assert (vercel.part("project"), vercel.part("team")) == ("prj_1", None)


def test_every_environment_in_the_repository_is_valid_and_holds_no_secret() -> None:
    for path in sorted((REPOSITORY / "parameters" / "environments").glob("*.yaml")):
        found = environment.load(path.stem, REPOSITORY)
        assert found.name == path.stem
        assert found.production
