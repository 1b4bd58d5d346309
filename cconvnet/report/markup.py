"""HTML markup without injection: all text that `tag` did not make is escaped."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_VOID = {"img", "meta"}


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def tag(name: str, /, *content: str | None, **attributes: str | None) -> Markup:
    """Return an element; its text and the values of its attributes are escaped.

    Args:
        name: The element's name.
        content: Its children in order; None is skipped.
        attributes: Its attributes; None is skipped. Underscores become hyphens, and one at the end is
            dropped, as in ``class_``.
    """
    values = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{values}>")
    return Markup(f"<{name}{values}>{join(content)}</{name}>")


def join(parts: Iterable[str | None]) -> Markup:
    """Concatenate parts, and escape those that are not markup."""
    return Markup(
        "".join(part if isinstance(part, Markup) else html.escape(part) for part in parts if part is not None)
    )


def table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], label: str, kind: str | None = None
) -> Markup:
    """Return a table in a box that scrolls if the page is narrower.

    Args:
        columns: The names of the columns.
        rows: The texts of the cells.
        label: A name for screen readers.
        kind: The table's class.
    """
    head = tag("tr", *(tag("th", column, scope="col") for column in columns))
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_=kind)
    return tag("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def data_url(kind: str, content: bytes) -> str:
    """Return the content of a file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(array: Array) -> str:
    """Return a lossless data URL of an image uint8[H,W] or [H,W,C], or float with values from 0 to 1."""
    return data_url("image/png", _encoded(array, "PNG", optimize=True))


def photo(array: Array, side: int) -> str:
    """Return a data URL of an image uint8[H,W,C]: lossless if it is small, else a JPEG of at most `side`."""
    if max(array.shape[:2]) <= 64:
        return png(array)
    return data_url("image/jpeg", _encoded(array, "JPEG", side, quality=85))


def _encoded(array: Array, kind: str, side: int | None = None, **options: Any) -> bytes:
    from PIL import Image

    if array.dtype != np.uint8:
        array = np.rint(255 * np.clip(array, 0, 1)).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    image = Image.fromarray(array)
    if side is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def document(title: str, style: str, *body: str) -> str:
    """Return a complete page whose content security policy forbids loading and running anything."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body), lang='en')}\n"
