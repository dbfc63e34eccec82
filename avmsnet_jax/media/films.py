"""Finds the films in a folder by their suffix. A file given by name may have any suffix."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from avmsnet_jax import regular_file
from avmsnet_jax.errors import UserError

SUFFIXES = frozenset(
    (
        *(".264", ".265", ".3g2", ".3gp", ".3gpp", ".amv", ".apng", ".asf", ".av1", ".avc", ".avi", ".bik"),
        *(".cine", ".dif", ".divx", ".dv", ".dvr-ms", ".evo", ".f4v", ".flc", ".fli", ".flv", ".gxf", ".h261"),
        *(".h263", ".h264", ".h265", ".hdmov", ".hevc", ".insv", ".ismv", ".ivf", ".lxf", ".m1v", ".m2p"),
        *(".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp4"),
        *(".mp4v", ".mpe", ".mpeg", ".mpg", ".mpg4", ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".nuv", ".obu"),
        *(".ogm", ".ogv", ".ps", ".pva", ".qt", ".rec", ".rm", ".rmvb", ".roq", ".smk", ".swf", ".tod", ".tp"),
        *(".trp", ".ts", ".tts", ".ty", ".vivo", ".vob", ".vro", ".webm", ".wmv", ".wtv", ".xvid", ".y4m"),
    )
)
# Low-resolution copies by cameras (GoPro and Insta360; DJI). Their stems may differ from those of the films.
_CAMERA_COPIES = frozenset({".lrv", ".lrf"})
_PREVIEWS = frozenset({".gif"})
# Endings of a low-resolution copy's stem after the film's. The last is Sony's: C0001S03.MP4 for C0001.MP4.
_COPY_ENDINGS = ("_proxy", "-proxy", ".proxy", "s03")


def text(name: str | os.PathLike[str]) -> str:
    """A name or path as text; bytes that are not UTF-8 become replacement characters."""
    return os.fsencode(name).decode("utf-8", "replace")


def among(files: Iterable[Path]) -> list[Path]:
    """The films among some files, by their suffix, in the same order.

    Low-resolution copies count only if the film itself is missing: a camera's copy if its folder has no other film,
    other copies if no film has their stem.
    """
    files = list(files)
    whole = [path for path in files if path.suffix.lower() in SUFFIXES]
    folders, stems = {path.parent for path in whole}, {(path.parent, path.stem.lower()) for path in whole}

    def is_film(path: Path) -> bool:
        suffix, stem = path.suffix.lower(), path.stem.lower()
        if suffix in _CAMERA_COPIES:
            return path.parent not in folders
        if suffix in _PREVIEWS:
            return (path.parent, stem) not in stems
        copied = (stem.removesuffix(ending) for ending in _COPY_ENDINGS if stem.endswith(ending))
        return suffix in SUFFIXES and not any((path.parent, each) in stems for each in copied)

    return [path for path in files if is_film(path)]


def in_folder(folder: Path) -> list[Path]:
    """The films in a folder, in order of name, without hidden files."""
    return among(visible_files(folder))


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder, in order of name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def listed(movies: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Expands folders to the films in them.

    Raises:
      UserError: a folder cannot be read or holds no film, or two films have the same stem, which names their summary.
    """
    films: list[Path] = []
    for movie in map(Path, movies):
        if not movie.is_dir():
            films.append(movie)
            continue
        try:
            inside = in_folder(movie)
        except OSError as error:
            raise UserError(f"cannot read the folder {movie}: {error.strerror}; check its permissions") from None
        if not inside:
            raise UserError(
                f"there is no film in {movie}, by the suffixes of its files (.mp4, .mkv, .mov, ...); give a folder "
                "that holds some, or name the films themselves"
            )
        films += inside
    names: dict[str, Path] = {}
    for film in films:
        if film.stem in names:
            raise UserError(
                f"{names[film.stem]} and {film} would both be summarized in {film.stem}; rename one, "
                "or summarize them one by one"
            )
        names[film.stem] = film
    return films


def check_any(films: Sequence[Path]) -> None:
    """Raises UserError, about the first film, if no film can be opened: a quick check before slow work."""
    first = None
    for film in films:
        try:
            regular_file.check(film)
        except FileNotFoundError:
            first = first or UserError(f"there is no film {film}; check the path")
        except UserError as error:
            first = first or error
        else:
            return
    if first:
        raise first
