"""The cut for editors: an edit decision list and an OpenTimelineIO timeline that conform the summary from the film."""

from collections.abc import Sequence
from pathlib import Path

from avmsnet_jax.clock import clock
from avmsnet_jax.summarize.cut import Take
from avmsnet_jax.summarize.score import Watched

EDL, OTIO = "summary.edl", "summary.otio"


def write_edl(watched: Watched, takes: Sequence[Take], path: Path) -> None:
    """Writes an edit decision list (CMX 3600). Its timecode counts frames from 0 at the film's first, and drops none.

    At 23.976 frames a second and the like timecode counts as at the nearest whole rate, as everywhere.
    """
    scores, rate = watched.scores, round(watched.rate)
    channels = "AA/V" if scores.has_sound else "V"
    lines = [f"TITLE: {' '.join(scores.film.stem.split())}", "FCM: NON-DROP FRAME", ""]
    record = 0
    for number, (start, length) in enumerate(_frames(watched, takes), start=1):
        times = (_timecode(frame, rate) for frame in (start, start + length, record, record + length))
        lines += [
            f"{number:03d}  AX       {channels:5} C        {' '.join(times)}",
            f"* FROM CLIP NAME: {scores.film.name}",
        ]
        record += length
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_otio(watched: Watched, takes: Sequence[Take], path: Path) -> bool:
    """Writes an OpenTimelineIO timeline with a track of picture and, where there is sound, one of sound.

    Returns:
      False where OpenTimelineIO (the extra `editors`) is not installed, and nothing is written.
    """
    try:
        import opentimelineio as otio
    except ImportError:
        return False
    scores, rate = watched.scores, float(watched.rate)

    def span(start: int, length: int) -> "otio.opentime.TimeRange":
        return otio.opentime.TimeRange(
            otio.opentime.RationalTime(start, rate), otio.opentime.RationalTime(length, rate)
        )

    timeline = otio.schema.Timeline(name=scores.film.stem)
    kinds = [otio.schema.TrackKind.Video, *[otio.schema.TrackKind.Audio] * scores.has_sound]
    for kind in kinds:
        track = otio.schema.Track(name=kind, kind=kind)
        for take, (start, length) in zip(takes, _frames(watched, takes), strict=True):
            media = otio.schema.ExternalReference(scores.film.absolute().as_uri(), span(0, scores.n_frames))
            track.append(otio.schema.Clip(f"{scores.film.name} {clock(take.start_s)}", media, span(start, length)))
        timeline.tracks.append(track)
    otio.adapters.write_to_file(timeline, str(path))
    return True


def _frames(watched: Watched, takes: Sequence[Take]) -> list[tuple[int, int]]:
    """First frame, from 0, and length of each take, in frames of the film's rate."""
    spans = [(round(take.start_s * watched.rate), round(take.end_s * watched.rate)) for take in takes]
    return [(start, max(end - start, 1)) for start, end in spans]


def _timecode(frame: int, rate: int) -> str:
    second, frame = divmod(frame, rate)
    return f"{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}:{frame:02d}"
