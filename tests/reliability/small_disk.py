"""A machine whose records lie on a disk of their own, small and soon full: a mount namespace that only we see.

Started under `unshare`. Each line that comes in is a step, as JSON; each line that goes out is what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import victims
from victims import Accident

import opskit.cli
import opskit.runner  # noqa: F401  # loaded once, so that every command starts at once
from opskit import provenance


def command(
    surroundings: dict[str, str], place: str, words: list[str], accident: dict[str, Any] | None, kernel: bool
) -> int:
    """The exit code of a command in a process of its own."""
    if (child := os.fork()) == 0:
        try:
            victims.command(words, surroundings, Path(place), Accident(**accident) if accident else None, kernel)
        except SystemExit as error:
            sys.stdout.flush()
            os._exit(int(error.code or 0))
        finally:
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    for line in sys.stdin:
        step, place, *words = json.loads(line)
        disk = Path(place)
        answer: Any = None
        if step == "mount":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", str(disk)], check=True)
        elif step == "empty":
            if os.statvfs(disk).f_flag & os.ST_RDONLY:
                subprocess.run(["umount", str(disk)], check=True)
            (disk / "filler").unlink(missing_ok=True)
        elif step == "run":
            answer = command(*words)
        elif step == "archive":
            answer = provenance.archive(disk)
        elif step == "copy":
            shutil.copytree(words[0], disk, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".locks"))
        elif step == "journals":
            answer = [path.read_text(errors="replace") for path in disk.glob("*/*/journal.jsonl")]
        else:
            victims.DISKS[step](disk)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
