"""The public face, pinned: what a runbook's author may rely on changes only on purpose."""

from __future__ import annotations

import inspect
import subprocess
import sys

import opskit
from opskit.run import Run, begin

FACE = {
    # services
    "app", "database", "documents", "migrations", "policies", "profiles", "providers", "sentry", "sessions", "status",
    "stripe", "supabase", "tasks", "vercel",
    # about the run
    "causes", "found", "open_questions", "since",
    # verbs
    "apply", "check", "draft", "rate", "show",
}  # fmt: skip
MEMBERS = {"about", "environment", "folder", "journal", "parameters", "plan"}


def test_the_package_exports_one_verb() -> None:
    assert opskit.__all__ == ["begin"]
    assert opskit.begin is begin


def test_the_face_of_a_run_is_small() -> None:
    assert {name for name in dir(Run) if not name.startswith("_")} == FACE


def test_a_run_keeps_only_these_in_the_open() -> None:
    source = inspect.getsource(Run.__init__)
    kept = {line.split("self.")[1].split(" ")[0].split(":")[0] for line in source.splitlines() if "self." in line}
    assert {name for name in kept if not name.startswith("_")} == MEMBERS


def test_begin_takes_the_runbooks_name_and_nothing_else() -> None:
    assert list(inspect.signature(begin).parameters) == ["runbook"]


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_the_kernels_side_never_imports_the_runners() -> None:
    loaded = modules_after("from opskit import begin")
    assert not loaded & {
        "papermill",
        "nbclient",
        "nbformat",
        "opskit.runner",
        "opskit.cli",
        "opskit.commands",
        "opskit.sandbox",
    }


def test_the_command_line_does_not_wait_for_what_it_may_not_need() -> None:
    loaded = modules_after("import opskit.cli")
    assert not loaded & {"papermill", "nbclient", "nbformat", "matplotlib", "IPython", "starlette", "uvicorn"}


def test_only_one_module_speaks_http_and_only_one_to_the_database() -> None:
    folder = inspect.getfile(opskit).removesuffix("/__init__.py")
    for module, owner in (("httpx", "http.py"), ("psycopg", "database.py")):
        found = subprocess.run(
            ["grep", "-lrE", "--include=*.py", "--exclude-dir=sandbox", rf"^\s*(import|from) {module}\b", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert [line.removeprefix(f"{folder}/") for line in found.stdout.split()] == [owner]
