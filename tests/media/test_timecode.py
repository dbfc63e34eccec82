"""Timecode counts as OpenTimelineIO does."""

from fractions import Fraction

import av
import numpy as np
import pytest

from avmsnet_jax.media import timecode
from avmsnet_jax.media.movie import Movie
from tests.media.films import numbered

NTSC, DOUBLE = Fraction(30000, 1001), Fraction(60000, 1001)


@pytest.mark.parametrize(
    ("rate", "start"),
    [(25, "01:00:00:00"), (Fraction(24000, 1001), "10:59:58:23"), (NTSC, "01:00:00;00"), (NTSC, "00:59:59;28"),
     (NTSC, "01:00:00:02"), (DOUBLE, "09:08:59;59"), (60, "23:59:58:00")],
)  # fmt: skip
def test_timecode_counts_frames_as_editors_do(rate, start):
    time = pytest.importorskip("opentimelineio").opentime
    code = timecode.read(start, Fraction(rate))
    first = time.from_timecode(start, float(rate))
    assert code.start == first.value
    for frame in [*range(0, 40000, 37), *range(1795, 1805), *range(17975, 17985)]:
        wanted = time.RationalTime((first.value + frame) % (86400 * code.base), float(rate))
        if first.value + frame < 24 * 3600 * code.base * 0.999:
            assert code.text(frame) == time.to_timecode(wanted, float(rate), code.drop)


def test_timecode_wraps_at_midnight():
    assert timecode.read("23:59:59:24", Fraction(25)).text(1) == "00:00:00:00"
    assert timecode.read("23:59:59;29", NTSC).text(1) == "00:00:00;00"


@pytest.mark.parametrize("text", ["", "noon", "1:2:3", "25:00:00:00", "00:00:00:25", "00:61:00:00"])
def test_text_that_is_no_timecode_counts_from_0(text):
    assert timecode.read(text, Fraction(25)).text(0) == "00:00:00:00"


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "start"),
    [("mov", "mpeg4", 25, "01:00:00:00"), ("mp4", "libx264", NTSC, "01:00:00;02"), ("mkv", "mpeg4", 24, "10:11:12:13"),
     ("mxf", "mpeg2video", 25, "02:00:00:00"), ("ts", "mpeg2video", 25, "03:04:05:06")],
)  # fmt: skip
def test_the_first_frame_s_timecode_is_read(tmp_path, suffix, codec, rate, start):
    film = tmp_path / f"film.{suffix}"
    with av.open(str(film), "w") as out:
        options = {"gop_timecode": start} if suffix == "ts" else {}
        stream = out.add_stream(codec, rate=Fraction(rate), options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["timecode"] = out.metadata["timecode"] = start
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(numbered(index)), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = index, 1 / Fraction(rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert Movie(film).info().timecode == start
