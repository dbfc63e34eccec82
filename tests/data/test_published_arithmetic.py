"""Records of the published layout against a second implementation of the rules in docs/data.md."""

import dataclasses
import io
import wave
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import soxr
from PIL import Image

from avmsnet_jax.data.pipeline import open_split
from avmsnet_jax.data.prepare import prepare
from tests.data.test_clips import published_buffer, published_excerpt
from tests.media.films import number_of, numbered

CENTERS = (25, 50, 75)
FRAMES = CENTERS[-1] + 8


@dataclasses.dataclass(frozen=True)
class Made:
    """One video of the layout: its rate as the fold list has it, and how its wav is stored."""

    fps: str
    sample_rate: int
    channels: int
    kind: str
    split: str = "train"
    seconds: float | None = None  # of sound; None: as long as the picture

    @property
    def name(self) -> str:
        return f"{self.fps} fps {self.kind} {self.channels}x{self.sample_rate} {self.split} {self.seconds}"


VIDEOS = [
    *[Made(fps, 22050, 1, "s16") for fps in ("10", "23.976", "25", "29.97", "60")],
    *[Made(fps, 44100, 2, "f32", "test") for fps in ("10", "23.976", "25")],
    Made("25", 8000, 2, "u8"),
    Made("25", 16000, 2, "s16"),
    Made("23.976", 44100, 2, "s24"),
    Made("29.97", 48000, 1, "s24"),
    Made("60", 48000, 2, "s32"),
    Made("10", 96000, 2, "s32"),
    Made("25", 96000, 1, "f32"),
    Made("25", 22050, 2, "f64"),
    Made("25", 22050, 1, "s16", seconds=3.1),  # the sound ends within the third clip
    Made("25", 44100, 2, "s16", seconds=20),  # and here goes on after the picture
]


def write_wav(path: Path, video: Made) -> np.ndarray:
    """Writes noise, and returns what was stored: (N,) float, the mean of the channels."""
    rng = np.random.default_rng(len(path.parts) + VIDEOS.index(video))
    seconds = video.seconds or FRAMES / float(video.fps)
    sound = rng.uniform(-0.9, 0.9, (round(seconds * video.sample_rate), video.channels))
    if video.kind in ("f32", "f64"):
        stored = sound.astype(np.float32 if video.kind == "f32" else np.float64)
        scipy.io.wavfile.write(path, video.sample_rate, stored)
        return stored.mean(axis=1)
    bits = int(video.kind[1:])
    integers = np.round(sound * 2 ** (bits - 1)).astype(np.int64)
    octets = (integers + 128 if bits == 8 else integers).astype("<i8").view(np.uint8).reshape(-1, 8)[:, : bits // 8]
    with wave.open(str(path), "wb") as file:
        file.setparams((video.channels, bits // 8, video.sample_rate, len(sound), "NONE", ""))
        file.writeframes(octets.tobytes())
    return (integers / 2 ** (bits - 1)).mean(axis=1)


def label_of(frame: int) -> int | None:
    """What the CSV says of a frame, None where it has no row."""
    return None if frame % 4 == 0 else frame % 3 % 2


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """The frames as clips show them, by number; and by name the records, and what each wav holds."""
    root = tmp_path_factory.mktemp("layout")
    (root / "fold_lists").mkdir()
    pictures, shown = [], {}
    for number in range(1, FRAMES + 1):
        Image.fromarray(numbered(number, 90, 160)).save(encoded := io.BytesIO(), "JPEG", quality=95)
        pictures.append(encoded.getvalue())
        with Image.open(encoded) as image:
            twice = image.resize((320, 240), Image.BICUBIC).resize((112, 112), Image.BILINEAR)
        shown[number] = np.asarray(twice)
    sounds = {}
    for video in VIDEOS:
        frames, sound, labels = (
            root / kind / "Movie50" / video.name for kind in ("video_frames", "video_audio", "annotations")
        )
        for folder in (frames, sound, labels):
            folder.mkdir(parents=True)
        for number, picture in enumerate(pictures, start=1):
            (frames / f"{number}.jpg").write_bytes(picture)
        sounds[video.name] = write_wav(sound / f"{video.name}.wav", video)
        rows = ((frame, label_of(frame)) for frame in range(1, FRAMES + 1))
        table = "".join(f"{frame},{label}\n" for frame, label in rows if label is not None)
        (labels / f"{video.name}.csv").write_text(table)
    for split in ("train", "test"):
        lines = "".join(f"{video.name} {FRAMES} {video.fps}\n" for video in VIDEOS if video.split == split)
        (root / "fold_lists" / f"Movie50_list_{split}_fps.txt").write_text(lines)
    records = tmp_path_factory.mktemp("records") / "movie50"
    prepare("movie50", root, records)
    by_name = {}
    for split in ("train", "test"):
        for record in open_split(records, split):
            by_name.setdefault(str(record["video"]), []).append((split, record))
    return shown, by_name, sounds


def test_every_published_clip_has_one_record(collection):
    _, records, _ = collection
    assert set(records) == {video.name for video in VIDEOS}
    for video in VIDEOS:
        assert [split for split, _ in records[video.name]] == [video.split] * len(CENTERS)


@pytest.mark.parametrize("video", VIDEOS, ids=lambda video: video.name)
def test_every_record_is_the_published_clip(collection, video):
    shown, records, sounds = collection
    waveform = sounds[video.name].astype(np.float32)
    if video.sample_rate != 22050:
        waveform = soxr.resample(waveform, video.sample_rate, 22050, "HQ")
    fps = float(video.fps)
    for (_, record), j in zip(records[video.name], CENTERS, strict=True):
        listed = [j + k for k in range(-7, 9)]
        assert [number_of(picture) for picture in record["clip"]] == listed
        for picture, number in zip(record["clip"], listed, strict=True):
            np.testing.assert_array_equal(picture, shown[number])
        labeled = {25: 26, 50: 50, 75: 76}[j]  # j + 0.5, rounded half to even
        assert record["frame"] == labeled
        assert record["label"] == (label_of(labeled) or 0)
        assert record["time_s"] == (labeled - 1) / fps
        assert record["fps"] == fps
        excerpt = published_excerpt(waveform, fps, FRAMES, j - 7, j + 8)
        assert record["has_sound"] == (len(excerpt) > 0)
        expected = published_buffer(excerpt, 35280)
        assert record["sound"].dtype == np.float32
        np.testing.assert_allclose(record["sound"], expected, atol=256 * 2e-5)
        heard = np.flatnonzero(expected)
        if len(heard):  # this also proves the position: noise that is shifted by one sample is uncorrelated
            assert np.abs(record["sound"][heard + 1 - 2 * (heard == 35279)] - expected[heard]).mean() > 20
