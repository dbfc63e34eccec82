"""Reads what eye trackers and public data sets write, each as recordings of single observers.

    plain    CSV with the header observer,time_s,x,y; x and y are shares of the picture
    diem     DIEM: frame lx ly ldil levent rx ry rdil revent, 30 a second, one file an observer, no header
    bids     BIDS eye tracking, as studyforrest's: onset duration label start_x start_y end_x end_y
    tobii    Tobii Studio and Tobii Pro Lab, TSV
    eyelink  SR Research EyeLink, ASC

The format is recognized by content.
"""

import csv
import dataclasses
import itertools
import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from avmsnet_jax import regular_file
from avmsnet_jax.errors import UserError
from avmsnet_jax.gaze.geometry import Geometry
from avmsnet_jax.gaze.recording import Recording

FOLDER_SUFFIX = ".gaze"  # of the folder beside a film

_DIEM_RATE = 30.0
_DIEM_SCREEN = (1280.0, 960.0)
_FIXATION = 1  # DIEM's event; 0 is a blink, 2 a saccade, -1 a lost sample
_STEADY_LABELS = {"FIXA", "PURS"}  # BIDS: fixation and smooth pursuit
_PURSUIT_STEP_S = 0.02  # a pursuit is divided into rows of about this length
_SACCADE_DEG_S = 100.0  # raw gaze that moves faster is a saccade; pursuit stays below
_SACCADE_RATE = 45.0  # samples a second, below which saccades cannot be detected: a sample is as long as one
_UNKNOWN_WIDTH_DEG = 24.0  # of the film, where the geometry is unknown: 5% of it are 1.2 degrees
_BEYOND_S, _BEYOND_SHARE = 5.0, 0.1  # how far a recording may go on after its film
_MOST_OUTSIDE = 0.5  # of samples: positions beyond one picture's width around the picture are in another unit


