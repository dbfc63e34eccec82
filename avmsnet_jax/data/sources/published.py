"""The layout that A/V-MSNet was published with: a folder of frames, a wav and a CSV for each video."""

import csv
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import Collection, Skipped, Video
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import audio


@dataclasses.dataclass(frozen=True)
class FrameFile:
    """One frame, `<number>.jpg`, opened by what it contains and not by what it is called."""

    number: int
    path: Path

    def rgb(self) -> np.ndarray:
        """(H, W, 3) uint8. Raises UserError where the file is missing or broken."""
        try:
            with Image.open(self.path) as image:
                return np.asarray(image.convert("RGB"))
        except FileNotFoundError:
            raise UserError(f"there is no frame {self.path}; extract the video again") from None
        except OSError as error:  # Pillow's UnidentifiedImageError among them
            raise UserError(f"cannot read the frame {self.path}: {error}; extract the video again") from error


@dataclasses.dataclass(frozen=True)
class PublishedVideo(Video):
    """A video of the published layout.

    Attributes:
      frames: folder of `<i>.jpg`, i = 1 ... expected_frames.
      wav: its sound; silence where there is no such file.
      csv: where its labels were read from.
      labels: label by frame number; a frame without one is 0.
      expected_frames: n_frames of the fold list.
    """

    frames: Path
    wav: Path
    csv: Path
    labels: Mapping[int, int]
    expected_frames: int = 0

    def read_frames(self) -> Iterator[clips.Frame]:
        """See `Video`."""
        for number in range(1, self.expected_frames + 1):
            yield FrameFile(number, self.frames / f"{number}.jpg")

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Video`."""
        frames = (self.frames / f"{number}.jpg" for number in range(1, self.expected_frames + 1))
        return (self.wav, self.csv, *frames)

    def open_waveform(self) -> audio.Waveform | None:
        """See `Video`."""
        return audio.open_waveform(self.wav) if self.wav.exists() else None

    def label(self, frame: int, time_s: float) -> int:
        """The CSV row of the frame; no row means 0."""
        return self.labels.get(frame, 0)


def find_videos(source: Path, dataset: str) -> Collection:
    """Lists the videos of the fold lists.

    Args:
      source: the folder that holds `video_frames`, `video_audio`, `annotations` and `fold_lists`.
      dataset: the name of the data set's folders, such as Movie50.

    Raises:
      UserError: a fold list is missing or malformed.
    """
    videos: list[PublishedVideo] = []
    skipped: list[Skipped] = []
    for split in ("train", "test"):
        for name, n_frames, fps in _read_fold_list(source / "fold_lists" / f"{dataset}_list_{split}_fps.txt"):
            frames = source / "video_frames" / dataset / name
            if not frames.is_dir():
                skipped.append(Skipped(name, f"no folder of frames {frames}"))
                continue
            try:
                labels = read_labels(labels_csv := source / "annotations" / dataset / name / f"{name}.csv")
            except UserError as error:
                skipped.append(Skipped(name, str(error)))
                continue
            wav = source / "video_audio" / dataset / name / f"{name}.wav"
            videos.append(PublishedVideo(name, fps, split, frames, wav, labels_csv, labels, expected_frames=n_frames))
    return Collection(videos, skipped)


def read_labels(path: Path) -> dict[int, int]:
    """Reads `frame,label` rows, labels 0 or 1, no header.

    Raises:
      UserError: the file is missing, or a row is something else.
    """
    labels = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                if not row:
                    continue
                try:
                    frame, label = map(float, row)
                except ValueError:
                    label = -1
                if label not in (0, 1) or not frame.is_integer():
                    raise UserError(f"{path}, line {number}: {','.join(row)!r} is not a frame number and 0 or 1")
                labels[int(frame)] = int(label)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a table in UTF-8"
        raise UserError(f"cannot read the labels {path}: {reason}") from None
    return labels


def _read_fold_list(path: Path) -> list[tuple[str, int, float]]:
    """The (video, n_frames, fps) of each line; a name may hold spaces."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(
            f"cannot read the fold list {path}: {reason}; --source must be the folder that holds video_frames, "
            "video_audio, annotations and fold_lists"
        ) from None
    videos = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, n_frames, fps = line.strip().rsplit(None, 2)
            videos.append((name, int(n_frames), float(fps)))
            if not 0 < videos[-1][2] < float("inf"):
                raise ValueError
        except ValueError:
            raise UserError(f"{path}, line {number}: {line.strip()!r} is not: video n_frames fps") from None
    return videos
