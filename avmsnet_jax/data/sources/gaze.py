"""A folder of films, each with a folder of viewers' gaze beside it, from which key frames are computed.

`FILM.gaze/` beside `FILM.mp4` holds recordings in the formats of `gaze.formats`. The rule for key frames, this
project's own, is in `gaze.concentration`.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import UNLABELLED, Collection, Skipped, Video, share_of, skipping, split_folders
from avmsnet_jax.errors import UserError
from avmsnet_jax.gaze import formats
from avmsnet_jax.gaze.concentration import KEY_SHARE, Concentration, concentration, halves, key_frames
from avmsnet_jax.gaze.geometry import Geometry
from avmsnet_jax.gaze.recording import Recording
from avmsnet_jax.media.audio import Waveform
from avmsnet_jax.media.films import in_folder, visible_files
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.staging import staged

_FEW = 3  # observers, below which a film has no labels


@dataclasses.dataclass(frozen=True)
class Setting:
    """How the gaze of a collection was recorded, and the share of key frames; the same for all films.

    Attributes:
      form: one of `gaze.formats.FORMATS`; empty = each file says.
      screen: width and height of the screen, pixels; None = as the recordings say.
      film: left, top, width and height of the film on the screen, pixels; None = in its middle.
      degrees: visual angle of the film's width; None = unknown.
      key_share: share of a film's frames that are key, of those with a label.
    """

    form: str = ""
    screen: tuple[float, float] | None = None
    film: tuple[float, float, float, float] | None = None
    degrees: float | None = None
    key_share: float = KEY_SHARE


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(Video):
    """A film and its viewers' gaze.

    Attributes:
      path: the film.
      folder: of the recordings.
      geometry: the film's shape and the width of its Gaussians.
      positions: (U, N, 2) float16, where each observer looked during each frame, shares of the picture; NaN where one
        did not look.
      validity: (U,) share of each observer's recorded time with a position.
      curve: how concentrated their gaze is at each frame.
      halves: (D, 2, N) float32, the curves of halves of the observers; see `gaze.concentration.halves`.
      key_share: share of the frames that are key.
      labels: (N,) int8 for frames 1 to N: 1 = key, 0 = not, -1 = too few observers.
    """

    path: Path
    folder: Path
    geometry: Geometry
    positions: np.ndarray
    validity: np.ndarray
    curve: Concentration
    halves: np.ndarray
    key_share: float
    labels: np.ndarray

    @property
    def expected_frames(self) -> int:
        return len(self.labels)

    def read_frames(self) -> Iterable[clips.Frame]:
        """Evenly spaced in time, as gaze is."""
        return Movie(self.path).frames(constant_rate=True)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path, *visible_files(self.folder))

    @property
    def basis(self) -> str:
        """Of the labels themselves: screens, angles and shares all come to that."""
        return hashlib.sha256(self.labels.tobytes()).hexdigest()

    def open_waveform(self) -> Waveform | None:
        return Movie(self.path).waveform()

    def label(self, frame: int, time_s: float) -> int:
        return int(self.labels[frame - 1]) if 1 <= frame <= len(self.labels) else UNLABELLED

    def split_of(self, time_s: float) -> str:
        """Clips at moments with too few observers are not labeled."""
        labeled = self.label(round(time_s * self.fps) + 1, time_s) != UNLABELLED
        return super().split_of(time_s) if labeled else "unlabelled"

    def annotations(self) -> dict[str, np.ndarray]:
        """What evaluation judges scores and attention maps by."""
        return {
            "concentration": self.curve.values,
            "observers": self.curve.observers,
            "validity": self.validity,
            "halves": self.halves,
            "key_share": np.array(self.key_share),
            "gaze": self.positions,
            "aspect": np.array(self.geometry.aspect),
            "sigma": np.array(self.geometry.sigma),
        }


def find_watched(source: Path, test_fraction: float, setting: Setting) -> Collection:
    """Lists the films of a folder that have gaze beside them, and computes their key frames.

    Films in the subfolders `train` and `test` belong to these splits. Without such subfolders, the last
    `test_fraction` of the films in name order, at least one of several, are the test split.

    Args:
      source: the folder.
      test_fraction: share of the test split.
      setting: how the gaze was recorded.
    """
    films: list[Watched] = []
    skipped: list[Skipped] = []
    divided = split_folders(source)
    for split, place in (divided or {"train": source}).items():
        for path in in_folder(place):
            with skipping(f"{split}/{path.name}" if divided else path.name, skipped):
                if path.stem in {film.name for film in films}:
                    raise UserError("has the same name as another film; rename it")
                films.append(_watched(path, split, setting))
    if divided:
        reason = "beside the folders train and test; move it into one"
        skipped += [Skipped(path.name, reason) for path in in_folder(source)]
    elif test_fraction and len(films) > 1:
        count = share_of(test_fraction, len(films))
        films[-count:] = [dataclasses.replace(film, split="test") for film in films[-count:]]
    return Collection(films, skipped)


def write_labels(film: Watched, folder: Path) -> None:
    """Writes a film's labels, its curve, and a picture of both.

    They are `FILM.labels.csv` (`frame,label`), `FILM.concentration.csv` (`time_s,value,observers`) and `FILM.gaze.png`.
    Frames with too few observers have no row among the labels, and an empty value in the curve.

    Raises:
      UserError: the place cannot be written.
    """
    known = np.flatnonzero(film.labels >= 0)
    _write_table(folder / f"{film.name}.labels.csv", ["frame", "label"], ((n + 1, film.labels[n]) for n in known))
    curve = film.curve
    rows = (
        (f"{number / film.fps:.6f}", "" if np.isnan(value) else f"{value:.9g}", observers)
        for number, (value, observers) in enumerate(zip(curve.values, curve.observers, strict=True))
    )
    _write_table(folder / f"{film.name}.concentration.csv", ["time_s", "value", "observers"], rows)
    from avmsnet_jax.gaze import plots  # half a second to import

    with staged(folder / f"{film.name}.gaze.png") as stage:
        plots.draw(film.path, film.fps, curve, film.labels, film.positions, stage)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    with staged(path) as stage:
        stage.write_text(text.getvalue(), encoding="utf-8")


def _watched(path: Path, split: str, setting: Setting) -> Watched:
    folder = path.with_name(path.stem + formats.FOLDER_SUFFIX)
    if not folder.is_dir():
        raise UserError(f"no folder {folder.name} of recordings beside it; add one, or take the film away")
    movie = Movie(path)
    rate, n_frames = float(movie.info().fps), movie.measured().frames
    width, height = next(iter(movie.frames())).shown_size
    geometry = Geometry(width, height, n_frames / rate, setting.screen, setting.film, setting.degrees)
    recordings = _recordings(folder, geometry, setting.form)
    positions = np.stack([recording.positions(n_frames, rate) for recording in recordings])
    curve = concentration(positions, rate, geometry.aspect, geometry.sigma)
    if not np.isfinite(curve.values).any():
        raise UserError(f"{folder}: at no moment do {_FEW} observers look at the film; check its times and its screen")
    return Watched(
        path.stem,
        rate,
        split,
        path=path,
        folder=folder,
        geometry=geometry,
        positions=positions.astype(np.float16),
        validity=np.array([recording.validity for recording in recordings]),
        curve=curve,
        halves=halves(positions, rate, geometry.aspect, geometry.sigma).astype(np.float32),
        key_share=setting.key_share,
        labels=key_frames(curve.values, setting.key_share),
    )


def _recordings(folder: Path, geometry: Geometry, form: str) -> list[Recording]:
    """The recordings in a film's folder; raises UserError for fewer than are needed."""
    recordings = [
        recording
        for file in visible_files(folder)
        if file.suffix.lower() != ".json"  # a BIDS file's own description
        for recording in formats.read(file, geometry, form)
    ]
    names = [recording.observer for recording in recordings]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{folder} holds two recordings of {twice}; keep one")
    if len(recordings) < _FEW:
        raise UserError(f"{folder} holds {len(recordings)} observers, and key frames need at least {_FEW}; add more")
    return recordings
