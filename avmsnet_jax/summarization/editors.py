"""The cut in the formats of editing programs; each file refers to the film by its path and timecode.

EDL, FCPXML and FCP 7 XML are written here, because OpenTimelineIO's adapters fall short: the one for EDL does not mark
drop-frame timecode and omits the sound, the one for FCP 7 XML writes empty audio items, the one for FCPXML does not
know 23.976 frames a second and runs ffprobe, and the one for MLT counts from the timecode instead of the first frame.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from avmsnet_jax.clock import clock
from avmsnet_jax.errors import printable
from avmsnet_jax.media import timecode
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.timecode import Timecode
from avmsnet_jax.scoring.film import Watched
from avmsnet_jax.summarization.cut import Take

EDL, FCPXML, FCP7, OTIO = "summary.edl", "summary.fcpxml", "summary.xml", "summary.otio"
_SLOWEST, _SLOW = 1, Fraction(25)  # films with less than 1 frame a second are counted at 25
_NEAR = 0.01  # largest relative difference of a film's rate from a standard one


@dataclasses.dataclass(frozen=True)
class Edit:
    """A stretch of the film in the summary; numbers are frames of the timeline.

    Attributes:
      name: the film's name and the time at which the stretch begins.
      first: its first frame in the film, from 0.
      at: its first frame in the summary, from 0.
      length: number of frames.
    """

    name: str
    first: int
    at: int
    length: int

    @property
    def stop(self) -> int:
        """The frame of the film after the last one."""
        return self.first + self.length


@dataclasses.dataclass(frozen=True)
class Timeline:
    """A film and the edits of its summary.

    Attributes:
      film: the file.
      rate: frames a second of all frame numbers here.
      timecode: the film's timecode at this rate.
      frames: length of the film.
      size: width and height, pixels.
      sound: sample rate, Hz, and channels; None without sound.
      edits: the stretches, in order.
    """

    film: Path
    rate: Fraction
    timecode: Timecode
    frames: int
    size: tuple[int, int]
    sound: tuple[int, int] | None
    edits: tuple[Edit, ...]

    @classmethod
    def of(cls, watched: Watched, takes: Sequence[Take]) -> "Timeline":
        """The timeline of a summary.

        Frames of a film with a constant rate near a standard one are counted one by one. Frames of other films are
        counted by their times.
        """
        scores, film = watched.scores, watched.scores.film
        rate = _rate(watched)
        by_number = watched.steady and abs(rate / watched.rate - 1) < _NEAR
        spans = [
            (take.first, take.stop) if by_number else (round(take.start_s * rate), round(take.end_s * rate))
            for take in takes
        ]
        lengths = [max(stop - first, 1) for first, stop in spans]
        edits = tuple(
            Edit(_text(f"{film.name} {clock(take.start_s)}"), first, at, length)
            for take, (first, _), at, length in zip(
                takes, spans, itertools.accumulate(lengths[:-1], initial=0), lengths, strict=True
            )
        )
        return cls(
            film=film.absolute(),
            rate=rate,
            timecode=timecode.read(watched.timecode.text(0), rate),
            frames=max(scores.n_frames if by_number else round(scores.duration_s * rate), edits[-1].stop),
            size=(scores.width, scores.height),
            sound=Movie(film).sound_format() if scores.has_sound else None,
            edits=edits,
        )

    @property
    def title(self) -> str:
        """The film's name."""
        return _text(" ".join(self.film.stem.split()))

    @property
    def length(self) -> int:
        """Length of the summary, frames."""
        return self.edits[-1].at + self.edits[-1].length


def write(watched: Watched, takes: Sequence[Take], folder: Path) -> None:
    """Writes `summary.edl`, `.fcpxml` and `.xml`, and `.otio` if OpenTimelineIO is installed."""
    timeline = Timeline.of(watched, takes)
    (folder / EDL).write_text(_edl(timeline), encoding="utf-8")
    for name, kind, content in ((FCPXML, "fcpxml", _fcpxml(timeline)), (FCP7, "xmeml", _fcp7(timeline))):
        ElementTree.indent(content)
        text = ElementTree.tostring(content, encoding="unicode")
        declaration = '<?xml version="1.0" encoding="UTF-8"?>'
        (folder / name).write_text(f"{declaration}\n<!DOCTYPE {kind}>\n{text}\n", encoding="utf-8")
    _write_otio(timeline, folder / OTIO)


