"""Reads the captions of a film, from a file beside it or a text track in it, and writes WebVTT."""

import dataclasses
import functools
import html
import itertools
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import pysubs2
from av.stream import Disposition
from av.subtitles.subtitle import AssSubtitle

from avmsnet_jax import regular_file
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.opening import open_film
from avmsnet_jax.media.tracks import demux

_SUFFIXES = (".srt", ".vtt", ".ass")
_TEXT_CODECS = {"subrip", "srt", "ass", "ssa", "mov_text", "webvtt", "text"}
_MOST_BYTES, _MOST_CUES = 20_000_000, 50_000  # per file; a two-hour film has 2,000 cues
_LONGEST_TEXT = 1000  # characters of a cue
_UNSAID_S = 3.0  # display time of a cue without a duration


@dataclasses.dataclass(frozen=True)
class Cue:
    r"""A caption.

    Attributes:
      start_s: when it appears, seconds.
      end_s: when it disappears.
      text: in ASS's notation: `\N` ends a line, `{\i1}` begins italics.
    """

    start_s: float
    end_s: float
    text: str


class Captions(NamedTuple):
    """The captions of a film, in order of time.

    Attributes:
      cues: the captions.
      source: where they come from, in words.
      problem: why they are left out; empty = they are not.
    """

    cues: tuple[Cue, ...] = ()
    source: str = ""
    problem: str = ""


def read(film: Path) -> Captions:
    """Reads `FILM.srt`, `.vtt` or `.ass` beside a film, or else its text track. Never raises for bad captions."""
    for suffix in _SUFFIXES:
        path = film.with_suffix(suffix)
        if path.exists():
            found = _captions(path.name, functools.partial(_from_file, path))
            if not found.cues and not found.problem:
                as_what = suffix.removeprefix(".").upper()
                return found._replace(problem=f"{path.name} left out: it holds no captions; save it as {as_what}")
            return found
    return _captions("a text track of the film", functools.partial(_from_track, film))


def one_at_a_time(cues: Sequence[Cue]) -> list[Cue]:
    """The cues for a track that shows one at a time: cues that overlap become one, line under line."""
    times = sorted({time for cue in cues for time in (cue.start_s, cue.end_s)})
    waiting, active, found = sorted(cues, key=lambda cue: cue.start_s, reverse=True), list[Cue](), list[Cue]()
    for start_s, end_s in itertools.pairwise(times):
        active = [cue for cue in active if cue.end_s > start_s]
        while waiting and waiting[-1].start_s <= start_s:
            active.append(waiting.pop())
        if active:
            found.append(Cue(start_s, end_s, r"\N".join(cue.text for cue in active)[:_LONGEST_TEXT]))
    return found


def markup(cue: Cue) -> str:
    """The text of a cue in WebVTT's notation."""
    # The text comes after the header, the number and the times.
    *_, text = _vtt([dataclasses.replace(cue, start_s=0, end_s=1)]).split("\n", 4)
    return text.strip()


def write(cues: Sequence[Cue], path: Path) -> None:
    """Writes WebVTT."""
    path.write_text(_vtt(cues), encoding="utf-8")


def _vtt(cues: Sequence[Cue]) -> str:
    file = pysubs2.SSAFile()
    for cue in cues:
        text = html.escape(cue.text.replace("-->", "→"), quote=False)
        file.append(pysubs2.SSAEvent(start=round(1000 * cue.start_s), end=round(1000 * cue.end_s), text=text))
    return file.to_string("vtt")


def _captions(source: str, found: Callable[[], Iterator[Cue]]) -> Captions:
    try:
        cues = [cue for cue in found() if cue.end_s > max(cue.start_s, 0) and cue.text.strip()]
    except (UserError, av.FFmpegError) as error:
        return Captions((), source, f"{source} left out: {error}")
    except Exception as error:  # the parser raises exceptions of any type for damaged files
        return Captions((), source, f"{source} left out: it cannot be read ({type(error).__name__})")
    if len(cues) > _MOST_CUES:
        return Captions((), source, f"{source} left out: it has more than {_MOST_CUES} captions")
    return Captions(tuple(sorted(cues, key=lambda cue: cue.start_s)), source)


def _from_file(path: Path) -> Iterator[Cue]:
    regular_file.check(path)
    if path.stat().st_size > _MOST_BYTES:
        raise UserError(f"it has more than {_MOST_BYTES / 1e6:.0f} MB")
    kind = path.suffix.removeprefix(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about unreadable fields
        file = pysubs2.SSAFile.from_string(_decoded(path.read_bytes()), format_=kind)
    for event in file.get_text_events():
        # pysubs2 appends text between two cues, such as cue names and comments, to the first cue.
        text = event.text if kind == "ass" else event.text.split(r"\N\N")[0]
        yield _cue(event.start / 1000, event.end / 1000, html.unescape(text) if kind == "vtt" else text)


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")  # Windows' Latin-1


def _from_track(film: Path) -> Iterator[Cue]:
    first = Movie(film).info().stamp_s or 0
    with open_film(film) as container:
        streams = [each for each in container.streams.subtitles if each.codec_context]
        streams = [each for each in streams if each.codec_context.name in _TEXT_CODECS]
        if not streams:
            return
        stream = max(streams, key=lambda each: bool(each.disposition & Disposition.default))
        for packet in demux(container, stream):
            if packet.pts is None or not packet.size or packet.time_base is None:
                continue
            start_s = float(packet.pts * packet.time_base - first)
            lasts_s = float(packet.duration * packet.time_base) if packet.duration else _UNSAID_S
            for part in packet.decode():
                if isinstance(part, AssSubtitle):
                    *_, text = part.ass.decode("utf-8", "replace").split(",", 8)
                    yield _cue(start_s, start_s + lasts_s, text)


def _cue(start_s: float, end_s: float, text: str) -> Cue:
    seen = "".join(letter for letter in text.replace("\n", r"\N") if unicodedata.category(letter) != "Cc")
    return Cue(max(start_s, 0.0), end_s, r"\N".join(filter(None, map(str.strip, seen.split(r"\N"))))[:_LONGEST_TEXT])
