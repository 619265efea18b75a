"""Pickled data without Python's unpickler: a small stack machine that knows what batches of images need.

It knows dicts, lists, tuples, bytes, text, integers, None, booleans and numpy arrays of integers, in the protocols 2
to 5. No name in a file is ever looked up or called: the five that numpy's arrays need stand in `NAMES`, any other is
refused, and so is every operation outside of `OPERATIONS`. Byte strings stay views of the file. Nested values are never
hashed, compared or printed, so that no nesting is too deep. https://docs.python.org/3/library/pickletools.html
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from math import prod
from typing import Any

import numpy as np

from bnhw.dtypes import Array

MAX_OPERATIONS = 1 << 20
"""No file of more operations is read; a batch of 50,000 images has some 200,000."""


class Refused(ValueError):  # noqa: N818 - what happened, as in bnhw/errors.py
    """The file asks for something that is not known here, or is damaged."""


class Name(Enum):
    """What a global name of a file stands for."""

    RECONSTRUCT = auto()
    FROM_BUFFER = auto()
    ARRAY = auto()
    TYPE = auto()
    ENCODE = auto()


NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): Name.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): Name.RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): Name.FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): Name.FROM_BUFFER,
    ("numpy", "ndarray"): Name.ARRAY,
    ("numpy", "dtype"): Name.TYPE,
    ("_codecs", "encode"): Name.ENCODE,
}

MAX_WORD_BYTES = 256
"""Keys, element types and byte orders are shorter."""

TYPES = {"u1": 1, "i4": 4, "i8": 8}
"""Element types of arrays and their bytes."""


@dataclass(slots=True)
class PickledType:
    """An element type; its byte order comes after it."""

    code: str
    order: str = "<"


@dataclass(slots=True)
class PickledArray:
    """An array; its values come after it."""

    values: Array | None = None


@dataclass(slots=True)
class _State:
    """The file, the place in it, and what was read so far."""

    data: memoryview
    at: int = 0
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    encoded: int = 0

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self.data) - self.at:
            raise Refused(f"it is cut off: {count} more bytes are announced, {len(self.data) - self.at} are there")
        self.at += count
        return self.data[self.at - count : self.at]

    def pop(self) -> Any:
        if not self.stack:
            raise Refused("it takes more values than it made")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.below:
            raise Refused("it takes more values than it made")
        values, self.stack = self.stack, self.below.pop()
        return values

    def top(self, kind: type[Any]) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Refused(f"it changes a {kind.__name__} where there is none")
        return self.stack[-1]


Operation = Callable[[_State], None]


def read_pickled_dict(data: bytes) -> dict[str, Any]:
    """The dict that `data` holds, with text for keys; arrays are numpy's, byte strings memoryviews.

    Raises Refused, which names the place, for anything but such a dict.
    """
    state = _State(memoryview(data))
    try:
        found = _run(state)
    except Refused as error:
        raise Refused(f"at byte {state.at}: {error}") from error
    if type(found) is not dict:
        raise Refused("it holds no dict")
    return {key: value.values if type(value) is PickledArray else value for key, value in found.items()}


def _run(state: _State) -> Any:
    for _ in range(MAX_OPERATIONS):
        code = state.take(1)[0]
        if code == ord("."):
            return state.pop()
        operation = OPERATIONS.get(code)
        if operation is None:
            raise Refused(f"operation {bytes((code,))!r} is not known; only plain data are read")
        operation(state)
    raise Refused(f"it has more than {MAX_OPERATIONS} operations")


# Numbers, bytes, text.


def _unsigned(size: int) -> Callable[[_State], int]:
    return lambda state: int.from_bytes(state.take(size), "little")


def _signed(size: int) -> Callable[[_State], int]:
    return lambda state: int.from_bytes(state.take(size), "little", signed=True)


def _bytes(length: Callable[[_State], int]) -> Callable[[_State], memoryview]:
    return lambda state: state.take(length(state))


def _text(length: Callable[[_State], int]) -> Callable[[_State], str]:
    return lambda state: _decoded(state.take(length(state)))


def _decoded(data: memoryview) -> str:
    try:
        return str(data, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise Refused("it holds text that is not UTF-8") from error


def _long(state: _State) -> int:
    return int.from_bytes(state.take(state.take(1)[0]), "little", signed=True)


def _line(state: _State) -> str:
    rest = state.data[state.at : state.at + 256].tobytes()
    end = rest.find(b"\n")
    if end < 0:
        raise Refused("it holds a name without an end")
    return _decoded(state.take(end + 1)[:-1])


def _remembered(index: Callable[[_State], int]) -> Callable[[_State], Any]:
    def get(state: _State) -> Any:
        key = index(state)
        if key not in state.memo:
            raise Refused(f"it takes value {key}, which it did not store")
        return state.memo[key]

    return get


def _push(value: Callable[[_State], Any]) -> Operation:
    return lambda state: state.stack.append(value(state))


# What changes the stack.


def _mark(state: _State) -> None:
    state.below.append(state.stack)
    state.stack = []


def _tuple(size: int) -> Operation:
    def build(state: _State) -> None:
        values = [state.pop() for _ in range(size)]
        state.stack.append(tuple(reversed(values)))

    return build


def _tuple_to_mark(state: _State) -> None:
    values = state.pop_to_mark()
    state.stack.append(tuple(values))


def _append(state: _State) -> None:
    value = state.pop()
    state.top(list).append(value)


def _appends(state: _State) -> None:
    values = state.pop_to_mark()
    state.top(list).extend(values)


def _set_item(state: _State) -> None:
    value, key = state.pop(), state.pop()
    state.top(dict)[_key(key)] = value


def _set_items(state: _State) -> None:
    values = state.pop_to_mark()
    if len(values) % 2:
        raise Refused("it holds a key without a value")
    state.top(dict).update(zip(map(_key, values[::2]), values[1::2], strict=True))


def _key(key: Any) -> str:
    if type(key) not in (str, memoryview):
        raise Refused(f"a key is a {type(key).__name__}; text is expected")
    return _word(key)


def _word(value: str | memoryview) -> str:
    """Short text. A value can be taken again and again: without the limit a small file would keep us busy for days."""
    if len(value) > MAX_WORD_BYTES:
        raise Refused(f"a name has {len(value)} bytes, at most {MAX_WORD_BYTES} are read")
    return value if isinstance(value, str) else _decoded(value)


def _remember(index: Callable[[_State], int]) -> Operation:
    def put(state: _State) -> None:
        if not state.stack:
            raise Refused("it stores a value that it did not make")
        state.memo[index(state)] = state.stack[-1]

    return put


# Names, and the few calls that stand for arrays.


def _name(module: Any, name: Any) -> Name:
    known = NAMES.get((module, name)) if type(module) is str and type(name) is str else None
    if known is None:
        asked = f"{module[:80]}.{name[:80]}" if type(module) is str and type(name) is str else "a name of another kind"
        raise Refused(f"it asks for {asked!r}, which is never loaded")
    return known


def _stack_name(state: _State) -> None:
    name, module = state.pop(), state.pop()
    state.stack.append(_name(module, name))


def _call(state: _State) -> None:
    arguments, function = state.pop(), state.pop()
    match function, arguments:
        case Name.RECONSTRUCT, (Name.ARRAY, (0,), memoryview()):
            state.stack.append(PickledArray())
        case Name.FROM_BUFFER, (memoryview() as data, PickledType() as kind, tuple() as shape, "C" | "F" as order):
            state.stack.append(PickledArray(_array(data, kind, shape, by_columns=order == "F")))
        case Name.TYPE, (memoryview() | str() as code, *_):
            text = _word(code)
            if text not in TYPES:
                raise Refused(f"it holds an array of {text[:20]!r}; one of {', '.join(TYPES)} is expected")
            state.stack.append(PickledType(text))
        case Name.ENCODE, (str() as text, "latin1"):
            state.stack.append(_encode(state, text))
        case _:
            raise Refused("it makes a call that no array needs")


def _encode(state: _State, text: str) -> memoryview:
    """The bytes that protocol 2 writes as text; all together no more than the file has."""
    state.encoded += len(text)
    if state.encoded > len(state.data):
        raise Refused("it makes more bytes than it holds")
    try:
        return memoryview(text.encode("latin-1"))
    except UnicodeEncodeError as error:
        raise Refused("it holds bytes above 255") from error


def _build(state: _State) -> None:
    details = state.pop()
    target = state.stack[-1] if state.stack else None
    match target, details:
        case PickledType(), (3, memoryview() | str() as order, None, None, None, -1, -1, 0):
            text = _word(order)
            if text not in ("|", "<", ">") or (text == "|") != (target.code == "u1"):
                raise Refused("it holds an array of unknown byte order")
            target.order = text
        case PickledArray(), (1, tuple() as shape, PickledType() as kind, bool() as by_columns, memoryview() as data):
            target.values = _array(data, kind, shape, by_columns=by_columns)
        case _:
            raise Refused("it changes a value in a way that no array needs")


def _array(data: memoryview, kind: PickledType, shape: tuple[Any, ...], *, by_columns: bool) -> Array:
    if not 1 <= len(shape) <= 4 or any(type(length) is not int or length < 0 for length in shape):
        raise Refused("it holds an array whose shape is not 1 to 4 lengths")
    if prod(shape) * TYPES[kind.code] != len(data):
        raise Refused(f"it holds an array of shape {_short(shape)} and type {kind.code}, but {len(data)} bytes for it")
    dtype = np.dtype(kind.order + kind.code)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def _short(shape: tuple[int, ...]) -> str:
    return "x".join(str(length) if length < 10**12 else "huge" for length in shape)


_U1, _U2, _U4, _U8 = _unsigned(1), _unsigned(2), _unsigned(4), _unsigned(8)

_TABLE: dict[bytes, Operation] = {
    b"\x80": lambda state: _protocol(state.take(1)[0]),
    b"\x95": lambda state: _frame(_U8(state)),
    b"N": _push(lambda _: None),
    b"\x88": _push(lambda _: True),
    b"\x89": _push(lambda _: False),
    b"J": _push(_signed(4)),
    b"K": _push(_U1),
    b"M": _push(_U2),
    b"\x8a": _push(_long),
    b"U": _push(_bytes(_U1)),
    b"T": _push(_bytes(_signed(4))),
    b"C": _push(_bytes(_U1)),
    b"B": _push(_bytes(_U4)),
    b"\x8e": _push(_bytes(_U8)),
    b"\x96": _push(_bytes(_U8)),
    b"\x8c": _push(_text(_U1)),
    b"X": _push(_text(_U4)),
    b"\x8d": _push(_text(_U8)),
    b"]": _push(lambda _: []),
    b"}": _push(lambda _: {}),
    b")": _push(lambda _: ()),
    b"(": _mark,
    b"t": _tuple_to_mark,
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"a": _append,
    b"e": _appends,
    b"s": _set_item,
    b"u": _set_items,
    b"q": _remember(_U1),
    b"r": _remember(_U4),
    b"\x94": _remember(lambda state: len(state.memo)),
    b"h": _push(_remembered(_U1)),
    b"j": _push(_remembered(_U4)),
    b"c": _push(lambda state: _name(_line(state), _line(state))),
    b"\x93": _stack_name,
    b"R": _call,
    b"b": _build,
}

OPERATIONS: dict[int, Operation] = {code[0]: operation for code, operation in _TABLE.items()}
"""What every operation does, by its code in the file."""


def _protocol(number: int) -> None:
    if not 2 <= number <= 5:
        raise Refused(f"it is of protocol {number}; 2 to 5 are read")


def _frame(length: int) -> None:
    """Frames are for readers of streams; the whole file is here."""
