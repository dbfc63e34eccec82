"""Summaries and EDL of films with few frames a second, jumps of the clock, or a rotation."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from avmsnet_jax.config import Config, SummarizeConfig
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.scoring.film import Watched, watch
from avmsnet_jax.summarization import cut
from avmsnet_jax.summarization.choose import choose
from avmsnet_jax.summarization.run import summarize
from tests.media.films import encode, number_of, numbered
from tests.media.test_splices import recording, rises
from tests.scoring.stub import Stub

H264 = {"codec": "libx264", "pix_fmt": "yuv420p"}


def slow(path: Path, fps: Fraction, count: int = 24) -> Path:
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (1, round(count / fps) * 8000)).astype(np.float32)
    return encode(
        path, [numbered(number) for number in range(1, count + 1)], fps, sound=sound, sample_rate=8000, **H264
    )


def default_duration(path: Path, fps: int, seconds: float) -> Path:
    """A film in Matroska whose header says that every frame lasts so long."""
    encode(path, [numbered(number) for number in range(1, 101)], fps, **H264)
    content = bytearray(path.read_bytes())
    place = content.index(b"\x23\xe3\x83\x84")  # DefaultDuration, four bytes
    assert abs(int.from_bytes(content[place + 4 : place + 8], "big") - 1e9 / fps) < 1000
    content[place + 4 : place + 8] = round(seconds * 1e9).to_bytes(4, "big")
    path.write_bytes(content)
    return path


FILMS = {
    "one a second": (lambda folder: slow(folder / "film.mp4", Fraction(1)), 1.0, 1),
    "two in five seconds": (lambda folder: slow(folder / "film.mkv", Fraction(2, 5)), 1.0, Fraction(2, 5)),
    "one in ten seconds": (lambda folder: slow(folder / "film.mp4", Fraction(1, 10)), 1.0, Fraction(1, 10)),
    "a clip a frame": (lambda folder: slow(folder / "film.mp4", Fraction(25), 60), 0.04, 25),
    "a header that says one a second": (lambda folder: default_duration(folder / "film.mkv", 25, 1), 0.4, 25),
    "a header that says four a second": (lambda folder: default_duration(folder / "film.mkv", 30, 0.25), 0.4, 30),
}


@pytest.mark.parametrize("kind", FILMS)
def test_slow_films_have_summaries_of_the_right_length(tmp_path, random_weights, kind):
    make, spacing_s, fps = FILMS[kind]
    film = make(tmp_path)
    options = SummarizeConfig(spacing_s=spacing_s, batch_size=4, budget="0.5", overlay=True)
    (outcome,) = summarize([film], random_weights, tmp_path / "out", Config(summarize=options))
    assert not outcome.error, outcome.error
    facts = json.loads((outcome.folder / "summary.json").read_text())
    frames = len(list(Movie(film).frames()))
    assert facts["fps"] == pytest.approx(float(fps))
    assert facts["duration_s"] == pytest.approx(frames / fps)
    with open(outcome.folder / "scores.csv", newline="") as file:
        rows = [int(row["frame"]) for row in csv.DictReader(file)]
    assert rows == sorted(set(rows))
    assert len(rows) == pytest.approx((frames - 8) / max(round(spacing_s * fps), 1), abs=2)
    wanted = [
        number
        for shot in facts["shots"]
        for number in range(round(shot["start"] * fps) + 1, round(shot["end"] * fps) + 1)
    ]
    assert [number_of(frame.rgb()) for frame in Movie(outcome.folder / "summary.mp4").frames()] == wanted
    assert len(list(Movie(outcome.folder / "overlay.mp4").frames())) == pytest.approx(len(wanted), abs=1)
    for (start, _), shot in zip(
        sources(outcome.folder / "summary.edl", 25 if fps < 1 else fps), joined(facts), strict=True
    ):
        assert start == pytest.approx(shot, abs=0.5 / max(fps, 1))


def joined(facts: dict) -> list[float]:
    """When each stretch without a cut begins, seconds of the film."""
    shots = facts["shots"]
    return [shot["start"] for before, shot in zip([None, *shots], shots, strict=False)
            if before is None or abs(before["end"] - shot["start"]) > 1e-6]  # fmt: skip


def seconds(text: str, base: int) -> float:
    hour, minute, second, frame = map(int, text.replace(";", ":").split(":"))
    return 3600 * hour + 60 * minute + second + frame / base


def sources(path: Path, base: int) -> list[tuple[float, float]]:
    """Where each event of an edit decision list begins and ends in the film, seconds."""
    events = [line.split() for line in path.read_text().splitlines() if line[:3].isdigit()]
    return [(seconds(event[4], base), seconds(event[5], base)) for event in events]


def watched(film: Path) -> Watched:
    return watch(film, Stub(lambda clip: clip.frame % 7 / 7), spacing_s=0.4)


def test_the_summary_of_joined_recordings_stays_in_sync(tmp_path):
    path = tmp_path / "film.ts"
    path.write_bytes(recording(tmp_path / "part.ts", 3, 2.7) * 4)
    film = watched(path)
    assert film.scores.duration_s == pytest.approx(12)
    cut.cut(film, [(60, 90), (160, 240)], tmp_path / "summary.mp4")
    seen = [frame.scaled(8, 8).mean() > 128 for frame in Movie(tmp_path / "summary.mp4").frames()]
    heard = np.abs(Movie(tmp_path / "summary.mp4").whole_waveform()) > 0.1
    assert rises(np.array(seen), 1 / 25) == pytest.approx(rises(heard, 1 / 22050), abs=0.04)


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (0, 1, 1, 0), (0, -1, 1, 0)])
def test_the_summary_keeps_the_display_matrix(tmp_path, matrix):
    from tests.media.test_orientation import film

    path = film(tmp_path / "film.mp4", matrix)
    shown = next(iter(Movie(path).frames())).rgb()
    seen = watched(path)
    cut.cut(seen, [(0, 3)], tmp_path / "summary.mp4")
    assert (seen.scores.width, seen.scores.height) == shown.shape[1::-1]
    assert np.abs(next(iter(Movie(tmp_path / "summary.mp4").frames())).rgb().astype(int) - shown).mean() < 5
    assert choose(seen, SummarizeConfig()).length_s > 0
