"""What tests say to each other about themselves: where the repository is, and how to read an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

REPOSITORY = Path(__file__).parents[1]
RUNBOOK = "stripe-webhook-replay"

Opskit = Callable[..., Result]


def data(result: Result) -> Any:
    """What a command answered with --json."""
    return json.loads(result.stdout)["data"]


def notebook(*cells: str, parameters: str | None = None) -> dict[str, Any]:
    """A small notebook of code cells, as a runbook would be kept."""
    head = "from opskit.parameters import EnvironmentName, Moment\n"
    declared = parameters if parameters is not None else 'environment: EnvironmentName = "sandbox"  # where to look'
    code = [("parameters", head + declared, ["parameters"]), *((f"cell-{n}", c, []) for n, c in enumerate(cells))]
    return {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": None,
                "id": key,
                "metadata": {"tags": tags} if tags else {},
                "outputs": [],
                "source": source,
            }
            for key, source, tags in code
        ],
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
