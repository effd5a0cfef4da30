"""Runbooks that run. In a notebook: `from opskit import begin`."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opskit.run import begin

__all__ = ["begin"]
__version__ = version("opskit")


def __getattr__(name: str) -> Any:
    """Import the kernel's side only where it is asked for: the command line should not wait for pandas."""
    if name == "begin":
        from opskit.run import begin  # noqa: PLC0415

        return begin
    raise AttributeError(f"module 'opskit' has no attribute {name!r}")
