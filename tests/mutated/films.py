"""Changes to films that know their containers: boxes, elements, chunks, packets, pages."""

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import PurePath

from tests.mutated.damage import damaged, number


@dataclasses.dataclass
class Part:
    """A box, element or chunk: its tag and its content, which may be a prefix and further parts.

    `claimed` is the length that it claims, where this is not its own. What follows the last whole part has no tag.
    """

    tag: bytes
    body: bytes = b""
    parts: "list[Part] | None" = None
    claimed: int | None = None

    def content(self, write: Callable[["list[Part]"], bytes]) -> bytes:
        """The bytes behind the header."""
        return self.body + (write(self.parts) if self.parts is not None else b"")


# --- ISO: mp4, mov, 3gp ---------------------------------------------------------------------------

# Boxes of boxes, with the length of what comes before the first.
_BOXES = dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"udta", b"mvex", b"moof"), 0)
_BOXES |= {b"traf": 0, b"dref": 8, b"stsd": 8}
# Where numbers lie in a box: times, scales, counts, sizes, the display matrix.
_FIELDS = {
    b"mvhd": (12, 16, 20, 36, 40, 52, 56),
    b"mdhd": (12, 16, 20),
    b"tkhd": (12, 20, 40, 44, 52, 56, 60, 72, 76, 80),
    b"elst": (4, 8, 12, 16),
    b"stts": (4, 8, 12),
    b"ctts": (4, 8, 12),
    b"stsc": (4, 8, 12, 16),
    b"stsz": (4, 8, 12, 16),
    b"stco": (4, 8),
    b"stss": (4, 8),
    b"dref": (4,),
    b"stsd": (4,),
    b"trun": (0, 4, 8, 12),
    b"tfhd": (0, 4, 8),
    b"avc1": (24, 32, 74),
    b"mp4a": (8, 16, 24),
}


def read_boxes(data: bytes) -> list[Part]:
    """The boxes of an mp4 file, or of a part of one."""
    parts, at = [], 0
    while at + 8 <= len(data):
        length, tag, header = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16]), 16
        if length < header or at + length > len(data):
            break
        content, prefix = data[at + header : at + length], _BOXES.get(tag)
        inside = None if prefix is None else read_boxes(content[prefix:])
        parts.append(Part(tag, content if prefix is None else content[:prefix], inside))
        at += length
    return parts + [Part(b"", data[at:])] * (at < len(data))


def write_boxes(parts: list[Part]) -> bytes:
    """The counterpart of `read_boxes`."""
    written = b""
    for part in parts:
        content = part.content(write_boxes)
        length = len(content) + 8 if part.claimed is None else part.claimed
        written += ((length % 2**32).to_bytes(4) + part.tag if part.tag else b"") + content
    return written


# --- Matroska: mkv, webm --------------------------------------------------------------------------

_MASTERS = (
    "1a45dfa3 18538067 114d9b74 4dbb 1549a966 1654ae6b ae e0 e1 1f43b675 a0 1c53bb6b bb b7 1254c367 7373 67c8 63c0"
)
_MASTER_TAGS = {bytes.fromhex(tag) for tag in _MASTERS.split()}


def read_elements(data: bytes) -> list[Part]:
    """The elements of a Matroska file, or of a part of one."""
    parts, at = [], 0
    while at < len(data):
        tag = data[at : at + max(9 - data[at].bit_length(), 1)]
        first = data[at + len(tag) : at + len(tag) + 1] or b"\0"
        width = 9 - first[0].bit_length()
        length = int.from_bytes(data[at + len(tag) : at + len(tag) + width]) & (1 << 7 * width) - 1
        start = at + len(tag) + width
        if len(tag) > 4 or width > 8 or start + length > len(data):
            break
        content = data[start : start + length]
        master = tag in _MASTER_TAGS
        parts.append(Part(tag, b"" if master else content, read_elements(content) if master else None))
        at = start + length
    return parts + [Part(b"", data[at:])] * (at < len(data))


def write_elements(parts: list[Part]) -> bytes:
    """The counterpart of `read_elements`; all lengths take eight bytes."""
    written = b""
    for part in parts:
        content = part.content(write_elements)
        length = len(content) if part.claimed is None else part.claimed
        written += (part.tag + (2**56 | length % 2**56).to_bytes(8) if part.tag else b"") + content
    return written


