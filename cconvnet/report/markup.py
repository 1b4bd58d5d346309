"""HTML in which no text can be taken for markup: whatever is not made by `tag` is escaped."""

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
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *content: str | None, **attributes: str | None) -> Markup:
    """An element; text in it and in its attributes is escaped. None is left out.

    An attribute's underscores are hyphens, one at the end is dropped: ``class_``.
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
    """Parts one after another, what is no markup escaped."""
    return Markup(
        "".join(part if isinstance(part, Markup) else html.escape(part) for part in parts if part is not None)
    )


def table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], label: str, kind: str | None = None
) -> Markup:
    """A table in a box of its own, which scrolls where the page is narrower; `kind` is its class."""
    head = tag("tr", *(tag("th", column, scope="col") for column in columns))
    body = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    whole = tag("table", tag("thead", head), tag("tbody", *body), class_=kind)
    return tag("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def data_url(kind: str, content: bytes) -> str:
    """The content of a file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(array: Array) -> str:
    """The address of an image uint8[H,W] or [H,W,C], or float of values from 0 to 1, without loss."""
    return data_url("image/png", _encoded(array, "PNG", optimize=True))


def photo(array: Array, side: int) -> str:
    """The address of an image uint8[H,W,C]: without loss if it is small, else a JPEG of at most `side`."""
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
    """A whole page that loads nothing and runs nothing, and whose reader is forbidden to."""
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