def _rate(watched: Watched) -> Fraction:
    """The rate at which editing programs count a film's frames."""
    usual = watched.rate
    if not watched.steady:
        # The median step, because phones drop frames, which lowers the average rate.
        usual = 1 / Fraction(float(np.median(np.diff(watched.times_s))) or 1.0)
    if usual < _SLOWEST:
        return _SLOW
    return min((*timecode.STANDARD_RATES, Fraction(round(usual))), key=lambda rate: abs(rate / usual - 1))


def _text(text: str) -> str:
    return printable(text).replace("\ufffe", "").replace("\uffff", "")  # characters that XML cannot hold


def _edl(timeline: Timeline) -> str:
    """An edit decision list (CMX 3600): source times in the film's own timecode, record times from 0.

    At rates such as 23.976 frames a second, timecode counts at the nearest integer rate, as is usual.
    """
    counted = timeline.timecode
    lines = [f"TITLE: {timeline.title}", f"FCM: {'' if counted.drop else 'NON-'}DROP FRAME", ""]
    for number, edit in enumerate(timeline.edits, start=1):
        source = (counted.text(frame) for frame in (edit.first, edit.stop))
        placed = (counted.text(frame, start=0) for frame in (edit.at, edit.at + edit.length))
        lines += [
            f"{number:03d}  AX       {'AA/V' if timeline.sound else 'V':5} C        {' '.join([*source, *placed])}",
            f"* FROM CLIP NAME: {_text(timeline.film.name)}",
        ]
    return "\n".join(lines) + "\n"


def _fcpxml(timeline: Timeline) -> ElementTree.Element:
    """FCPXML 1.10, for Final Cut Pro and Resolve; valid by Apple's document type definition."""
    counted = "DF" if timeline.timecode.drop else "NDF"

    def seconds(frames: int) -> str:
        time = frames / timeline.rate
        return f"{time.numerator}/{time.denominator}s" if time.denominator > 1 else f"{time.numerator}s"

    root = ElementTree.Element("fcpxml", version="1.10")
    resources = ElementTree.SubElement(root, "resources")
    width, height = map(str, timeline.size)
    ElementTree.SubElement(resources, "format", id="r1", frameDuration=seconds(1), width=width, height=height)
    asset = ElementTree.SubElement(
        resources,
        "asset",
        id="r2",
        name=_text(timeline.film.name),
        start=seconds(timeline.timecode.start),
        duration=seconds(timeline.frames),
        format="r1",
        hasVideo="1",
        videoSources="1",
    )
    if timeline.sound:
        sample_rate, channels = map(str, timeline.sound)
        asset.attrib |= {"hasAudio": "1", "audioSources": "1", "audioChannels": channels, "audioRate": sample_rate}
    ElementTree.SubElement(asset, "media-rep", kind="original-media", src=timeline.film.as_uri())
    project = ElementTree.SubElement(ElementTree.SubElement(root, "event", name=timeline.title), "project")
    project.set("name", timeline.title)
    sequence = ElementTree.SubElement(
        project, "sequence", format="r1", duration=seconds(timeline.length), tcStart="0s", tcFormat=counted
    )
    spine = ElementTree.SubElement(sequence, "spine")
    for edit in timeline.edits:
        ElementTree.SubElement(
            spine,
            "asset-clip",
            ref="r2",
            name=edit.name,
            offset=seconds(edit.at),
            start=seconds(timeline.timecode.start + edit.first),
            duration=seconds(edit.length),
            format="r1",
            tcFormat=counted,
        )
    return root