# --- RIFF: avi, wav -------------------------------------------------------------------------------


def read_chunks(data: bytes) -> list[Part]:
    """The chunks of a RIFF file, or of a part of one."""
    parts, at = [], 0
    while at + 8 <= len(data):
        tag, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data):
            break
        content = data[at + 8 : at + 8 + length]
        lists = tag in (b"RIFF", b"LIST")
        parts.append(Part(tag, content[:4] if lists else content, read_chunks(content[4:]) if lists else None))
        at += 8 + length + length % 2
    return parts + [Part(b"", data[at:])] * (at < len(data))


def write_chunks(parts: list[Part]) -> bytes:
    """The counterpart of `read_chunks`."""
    written = b""
    for part in parts:
        content = part.content(write_chunks)
        length = len(content) if part.claimed is None else part.claimed
        header = part.tag + (length % 2**32).to_bytes(4, "little") if part.tag else b""
        written += header + content + b"\0" * (len(content) % 2)
    return written


# --- changes --------------------------------------------------------------------------------------


def _each(parts: list[Part]) -> Iterator[tuple[list[Part], int]]:
    for index, part in enumerate(parts):
        yield parts, index
        if part.parts:
            yield from _each(part.parts)


def _change_tree(parts: list[Part], rng: random.Random, address: str) -> str:
    places = list(_each(parts))
    if not places:
        return "nothing left to change"
    siblings, index = rng.choice(places)
    part = siblings[index]
    name = part.tag.decode("latin-1") if part.tag.isalnum() else part.tag.hex()
    match rng.randrange(12):  # most often the last: lengths, times and counts
        case 0:
            del siblings[index]
            return f"{name} dropped"
        case 1:
            siblings[index:index] = [part] * rng.choice((1, 1, 30))
            return f"{name} repeated"
        case 2:
            other = rng.randrange(len(siblings))
            siblings[index], siblings[other] = siblings[other], part
            return f"{name} changed places"
        case 3:
            elsewhere, at = rng.choice(places)
            elsewhere.insert(at, dataclasses.replace(part, parts=None))
            return f"{name} put elsewhere too"
        case 4:
            part.claimed = int.from_bytes(number(rng, 7))
            return f"{name} claims {part.claimed} bytes"
        case 5:
            part.tag = rng.choice([sibling[at].tag for sibling, at in places])
            return f"{name} called {part.tag!r}"
        case 6 if part.body:
            part.body = address.encode()[: len(part.body)].ljust(len(part.body), b"\0")
            return f"{name} holds an address"
        case _:
            return _change_number(rng.choice(_numbered(places) or [part]), rng)


def _numbered(places: list[tuple[list[Part], int]]) -> list[Part]:
    parts = [siblings[index] for siblings, index in places]
    return [part for part in parts if part.tag in _FIELDS or 0 < len(part.body) <= 8]


def _change_number(part: Part, rng: random.Random) -> str:
    size = 4 if part.tag in _FIELDS else min(len(part.body), 8)
    at = rng.choice(_FIELDS.get(part.tag, (0,)))
    value = number(rng, size)
    part.body = part.body[:at] + value + part.body[at + size :]
    return f"{value.hex()} at {at} of {part.tag!r}"


def _refer(parts: list[Part], rng: random.Random, address: str) -> str:
    """The track's data are said to lie elsewhere."""
    references = [sib[at] for sib, at in _each(parts) if sib[at].tag == b"dref" and sib[at].parts]
    if not references:
        return _change_tree(parts, rng, address)
    kind = rng.choice((b"url ", b"alis", b"urn "))
    text = address.encode() + b"\0"
    if kind == b"alis":  # a QuickTime alias: lengths, names, and in tag 18 the path
        text = bytes(148) + (18).to_bytes(2) + len(text).to_bytes(2) + text + (0xFFFF).to_bytes(2) + bytes(2)
    rng.choice(references).parts = [Part(kind, bytes(4) + text)]
    return f"the data are said to lie at {address}"


