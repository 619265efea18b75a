"""HTML built from values, so that nothing from a file reaches a page unescaped."""

import html
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

VOID = frozenset({"meta", "wbr"})
"""Elements without content."""


@dataclass(frozen=True, slots=True)
class Markup:
    """Text that is HTML already. Everything else that is put into a page is escaped."""

    text: str


Content = Markup | str | None


def element(tag: str, *content: Content, **attributes: str | float | bool | None) -> Markup:
    """One element; strings are escaped, None is left out.

    Attributes: `class_` is class, `data_value` data-value; True is an attribute without a value, None and False none.
    """
    names = ((name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items())
    parts = [
        f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
        for name, value in names
        if value is not None and value is not False
    ]
    start = f"<{tag}{''.join(parts)}>"
    return Markup(start if tag in VOID else f"{start}{join(content).text}</{tag}>")


def join(content: Iterable[Content]) -> Markup:
    """Several pieces in a row; strings are escaped, None is left out."""
    pieces = (piece.text if isinstance(piece, Markup) else html.escape(piece) for piece in content if piece is not None)
    return Markup("".join(pieces))


def breakable(name: str) -> Markup:
    """A name of an ONNX node, which may go on in a new line behind each slash."""
    first, *others = name.split("/")
    return join([first, *(piece for part in others for piece in ("/", element("wbr"), part))])


def data_block(identifier: str, value: Any) -> Markup:
    """A JSON value that scripts of the page read; nothing in it can end the block."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')
