"""A folder of films with their annotations: key shots in seconds, or a label for each frame, or none."""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from avmsnet_jax import durations
from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import UNLABELLED, Collection, Skipped, Video, share_of, skipping, split_folders
from avmsnet_jax.data.sources.tables import read_labels, read_rows, shown
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import audio
from avmsnet_jax.media.films import in_folder, visible_files
from avmsnet_jax.media.movie import Movie

KEYSHOTS_SUFFIX = ".keyshots.csv"
LABELS_SUFFIX = ".labels.csv"

_END_SLACK_S = 1.0  # a key shot may end so much after the film, as players and people round times

KeyShots = tuple[tuple[float, float], ...]  # (start_s, end_s) of each
# Gives the key shots of a film without a table beside it: the file they are from and the shots, or None.
Elsewhere = Callable[[Path], tuple[Path, KeyShots] | None]


def nowhere(_: Path) -> None:
    """No film has key shots elsewhere."""


@dataclasses.dataclass(frozen=True)
class Film(Video):
    """A film and its annotations: key shots, or a label for each frame, or none.

    Attributes:
      path: the film.
      key_shots: (start_s, end_s) of each, start included, end not.
      labels: label by frame number; a frame without one is 0.
      table: the file that key shots or labels were read from.
      expected_frames: the number of frames by the film's header.
    """

    path: Path
    key_shots: KeyShots | None = None
    labels: Mapping[int, int] | None = None
    table: Path | None = None
    expected_frames: int = 0

    @functools.cached_property
    def movie(self) -> Movie:
        """The film's file."""
        return Movie(self.path)

    def read_frames(self) -> Iterable[clips.Frame]:
        """Frames evenly spaced in time; as they are decoded if labels count them."""
        return self.movie.frames(constant_rate=self.labels is None)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,) if self.table is None else (self.path, self.table)

    def open_waveform(self) -> audio.Waveform | None:
        return self.movie.waveform()

    def label(self, frame: int, time_s: float) -> int:
        """1 if the frame's time lies in a key shot, or if its row says so."""
        if self.labels is not None:
            return self.labels.get(frame, 0)
        if self.key_shots is not None:
            return int(any(start <= time_s < end for start, end in self.key_shots))
        return UNLABELLED


def find_films(
    source: Path, test_fraction: float, *, frames: int = 16, spacing: int = 25, elsewhere: Elsewhere = nowhere
) -> Collection:
    """Lists the films of a folder and assigns each to a split.

    Films in the subfolders `train` and `test` belong to these splits. Without such subfolders, the last
    `test_fraction` of the films in name order, at least one, are the test split; of a single film, the
    clips in the last `test_fraction` of its running time. Films without key shots and labels
    are the split `unlabelled`, wherever they lie, and do not count for `test_fraction`.

    If the test split would have no key clip, the last film that has one replaces the first of the test films; of a
    single film, the stretch for testing begins with the last key moment. Both need a second film, or a second moment,
    with key clips, which stays in the training split.

    Args:
      source: the folder.
      test_fraction: share of the test split, 0 <= test_fraction < 1; 0 = everything is for training.
      frames: frames of a clip.
      spacing: frames from one clip to the next; with `frames` it decides the moments at which clips are labeled.
      elsewhere: gives the key shots of films without a table beside them.
    """
    divided = split_folders(source)
    if not divided:
        films, skipped = _films_in(source, "train", elsewhere)
        return Collection(_with_test_share(films, test_fraction, frames, spacing), skipped)
    films, skipped = [], []
    for split, folder in divided.items():
        found, left_out = _films_in(folder, split, elsewhere)
        names = {(film.name, film.split) for film in films}
        films += [film for film in found if (film.name, film.split) not in names]
        left_out += [
            Skipped(film.path.name, "has the same name as another film without labels; rename it")
            for film in found
            if (film.name, film.split) in names
        ]
        skipped += [dataclasses.replace(item, video=f"{split}/{item.video}") for item in left_out]
    reason = "beside the folders train and test; move it into one"
    beside = [Skipped(path.name, reason) for path in in_folder(source)]
    return Collection(films, skipped + beside)


def read_key_shots(path: Path, duration_s: float = math.inf) -> KeyShots:
    """Reads key shots from a CSV file with the header `start_s,end_s`; see `durations.parse` for the times.

    Args:
      path: the table.
      duration_s: of the film; infinite = unknown. A shot may end a little beyond it.

    Raises:
      UserError: the file is missing, has another header, or a row that is no span of time in the film.
    """
    rows = read_rows(path, "key shots")
    if not rows or rows[0][1] != ["start_s", "end_s"]:
        raise UserError(f"{path}: the first line must be start_s,end_s")
    shots = []
    for number, row in rows[1:]:
        place = f"{path}, line {number}"
        try:
            start, end = map(durations.parse, row)
        except ValueError:
            raise UserError(f"{place}: {shown(row)} is not two numbers; give seconds, or times as 0:05") from None
        if not 0 <= start < end:
            raise UserError(f"{place}: a key shot must start at 0 or later and end after its start")
        if start >= duration_s or end > duration_s + _END_SLACK_S:
            raise UserError(
                f"{place}: the key shot {shown(row)} goes beyond the end of the film at {duration_s:.1f} s; give times "
                "in seconds, not in milliseconds or frames"
            )
        shots.append((start, end))
    return tuple(shots)


