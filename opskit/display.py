"""How evidence looks in a notebook: static tables and inline SVG charts.

A record must look the same in JupyterLab, in exported HTML with the network unplugged and in five years: so no
scripts, no fonts from elsewhere, and no meaning in colour alone.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
from IPython.display import display
from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

from opskit import masking

HEAD = 12  # rows of a long table shown in the notebook; the whole of it goes into an evidence file
# Columns of people's addresses and names, and of what they wrote. A column's name says more than its values do: a
# `title` may be an error's, which is evidence; users' own titles are selected `as document_title`.
PERSONAL = re.compile(
    r"(^|_)(e_?mails?|(full|first|last|given|family|middle|display|customer|user|account_holder)_?names?|surname|username"
    r"|phones?|phone_numbers?|street|postal_address|billing_address|shipping_address|ip|ip_address|birth(day|date)"
    r"|contents?|html|payload|preview|excerpt|snippet|body|prompt|completion|(doc|document|chapter|note)_titles?)(_|$)"
)
# What such a column is about, not the thing itself: `content_type`, `email_confirmed_at`.
ABOUT = re.compile(r"_(id|type|kind|count|length|size|status|state|hash|digest|version|language|at)$")
QUOTING = re.compile(r"(^|_)errors?(_messages?)?$")  # columns of errors, which may quote what somebody wrote
ADDRESS = re.compile(r"[^@\s]+@[^@\s]+")
# Told apart by lightness and hatching as well as by hue.
INKS = (("#33608c", ""), ("#c8553d", "///"), ("#8a8a8a", "..."), ("#d9a441", "xx"), ("#5b8c5a", "\\\\\\"))


def emit(markup: str, text: str) -> None:
    """Show `markup` in the notebook, and `text` wherever HTML is not understood."""
    display({"text/html": markup, "text/plain": text}, raw=True)


def say(text: str) -> None:
    """One line of prose among the evidence."""
    text = masking.addresses(text)
    emit(f"<p>{html.escape(text)}</p>", text)


def chart(figure: Any) -> None:
    """A matplotlib figure as inline SVG."""
    title = figure.axes[0].get_title(loc="left") if figure.axes else ""
    drawn = {"image/svg+xml": svg(figure), "text/plain": f"[chart] {title}"}
    display({kind: masking.addresses(text) for kind, text in drawn.items()}, raw=True)


def personal(name: object) -> bool:
    """Whether a column of this name is masked: `email`, `customerEmail`, `E-Mail`, `("user", "Full name")`, …"""
    if isinstance(name, tuple):
        return any(map(personal, name))
    return bool(PERSONAL.search(_words(name))) and not ABOUT.search(_words(name))


def _words(name: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name)).lower()).strip("_")


def personal_columns(frame: pd.DataFrame) -> list[str]:
    """The columns, and levels of an index, that are masked by default."""
    names = [*frame.columns, *frame.index.names, *frame.columns.names]
    return list(dict.fromkeys(str(name) for name in names if personal(name)))


def masked(frame: pd.DataFrame) -> pd.DataFrame:
    """The table without what is personal in it: e-mail addresses, names and users' text, by column.

    In columns of other names, e-mail addresses and the personal fields of what is nested in them, also as JSON; in
    those of errors, also what they quote.
    """
    hidden = frame.copy()
    for place, column in enumerate(frame.columns):
        cells = frame.iloc[:, place]
        if not (is_numeric_dtype(cells) or is_datetime64_any_dtype(cells)):
            hidden.isetitem(place, cells.map(_mask_for(column, mask_within)).array)
    hidden.index, hidden.columns = _masked_labels(frame.index), _masked_labels(frame.columns)
    return hidden


def _mask_for(name: object, otherwise: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """How what stands under a name is masked."""
    if personal(name):
        return mask
    return _mask_error if QUOTING.search(_words(name)) else otherwise


def _mask_error(value: Any) -> Any:
    return masking.words(value) if isinstance(value, str) else mask_within(value)


def _masked_labels(index: pd.Index[Any]) -> pd.Index[Any]:
    levels = [index.get_level_values(number) for number in range(index.nlevels)]
    worded = [not (is_numeric_dtype(level) or is_datetime64_any_dtype(level)) for level in levels]
    if not any(worded):
        return index
    levels = [
        level.map(_mask_for(level.name, _mask_label)) if word else level
        for level, word in zip(levels, worded, strict=True)
    ]
    return levels[0] if len(levels) == 1 else pd.MultiIndex.from_arrays(levels, names=index.names)


def _mask_label(value: Any) -> Any:
    return masking.addresses(value) if isinstance(value, str) else value


def mask(value: Any) -> Any:
    """`ana@example.com` as `a…@example.com`, other text as its length; numbers stay, and nothing stays nothing."""
    if isinstance(value, Mapping):
        return {key: mask(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [mask(item) for item in value]
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    if not isinstance(value, str) or not value:
        return value
    if ADDRESS.fullmatch(value):
        name, _, domain = value.partition("@")
        return f"{name[:1]}…@{domain}"
    return f"({len(value)} characters)"


def mask_within(value: Any) -> Any:
    """A value with the addresses in it masked, and the personal fields of what is nested."""
    if isinstance(value, Mapping):
        return {_mask_label(key): _mask_for(key, mask_within)(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_within(item) for item in value]
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            return masking.addresses(value)
        hidden = mask_within(found)
        return value if hidden == found else json.dumps(hidden, ensure_ascii=False)
    return masking.addresses(value) if isinstance(value, str) else value


def level(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with a named index as its first columns, for neither HTML nor files show an index."""
    return frame.reset_index(allow_duplicates=True) if any(name is not None for name in frame.index.names) else frame


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
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside, or it hides a bar
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(f"UTC, per {step}")
    return figure


