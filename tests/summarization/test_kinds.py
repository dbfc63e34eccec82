"""Films of every kind: their summaries hold exactly the chosen frames and sound, and play in a browser."""

import csv
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avmsnet_jax.config import Config, SummarizeConfig
from avmsnet_jax.media.frame import Frame
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.tracks import picture_stream
from avmsnet_jax.summarization.run import Outcome, summarize
from tests.media.films import encode, number_of, numbered

RATE = 22050


def noise(seconds: float, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """(channels, N) float32: sound of which no two moments are alike."""
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.normal(size=round(seconds * rate)), np.ones(3) / 3, "same")
    return np.tile(0.2 * smooth.astype(np.float32), (channels, 1))


def pictures(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [numbered(number, height, width) for number in range(1, count + 1)]


def ints(sound: np.ndarray) -> np.ndarray:
    return (sound * 32767).astype(np.int16)


H264 = {"codec": "libx264", "pix_fmt": "yuv420p"}
AAC = {"sound_codec": "aac", "sound_format": "fltp"}


def vfr(path: Path) -> Path:
    """Frames a 50th and a 10th of a second apart by turns, as phones record them."""
    gaps = itertools.cycle([0.02] * 10 + [0.1] * 4)
    times = [0.0, *itertools.accumulate(next(gaps) for _ in range(119))]
    return encode(path, pictures(120), 25, times_s=times, sound=noise(6), **H264, sound_codec="pcm_f32le")


def rotated(path: Path) -> Path:
    return encode(path, pictures(100), 25, rotation=90, sound=noise(4), **H264, sound_codec="aac", sound_format="fltp")


def many_channels(path: Path) -> Path:
    return encode(path, pictures(100), 25, sound=noise(4, 6, 48000), layout="5.1", sample_rate=48000, **H264)


def tagged(path: Path, *, trc: int = 0, matrix: int = 1, interlaced: bool = False, full: bool = False) -> Path:
    """Films that take more of PyAV: 10-bit colors, or fields."""
    with av.open(str(path), "w") as container:
        options = {"x264-params": "tff=1"} if interlaced else {}
        video = container.add_stream("libx264", rate=25, options=options | {"crf": "10"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p" if interlaced or full else "yuv420p10le"
        context = video.codec_context
        context.colorspace = context.color_primaries = matrix
        context.color_trc = trc or 1
        context.color_range = 2 if full else 1
        if interlaced:
            context.flags |= av.codec.context.Flags.interlaced_dct
        for index, picture in enumerate(pictures(100)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=video.pix_fmt, dst_color_range=2 if full else 1)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def cut_short(path: Path) -> Path:
    whole = encode(path.with_name("whole.mkv"), pictures(150), 25, sound=noise(6))
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    whole.unlink()
    return path


def plain(name: str, count: int = 100, fps: float | Fraction = 25, **options) -> tuple[str, Callable[[Path], Path]]:
    seconds = options.pop("seconds", count / fps)
    size = options.pop("size", (48, 64))
    sound = {"sound": noise(float(seconds))} if seconds else {}
    return name, lambda path: encode(path, pictures(count, *size), fps, **sound, **options)


KINDS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "plain": plain("film.mp4", **H264, **AAC),
    "23.976": plain("film.mkv", 96, Fraction(24000, 1001), **H264),
    "10 fps": plain("film.mkv", 50, 10),
    "60 fps": plain("film.mkv", 200, 60),
    "varying rate": ("film.mkv", vfr),
    "rotated": ("film.mp4", rotated),
    "anamorphic": plain("film.mkv", pixel_aspect=Fraction(4, 3), **H264),
    "5.1": ("film.mkv", many_channels),
    "8 kHz": ("film.mkv", lambda path: encode(path, pictures(100), 25, sound=noise(4, rate=8000), sample_rate=8000)),
    "96 kHz": ("film.mkv", lambda path: encode(path, pictures(100), 25, sound=noise(4, rate=96000), sample_rate=96000)),
    "no sound": plain("film.mp4", seconds=0, **H264),
    "short sound": plain("film.mkv", seconds=2.5),
    "long sound": plain("film.mkv", seconds=7),
    "late sound": plain("film.mkv", sound_start_s=1.5, seconds=2.5),
    "late picture": plain("film.mkv", picture_start_s=0.8, seconds=5),
    "10 bit": ("film.mkv", tagged),
    "HDR, PQ": ("film.mkv", lambda path: tagged(path, trc=16, matrix=9)),
    "HDR, HLG": ("film.mkv", lambda path: tagged(path, trc=18, matrix=9)),
    "full range": ("film.mp4", lambda path: tagged(path, full=True)),
    "interlaced": ("film.mkv", lambda path: tagged(path, interlaced=True)),
    "odd sides": plain("film.mkv", size=(47, 65)),
    "4:4:4": plain("film.mkv", pix_fmt="yuv444p"),
    "cut short": ("film.mkv", cut_short),
    "transport stream": plain("film.ts", codec="mpeg2video", pix_fmt="yuv420p", **AAC),
    "avi": plain("film.avi", codec="mpeg4", pix_fmt="yuv420p", sound_codec="libmp3lame", sound_format="fltp"),
    "less than a clip": plain("film.mkv", 6),
    "one frame": plain("film.mkv", 1),
}
CONFIG = Config(
    summarize=SummarizeConfig(
        budget="0.5", spacing_s=0.2, shortest_shot_s=0.4, longest_shot_s=0.8, move_cuts_s=0.2, batch_size=4
    )
)


@dataclasses.dataclass
class Result:
    """A film and its summary."""

    film: Path
    folder: Path
    facts: dict

    @property
    def summary(self) -> Path:
        return self.folder / "summary.mp4"

    @functools.cached_property
    def sound(self) -> np.ndarray | None:
        """The film's."""
        return Movie(self.film).whole_waveform()


@pytest.fixture(scope="module")
def results(random_weights, tmp_path_factory):
    """Summarizes a kind of film by a scorer, once."""
    made: dict[tuple[str, str], Result] = {}

    @functools.cache
    def film_of(kind: str) -> Path:
        name, make = KINDS[kind]
        return make(tmp_path_factory.mktemp("kind") / name)

    def result(kind: str, scorer: str = "attention") -> Result:
        if (kind, scorer) not in made:
            film = film_of(kind)
            weights = random_weights if scorer == "network" else ""
            (outcome,) = summarize([film], weights, film.parent / scorer, CONFIG)
            assert isinstance(outcome, Outcome)
            assert not outcome.error, outcome.error
            facts = json.loads((outcome.folder / "summary.json").read_text())
            assert facts["scorer"] == scorer
            made[kind, scorer] = Result(film, outcome.folder, facts)
        return made[kind, scorer]

    return result


def stretches(facts: dict) -> list[tuple[float, float]]:
    """(start, end) of each stretch without a cut, seconds of the film."""
    joined: list[tuple[float, float]] = []
    for shot in facts["shots"]:
        if joined and abs(joined[-1][1] - shot["start"]) < 1e-6:
            joined[-1] = joined[-1][0], shot["end"]
        else:
            joined.append((shot["start"], shot["end"]))
    return joined


# Scorers differ in the pictures that they take. What is chosen is cut alike.
WITH_NETWORK = {"plain", "varying rate", "rotated", "no sound", "HDR, PQ", "less than a clip", "one frame"}
KINDS_AND_SCORERS = [(kind, "attention") for kind in KINDS] + [
    pytest.param(kind, "network", marks=() if kind in WITH_NETWORK else pytest.mark.soak) for kind in KINDS
]


@pytest.mark.parametrize(("kind", "scorer"), KINDS_AND_SCORERS)
def test_the_summary_shows_the_chosen_frames_and_no_others(results, kind, scorer):
    result = results(kind, scorer)

    def number(frame: Frame) -> int:
        return number_of(np.rot90(frame.rgb(), -1 if kind == "rotated" else 0))

    film = {round(frame.time_s, 3): frame for frame in Movie(result.film).frames()}
    wanted = []
    for start, end in stretches(result.facts):
        wanted += [number(film[time]) for time in film if start - 0.004 <= time < end - 0.004]
    seen = [number(frame) for frame in Movie(result.summary).frames()]
    if kind.startswith("HDR"):  # other grays
        assert len(seen) == len(wanted)
    else:
        assert seen == wanted
    assert len(set(wanted)) == len(wanted)


@pytest.mark.parametrize(("kind", "scorer"), KINDS_AND_SCORERS)
def test_picture_and_sound_are_equally_long_and_within_the_budget(results, kind, scorer):
    result = results(kind, scorer)
    frame_s = 1 / result.facts["fps"]
    length = sum(end - start for start, end in stretches(result.facts))
    budget = max(0.5 * result.facts["duration_s"], frame_s)
    assert length <= budget + 1e-6
    assert length > 0.6 * budget or kind == "one frame"
    assert result.facts["length_s"] == pytest.approx(length, abs=1e-3)
    with av.open(str(result.summary)) as container:
        video = picture_stream(container)
        assert (video.codec_context.name, video.codec_context.pix_fmt[:7] in ("yuv420p", "yuvj420")) == ("h264", True)
        assert float(video.duration * video.time_base) == pytest.approx(length, abs=0.002)
        assert video.start_time == 0
        audio = container.streams.best("audio")
        assert (audio is not None) == (result.sound is not None)
        if audio is not None:
            assert audio.codec_context.name == "aac"
            assert audio.codec_context.layout.nb_channels <= 2
            assert float(audio.duration * audio.time_base) == pytest.approx(length, abs=0.002)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_stays_in_sync_with_the_picture(results, kind):
    result = results(kind)
    film = result.sound
    if film is None:
        pytest.skip("no sound")
    heard = Movie(result.summary).whole_waveform()
    at = 0.0
    for start, end in stretches(result.facts):
        excerpt = film[round(start * RATE) : round(end * RATE)]
        excerpt = np.pad(excerpt, (0, round(end * RATE) - round(start * RATE) - len(excerpt)))
        found = heard[round(at * RATE) :][: len(excerpt)]
        excerpt = excerpt[: len(found)]
        inside = slice(round(0.012 * RATE), -round(0.012 * RATE))  # without the fades
        if len(found) > RATE // 10 and np.abs(excerpt[inside]).max() > 0:
            shifts = np.arange(-200, 201)
            padded = np.pad(found, 200)
            product = [float(excerpt @ padded[200 + shift :][: len(excerpt)]) for shift in shifts]
            assert abs(int(shifts[np.argmax(product)])) <= 2, (start, end)
            assert np.corrcoef(excerpt[inside], found[inside])[0, 1] > 0.8
        at += end - start


PLAY = """async () => {
  const video = document.querySelector("video");
  const ended = new Promise((done, failed) => {
    video.onended = done;
    video.onerror = () => failed(new Error(video.error.message));
  });
  video.muted = true;
  video.playbackRate = 8;
  await video.play();
  await ended;
  return [video.duration, video.videoWidth, video.webkitAudioDecodedByteCount];
}"""


@pytest.fixture(scope="module")
def tab(browser):
    """A page for all films, as the start of a page takes longer than to play one."""
    with browser.new_context() as context:
        yield context.new_page()


@pytest.mark.parametrize("kind", KINDS)
def test_a_browser_plays_the_summary_to_its_end(results, tab, kind):
    result = results(kind)
    page = result.folder / "play.html"
    page.write_text('<video src="summary.mp4"></video>')
    tab.goto(page.as_uri())
    duration, width, heard = tab.evaluate(PLAY)
    assert duration == pytest.approx(result.facts["length_s"], abs=1 / result.facts["fps"])
    assert width > 0
    assert (heard > 0) == (result.sound is not None)


def shown_stream(path: Path) -> tuple[int, int, Fraction, int, int, int]:
    with av.open(str(path)) as container:
        stream = picture_stream(container)
        frame = next(container.decode(stream))
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return stream.width, stream.height, aspect, frame.rotation, int(frame.colorspace), int(frame.color_range)


@pytest.mark.parametrize("kind", ["plain", "rotated", "anamorphic", "10 bit", "full range", "interlaced", "4:4:4"])
def test_the_summary_looks_like_the_film(results, kind):
    result = results(kind)
    assert shown_stream(result.summary) == shown_stream(result.film)
    start = result.facts["shots"][0]["start"]
    film = next(frame for frame in Movie(result.film).frames() if frame.time_s >= start - 0.004).rgb()
    summary = next(iter(Movie(result.summary).frames())).rgb()
    assert summary.shape == film.shape
    assert np.abs(summary.astype(float) - film).mean() < 3


def test_odd_sides_gain_a_copy_of_the_last_row_or_column(results):
    result = results("odd sides")
    picture = next(iter(Movie(result.summary).frames())).rgb()
    assert picture.shape == (48, 66, 3)
    assert np.abs(picture[46].astype(int) - picture[47]).max() <= 6
    assert np.abs(picture[:, 64].astype(int) - picture[:, 65]).max() <= 6


def test_hdr_becomes_bt709(results):
    for kind in ("HDR, PQ", "HDR, HLG"):
        *_, matrix, full = shown_stream(results(kind).summary)
        assert (matrix, full) == (1, 1)


def test_variable_frame_times_are_kept(results):
    result = results("varying rate")
    film = [frame.time_s for frame in Movie(result.film).frames()]
    shown = [frame.time_s for frame in Movie(result.summary).frames()]
    at, wanted = 0.0, []
    for start, end in stretches(result.facts):
        wanted += [at + time - start for time in film if start - 0.004 <= time < end - 0.004]
        at += end - start
    assert shown == pytest.approx(wanted, abs=0.002)


@pytest.mark.parametrize("kind", ["plain", "varying rate", "no sound"])
def test_the_files_beside_the_summary(results, kind):
    otio = pytest.importorskip("opentimelineio")
    result = results(kind)
    with open(result.folder / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    fps, duration = result.facts["fps"], result.facts["duration_s"]
    assert len(rows) == pytest.approx(duration / 0.2, abs=3)
    for row in rows:
        assert float(row["time_s"]) == pytest.approx((int(row["frame"]) - 1) / fps, abs=1e-5)
        assert 0 <= float(row["score"]) <= 1
    whole = otio.adapters.read_from_file(str(result.folder / "summary.otio"))
    spans = stretches(result.facts)
    for track in whole.tracks:
        ranges = [clip.source_range for clip in track]
        assert [span.start_time.to_seconds() for span in ranges] == pytest.approx([s for s, _ in spans], abs=0.6 / fps)
        assert [span.duration.to_seconds() for span in ranges] == pytest.approx(
            [end - start for start, end in spans], abs=1.1 / fps
        )
    assert [track.kind for track in whole.tracks] == ["Video"] + ["Audio"] * (kind != "no sound")
    rate = round(whole.tracks[0][0].source_range.start_time.rate)
    edl = otio.adapters.read_from_file(str(result.folder / "summary.edl"), rate=rate)
    events = [clip.source_range for clip in edl.tracks[0]]
    starts = [span.start_time.to_seconds() for span in events]
    assert starts == pytest.approx([start for start, _ in spans], abs=0.6 / fps)
    with av.open(str(result.summary)) as container:
        chapters = container.chapters()
    assert len(chapters) == len(spans)
