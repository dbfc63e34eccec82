from fractions import Fraction

import av
import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.writer import write_movie
from tests.media.films import number_of, numbered


@pytest.mark.parametrize("fps", [10, 23.976, Fraction(30000, 1001), 60.0])
def test_a_movie_round_trips(tmp_path, fps):
    path = tmp_path / "film.mp4"
    rate = Fraction(fps).limit_denominator(1001)
    times = np.arange(int(30 / rate * 22050)) / 22050
    sound = (0.5 * np.sin(2 * np.pi * 440 * times) * (times > times[-1] / 2)).astype(np.float32)
    write_movie(path, (numbered(i) for i in range(30)), fps, sound)
    assert [number_of(frame.rgb()) for frame in Movie(path).frames()] == list(range(30))
    assert Movie(path).info().fps == rate
    heard = Movie(path).whole_waveform()
    assert abs(len(heard) - len(sound)) < 1100  # AAC comes in pieces of 1024
    error = heard[: len(sound)] - sound[: len(heard)]
    assert np.sqrt(np.mean(error**2)) < 0.02  # a shift by a single frame would give 0.3
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, audio.codec_context.name) == ("h264", "yuv420p", "aac")


def test_colors_and_odd_sides_round_trip(tmp_path):
    picture = np.zeros((31, 45, 3), np.uint8)
    picture[:, :15], picture[:, 15:30], picture[:, 30:] = (220, 30, 40), (20, 200, 60), (30, 40, 230)
    write_movie(tmp_path / "film.mp4", [picture] * 5, 25, None)
    for frame in Movie(tmp_path / "film.mp4").frames():
        seen = frame.rgb()[:31, :45].astype(int)
        for column in (7, 22, 38):
            np.testing.assert_allclose(seen[15, column], picture[15, column], atol=6)


def test_no_waveform_means_no_audio_track(tmp_path):
    write_movie(tmp_path / "film.mp4", [numbered(0)] * 5, 25, None)
    assert Movie(tmp_path / "film.mp4").whole_waveform() is None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_film_is_written_whole_or_not_at_all(tmp_path, error):
    def breaks():
        yield from (numbered(i) for i in range(20))
        raise error

    path = tmp_path / "film.mp4"
    path.write_text("what was there before")
    with pytest.raises(error):
        write_movie(path, breaks(), 25, np.zeros(22050, np.float32))
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folders_and_films_without_frames_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        write_movie(tmp_path / "nowhere" / "film.mp4", [numbered(0)], 25, None)
    with pytest.raises(UserError, match="at least one frame"):
        write_movie(tmp_path / "film.mp4", [], 25, None)
    assert not list(tmp_path.iterdir())
