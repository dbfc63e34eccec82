"""What a film's packets tell without decoding: its frame rate and length, where headers are wrong, and its gaps."""

import dataclasses
import math
import os
from fractions import Fraction

import av

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.opening import open_film
from avmsnet_jax.media.tracks import Tracks, demux, required_picture

# A header's rate below the first is compared with the stamps of the first packets, and not believed if frames come more
# often than it says by the second.
_LOW_FPS, _TOO_LOW, _PROBED = 24, 2.2, 100
_MOST_FPS = 480  # containers without a frame rate give their clock's, such as 1000 or 90,000
# Files up to this size are searched for gaps; larger ones may take as long as they last.
_SMALL_BYTES, _GAP_S, MOST_GAPS_S = 64e6, 10.0, 4 * 3600
_LONGEST_STEP_S = 600.0  # a picture that stands longer is a gap even in a film of few pictures
_GAP_FRAMES = 20  # stamps are out of order by fewer frames


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a film's packets say of it.

    Attributes:
      frames: how many it shows, without those that an edit list leaves out.
      seconds: how long they last, by their times of decoding.
      rate: frames shown in a second; None where that cannot be known.
    """

    frames: int
    seconds: float
    rate: Fraction | None

    def comes_faster(self, rate: Fraction) -> bool:
        """Whether frames come so much faster than the header says that most would be dropped: it must be wrong.

        Twice as many packets as frames are no sign of it, as each may hold one of two fields.
        """
        return self.rate is not None and self.rate > _TOO_LOW * rate


def measure(path: str | os.PathLike[str], rate: Fraction | None, *, most: float = math.inf) -> Measured:
    """Reads the packets of the first `most` frames.

    Args:
      path: the film.
      rate: frames a second, by which a frame without a stamp lasts; None = it counts for nothing.
      most: frames.

    Raises:
      UserError: the file is missing or broken, or has no picture.
    """
    frame_s = 1 / rate if rate else Fraction(0)
    frames, seconds, latest = 0, Fraction(0), None
    first = last = None  # when these frames are shown
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
    """The film's average rate by its header; where that cannot be right, by the packets' stamps."""
    rates = [Fraction(fps) for fps in (stream.average_rate, stream.guessed_rate) if fps and fps <= _MOST_FPS]
    if rates and (rates[0] >= _LOW_FPS or not measure(path, None, most=_PROBED).comes_faster(rates[0])):
        return rates[0]
    measured = measure(path, None)
    if rates and not measured.comes_faster(rates[0]):
        return rates[0]
    if measured.rate is None or measured.rate > _MOST_FPS:
        return rates[0] if rates else None
    return measured.rate.limit_denominator(1001)


def check_gaps(path: str | os.PathLike[str], fps: Fraction) -> None:
    """Refuses a small file that would take many hours: each gap is filled with the picture before it.

    Raises:
      UserError: the gaps are too long.
    """
    if os.path.getsize(path) > _SMALL_BYTES or _gaps_s(path, None) <= MOST_GAPS_S:
        return
    gaps_s = _gaps_s(path, fps)
    if gaps_s > MOST_GAPS_S:
        raise UserError(
            f"{os.fspath(path)} has {gaps_s / 3600:.1f} hours of gaps, in which its picture stands still, and no more "
            f"than {MOST_GAPS_S / 3600:.0f} are filled; cut them out with ffmpeg"
        )


def _gaps_s(path: str | os.PathLike[str], fps: Fraction | None) -> float:
    """How long the picture stands still in gaps, in all: by its stamps where `fps` is None, else in the film's time."""
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
