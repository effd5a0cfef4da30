"""Any notebook as one HTML page that needs nothing else: readable without a network, on a phone, on paper.

What a page shows came out of data, and data may hold markup. So all of it passes one list of what is allowed, charts
become pictures, in which nothing can run, and the page itself forbids scripts and loading.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from opskit.errors import BadInput

TEMPLATES = Path(__file__).with_name("templates")
# What a notebook may show, the best first; what runs, such as JavaScript and widgets, is not among it.
SHOWN = ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/latex", "text/plain")
TAGS = frozenset(
    re.split(
        r"\s+",
        """a abbr b blockquote br caption code col colgroup dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr i img ins
        kbd li mark ol p pre s small span strong sub summary sup table tbody td tfoot th thead tr u ul""",
    )
)
ATTRIBUTES = {"alt", "class", "colspan", "id", "rowspan", "scope", "title"}
LINK = re.compile(r"(https?://|mailto:|#)", re.IGNORECASE)
BESIDE = re.compile(r"\.\./[\w./-]+$")  # within the archive
PICTURE = re.compile(r"data:image/(svg\+xml|png|jpeg);base64,[\w+/=\s]*$")
SHORT = re.compile(r"<td>(?=(?:[^<\s]{1,44}|[^<]{1,20})</td>)")  # cells that must not break: ids, dates, numbers
STYLE = re.compile(r"<style\b.*?</style\s*>", re.IGNORECASE | re.DOTALL)  # pandas brings one along with every table


def render(
    notebook: Mapping[str, Any],
    title: str,
    facts: Sequence[tuple[str, str]] = (),
    warnings: Sequence[str] = (),
    *,
    beside: bool = False,
) -> str:
    """The page of a notebook, as nbformat 4 has it. `facts` and `warnings` stand above it; neither is markup.

    With `beside`, links to files of the same archive are kept. Raises BadInput where it is no notebook.
    """
    body = sanitised(_body(notebook), beside=beside)
    headings = re.findall(r'<h2 id="([^"]+)">(.*?)<a ', body)
    sections = [[html.unescape(re.sub(r"<[^>]*>", "", part)) for part in heading] for heading in headings]
    for outer, wrapped in (("<table", '<div class="scroll" tabindex="0"><table'), ("</table>", "</table></div>")):
        body = body.replace(outer, wrapped)
    body = SHORT.sub('<td class="short">', body)
    template = _jinja().get_template("page.html.j2")
    return str(template.render(title=title, facts=facts, warnings=warnings, sections=sections, body=body))


def sanitised(markup: str, *, beside: bool = False) -> str:
    """`markup` with nothing in it that runs or loads; what is not allowed shows as the text that it is."""
    from bleach.sanitizer import Cleaner  # type: ignore[import-untyped]  # noqa: PLC0415  # with nbconvert it takes a second that few commands need

    def allowed(tag: str, name: str, value: str) -> bool:
        if (tag, name) == ("a", "href"):
            return bool(LINK.match(value) or (beside and BESIDE.match(value)))
        if (tag, name) == ("img", "src"):
            return bool(PICTURE.match(value))
        return name in ATTRIBUTES

    cleaner = Cleaner(TAGS, attributes=allowed, protocols={"http", "https", "mailto", "data"})
    return str(cleaner.clean(markup))


def text(source: Any) -> str:
    """A notebook keeps text as one string or as a list of lines."""
    return source if isinstance(source, str) else "".join(source or [])


def plain(value: Any) -> str:
    """Text that Markdown shows as it is, in one line, also within a table."""
    return re.sub(r"([\\|]|\](?=\())", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _body(notebook: Mapping[str, Any]) -> str:
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # a slow grammar that nbformat can do without
    import nbformat  # noqa: PLC0415
    from nbconvert.exporters import HTMLExporter  # noqa: PLC0415

    copy = json.loads(json.dumps(notebook))
    try:
        for cell in copy["cells"]:
            cell["outputs"] = [_shown(output) for output in cell["outputs"]] if "outputs" in cell else []
            if cell["cell_type"] != "code":
                del cell["outputs"]
            elif cell["metadata"].get("jupyter", {}).get("source_hidden"):
                cell["metadata"]["transient"] = {"remove_source": True}
        plain = nbformat.reads(json.dumps(copy), as_version=4)  # type: ignore[no-untyped-call]
    except (KeyError, TypeError, AttributeError, nbformat.reader.NotJSONError) as error:
        raise BadInput(f"this is not a notebook: {error!r}.") from None
    hide = {"exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="basic", **hide)  # type: ignore[no-untyped-call]
    body, _ = exporter.from_notebook_node(plain)
    return str(body)


def _shown(output: dict[str, Any]) -> dict[str, Any]:
    """An output in the one form that says most, of those that can be shown safely."""
    if "data" not in output:
        return output
    kind = next((kind for kind in SHOWN if kind in output["data"]), None)
    found = {kind: text(output["data"][kind])} if kind else {"text/plain": "(this output can only be seen in Jupyter)"}
    if kind and kind.startswith("image/"):
        found = {"text/html": _picture(kind, found[kind], text(output["data"].get("text/plain")))}
    elif kind == "text/html":
        found = {kind: STYLE.sub("", found[kind])}
    return {**output, "data": found, "metadata": {}}


def _picture(kind: str, data: str, said: str) -> str:
    """A picture that the page carries within itself."""
    carried = base64.b64encode(data.encode()).decode() if kind == "image/svg+xml" else data
    return f'<img class="chart" alt="{html.escape(said)}" src="data:{kind};base64,{carried}">'


@cache
def _jinja() -> Any:
    from jinja2 import Environment, FileSystemLoader  # noqa: PLC0415

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
