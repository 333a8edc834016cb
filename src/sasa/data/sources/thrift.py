"""Thrift's compact protocol, as far as the headers of parquet's pages need it: numbers and structures of them."""

from typing import Any

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
INTEGERS = (4, 5, 6)
DEEPEST = 8

Fields = dict[int, Any]


def varint(content: bytes, at: int) -> tuple[int, int]:
    """(number, place after it): seven bits a byte, the lowest first.

    Raises:
        IndexError: the content ends before.
        ValueError: more than 64 bits.
    """
    number = shift = 0
    while True:
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def read_fields(content: bytes, at: int, depth: int = 0) -> tuple[Fields, int]:
    """(fields by number, place after them) of a structure; strings, lists and maps are stepped over.

    Raises:
        IndexError: the content ends before.
        ValueError: it is no such structure.
    """
    if depth > DEEPEST:
        raise ValueError("structures within structures without end")
    fields: Fields = {}
    number = 0
    while (head := content[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _signed(content, at)
        fields[number], at = _value(content, at, head & 15, depth)
    return fields, at + 1


def _signed(content: bytes, at: int) -> tuple[int, int]:
    number, at = varint(content, at)
    return (number >> 1) ^ -(number & 1), at


def _value(content: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == BYTE:
        return content[at], at + 1
    if kind in INTEGERS:
        return _signed(content, at)
    if kind == DOUBLE:
        return None, at + 8
    if kind == BINARY:
        size, at = varint(content, at)
        return None, at + size
    if kind == STRUCT:
        return read_fields(content, at, depth + 1)
    raise ValueError(f"a value of kind {kind}, which no page header has")
