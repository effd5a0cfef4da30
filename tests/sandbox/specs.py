"""The vendors' published shapes, by which the imitations are judged. They lie beside the repository, if anywhere."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "specs"


@cache
def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def spec(name: str) -> Any:
    """A published specification; skips the test where it is not at hand."""
    if not (FOLDER / name).exists():
        pytest.skip(f"the published specification {name} is not on this machine")
    return _read(name)


def conforms(value: Any, schema: dict[str, Any]) -> None:
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    problems = [f"{error.json_path}: {error.message[:300]}" for error in validator(schema).iter_errors(value)]
    assert not problems, "\n".join(problems)


def openapi(schema: Any) -> Any:
    """An OpenAPI 3.0 schema as JSON Schema: `nullable` becomes a type."""
    if isinstance(schema, list):
        return [openapi(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    converted = {key: openapi(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [converted, {"type": "null"}]} if schema.get("nullable") is True else converted
