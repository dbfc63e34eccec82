"""Pictures are rotated and mirrored by the display matrix."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avmsnet_jax.media.movie import Movie

ONE = 1 << 16
# What is done to the stored picture, by the matrix' a, b, c, d: where a point's column goes, and where its row does.
ORIENTATIONS = {
    (1, 0, 0, 1): lambda picture: picture,
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (-1, 0, 0, -1): lambda picture: picture[::-1, ::-1],
    (0, 1, 1, 0): lambda picture: picture.transpose(1, 0, 2),
    (0, 1, -1, 0): lambda picture: picture.transpose(1, 0, 2)[:, ::-1],
    (0, -1, 1, 0): lambda picture: picture.transpose(1, 0, 2)[::-1],
    (0, -1, -1, 0): lambda picture: picture.transpose(1, 0, 2)[::-1, ::-1],
}


def stored() -> np.ndarray:
    """A picture that looks different in all eight orientations."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :48] = 255
    picture[:, :16] = 128
    return picture


def film(path: Path, matrix: tuple[int, int, int, int], times: int = 1) -> Path:
    a, b, c, d = (times * ONE * value for value in matrix)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(stored(), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("matrix", ORIENTATIONS)
@pytest.mark.parametrize("times", [1, 2])
def test_the_display_matrix_is_applied(tmp_path, matrix, times):
    frame = next(iter(Movie(film(tmp_path / "film.mp4", matrix, times)).frames()))
    wanted = ORIENTATIONS[matrix](stored()).astype(int)
    assert frame.shown_size == wanted.shape[1::-1]
    for seen in (frame.rgb(), frame.scaled(*frame.shown_size)):
        assert seen.shape == wanted.shape
        assert np.abs(seen - wanted).mean() < 8


def test_a_display_matrix_of_zeros_is_ignored(tmp_path):
    frame = next(iter(Movie(film(tmp_path / "film.mp4", (1, 0, 0, 1), 0)).frames()))
    assert np.abs(frame.rgb().astype(int) - stored()).mean() < 8
