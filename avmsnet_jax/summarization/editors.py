"""The cut for editing programs: an edit decision list and an OpenTimelineIO timeline that refer to the film."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from avmsnet_jax.clock import clock
from avmsnet_jax.errors import printable
from avmsnet_jax.scoring.film import Watched
from avmsnet_jax.summarization.cut import Take

EDL, OTIO = "summary.edl", "summary.otio"


def write_edl(watched: Watched, takes: Sequence[Take], path: Path) -> None:
    """Writes an edit decision list (CMX 3600): source times in the film's own timecode, record times from 0.

    At rates such as 23.976 frames a second, timecode counts at the nearest whole rate, as is usual.
    """
    scores, timecode = watched.scores, watched.timecode
    channels = "AA/V" if scores.has_sound else "V"
    lines = [
        f"TITLE: {printable(' '.join(scores.film.stem.split()))}",
        f"FCM: {'' if timecode.drop else 'NON-'}DROP FRAME",
        "",
    ]
    record = 0
    rate = watched.rate if watched.rate >= 1 else Fraction(timecode.base)
    for number, (start, length) in enumerate(_frames(takes, rate), start=1):
        source = (timecode.text(frame) for frame in (start, start + length))
        placed = (timecode.text(frame, start=0) for frame in (record, record + length))
        lines += [
            f"{number:03d}  AX       {channels:5} C        {' '.join([*source, *placed])}",
            f"* FROM CLIP NAME: {printable(scores.film.name)}",
        ]
        record += length
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_otio(watched: Watched, takes: Sequence[Take], path: Path) -> bool:
    """Writes an OpenTimelineIO timeline with a track of picture and, where there is sound, one of sound.

    Returns:
      False where OpenTimelineIO (the extra `editors`) is not installed; then nothing is written.
    """
    try:
        import opentimelineio as otio
    except ImportError:
        return False
    scores, rate, timecode = watched.scores, float(watched.rate), watched.timecode
    first = timecode.start if rate >= 1 else round(timecode.start * rate / timecode.base)

    def span(start: int, length: int) -> "otio.opentime.TimeRange":
        return otio.opentime.TimeRange(
            otio.opentime.RationalTime(first + start, rate), otio.opentime.RationalTime(length, rate)
        )

    timeline = otio.schema.Timeline(name=printable(scores.film.stem))
    kinds = [otio.schema.TrackKind.Video, *[otio.schema.TrackKind.Audio] * scores.has_sound]
    for kind in kinds:
        track = otio.schema.Track(name=kind, kind=kind)
        for take, (start, length) in zip(takes, _frames(takes, watched.rate), strict=True):
            media = otio.schema.ExternalReference(scores.film.absolute().as_uri(), span(0, scores.n_frames))
            track.append(
                otio.schema.Clip(f"{printable(scores.film.name)} {clock(take.start_s)}", media, span(start, length))
            )
        timeline.tracks.append(track)
    otio.adapters.write_to_file(timeline, str(path))
    return True


def _frames(takes: Sequence[Take], rate: Fraction) -> list[tuple[int, int]]:
    """First frame, from 0, and length of each take, at `rate` frames a second."""
    spans = [(round(take.start_s * rate), round(take.end_s * rate)) for take in takes]
    return [(start, max(end - start, 1)) for start, end in spans]
