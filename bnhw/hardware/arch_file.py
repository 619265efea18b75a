"""Descriptions of engines: TOML files, and the ones that come with the package."""

import tomllib
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from bnhw.errors import BadInput
from bnhw.hardware.arch import Arch, arch_from_values

MAX_BYTES = 1 << 20
"""No description is larger."""


def shipped_archs() -> tuple[str, ...]:
    """The names of the engines that come with the package."""
    folder = resources.files("bnhw.hardware") / "archs"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_arch(name_or_path: str | Path) -> Arch:
    """The shipped engine of this name, or the one that a TOML file describes.

    `NAME:PARAMETER=VALUE,...` is that engine with other parameters: `engine-16x64:post=multiply,weights.words=32768`.
    Raises BadInput if there is no such engine, or with every problem of the description.
    """
    text = str(name_or_path)
    name, colon, changes = text.rpartition(":")
    if colon and "=" in changes and not Path(name_or_path).exists():
        return load_arch(name).with_options(**_options(text, changes), name=text)
    if str(name_or_path) in shipped_archs():
        shipped = resources.files("bnhw.hardware") / "archs" / f"{name_or_path}.toml"
        return parse_arch(shipped.read_text(encoding="utf-8"), str(name_or_path))
    path = Path(name_or_path)
    if not path.is_file():
        raise BadInput(
            f"engine {str(name_or_path)!r}: no such file, and none of the shipped engines: {', '.join(shipped_archs())}"
        )
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise BadInput(f"{path}: larger than {MAX_BYTES} bytes; the description of an engine is expected")
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read as text: {error}") from error
    return parse_arch(text, path.stem)


def _options(text: str, changes: str) -> dict[str, Any]:
    """`post=csd,weights.words=9` as `Arch.with_options` takes it: numbers, words, and a table of memories."""
    options: dict[str, Any] = {}
    memories: dict[str, dict[str, object]] = {}
    for change in changes.split(","):
        name, equals, value = (part.strip() for part in change.partition("="))
        if not (name and equals and value):
            raise BadInput(f"engine {text!r}: {change!r} is no parameter; PARAMETER=VALUE is expected between commas")
        memory, dot, field = name.partition(".")
        if dot:
            memories.setdefault(memory, {})[field] = _value(value)
        else:
            options[name] = _value(value)
    return {**options, "memories": memories} if memories else options


def _value(text: str) -> object:
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


def parse_arch(text: str, name: str) -> Arch:
    """The engine that TOML text describes. Raises BadInput with every problem of it."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(f"engine {name!r}: no TOML: {error}") from error
    return arch_from_values(name, values)
