"""The overlay, on films whose every frame is known."""

import dataclasses
from pathlib import Path

import av
import numpy as np
import pytest

from avmsnet_jax.errors import UserError
from avmsnet_jax.media.writer import write_movie
from avmsnet_jax.summarization import explain
from avmsnet_jax.summarization.result import Summary
from tests.media.films import encode, number_of
from tests.summarization.made import FPS, make_summary


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Summary, Path]:
    """A summary of 6 seconds in 64 x 48 with sound, and the overlay made of it."""
    folder = tmp_path_factory.mktemp("overlay")
    summary = make_summary(folder, folder / "film.mp4")
    explain.write_overlay(summary, folder / "overlay.mp4")
    return summary, folder / "overlay.mp4"


def pictures(path: Path) -> np.ndarray:
    """(N, H, W, 3) uint8."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(audio=0) if p.size]


def gray(tmp_path: Path, summary: Summary, width: int, height: int) -> np.ndarray:
    """The overlay's frames where every picture of the summary is of one gray."""
    write_movie(tmp_path / "summary.mp4", np.full((60, height, width, 3), 120, np.uint8), FPS, None)
    scores = dataclasses.replace(summary.scores, width=width, height=height)
    explain.write_overlay(dataclasses.replace(summary, scores=scores), tmp_path / "overlay.mp4")
    return pictures(tmp_path / "overlay.mp4").astype(int)


def test_frames_and_sound_are_those_of_the_summary(made):
    _, path = made
    source = path.with_name("summary.mp4")
    shown, plain = pictures(path), pictures(source)
    assert shown.shape == plain.shape == (60, 48, 64, 3)
    assert sound_packets(path) == sound_packets(source)
    # A frame is dimmed, but where the network looks, at the left, it is the one of the summary at that place.
    for overlaid, frame in zip(shown.astype(int), plain.astype(int), strict=True):
        assert abs(overlaid[24, 4] - frame[24, 4]).max() < 25
    assert number_of(plain[45]) == 15 * FPS + 6


def test_the_overlay_is_bright_where_attention_is(made, tmp_path):
    silent = dataclasses.replace(made[0].scores, localization=np.zeros((23, 4, 4), np.float16))
    frames = gray(tmp_path, dataclasses.replace(made[0], scores=silent), 64, 48)
    left, right = frames[30, 24, 3], frames[30, 24, 50]
    assert abs(left - 120).max() < 12
    assert abs(right - 0.4 * 120).max() < 6


def test_rings_mark_the_location_of_the_sound_at_its_time(made, tmp_path):
    even = tuple(np.full((23, 4, 4), 1 / 16, np.float16) for _ in range(3))
    frames = gray(
        tmp_path, dataclasses.replace(made[0], scores=dataclasses.replace(made[0].scores, attention=even)), 64, 48
    )
    blue = frames[..., 2] - frames[..., 0]
    late, early = blue[50], blue[2]  # 16 s and 5.2 s of the film: the norm there is 3.2 and 1.7
    assert late[:, 48:].max() > 40 > 10 > late[:, :16].max()
    assert late.sum() > 2 * early.sum()


def test_the_band_shows_time_score_and_position(made, tmp_path):
    frames = gray(tmp_path, made[0], 322, 200)
    assert frames.shape[1:3] == (220, 322)
    band = frames[:, 200:]
    # The white line moves over the film's curve: to 7 of 24 seconds, then to 16.
    line = [int(np.argmax(band[index, 3:-3, 40:282].min(axis=-1).sum(axis=0))) / 242 for index in (20, 50)]
    assert line == pytest.approx([7 / 24, 16 / 24], abs=0.02)
    assert (abs(band[0, :, :40] - band[15, :, :40]) > 60).any()  # 0:05 and 0:06
    assert (abs(band[10, :, :40] - band[15, :, :40]) < 60).all()  # both 0:06
    assert (abs(band[0, :, 282:] - band[50, :, 282:]) > 60).any()  # 0.03 and 0.80


def test_the_band_counts_hours_and_shows_scores_that_differ(made, tmp_path, monkeypatch):
    summary, written = made[0], []
    draw = explain.ImageDraw.ImageDraw.text

    def noted(own, place, text, *options, **more):
        written.append(text)
        return draw(own, place, text, *options, **more)

    monkeypatch.setattr(explain.ImageDraw.ImageDraw, "text", noted)
    shots = [dataclasses.replace(shot, start_s=shot.start_s + 4498, end_s=shot.end_s + 4498) for shot in summary.shots]
    scores = dataclasses.replace(
        summary.scores, duration_s=5000.0, times_s=summary.scores.times_s + 4498, scores=summary.scores.scores / 1000
    )
    gray(tmp_path, dataclasses.replace(summary, shots=tuple(shots), scores=scores), 322, 200)
    assert {"1:15:03", "1:15:06", "1:15:14"} <= set(written)
    assert {text for text in written if ":" not in text} >= {"0.00003", "0.00078"}


def test_overlays_of_large_films_are_scaled_down_to_even_sides(made, tmp_path):
    frames = gray(tmp_path, made[0], 1601, 91)
    assert frames.shape[1:] == (72 + 20, 1280, 3)


def test_a_rotated_film_is_shown_upright(made, tmp_path):
    upright = np.zeros((60, 64, 48, 3), np.uint8)
    upright[:, :32] = 200
    lying = [np.rot90(frame, -1) for frame in upright]
    encode(tmp_path / "summary.mp4", lying, FPS, codec="libx264", pix_fmt="yuv420p", rotation=90)
    scores = dataclasses.replace(made[0].scores, width=48, height=64)
    explain.write_overlay(dataclasses.replace(made[0], scores=scores), tmp_path / "overlay.mp4")
    frames = pictures(tmp_path / "overlay.mp4").astype(int)
    assert frames.shape == (60, 64, 48, 3)
    assert frames[5, 16].mean() > frames[5, 48].mean() + 40


def test_attention_levels_are_relative_to_uniform_attention(made):
    scores = made[0].scores
    even = dataclasses.replace(scores, attention=tuple(np.full((23, n, n), n**-2, np.float16) for n in (56, 28, 14)))
    levels, top = explain.attention_levels(even)
    assert top == 1.2
    assert levels.shape == (23, 28, 28)
    assert levels.max() < 0.01
    peak = np.zeros((23, 56, 56), np.float16)
    peak[:, 8:10, 40:42] = 0.25
    levels, top = explain.attention_levels(dataclasses.replace(even, attention=(*even.attention[1:], peak)))
    assert 30 < top < 800 / 3  # of one module in three, 784 times an even spread there
    assert levels[3, 4, 20] == levels.max() == 1
    assert levels[3, 8, 20] == levels[3, 4, 24] == 0
    assert np.median(levels) == 0


def test_without_sound_no_location_is_marked(made):
    silent = dataclasses.replace(made[0].scores, localization=np.zeros((23, 7, 7), np.float16))
    assert not explain.sound_levels(silent).any()


def test_without_a_summary_no_overlay_is_written(made, tmp_path):
    with pytest.raises(UserError, match=r"there is no film .*summary\.mp4"):
        explain.write_overlay(made[0], tmp_path / "overlay.mp4")
    assert not list(tmp_path.iterdir())