def counts(values: pd.Series[Any], title: str) -> Any:
    """Horizontal bars, one per value. Returns a matplotlib figure."""
    found = values.value_counts()[::-1]
    figure, axes = canvas(title)
    bars = axes.barh([str(value) for value in found.index], found.to_numpy(), color=INKS[0][0])
    axes.bar_label(bars, padding=3, fontsize=8)
    return figure


def timeline(lanes: Mapping[str, Iterable[Any]], title: str) -> Any:
    """What happened when, on one time axis: a lane for each kind of thing, the first on top.

    An entry is a moment, `(moment, label)`, or `(from, until, label)`; moments are aware. A lane without entries
    stays, for that nothing happened is worth seeing. Labels that would run into each other are left out. Returns a
    matplotlib figure.
    """
    figure, axes = canvas(title)
    figure.set_figheight(0.8 + 0.45 * max(len(lanes), 2))
    placed = {name: sorted(map(_entry, entries)) for name, entries in lanes.items()}
    every = [at for entries in placed.values() for start, end, _ in entries for at in (start, end)]
    room = (max(every) - min(every)) / 80 if every else pd.Timedelta(0)  # of one character
    for number, (name, (ink, hatch)) in enumerate(zip(placed, INKS * 3, strict=False)):
        _lane(axes, -number, placed[name], ink, hatch, room)
    axes.set_yticks([-number for number in range(len(lanes))], [str(name) for name in lanes])
    axes.set_ylim(0.7 - len(lanes) - 0.2, 0.7)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_xlabel("UTC")
    if every:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415  # as in `canvas`

        if min(every) == max(every):  # one moment makes no axis
            axes.set_xlim(every[0] - pd.Timedelta("30min"), every[0] + pd.Timedelta("30min"))
        axes.xaxis.set_major_locator(locator := AutoDateLocator(maxticks=8))
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    else:
        axes.set_xticks([])
    return figure


def _entry(entry: Any) -> tuple[pd.Timestamp, pd.Timestamp, str]:
    """Any spelling of an entry as from, until, label."""
    parts = entry if isinstance(entry, tuple) else (entry, "")
    start, end, label = parts if len(parts) == 3 else (parts[0], parts[0], parts[1])
    return pd.Timestamp(start).tz_convert("UTC"), pd.Timestamp(end).tz_convert("UTC"), str(label)


def _lane(axes: Any, y: int, entries: list[tuple[Any, Any, str]], ink: str, hatch: str, room: Any) -> None:
    free = pd.Timestamp.min.tz_localize("UTC")
    for start, end, label in entries:
        if end > start:
            axes.barh(y, end - start, 0.34, left=start, color=ink, hatch=hatch, alpha=0.6)
        else:
            axes.plot([start], [y], "|", markersize=13, markeredgewidth=1.4, color=ink)
        if label and start >= free:
            axes.annotate(label, (start, y), (3, 6), textcoords="offset points", fontsize=7)
            free = start + room * len(label)


def canvas(title: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415  # a run without charts should not wait for it

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return figure, axes


def svg(figure: Any) -> str:
    """A figure as SVG on white, so that it reads in light and dark themes alike."""
    import matplotlib as mpl  # noqa: PLC0415  # a run without charts should not wait for it

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):  # text stays text: searchable, and seen by redaction
        figure.savefig(out, format="svg", facecolor="white", metadata={"Date": None})
    return out.getvalue()


def answer(mark: str, question: str, cause: str, because: str) -> None:
    """One check's answer."""
    because = masking.addresses(because)
    named = f" → <code>{html.escape(cause)}</code>" if cause else ""
    why = f"<br><small>{html.escape(because)}</small>" if because else ""
    emit(
        f"<p><b>{html.escape(mark)}</b>&ensp;{html.escape(question)}{named}{why}</p>",
        "  ".join(part for part in (mark, question, cause and f"→ {cause}", because) if part),
    )
