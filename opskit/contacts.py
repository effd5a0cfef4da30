"""Whom to call: `parameters/contacts.yaml`, read for the Escalation section of runbooks."""

from __future__ import annotations

import pandas as pd
import yaml

from opskit.errors import BadInput
from opskit.provenance import find_root


def contacts() -> pd.DataFrame:
    """One row per role: role, name, reach (how), asks (what they will want to know first)."""
    path = find_root() / "parameters" / "contacts.yaml"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))["contacts"]
        return pd.DataFrame(found, columns=["role", "name", "reach", "asks"])
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: {error}", "It lists `contacts:`, each with role, name, reach and asks.") from None
