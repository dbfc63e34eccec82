"""The summaries in a folder and their films. Every path that the studio reads or writes comes from here.

Names in requests are only compared with the entries of the folder, so `..` and links lead nowhere.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from avmsnet_jax import json_file
from avmsnet_jax.data.sources.movies import KEYSHOTS_SUFFIX
from avmsnet_jax.errors import UserError
from avmsnet_jax.media import films
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.staging import recover, staged
from avmsnet_jax.summarization import cutlist, report
from avmsnet_jax.summarization.cutlist import CutList

FACTS = "summary.json"
VIDEOS = ("summary.mp4", "overlay.mp4")
_PICTURE_WIDTH = 480


class NotFoundError(UserError):
    """The folder holds no such summary, film or file."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A film in the list.

    Attributes:
      name: of the summary's folder, or the stem of a film in SUMMARIES that has no summary yet.
      length_s: the film's length; 0 if it has no summary.
      summary_s: the summary's length.
      state: `looked through` (counts as labeled), `edited`, `untouched`, `no summary` or `damaged`.
      differs: `cut.json` was changed after the summary was cut.
      problem: why it is damaged.
    """

    name: str
    length_s: float = 0.0
    summary_s: float = 0.0
    state: str = "no summary"
    differs: bool = False
    problem: str = ""


class Library:
    """A folder of summaries, and films dropped into it."""

    def __init__(self, root: Path):
        """`root` is the `--output` of `summarize`."""
        self.root = root

    def recover(self) -> None:
        """Removes what a killed studio or cut left in the folder."""
        for folder in [self.root, *self._folders()]:
            for place in folder.glob(".*.stage"):
                with contextlib.suppress(UserError, OSError):  # in use, or of another program
                    recover(folder / place.name[1:].removesuffix(".stage"))

    def entries(self) -> list[Entry]:
        """All films, by name."""
        found = {folder.name: self._entry(folder) for folder in self._folders()}
        for film in self._films():
            found.setdefault(film.stem, Entry(film.stem))
        return [found[name] for name in sorted(found, key=lambda name: (name.lower(), name))]

    def folder(self, name: str) -> Path:
        """The folder of a summary."""
        for folder in self._folders():
            if folder.name == name:
                return folder
        raise NotFoundError(f"there is no summary {name!r} in {self.root}; reload the list")

    def file(self, name: str, file: str) -> Path:
        """A regular file of a summary."""
        path = self.folder(name) / file
        if not _is_plain(path):
            raise NotFoundError(f"{path} is missing; summarize the film again")
        return path

    def film(self, name: str) -> Path:
        """The path of a film: of a summary, wherever its film lies, or of a film in the folder itself.

        The path in `cut.json` is used only if it is a film of the right size, because `cut.json` may be a stranger's.
        """
        for film in self._films():
            if film.stem == name:
                return film
        path, size = _film_of(self.file(name, cutlist.CUT), _stamp(self.folder(name) / cutlist.CUT))
        try:
            status = path.stat()
        except OSError:
            raise NotFoundError(f"the film of {name} is not at {path}; put it back there") from None
        if path.suffix.lower() not in films.SUFFIXES or status.st_size != size or not path.is_absolute():
            raise NotFoundError(f"{path} is not the film of {name}; put that back there")
        _check_film(path, status.st_mtime_ns, size)
        return path

    def page(self, name: str) -> str:
        """The report of a summary with the current cut: the data of `report.html` with the code of this version."""
        data = report.read_data(self.file(name, report.REPORT))
        cut, problem = None, ""
        try:
            cut = cutlist.load(self.file(name, cutlist.CUT)).as_json()
            data["film"]["href"] = "film" if self.film(name) else None
        except UserError as error:
            data["film"]["href"], problem = None, str(error)
        data["summary"]["href"] = "summary.mp4"
        data["studio"] = {"cut": cut, "problem": problem}
        return report.page(data, name, connects=True)

    def save(self, name: str, sent: Any) -> CutList:
        """Replaces the `cut.json` of a summary by a changed one of the same film."""
        cut = cutlist.checked(sent, "the cut that was sent")
        path = self.folder(name) / cutlist.CUT
        if cut.film != cutlist.load(self.file(name, cutlist.CUT)).film:
            raise UserError(f"the cut that was sent is not of the film of {name}; reload the page")
        with staged(path) as stage:
            cutlist.write_cut(cut, stage)
        return cut

    def write_key_shots(self, name: str, cut: CutList, *, replace: bool) -> Path:
        """Writes the cut beside the film as its key shots.

        Raises:
          FileExistsError: the film has key shots, and `replace` is false.
        """
        film = self.film(name)
        path = film.with_name(film.stem + KEYSHOTS_SUFFIX)
        if os.path.lexists(path) and not replace:
            raise FileExistsError(path)
        with staged(path) as stage, open(stage, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("start_s", "end_s"), *cutlist.stretches_s(cut)])
        return path

    def picture(self, name: str) -> bytes:
        """The first frame of the summary as a JPEG; of the film if it has no summary."""
        try:
            path = self.file(name, VIDEOS[0])
        except NotFoundError:
            path = self.film(name)
        return _picture(path, _stamp(path))

    def _folders(self) -> list[Path]:
        return [path for path in self._listed() if path.is_dir() and _is_plain(path / FACTS)]

    def _films(self) -> list[Path]:
        return films.among(path for path in self._listed() if _is_plain(path))

    def _listed(self) -> Iterator[Path]:
        try:
            found = sorted(self.root.iterdir())
        except OSError as error:
            raise UserError(f"cannot read {self.root}: {error.strerror}") from None
        for path in found:
            if not path.name.startswith(".") and not path.is_symlink() and films.text(path.name) == path.name:
                yield path

    def _entry(self, folder: Path) -> Entry:
        stamps = tuple(_stamp(folder / name) for name in (FACTS, cutlist.CUT, cutlist.SEGMENTS))
        return _entry_of(self, folder, stamps)


@functools.lru_cache(maxsize=4096)
def _entry_of(library: Library, folder: Path, stamps: tuple[Any, ...]) -> Entry:
    """The entry of a summary; cached until the stamp of one of its files changes."""
    name = folder.name
    try:
        facts = json_file.read(library.file(name, FACTS), "summarize the film again")
        cut = cutlist.load(library.file(name, cutlist.CUT))
        summary_s = float(facts["length_s"])
        rows = csv.reader(library.file(name, cutlist.SEGMENTS).read_text("utf-8").splitlines())
        differs = [tuple(row[:2]) for row in rows][1:] != cutlist.stretches_s(cut)
    except UserError as error:
        return Entry(name, state="damaged", problem=str(error))
    except (KeyError, TypeError, ValueError, OSError) as error:
        return Entry(name, state="damaged", problem=f"{folder} is damaged ({error}); summarize the film again")
    edited = any(shot.state in ("kept", "dropped") for shot in cut.shots)
    state = "looked through" if cut.reviewed else "edited" if edited or differs else "untouched"
    return Entry(name, cut.film["duration_s"], summary_s, state, differs)


@functools.lru_cache(maxsize=256)
def _film_of(cut_file: Path, stamp: Any) -> tuple[Path, int]:
    film = cutlist.load(cut_file).film
    return Path(film["path"]), film["size"]


@functools.lru_cache(maxsize=256)
def _check_film(path: Path, mtime_ns: int, size: int) -> None:
    """Raises UserError if the file is no film; cached until it changes."""
    Movie(path).info()


@functools.lru_cache(maxsize=512)
def _picture(path: Path, stamp: Any) -> bytes:
    frame = next(iter(Movie(path).frames()), None)
    if frame is None:
        raise UserError(f"{path} has no picture")
    image = Image.fromarray(frame.rgb())
    image.thumbnail((_PICTURE_WIDTH, _PICTURE_WIDTH))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def _is_plain(path: Path) -> bool:
    """Whether the path is a regular file, not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