_TREES = {
    ".mp4": (read_boxes, write_boxes),
    ".mov": (read_boxes, write_boxes),
    ".mkv": (read_elements, write_elements),
    ".webm": (read_elements, write_elements),
    ".avi": (read_chunks, write_chunks),
    ".wav": (read_chunks, write_chunks),
}
# What packets, pages and start codes begin with.
_MARKS = {".ts": b"\x47", ".mpg": b"\0\0\1", ".ogv": b"OggS", ".mxf": b"\x06\x0e\x2b\x34", ".gif": b"\x21\xf9"}


def _change_units(data: bytes, suffix: str, rng: random.Random) -> tuple[bytes, str]:
    mark = _MARKS[suffix]
    if suffix == ".ts":
        units = [data[at : at + 188] for at in range(0, len(data), 188)]
    else:
        units = [mark + unit for unit in data.split(mark)]
        units[0] = units[0][len(mark) :]
    index = int(len(units) * rng.random() ** 2)
    other = rng.randrange(len(units))
    match rng.randrange(5):
        case 0:
            del units[index]
            what = "dropped"
        case 1:
            units[index:index] = [units[index]] * rng.choice((1, 40))
            what = "repeated"
        case 2:
            units[index], units[other] = units[other], units[index]
            what = f"exchanged for unit {other}"
        case 3:
            units[index:other] = []
            what = f"to {other} dropped"
        case _:
            units[index], how = damaged(units[index], rng)
            what = f"of {len(units)}: {how}"
    return b"".join(units), f"unit {index} {what}"


def changed(data: bytes, name: str, rng: random.Random, address: str) -> tuple[bytes, str]:
    """A film of the container that the name's suffix says, changed in one to three ways.

    Args:
      data: the film.
      name: its name.
      rng: what decides.
      address: something that the film must not make anybody open: a URL, or a path.

    Returns:
      the changed film, and what was done to it, in words.
    """
    suffix, told = PurePath(name).suffix, []
    if suffix in _TREES and rng.random() < 0.7:
        read, write = _TREES[suffix]
        parts = read(data)
        for _ in range(rng.choice((1, 1, 2, 3))):
            refers = rng.random() < 0.15 and suffix in (".mp4", ".mov")
            told.append((_refer if refers else _change_tree)(parts, rng, address))
        data = write(parts)
    elif suffix in _MARKS and rng.random() < 0.6:
        for _ in range(rng.choice((1, 2, 3))):
            data, what = _change_units(data, suffix, rng)
            told.append(what)
    if not told or rng.random() < 0.15:
        data, what = damaged(data, rng)
        told.append(what)
    return data, ", ".join(told)


# --- what is no film of its own -------------------------------------------------------------------

_DASH = (
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT5S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1" width="64" height="48">'
    "<BaseURL>{0}</BaseURL></Representation></AdaptationSet></Period></MPD>\n"
)
LISTS = {
    "a playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{0}\n#EXT-X-ENDLIST\n",
    "a playlist without an end": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{0}\n",
    "a list of playlists": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1000\n{0}\n",
    "a playlist with a key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXTINF:5,\n{0}\n#EXT-X-ENDLIST\n',
    "a playlist with a map": '#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-MAP:URI="{0}"\n#EXTINF:5,\n{0}\n#EXT-X-ENDLIST\n',
    "a list for concat": "ffconcat version 1.0\nfile '{0}'\n",
    "a description of a session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na={0}\n"
    "m=video {1} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "a DASH manifest": _DASH,
    "a list of Winamp's": "[playlist]\nFile1={0}\nNumberOfEntries=1\nVersion=2\n",
    "a list of Windows Media's": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>\n',
    "a subtitle index": "# VobSub index file, v7 (do not modify this line!)\nsize: 64x48\nid: en, index: 0\n# {0}\n",
    "an Avisynth script": 'DirectShowSource("{0}")\n',
}


def planted_list(rng: random.Random, address: str, port: int) -> tuple[bytes, str]:
    """A text that makes careless readers open `address`, and what it is."""
    what = rng.choice(sorted(LISTS))
    return LISTS[what].format(address, port).encode(), f"{what} that names {address}"
