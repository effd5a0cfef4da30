"""Pages: one file that loads nothing and runs nothing, whatever stood in the data that it shows."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from opskit.errors import BadInput
from opskit.reports import page

RUNS = {"script", "iframe", "object", "embed", "base", "form", "link", "svg", "math", "template", "audio", "video"}
LOADS = {"src", "srcset", "poster", "background", "action", "formaction", "data", "xlink:href"}
CHART = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script><rect width="9"/></svg>'
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<img src='https://elsewhere.example/pixel.png'>",
    "<a href='javascript:alert(1)'>read</a>",
    "<a href='data:text/html,<script>alert(1)</script>'>read</a>",
    "<style>@import 'https://elsewhere.example/x.css'; p { background: url(https://elsewhere.example/p.png) }</style>",
    "<p style='background: url(https://elsewhere.example/p.png)'>styled</p>",
    "<link rel=stylesheet href=https://elsewhere.example/x.css>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "<meta http-equiv=refresh content='0;url=https://elsewhere.example'>",
    "<svg><style><img src=x onerror=alert(1)></style></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=alert(1)&gt;'>",
    "</main></body><script>alert(1)</script>",
)


class Page(HTMLParser):
    """Every element of a page, as a browser would meet it."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.styles = "".join(re.findall(r"<style>(.*?)</style>", markup, re.DOTALL))
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def harmless(markup: str) -> list[str]:
    """What a page would load or run; empty, as it must be."""
    seen = Page(markup)
    found = [tag for tag, _ in seen.elements if tag in RUNS]
    for tag, attributes in seen.elements:
        for name, value in attributes.items():
            if name.startswith("on") or name == "style" or (name in LOADS and not str(value).startswith("data:image/")):
                found.append(f"{tag} {name}={value}")
            if name == "href" and not re.match(r"https?://|mailto:|#|\.\./", str(value)):
                found.append(f"{tag} {name}={value}")
    found += [word for word in ("@import", "url(", "@font-face") if word in seen.styles]
    refreshes = [meta for meta in seen.all("meta") if meta.get("http-equiv") not in (None, "Content-Security-Policy")]
    return found + [str(meta) for meta in refreshes]


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    ids = [{"id": f"cell-{number}", "metadata": {}, **cell} for number, cell in enumerate(cells)]
    return {"cells": ids, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "source": source}


def code(source: str = "pass", **data: str) -> dict[str, Any]:
    """A cell with one output; `text_html` stands for text/html."""
    output = {
        "output_type": "display_data",
        "metadata": {},
        "data": {k.replace("_", "/").replace("svg", "svg+xml"): v for k, v in data.items()},
    }
    return {"cell_type": "code", "execution_count": 1, "source": source, "outputs": [output] if data else []}


def test_a_page_carries_everything_within_itself() -> None:
    markup = page.render(notebook(markdown("# Title"), code("1 + 1", text_plain="2")), "T", [("Run", "r")], ["Mind"])
    seen = Page(markup)
    policy = [meta["content"] for meta in seen.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert harmless(markup) == []
    assert "default-src 'none'" in str(policy)
    assert len(seen.all("html")) == len(seen.all("body")) == 1


@pytest.mark.parametrize("evil", HOSTILE)
@pytest.mark.parametrize("kind", ["markdown", "text_html", "text_markdown", "text_plain", "source", "head"])
def test_nothing_from_the_data_runs_or_loads(evil: str, kind: str) -> None:
    if kind == "markdown":
        shown = page.render(notebook(markdown(f"# T\n\n{evil}\n")), "T")
    elif kind == "source":
        shown = page.render(notebook(code(evil, text_plain="1")), "T")
    elif kind == "head":
        shown = page.render(notebook(markdown(f"## {evil}")), evil, [(evil, evil)], [evil])
    else:
        shown = page.render(notebook(code(**{kind: evil})), "T")
    assert harmless(shown) == []


def test_markup_that_is_not_allowed_shows_as_the_text_that_it_is() -> None:
    shown = page.render(notebook(code(text_html="<p>Product: <script>alert(1)</script></p>")), "T")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown


def test_what_only_runs_is_not_shown() -> None:
    shown = page.render(notebook(code(application_javascript="alert(1)")), "T")
    assert "alert" not in shown
    assert "can only be seen in Jupyter" in shown


def test_charts_are_kept_whole_as_pictures_in_which_nothing_runs() -> None:
    markup = page.render(notebook(code(image_svg=CHART, text_plain="[chart] Deliveries <by> answer")), "T")
    (picture,) = Page(markup).all("img")
    assert base64.b64decode(str(picture["src"]).removeprefix("data:image/svg+xml;base64,")).decode() == CHART
    assert picture["alt"] == "[chart] Deliveries <by> answer"
    assert harmless(markup) == []


def test_tables_keep_their_cells_and_scroll_by_themselves() -> None:
    frame = (
        "<div><style scoped>.dataframe th { x: y }</style><table class='dataframe'><tr><td>7</td></tr></table></div>"
    )
    markup = page.render(notebook(code(text_html=frame)), "T")
    assert '<div class="scroll" tabindex="0"><table class="dataframe">' in markup
    assert '<td class="short">7</td>' in markup
    assert "scoped" not in markup


def test_code_shows_unless_its_author_hid_it() -> None:
    hidden = {**code("hidden = 1", text_plain="seen"), "metadata": {"jupyter": {"source_hidden": True}}}
    shown = page.render(notebook(code("visible = 1"), hidden), "T")
    assert "visible" in shown
    assert "hidden" not in shown.split("<main>")[1]
    assert "seen" in shown


def test_sections_are_linked_at_the_top() -> None:
    markup = page.render(notebook(*(markdown(f"## {name}") for name in ("Impact", "What was changed", "A & B"))), "T")
    ids = {attributes.get("id") for _, attributes in Page(markup).elements}
    links = [str(a["href"]).removeprefix("#") for a in Page(markup.split("<main>")[0]).all("a")]
    assert len(links) == 3
    assert set(links) <= ids


def test_links_stay_where_they_lead_somewhere() -> None:
    source = (
        "[console](https://dashboard.stripe.com) [beside](../20261123T1-a/notebook.ipynb) [odd](file:///etc/passwd)"
    )
    alone, beside = (page.render(notebook(markdown(source)), "T", beside=beside) for beside in (False, True))
    assert [a.get("href") for a in Page(alone).all("a")] == ["https://dashboard.stripe.com", None, None]
    assert [a.get("href") for a in Page(beside).all("a")][1] == "../20261123T1-a/notebook.ipynb"


@pytest.mark.parametrize("broken", [{}, {"cells": 3}, {"cells": [{}]}, {"cells": [None]}])
def test_what_is_no_notebook_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="not a notebook"):
        page.render(broken, "T")
