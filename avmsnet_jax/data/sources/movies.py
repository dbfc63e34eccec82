"""A folder of films, each with its key shots in seconds beside it."""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from avmsnet_jax.data import clips
from avmsnet_jax.data.sources import Collection, Skipped, Video
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import audio, video

KEYSHOTS_SUFFIX = ".keyshots.csv"


@dataclasses.dataclass(frozen=True)
class Film(Video):
    """A film and its key shots.

    Attributes:
      path: the film.
      key_shots: (start_s, end_s) of each, start included, end not.
      expected_frames: what the film's header promises.
    """

    path: Path
    key_shots: tuple[tuple[float, float], ...]
    expected_frames: int = 0

    def read_frames(self) -> Iterable[clips.Frame]:
        """See `Video`."""
        return video.read_frames(self.path)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Video`."""
        return (self.path, self.path.with_name(self.path.stem + KEYSHOTS_SUFFIX))

    def open_waveform(self) -> audio.Waveform | None:
        """See `Video`."""
        return audio.open_waveform(self.path)

    def label(self, frame: int, time_s: float) -> int:
        """1 where the frame's time lies in a key shot."""
        return int(any(start <= time_s < end for start, end in self.key_shots))


def find_films(source: Path, test_fraction: float) -> Collection:
    """Lists the films of a folder and decides which split each belongs to.

    Films in the subfolders `train` and `test` belong to these. Without such subfolders, the last
    `test_fraction` of the films in name order, at least one, are the test split; of a single film, the
    clips in the last `test_fraction` of its running time.

    Args:
      source: the folder.
      test_fraction: share of the test split, 0 <= test_fraction < 1; 0 = everything is for training.
    """
    if not any((source / split).is_dir() for split in ("train", "test")):
        films, skipped = _films_in(source, "train")
        return Collection(_with_test_share(films, test_fraction), skipped)
    films, skipped = [], []
    for split in ("train", "test"):
        if (source / split).is_dir():
            found, left_out = _films_in(source / split, split)
            films += found
            skipped += [dataclasses.replace(item, video=f"{split}/{item.video}") for item in left_out]
    beside = [Skipped(path.name, "beside the folders train and test") for path in _candidates(source)]
    return Collection(films, skipped + beside)


def read_key_shots(path: Path) -> tuple[tuple[float, float], ...]:
    """Reads key shots from a CSV file with the header `start_s,end_s`.

    Raises:
      UserError: the file is missing, has another header, or a row that is no span of time.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a table in UTF-8"
        raise UserError(
            f"cannot read the key shots {path}: {reason}; write the header start_s,end_s and rows"
        ) from None
    if not rows or rows[0] != ["start_s", "end_s"]:
        raise UserError(f"{path}: the first line must be start_s,end_s")
    shots = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(row):
            continue
        try:
            start, end = map(float, row)
        except ValueError:
            raise UserError(f"{path}, line {number}: {','.join(row)!r} is not two numbers; give seconds") from None
        if not 0 <= start < end:
            raise UserError(f"{path}, line {number}: a key shot must start at 0 or later and end after its start")
        shots.append((start, end))
    return tuple(shots)


def _candidates(folder: Path) -> list[Path]:
    """Files that may be films: whatever is neither hidden nor a table."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() != ".csv"
    )


def _films_in(folder: Path, split: str) -> tuple[list[Film], list[Skipped]]:
    films: dict[str, Film] = {}
    skipped = []
    candidates = _candidates(folder)
    for path in candidates:
        key_shots = path.with_name(path.stem + KEYSHOTS_SUFFIX)
        if path.stem in films:
            skipped.append(Skipped(path.name, f"has the same name as {films[path.stem].path.name}"))
        elif not key_shots.exists():
            skipped.append(Skipped(path.name, f"no key shots; write {key_shots.name} (start_s,end_s) beside it"))
        else:
            try:
                info = video.read_info(path)
                films[path.stem] = Film(
                    path.stem, float(info.fps), split, path, read_key_shots(key_shots), expected_frames=info.frames
                )
            except UserError as error:
                skipped.append(Skipped(path.name, str(error)))
    stems = {path.stem for path in candidates}
    for path in sorted(folder.glob("*" + KEYSHOTS_SUFFIX)):
        if path.name.removesuffix(KEYSHOTS_SUFFIX) not in stems:
            skipped.append(Skipped(path.name, "no film of this name beside it"))
    return list(films.values()), skipped


def _with_test_share(films: list[Film], test_fraction: float) -> list[Film]:
    if not films or not test_fraction:
        return films
    if len(films) == 1:
        running_time = video.running_time(films[0].path)
        return [dataclasses.replace(films[0], test_from_s=(1 - test_fraction) * running_time)]
    tests = min(max(round(test_fraction * len(films)), 1), len(films) - 1)
    return films[:-tests] + [dataclasses.replace(film, split="test") for film in films[-tests:]]