@dataclasses.dataclass(frozen=True)
class _Samples:
    """The steady gaze of one observer in a file, not yet checked against the film.

    Attributes:
      start_s, end_s, x, y: as `Recording` has them, but in any order and of any size.
      span_s: the first and the last moment that was recorded, steady or not.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    x: np.ndarray
    y: np.ndarray
    span_s: tuple[float, float]


def read(path: Path, geometry: Geometry, form: str = "") -> list[Recording]:
    """Reads a file of gaze.

    Args:
      path: the file.
      geometry: the film, and where it lay on the screen.
      form: one of `FORMATS`; empty = the file says.

    Returns:
      a recording for each observer in the file, without rows that are off the picture.

    Raises:
      UserError: the file is missing, of no known format, damaged, in other units, or of a longer film.
    """
    if form and form not in FORMATS:
        raise UserError(f"--gaze_format is {form!r}; choose {', '.join(FORMATS)}")
    lines = _lines(path)
    form = form or _detected(path, lines)
    found = _READERS[form](path, lines, geometry)
    if not found:
        raise UserError(f"{path} holds no gaze; remove it, or export it again")
    return [_checked(path, observer, samples, geometry) for observer, samples in found.items()]


def _lines(path: Path) -> list[str]:
    try:
        regular_file.check(path)
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return content.decode(encoding).splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8 or UTF-16; export it again as text") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from None


def _detected(path: Path, lines: Sequence[str]) -> str:
    first = next((line for line in lines if line.strip()), "")
    columns = {cell.strip().strip('"').lower() for cell in re.split(r"[\t,;]", first)}
    if {"observer", "time_s", "x", "y"} <= columns:
        return "plain"
    if {"onset", "duration", "label"} <= columns:
        return "bids"
    if any(re.fullmatch(r"recording ?timestamp.*", column) for column in columns):
        return "tobii"
    if re.match(r"\*\*|MSG\s|START\s|EFIX\s|SFIX\s", first):
        return "eyelink"
    if re.fullmatch(r"\s*\d+(\s+[-+\d.eE]+){8}\s*", first):
        return "diem"
    raise UserError(f"{path}: its first line is of no known format; name it by --gaze_format={'|'.join(FORMATS)}")


def _plain(path: Path, lines: Sequence[str], geometry: Geometry) -> dict[str, _Samples]:
    rows = _table(path, lines, ("observer", "time_s", "x", "y"), ",")
    samples: dict[str, tuple[array[float], array[float], array[float]]] = {}
    for place, (observer, *values) in rows:
        columns = samples.setdefault(observer, (array("d"), array("d"), array("d")))
        time, x, y = (_number(place, value) for value in values)
        if not math.isfinite(time):
            raise UserError(f"{place}: a row without a time; remove it")
        for column, value in zip(columns, (time, x, y), strict=True):
            column.append(value)
    found = {}
    for observer, columns in samples.items():
        times, xs, ys = (np.frombuffer(column) for column in columns)
        outside = np.maximum(np.abs(xs - 0.5), np.abs(ys - 0.5)) > 1.5
        if outside.sum() > _MOST_OUTSIDE * np.isfinite(xs).sum():
            raise UserError(
                f"{path}: x and y of {observer} are not shares of the picture (x is about {np.nanmedian(xs):g}); "
                "divide them by its width and height"
            )
        found[observer] = _steady(path, times, xs, ys, geometry)
    return found


def _steady(path: Path, times: np.ndarray, x: np.ndarray, y: np.ndarray, geometry: Geometry) -> _Samples:
    """Raw gaze without lost samples, and without saccades where the rate shows them (Salvucci and Goldberg 2000)."""
    order = np.argsort(times, kind="stable")
    times, x, y = times[order], x[order], y[order]
    steps = np.diff(times)
    if len(times) < 2 or np.median(steps) <= 0:
        raise UserError(f"{path}: its times do not rise; give each sample's own time")
    period = float(np.median(steps))
    ends = times + np.minimum(np.append(steps, period), 2 * period)
    steady = np.isfinite(x) & np.isfinite(y)
    if period < 1 / _SACCADE_RATE:
        reach = max(round(0.016 / period), 1)
        widths = np.hypot(x[reach:] - x[:-reach], (y[reach:] - y[:-reach]) / geometry.aspect)
        with np.errstate(invalid="ignore", divide="ignore"):
            speed = widths * (geometry.degrees or _UNKNOWN_WIDTH_DEG) / (times[reach:] - times[:-reach])
        fast = np.flatnonzero(speed > _SACCADE_DEG_S)
        for offset in range(reach + 1):
            steady[fast + offset] = False
    return _Samples(times[steady], ends[steady], x[steady], y[steady], (float(times[0]), float(ends[-1])))


def _diem(path: Path, lines: Sequence[str], geometry: Geometry) -> dict[str, _Samples]:
    found: list[tuple[float, float, float]] = []
    frame, last = 0.0, 0.0
    for place, cells in _numbered(path, lines):
        if len(cells) != 9:
            raise UserError(f"{place}: {len(cells)} numbers, not frame lx ly ldil levent rx ry rdil revent")
        frame, lx, ly, _, left, rx, ry, _, right = (_number(place, cell) for cell in cells)
        if not frame.is_integer() or frame < 1:
            raise UserError(f"{place}: there is no frame {frame:g}; frames are counted from 1")
        last = max(last, frame)
        eyes = [(x, y) for x, y, event in ((lx, ly, left), (rx, ry, right)) if event == _FIXATION]
        if eyes:
            x, y = np.mean(eyes, axis=0).tolist()
            found.append(((frame - 1) / _DIEM_RATE, x, y))
    if not last:
        return {}
    times, xs, ys = np.array(found).reshape(-1, 3).T
    shares = geometry.shares(xs, ys, geometry.screen or _DIEM_SCREEN)
    return {path.stem: _Samples(times, times + 1 / _DIEM_RATE, *shares, (0.0, last / _DIEM_RATE))}


def _bids(path: Path, lines: Sequence[str], geometry: Geometry) -> dict[str, _Samples]:
    names = ("onset", "duration", "label", "start_x", "start_y", "end_x", "end_y")
    found: list[tuple[float, float, float, float]] = []
    span = [math.inf, -math.inf]
    for place, (onset, duration, label, *ends) in _table(path, lines, names, "\t"):
        start, length = _number(place, onset), _number(place, duration)
        if not (math.isfinite(start) and length >= 0):
            raise UserError(f"{place}: an event without onset or duration; remove it")
        span = [min(span[0], start), max(span[1], start + length)]
        if label.upper() not in _STEADY_LABELS:
            continue
        x0, y0, x1, y1 = (_number(place, value) for value in ends)
        parts = max(round(length / _PURSUIT_STEP_S), 1) if label.upper() == "PURS" else 1
        for part in range(parts):
            share = (part + 0.5) / parts
            found.append(
                (start + part * length / parts, length / parts, x0 + share * (x1 - x0), y0 + share * (y1 - y0))
            )
    if span[0] > span[1]:
        return {}
    starts, lengths, x, y = np.array(found).reshape(-1, 4).T
    x, y = geometry.shares(x, y, geometry.screen or (geometry.width, geometry.height))
    return {path.stem: _Samples(starts, starts + lengths, x, y, (span[0], span[1]))}


def _tobii(path: Path, lines: Sequence[str], geometry: Geometry) -> dict[str, _Samples]:
    header = next(csv.reader([lines[0]], delimiter="\t"))
    plain = [re.sub(r"[^a-z]", "", re.sub(r"\(.*|\[.*", "", name.lower())) for name in header]

    def column(*names: str) -> str | None:
        return next((header[plain.index(name)] for name in names if name in plain), None)

    time = column("recordingtimestamp")
    x, y = column("gazepointx", "gazepointxmcspx"), column("gazepointy", "gazepointymcspx")
    media = [name for name in header if re.search(r"MCSpx", name)]
    if len(media) >= 2:
        x, y = media[0], media[1]
    width, height = column("mediawidth"), column("mediaheight")
    if time is None or x is None or y is None:
        raise UserError(f"{path} has no columns RecordingTimestamp and GazePointX/Y (MCSpx); export them with it")
    scale = 1e-6 if re.search(r"[\[(](µ|μ|u)s[\])]", time) else 1e-3
    film, fixation = column("medianame", "presentedmedianame"), column("fixationindex")
    observer = column("participantname", "recordingname")
    wanted = [name for name in (time, x, y, width, height, film, fixation, observer) if name]
    rows = [
        (place, dict(zip(wanted, cells, strict=True)))
        for place, cells in _table(path, lines, tuple(wanted), "\t", decimal_comma=True)
    ]
    if film:  # of a session of several films the rows of this one; where none has its name, those that show anything
        own = path.parent.name.removesuffix(FOLDER_SUFFIX)
        rows = [row for row in rows if Path(row[1][film]).stem == own] or [row for row in rows if row[1][film]]
    samples: dict[str, list[tuple[float, float, float]]] = {}
    origin: dict[str, float] = {}
    for place, row in rows:
        who = row[observer] if observer and row[observer] else path.stem
        now = _number(place, row[time]) * scale
        start = origin.setdefault(who, now)
        size = [_number(place, row[name]) if name else math.nan for name in (width, height)]
        if not all(value > 0 for value in size):
            size = list(geometry.screen or (geometry.width, geometry.height))
        across, down = _number(place, row[x]) / size[0], _number(place, row[y]) / size[1]
        if fixation and not row[fixation]:  # a blink or a saccade
            across = down = math.nan
        samples.setdefault(who, []).append((now - start, across, down))
    found = {}
    for who, values in samples.items():
        times, xs, ys = np.array(values).T
        found[who] = _steady(path, times, xs, ys, geometry)
    return found


def _eyelink(path: Path, lines: Sequence[str], geometry: Geometry) -> dict[str, _Samples]:
    screen, origin, first, last = geometry.screen, None, None, 0.0
    eyes: dict[str, list[tuple[float, float, float, float]]] = {"L": [], "R": []}
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        place = f"{path}, line {number}"
        if len(cells) < 2 or cells[0] not in ("MSG", "START", "END", "EFIX"):
            continue
        if cells[0] == "EFIX":
            if len(cells) < 7 or cells[1] not in eyes:
                raise UserError(f"{place}: not EFIX, eye, start, end, duration, x, y; export it again")
            start, end, _, x, y = (_number(place, cell) for cell in cells[2:7])
            eyes[cells[1]].append((start / 1e3, end / 1e3, x, y))
            last = max(last, end / 1e3)
            continue
        time = _number(place, cells[1]) / 1e3
        if cells[0] == "START":
            first = time if first is None else first
        elif cells[0] == "END":
            last = max(last, time)
        elif re.search(r"(DISPLAY|GAZE)_COORDS", line) and geometry.screen is None:
            corners = [float(value) for value in re.findall(r"-?\d+(?:\.\d+)?", line.split("COORDS")[1])][:4]
            screen = (corners[2] - corners[0] + 1, corners[3] - corners[1] + 1) if len(corners) == 4 else screen
        elif origin is None and re.search(r"SYNCTIME|(VIDEO|MOVIE|DISPLAY|TRIAL)[ _]?(START|ON)|TRIALID", line, re.I):
            origin = time
        if re.search(r"SYNCTIME", line):
            origin = time  # the moment of the first picture, which is later than that of the trial
    origin = first if origin is None else origin
    rows = max(eyes.values(), key=len)
    if not rows or origin is None:
        return {}
    starts, ends, xs, ys = np.array(rows).T
    shares = geometry.shares(xs, ys, screen or (geometry.width, geometry.height))
    return {path.stem: _Samples(starts - origin, ends - origin, *shares, (0.0, last - origin))}


_READERS: dict[str, Callable[[Path, Sequence[str], Geometry], dict[str, _Samples]]] = {
    "plain": _plain,
    "diem": _diem,
    "bids": _bids,
    "tobii": _tobii,
    "eyelink": _eyelink,
}
FORMATS = tuple(_READERS)


def _table(
    path: Path, lines: Sequence[str], names: Sequence[str], delimiter: str, *, decimal_comma: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """The rows of a table, each with its place for messages and the cells of the named columns.

    Raises:
      UserError: a column is missing, or a row is too short.
    """
    at = next(number for number, line in enumerate(lines) if line.strip())
    if delimiter == "," and ";" in lines[at]:  # spreadsheets of languages that write 0,5 for 0.5
        delimiter, decimal_comma = ";", True
    elif delimiter == "," and "\t" in lines[at]:
        delimiter = "\t"
    reader = csv.reader(itertools.islice(lines, at, None), delimiter=delimiter)
    header = [cell.strip() for cell in next(reader)]
    missing = [name for name in names if name not in header]
    if missing:
        raise UserError(f"{path} has no column {', '.join(missing)}; export it with {', '.join(names)}")
    places = [header.index(name) for name in names]
    for row in reader:
        if not any(row):
            continue
        place = f"{path}, line {at + reader.line_num}"
        if len(row) <= max(places):
            raise UserError(f"{place}: {len(row)} cells where the header has {len(header)}; export it again")
        cells = [row[index].strip() for index in places]
        yield place, [cell.replace(",", ".") for cell in cells] if decimal_comma else cells


def _numbered(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if cells := line.split():
            yield f"{path}, line {number}", cells


_NO_NUMBER = {"", "n/a", "na", "nan", "."}  # what trackers write for a lost sample


def _number(place: str, text: str) -> float:
    if text.lower() in _NO_NUMBER:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{place}: {text[:40]!r} is not a number; export it again") from None


def _checked(path: Path, observer: str, samples: _Samples, geometry: Geometry) -> Recording:
    """A recording in order of time, within the film and the picture.

    Raises:
      UserError: it goes on long after the film, or its positions are in another unit.
    """
    start, end, x, y = (
        np.asarray(column, np.float64) for column in (samples.start_s, samples.end_s, samples.x, samples.y)
    )
    duration = geometry.duration_s
    if samples.span_s[1] > duration * (1 + _BEYOND_SHARE) + _BEYOND_S:
        raise UserError(
            f"{path}: the gaze of {observer} goes to {samples.span_s[1]:,.0f} s, and the film has {duration:,.0f} s; "
            "it is of another film, or its times are not in the unit that this format has"
        )
    far = np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) > 1.5
    if len(x) and far.mean() > _MOST_OUTSIDE:
        raise UserError(
            f"{path}: most of the gaze of {observer} lies far off the film; give the screen's size by --gaze_screen, "
            "and where the film lay on it by --gaze_film"
        )
    shown = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & (end > start) & (start < duration) & (end > 0)
    order = np.flatnonzero(shown)[np.argsort(start[shown], kind="stable")]
    start, end = start[order].clip(0), end[order].clip(max=duration)
    end[:-1] = np.minimum(end[:-1], start[1:])  # two events of one observer never last at the same time
    recorded = min(samples.span_s[1], duration) - max(samples.span_s[0], 0.0)
    return Recording(observer, start, end, x[order], y[order], max(recorded, 0.0))
