"""How evidence looks in a notebook: static tables and inline SVG charts.

A record must look the same in JupyterLab, in exported HTML with the network unplugged and in five years: so no
scripts, no fonts from elsewhere, and no meaning in colour alone.
"""

from __future__ import annotations

import html
import io
import re
from typing import Any

import pandas as pd
from IPython.display import display

HEAD = 12  # rows of a long table shown in the notebook; the whole of it goes into an evidence file
PERSONAL = re.compile(r"e-?mail|full_name|content|html|payload|preview", re.IGNORECASE)
# Told apart by lightness and hatching as well as by hue.
INKS = (("#33608c", ""), ("#c8553d", "///"), ("#8a8a8a", "..."), ("#d9a441", "xx"), ("#5b8c5a", "\\\\\\"))


def emit(markup: str, text: str) -> None:
    """Show `markup` in the notebook, and `text` wherever HTML is not understood."""
    display({"text/html": markup, "text/plain": text}, raw=True)


def say(text: str) -> None:
    """One line of prose among the evidence."""
    emit(f"<p>{html.escape(text)}</p>", text)


def chart(figure: Any) -> None:
    """A matplotlib figure as inline SVG."""
    title = figure.axes[0].get_title(loc="left") if figure.axes else ""
    display({"image/svg+xml": svg(figure), "text/plain": f"[chart] {title}"}, raw=True)


def masked(frame: pd.DataFrame) -> pd.DataFrame:
    """The table without what is personal in it: e-mail addresses, names and users' text, by column."""
    columns = [column for column in frame.columns if PERSONAL.search(str(column))]
    if not columns:
        return frame
    return frame.assign(**{column: frame[column].map(mask) for column in columns})


def mask(value: Any) -> Any:
    """`ana@example.com` as `a…@example.com`, other text as its length; nothing stays nothing."""
    if not isinstance(value, str) or not value:
        return value
    name, at, domain = value.partition("@")
    return f"{name[:1]}…@{domain}" if at else f"({len(value)} characters)"


def table(frame: pd.DataFrame, title: str, note: str = "") -> str:
    """The head of a table as static HTML."""
    if frame.empty:
        return f"<p><b>{html.escape(title)}</b>: none.</p>"
    shown = frame.head(HEAD).rename(columns=str)
    for column in shown.columns:
        shown[column] = shown[column].map(_cell)
    with pd.option_context("display.max_colwidth", None):  # a cut-off cell could hide half a secret from redaction
        body = shown.to_html(index=False, border=0, justify="left", na_rep="")
    body = body.replace("<th>", '<th style="text-align:left">').replace(
        "<td>", '<td style="text-align:left">'
    )  # notebooks align right, which suits numbers only
    more = f"<br><small>{html.escape(note)}</small>" if note else ""
    return f"<p><b>{html.escape(title)}</b>{more}</p>{body}"


def text(frame: pd.DataFrame, title: str, note: str = "") -> str:
    """The same for a terminal."""
    if frame.empty:
        return f"{title}: none."
    with pd.option_context("display.max_colwidth", None, "display.width", 160):
        return "\n".join(part for part in (title, frame.head(HEAD).to_string(index=False), note) if part)


def _cell(value: Any) -> Any:
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S") + ("Z" if value.tzinfo else "")
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return value


def counts_over_time(frame: pd.DataFrame, when: str, by: str, title: str) -> Any:
    """A stacked bar chart: how many rows fell into each stretch of time, by kind. Returns a matplotlib figure."""
    times = pd.to_datetime(frame[when], utc=True)
    span = (times.max() - times.min()) if len(times) else pd.Timedelta(0)
    step = next((s for s in ("5min", "15min", "1h", "3h", "12h") if span <= pd.Timedelta(s) * 48), "1D")
    counted = frame.groupby([times.dt.floor(step), frame[by]]).size().unstack(fill_value=0)
    figure, axes = canvas(title)
    bottom = pd.Series(0, index=counted.index)
    width = pd.Timedelta(step) * 0.9
    for (ink, hatch), kind in zip(INKS * 3, counted.columns, strict=False):
        axes.bar(counted.index, counted[kind], width, bottom=bottom, label=str(kind), color=ink, hatch=hatch)
        bottom = bottom + counted[kind]
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_xlabel(f"UTC, per {step}")
    return figure


def counts(values: pd.Series[Any], title: str) -> Any:
    """Horizontal bars, one per value. Returns a matplotlib figure."""
    found = values.value_counts()[::-1]
    figure, axes = canvas(title)
    bars = axes.barh([str(value) for value in found.index], found.to_numpy(), color=INKS[0][0])
    axes.bar_label(bars, padding=3, fontsize=8)
    return figure


def canvas(title: str) -> tuple[Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415  # a run without charts should not wait for it
    from matplotlib.figure import Figure  # noqa: PLC0415

    mpl.rcParams["svg.fonttype"] = "none"  # text stays text: searchable, and seen by redaction
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def svg(figure: Any) -> str:
    """A figure as SVG on white, so that it reads in light and dark themes alike."""
    out = io.StringIO()
    figure.savefig(out, format="svg", facecolor="white", metadata={"Date": None})
    return out.getvalue()


def answer(mark: str, question: str, cause: str, because: str) -> None:
    """One check's answer."""
    named = f" → <code>{html.escape(cause)}</code>" if cause else ""
    why = f"<br><small>{html.escape(because)}</small>" if because else ""
    emit(
        f"<p><b>{html.escape(mark)}</b>&ensp;{html.escape(question)}{named}{why}</p>",
        "  ".join(part for part in (mark, question, cause and f"→ {cause}", because) if part),
    )
