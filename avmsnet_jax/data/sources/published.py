"""The layout that A/V-MSNet was published with: a folder of frames, a wav and a CSV for each video."""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from avmsnet_jax import regular_file
from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import COUNT_SLACK, Collection, Skipped, Video, is_file_name, skipping
from avmsnet_jax.data.sources.tables import read_labels, read_text
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import audio
from avmsnet_jax.media.movie import Movie

# Named explicitly, because some of Pillow's other formats start programs, such as Ghostscript for EPS.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_MOST_PIXELS = 80_000_000  # 8K has 33 million; below the number at which Pillow warns


@dataclasses.dataclass(frozen=True)
class FrameFile:
    """One frame, `<number>.jpg`, whose format is detected from its content."""

    number: int
    path: Path

    def scaled(self, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8, by Pillow's bicubic filter. Raises UserError where a file is missing or broken."""
        try:
            regular_file.check(self.path)
            with Image.open(self.path, formats=_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise ValueError(
                        f"{image.width}x{image.height} pixels are more than {_MOST_PIXELS / 1e6:.0f} million"
                    )
                return np.asarray(_eight_bits(image).convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
        except FileNotFoundError:
            raise UserError(f"there is no frame {self.path}; extract the video again") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
            raise UserError(f"cannot read the frame {self.path}: {error}; extract the video again") from error


@dataclasses.dataclass(frozen=True)
class PublishedVideo(Video):
    """A video of the published layout.

    Attributes:
      frames: folder of `<i>.jpg`, i = 1 ... expected_frames.
      wav: its sound; silence where there is no such file.
      csv: the file of its labels.
      labels: label by frame number; a frame without one is 0.
      expected_frames: n_frames of the fold list, less the few at the end that are not on disk.
    """

    frames: Path
    wav: Path
    csv: Path
    labels: Mapping[int, int]
    expected_frames: int = 0

    def read_frames(self) -> Iterator[clips.Frame]:
        for number in range(1, self.expected_frames + 1):
            yield FrameFile(number, self.frames / f"{number}.jpg")

    @property
    def files(self) -> tuple[Path, ...]:
        frames = (self.frames / f"{number}.jpg" for number in range(1, self.expected_frames + 1))
        return (self.wav, self.csv, *frames)

    def open_waveform(self) -> audio.Waveform | None:
        return Movie(self.wav).waveform() if self.wav.exists() else None

    def label(self, frame: int, time_s: float) -> int:
        """The CSV row of the frame; no row means 0."""
        return self.labels.get(frame, 0)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Converts 16-bit gray to 8 bits; Pillow would clip it at 255."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def find_videos(source: Path, dataset: str) -> Collection:
    """Lists the videos of the fold lists.

    Args:
      source: the folder that holds `video_frames`, `video_audio`, `annotations` and `fold_lists`.
      dataset: the name of the data set's folders, such as Movie50.

    Raises:
      UserError: a fold list is missing or malformed, or they name a video twice.
    """
    videos: list[PublishedVideo] = []
    skipped: list[Skipped] = []
    where: dict[str, str] = {}
    for split in ("train", "test"):
        fold_list = source / "fold_lists" / f"{dataset}_list_{split}_fps.txt"
        for line, name, n_frames, fps in _read_fold_list(fold_list):
            if name in where:
                raise UserError(f"{fold_list}, line {line}: {name} is in {where[name]} as well; list a video once")
            where[name] = f"{fold_list.name}, line {line}"
            frames = source / "video_frames" / dataset / name
            wav = source / "video_audio" / dataset / name / f"{name}.wav"
            table = source / "annotations" / dataset / name / f"{name}.csv"
            with skipping(name, skipped):
                count = _count_frames(frames, n_frames)
                labels = read_labels(table, n_frames)
                videos.append(PublishedVideo(name, fps, split, frames, wav, table, labels, expected_frames=count))
    return Collection(videos, skipped)


def _count_frames(folder: Path, n_frames: int) -> int:
    """How many of the `n_frames` frames there are: a few may be missing at the end."""
    if not folder.is_dir():
        raise UserError(f"there is no folder of frames {folder}; extract the video there, or leave it out")
    files = os.listdir(folder)
    names = (re.fullmatch(r"([1-9][0-9]*)\.jpg", name) for name in files)
    present = {number for name in names if name and (number := int(name[1])) <= n_frames}
    count, missing = len(present), n_frames - len(present)
    if not count:
        found = f"found {min(files)!r}" if files else "the folder is empty"
        raise UserError(f"{folder} holds no frames 1.jpg, 2.jpg, ... ({found}); extract the video again")
    first = next(number for number in itertools.count(1) if number not in present)
    if missing and (first <= count or missing / n_frames > COUNT_SLACK):
        raise UserError(
            f"there is no frame {folder / str(first)}.jpg, though the fold list promises {n_frames} frames "
            f"({missing} are missing); extract the video again, or correct the list"
        )
    return count


def _read_fold_list(path: Path) -> list[tuple[int, str, int, float]]:
    """The (line, video, n_frames, fps) of each line; a name may hold spaces."""
    remedy = "--source must be the folder that holds video_frames, video_audio, annotations and fold_lists"
    lines = read_text(path, "fold list", remedy).split("\n")
    videos = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        place = f"{path}, line {number}: {line!r}"
        try:
            name, count, rate = line.rsplit(None, 2)
            n_frames, fps = int(count), float(rate)
        except ValueError:
            raise UserError(f"{place} is not: video n_frames fps") from None
        if n_frames < 1 or not 0 < fps < math.inf:
            raise UserError(f"{place} needs at least 1 frame, and more than 0 frames a second")
        if not is_file_name(name):
            raise UserError(f"{place}: the video's name must be the plain name of its folder, without a path")
        videos.append((number, name, n_frames, fps))
    return videos
