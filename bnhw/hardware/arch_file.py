"""Descriptions of engines: TOML files, and the ones that come with the package."""

import os
import tomllib
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from bnhw.errors import BadInput
from bnhw.files import read_file
from bnhw.hardware.arch import Arch, arch_from_values
from bnhw.hardware.arch_rules import PARAMETERS, TABLES, unknown_key

MAX_BYTES = 1 << 20
"""No description is larger."""


def shipped_archs() -> tuple[str, ...]:
    """The names of the engines that come with the package."""
    folder = resources.files("bnhw.hardware") / "archs"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def load_arch(name_or_path: str | Path) -> Arch:
    """The shipped engine of this name, or the one that a TOML file describes.

    `NAME:PARAMETER=VALUE,...` is that engine with other parameters, such as
    `engine-16x64:post=multiply,weights.words=32768,dram.overlap=false`.
    Raises BadInput if there is no such engine, or with every problem of the description.
    """
    text = str(name_or_path)
    name, colon, changes = text.rpartition(":")
    if colon and "=" in changes and not os.path.lexists(text):
        return load_arch(name).with_options(**_options(text, changes), name=text)
    if str(name_or_path) in shipped_archs():
        shipped = resources.files("bnhw.hardware") / "archs" / f"{name_or_path}.toml"
        return parse_arch(shipped.read_text(encoding="utf-8"), str(name_or_path))
    path = Path(name_or_path)
    if not os.path.isfile(path):  # noqa: PTH113  # False for names that no file system takes, too
        raise BadInput(f"engine {text!r}: no such file, and none of the shipped engines: {', '.join(shipped_archs())}")
    try:
        content = read_file(path, missing="give the description of an engine", max_bytes=MAX_BYTES).decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: cannot be read as text: {error}") from error
    return parse_arch(content, path.stem)


def _options(text: str, changes: str) -> dict[str, Any]:
    """`post=csd,weights.words=9` as `Arch.with_options` takes it: numbers, words, and tables of memories and `dram`."""
    options: dict[str, Any] = {}
    memories: dict[str, dict[str, object]] = {}
    given = set()
    for change in changes.split(","):
        name, equals, value = (part.strip() for part in change.partition("="))
        if not (name and equals and value):
            raise BadInput(f"engine {text!r}: {change!r} is no parameter; PARAMETER=VALUE is expected between commas")
        if name in given:
            raise BadInput(f"engine {text!r}: {name} is given twice; give it once")
        given.add(name)
        table, dot, field = name.removeprefix("memories.").partition(".")
        if name == "name" or (not dot and name in TABLES):
            raise BadInput(f"engine {text!r}: {unknown_key(name, '', tuple(PARAMETERS))}")
        if table == "dram" and dot:
            options.setdefault(table, {})[field] = _value(value)
        elif dot:
            memories.setdefault(table, {})[field] = _value(value)
        else:
            options[name] = _value(value)
    return {**options, "memories": memories} if memories else options


def _value(text: str) -> object:
    """As TOML writes it, but texts without quotes."""
    if text in ("true", "false"):
        return text == "true"
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
