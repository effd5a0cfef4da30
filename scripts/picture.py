"""Makes docs/record.png: a living sandbox breaks, a runbook mends it, and its sealed record is photographed.

    .venv/bin/python scripts/picture.py

Needs Chromium. Nothing of it touches your own sandboxes or records: both live in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from PIL import Image, ImageChops
from shown import ROOT, SCENARIO, SECTIONS, STEPS, save

WIDTH, HEIGHT = 1200, 960
SANDBOX = "demo"
LINES = 5  # of a long output
STYLE = """
<style>
  body { padding: 6px 14px !important; background: white; }
  .jp-Cell { padding: 1px !important; }
  .jp-Cell-inputWrapper, .jp-Cell-outputWrapper { margin: 0 !important; }
  .jp-InputPrompt, .jp-OutputPrompt { display: none !important; }
  .jp-RenderedHTMLCommon p { margin: 0.3em 0 !important; }
  .jp-RenderedHTMLCommon h2 { margin: 0.2em 0 !important; font-size: 1.4em !important; }
  .jp-RenderedHTMLCommon table { margin: 0.2em 0 !important; }
  .jp-OutputArea-output pre { white-space: pre !important; overflow: hidden; padding: 6px 2px !important; }
  .jp-OutputArea:has(.jp-RenderedSVG) { display: flex; align-items: center; gap: 40px; }
  .jp-OutputArea:has(.jp-RenderedSVG) .jp-OutputArea-child { width: auto !important; }
  .jp-RenderedSVG img, .jp-RenderedSVG svg { width: 640px !important; height: auto !important; }
</style>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "record.png")
    parser.add_argument("--record", type=Path, help="Photograph this record's folder, instead of making a new one.")
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    given = parser.parse_args()
    if not given.browser:
        sys.exit("There is no Chromium here. Install it (Debian: sudo apt-get install chromium), or name it: --browser")
    with tempfile.TemporaryDirectory(prefix="opskit-picture-") as folder:
        record = given.record or applied(Path(folder))
        page = Path(folder) / "record.html"
        page.write_text(exported(record / "notebook.ipynb"), encoding="utf-8")
        photograph(page, given.to, given.browser)
    print(f"{given.to}: {given.to.stat().st_size // 1024} KB")  # noqa: T201


def applied(folder: Path) -> Path:
    """Break a sandbox, diagnose, approve, apply; answers the applied run's folder."""
    places = {"OPSKIT_STATE": str(folder / "state"), "OPSKIT_OUTPUTS": str(folder / "outputs")}
    environment = {**os.environ, **places, "OPSKIT_ROOT": str(ROOT), "OPSKIT_OPERATOR": "ana"}

    def opskit(*words: str) -> Any:
        command = [str(Path(sys.executable).with_name("opskit")), *words, "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        answer = json.loads(done.stdout or "{}")
        if answer.get("exit") not in (0, 3):
            sys.exit(f"opskit {' '.join(words)}: {answer.get('data') or done.stderr}")
        return answer["data"]

    opskit("sandbox", "start", "--name", SANDBOX)
    try:
        truth = opskit("sandbox", "break", SCENARIO, "--name", SANDBOX)
        pairs = [word for name, value in truth["parameters"].items() for word in ("-p", name, str(value))]
        planned = opskit("run", truth["runbook"], *pairs, "--environment", SANDBOX)
        opskit("approve", planned["run"], "--with-removals", "--type", f"{SANDBOX} {planned['actions']}")
        done = opskit("apply", planned["run"])
    finally:
        opskit("sandbox", "stop", "--name", SANDBOX)
    if done["outcome"] != "done and verified":
        sys.exit(f"The run ended with {done['outcome']!r}: that is not the picture to show.")
    return Path(done["folder"])


def exported(notebook: Path) -> str:
    """The chosen steps of an executed notebook as one HTML page that needs no network."""
    found = nbformat.read(notebook, as_version=4)
    found.cells = [cell for cell in found.cells if cell.id in STEPS + SECTIONS]
    for cell in found.cells:
        if cell.id in SECTIONS:
            cell.source = cell.source.split("\n", 1)[0]
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = shortened(output.text)
    exporter = HTMLExporter(template_name="lab", mathjax_url="", require_js_url="", jquery_url="", mermaid_js_url="")
    page, _ = exporter.from_notebook_node(found)
    return str(page).replace("</head>", f"{STYLE}</head>")


def shortened(text: str) -> str:
    lines = text.splitlines()
    more = [f"… and {len(lines) - LINES} more"] if len(lines) > LINES else []
    return "\n".join([*lines[:LINES], *more])


def photograph(page: Path, to: Path, browser: str) -> None:
    """Screenshot a page, cut off what is below the fold or empty, and keep the file small."""
    whole = page.with_suffix(".png")
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet, "--hide-scrollbars"]
    command += [f"--user-data-dir={page.parent / 'browser'}", f"--window-size={WIDTH},{HEIGHT * 2}"]
    subprocess.run([*command, f"--screenshot={whole}", page.as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(whole) as image:
        seen = image.convert("RGB").crop((0, 0, WIDTH, HEIGHT))
        used = ImageChops.difference(seen, Image.new("RGB", seen.size, "white")).getbbox()
        bottom = min((used[3] if used else HEIGHT) + 16, HEIGHT)
        to.parent.mkdir(exist_ok=True)
        save(seen.crop((0, 0, WIDTH, bottom)), to)


if __name__ == "__main__":
    main()
