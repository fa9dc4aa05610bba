"""What a shared library for Linux needs: the names of libraries, and the versions of their symbols."""

from __future__ import annotations

import struct
from dataclasses import dataclass

_SECTION = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, address, offset, size, link, info, alignment, entry size
_DYNAMIC, _DYNAMIC_SYMBOLS, _NEEDED_VERSIONS = 6, 11, 0x6FFFFFFE  # types of sections
_NEEDED = 1  # tag of an entry in the dynamic section


@dataclass(frozen=True)
class Requirements:
    """Of a 64-bit little-endian ELF file.

    Attributes:
        libraries: names of the libraries that it needs.
        versions: versions of symbols that it needs, such as GLIBC_2.17.
        exported: names of the symbols that it defines for others.
    """

    libraries: frozenset[str]
    versions: frozenset[str]
    exported: frozenset[str]


def requirements(data: bytes) -> Requirements:
    """Read the requirements from the contents of the file."""
    assert data[:6] == b"\x7fELF\x02\x01"
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [_SECTION.unpack_from(data, start + i * size) for i in range(count)]
    libraries, versions, exported = set(), set(), set()
    for _, kind, _, _, offset, length, link, info, _, _ in sections:
        strings = sections[link][4] if link < count else 0
        if kind == _DYNAMIC:
            entries = struct.iter_unpack("<qQ", data[offset : offset + length])
            libraries |= {_text(data, strings + value) for tag, value in entries if tag == _NEEDED}
        elif kind == _DYNAMIC_SYMBOLS:
            for name, bits, _, section, _, _ in struct.iter_unpack("<IBBHQQ", data[offset : offset + length]):
                if section and bits >> 4:  # defined, and not local
                    exported.add(_text(data, strings + name))
        elif kind == _NEEDED_VERSIONS:
            for _ in range(info):
                _, entries, _, first, following = struct.unpack_from("<HHIII", data, offset)
                at = offset + first
                for _ in range(entries):
                    _, _, _, name, after = struct.unpack_from("<IHHII", data, at)
                    versions.add(_text(data, strings + name))
                    at += after
                offset += following
    return Requirements(frozenset(libraries), frozenset(versions), frozenset(exported))


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
