"""Fetches the judges that Debian has: an older PostgreSQL with contrib, and pgbouncer.

    python scripts/judges.py

They are unpacked into `.judges/`, by apt-get and dpkg-deb; nothing is installed, and no server is started. Tests that
need them skip without. What is on this machine already is not fetched.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PLACE = Path(__file__).resolve().parents[1] / ".judges"
PROGRAMS = {  # where each lies below `/`, and the packages that bring it
    "postgres": ("usr/lib/postgresql/15/bin/postgres", ("postgresql-15", "libpq5")),
    "pgbouncer": ("usr/sbin/pgbouncer", ("pgbouncer", "libc-ares2", "libevent-2.1-7")),
}


def find(name: str) -> Path | None:
    """The program, on this machine or among what was fetched."""
    below = PROGRAMS[name][0]
    return next((path for root in (Path("/"), PLACE) if (path := root / below).exists()), None)


def libraries() -> Path:
    """Where those lie that were fetched along."""
    return next(PLACE.glob("usr/lib/*-linux-gnu"), PLACE)


def main() -> None:
    if not shutil.which("apt-get"):
        sys.exit("apt-get is missing: these judges come from Debian.")
    missing = [package for name, (_, packages) in PROGRAMS.items() if not find(name) for package in packages]
    if missing:
        PLACE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["apt-get", "download", *missing], cwd=folder, check=True)
            for package in sorted(Path(folder).glob("*.deb")):
                subprocess.run(["dpkg-deb", "--extract", str(package), str(PLACE)], check=True)
    sys.stdout.writelines(f"{name}: {find(name)}\n" for name in PROGRAMS)


if __name__ == "__main__":
    main()