def _films_in(folder: Path, split: str, elsewhere: Elsewhere) -> tuple[list[Film], list[Skipped]]:
    skipped: list[Skipped] = []
    tables: dict[str, list[Path]] = collections.defaultdict(list)
    for path in visible_files(folder):
        if path.name.lower().endswith((KEYSHOTS_SUFFIX, LABELS_SUFFIX)):
            tables[path.stem.rpartition(".")[0]].append(path)
        elif path.suffix.lower() == ".csv":
            names = f"FILM{KEYSHOTS_SUFFIX} or FILM{LABELS_SUFFIX}"
            skipped.append(Skipped(path.name, f"not the name of a table that is read; call it {names}"))
    films: dict[str, Film] = {}
    candidates = in_folder(folder)
    for path in candidates:
        with skipping(path.name, skipped):
            if path.stem in films:
                raise UserError(f"has the same name as {films[path.stem].path.name}; rename it, or take it away")
            films[path.stem] = _film(path, tables.get(path.stem, ()), split, elsewhere)
    stems = {path.stem for path in candidates}
    for stem, paths in tables.items():
        if stem not in stems:
            skipped += [Skipped(path.name, f"no film called {stem}.* beside it; rename either") for path in paths]
    return list(films.values()), skipped


def _film(path: Path, tables: Sequence[Path], split: str, elsewhere: Elsewhere) -> Film:
    if len(tables) > 1:
        raise UserError(f"has both {tables[0].name} and {tables[1].name}; keep one")
    info = Movie(path).info()
    film = Film(path.stem, float(info.fps), "unlabelled", path, expected_frames=info.frames)
    if not tables:
        found = elsewhere(path)
        return film if found is None else dataclasses.replace(film, split=split, table=found[0], key_shots=found[1])
    (table,) = tables
    if not table.name.lower().endswith(KEYSHOTS_SUFFIX):
        return dataclasses.replace(
            film, split=split, table=table, labels=read_labels(table, film.movie.measured().frames)
        )
    # Measured, because the header may be wrong.
    key_shots = read_key_shots(table, film.movie.measured().seconds)
    return dataclasses.replace(film, split=split, table=table, key_shots=key_shots)


def _with_test_share(films: list[Film], test_fraction: float, frames: int, spacing: int) -> list[Film]:
    judged = [film for film in films if film.split != "unlabelled"]
    others = [film for film in films if film.split == "unlabelled"]
    if not judged or not test_fraction:
        return films
    if len(judged) == 1:
        return [_with_test_stretch(judged[0], test_fraction, frames, spacing), *others]
    count = share_of(test_fraction, len(judged))
    tests = judged[-count:]
    if not any(_key_times(film, frames, spacing) for film in tests):
        keyed = [film for film in judged[:-count] if _key_times(film, frames, spacing)]
        if len(keyed) > 1:
            tests = [keyed[-1], *tests[1:]]
    names = {film.name for film in tests}
    trained = [film for film in judged if film.name not in names]
    return [*trained, *(dataclasses.replace(film, split="test") for film in tests), *others]


def _with_test_stretch(film: Film, test_fraction: float, frames: int, spacing: int) -> Film:
    """A single film, part of whose running time is for testing."""
    running_time = film.movie.measured().seconds
    start, length = (1 - test_fraction) * running_time, test_fraction * running_time
    times = _key_times(film, frames, spacing)
    apart_s = 1.5 * spacing / film.fps
    moments = times[:1] + [now for before, now in itertools.pairwise(times) if now - before > apart_s]
    if len(moments) < 2 or times[-1] >= start:
        return dataclasses.replace(film, test_from_s=start)
    return dataclasses.replace(film, test_from_s=moments[-1], test_until_s=moments[-1] + length)


def _key_times(film: Film, frames: int, spacing: int) -> list[float]:
    """The times at which the key clips of a film are labeled, seconds."""
    n_frames = film.movie.measured().frames
    labeled = [clips.label_frame(center, spacing) for center in clips.centers(n_frames, frames, spacing)]
    times = [(frame, clips.frame_time(frame, film.fps)) for frame in labeled]
    return [time for frame, time in times if film.label(frame, time) == 1]