def _fcp7(timeline: Timeline) -> ElementTree.Element:
    """FCP 7 XML (xmeml 4), for Premiere and Resolve: a video track, and an audio track for each channel, at most 2."""
    rate = {"timebase": round(timeline.rate), "ntsc": str(timeline.rate.denominator == 1001).upper()}
    width, height = timeline.size
    picture = {"samplecharacteristics": {"rate": rate, "width": width, "height": height}}
    media: dict[str, object] = {"video": picture}
    if timeline.sound:
        sample_rate, channels = timeline.sound
        media["audio"] = {
            "samplecharacteristics": {"depth": 16, "samplerate": sample_rate},
            "channelcount": channels,
        }
    file = {
        "name": _text(timeline.film.name),
        "pathurl": timeline.film.as_uri(),
        "rate": rate,
        "duration": timeline.frames,
        "timecode": _fcp7_timecode(timeline, timeline.timecode.start, rate),
        "media": media,
    }
    tracks = [
        "video",
        *(f"audio{channel}" for channel in range(1, 1 + min(timeline.sound[1] if timeline.sound else 0, 2))),
    ]
    root = ElementTree.Element("xmeml", version="4")
    sequence = ElementTree.SubElement(root, "sequence", id="sequence-1")
    _add(sequence, {"name": timeline.title, "duration": timeline.length, "rate": rate})
    _add(sequence, {"timecode": _fcp7_timecode(timeline, 0, rate)})
    content = ElementTree.SubElement(sequence, "media")
    _add(content, {"video": {"format": picture}})
    if timeline.sound:
        ElementTree.SubElement(content, "audio")
    for place, track in enumerate(tracks):
        kind = track.rstrip("12")
        element = ElementTree.SubElement(content[min(place, 1)], "track")
        for number, edit in enumerate(timeline.edits, start=1):
            item = ElementTree.SubElement(element, "clipitem", id=f"{track}-{number}")
            _add(item, {"name": edit.name, "duration": timeline.frames, "rate": rate})
            _add(item, {"start": edit.at, "end": edit.at + edit.length, "in": edit.first, "out": edit.stop})
            _add(ElementTree.SubElement(item, "file", id="file-1"), file if (place, number) == (0, 1) else {})
            _add(item, {"sourcetrack": {"mediatype": kind, "trackindex": max(place, 1)}})
            for other_place, other in enumerate(tracks):
                link = {"linkclipref": f"{other}-{number}", "mediatype": other.rstrip("12")}
                _add(item, {"link": link | {"trackindex": max(other_place, 1), "clipindex": number}})
    return root


def _fcp7_timecode(timeline: Timeline, frame: int, rate: dict[str, object]) -> dict[str, object]:
    drop = timeline.timecode.drop
    text = timeline.timecode.text(frame, start=0)
    return {"rate": rate, "string": text, "frame": frame, "displayformat": "DF" if drop else "NDF"}


def _add(parent: ElementTree.Element, content: dict[str, object]) -> None:
    """Adds elements by name, with text or child elements."""
    for name, value in content.items():
        element = ElementTree.SubElement(parent, name)
        if isinstance(value, dict):
            _add(element, value)
        else:
            element.text = str(value)


def _write_otio(timeline: Timeline, path: Path) -> None:
    """Writes an OpenTimelineIO timeline, if the package is installed: a video and, with sound, an audio track."""
    try:
        import opentimelineio as otio
    except ImportError:
        return

    def span(first: int, length: int) -> "otio.opentime.TimeRange":
        return otio.opentime.TimeRange(
            *(otio.opentime.RationalTime(frames, float(timeline.rate)) for frames in (first, length))
        )

    start = timeline.timecode.start
    found = otio.schema.Timeline(name=timeline.title)
    for kind in [otio.schema.TrackKind.Video, *[otio.schema.TrackKind.Audio] * (timeline.sound is not None)]:
        track = otio.schema.Track(name=kind, kind=kind)
        for edit in timeline.edits:
            media = otio.schema.ExternalReference(timeline.film.as_uri(), span(start, timeline.frames))
            track.append(otio.schema.Clip(edit.name, media, span(start + edit.first, edit.length)))
        found.tracks.append(track)
    otio.adapters.write_to_file(found, str(path))
