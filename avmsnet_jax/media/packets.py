"""Measures a film by its packets, without decoding: frame rate and length, as headers may be wrong, and gaps."""

import dataclasses
import math
import os
from fractions import Fraction

import av

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.opening import open_film
from avmsnet_jax.media.tracks import Tracks, demux, required_picture

_LOW_FPS, _PROBED = 24, 100  # lower rates in a header are compared with the stamps of the first 100 packets
_TOO_LOW = 2.2  # a header's rate is wrong if frames come this many times as often
_MOST_FPS = 480  # containers without a frame rate report that of their clock, such as 1000 or 90,000
_SMALL_BYTES = 64e6  # only smaller files are checked for gaps, because long films may take long
_GAP_S, MOST_GAPS_S = 10.0, 4 * 3600  # shortest gap, and longest sum of gaps
_LONGEST_STEP_S = 600.0  # a longer step is a gap even in a film with few pictures
_GAP_FRAMES = 20  # a gap is longer than this many frames, because stamps may be out of order


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measurements of a film's packets.

    Attributes:
      frames: number of frames, without those that an edit list leaves out.
      seconds: their total length, by decoding times.
      rate: frames shown per second; None if unknown.
    """

    frames: int
    seconds: float
    rate: Fraction | None

    def contradicts(self, rate: Fraction) -> bool:
        """Whether frames come so much faster than a header's rate that the header must be wrong.

        Twice as many packets as frames do not prove that, because each packet may hold one of two fields.
        """
        return self.rate is not None and self.rate > _TOO_LOW * rate


def measure(path: str | os.PathLike[str], rate: Fraction | None, *, most: float = math.inf) -> Measured:
    """Reads the packets of the first `most` frames.

    Args:
      path: the film.
      rate: frames a second, for the length of frames without a stamp; None = they have none.
      most: number of frames.

    Raises:
      UserError: the file is missing or broken, or has no picture.
    """
    frame_s = 1 / rate if rate else Fraction(0)
    frames, seconds, latest = 0, Fraction(0), None
    first = last = None  # earliest and latest time of showing
    with open_film(path) as container:
        picture = required_picture(container, path)
        for packet in Tracks(container, picture, rate).packets(picture):
            if not packet.size or packet.is_discard:
                continue
            frames += 1
            time = packet.dts * packet.time_base if packet.dts is not None else None
            step = time - latest if time is not None and latest is not None else 0
            seconds += step if step > 0 else frame_s
            latest = time
            if (ticks := packet.pts if packet.pts is not None else packet.dts) is not None:
                shown = ticks * packet.time_base
                first = shown if first is None else min(first, shown)
                last = shown if last is None else max(last, shown)
            if frames >= most:
                break
    span = last - first if first is not None and last is not None else Fraction(0)
    return Measured(frames, float(seconds), (frames - 1) / span if span else None)


def frame_rate(stream: av.VideoStream, path: str | os.PathLike[str]) -> Fraction | None:
    """The film's average rate by its header or, if that must be wrong, by the packets' stamps; None if unknown."""
    rates = [Fraction(fps) for fps in (stream.average_rate, stream.guessed_rate) if fps and fps <= _MOST_FPS]
    if rates and (rates[0] >= _LOW_FPS or not measure(path, None, most=_PROBED).contradicts(rates[0])):
        return rates[0]
    measured = measure(path, None)
    if rates and not measured.contradicts(rates[0]):
        return rates[0]
    if measured.rate is None or measured.rate > _MOST_FPS:
        return rates[0] if rates else None
    return measured.rate.limit_denominator(1001)


def check_gaps(path: str | os.PathLike[str], fps: Fraction) -> None:
    """Refuses a small file that would take many hours, because each gap is filled with the picture before it.

    Raises:
      UserError: the gaps are too long.
    """
    if os.path.getsize(path) > _SMALL_BYTES or _gaps_s(path, None) <= MOST_GAPS_S:
        return
    gaps_s = _gaps_s(path, fps)
    if gaps_s > MOST_GAPS_S:
        raise UserError(
            f"{os.fspath(path)} has {gaps_s / 3600:.1f} hours of gaps, in which its picture stands still; at "
            f"most {MOST_GAPS_S / 3600:.0f} are filled: cut them out with ffmpeg"
        )


def _gaps_s(path: str | os.PathLike[str], fps: Fraction | None) -> float:
    """The total length of gaps in the picture: by raw stamps if `fps` is None, else in the film's time."""
    shortest = max(_GAP_S, min(float(_GAP_FRAMES / fps), _LONGEST_STEP_S)) if fps else _GAP_S
    gaps, latest = 0.0, math.nan
    with open_film(path) as container:
        stream = required_picture(container, path)
        unit = float(stream.time_base or 0)
        for packet in demux(container, stream) if fps is None else Tracks(container, stream, fps).packets(stream):
            if packet.pts is not None and unit:
                time = packet.pts * unit
                gaps += time - latest if time - latest > shortest else 0
                latest = time if math.isnan(latest) else max(time, latest)
    return gaps
