"""Finds opening and end credits: runs of clips at a film's beginning and end that show text on a plain background.

In the small pictures of a clip, letters are not legible, but a line of text is a thin, wide streak of uneven
brightness. A clip shows text if its background is smooth once thin strokes are removed, if most strokes lie in such
streaks, and if the streaks stand still or scroll together. Signs, scoreboards and title cards within a film look the
same, so only text at the film's beginning and end counts as credits.
"""

import itertools

import cv2
import numpy as np

from avmsnet_jax.scoring.scorer import Measured

_SIZE = 112  # pixels of the pictures; the lengths below are in these pixels
_SQUARE = np.ones((9, 9), np.uint8)  # wider or higher than any stroke
_STEEPEST = 10  # of 255: largest change within 3 pixels of a smooth background
_FAINTEST = 16  # of 255: less contrast is noise
_RELATIVE, _STRONGEST = 0.35, 63  # contrast below this share of the 63rd strongest pixel's is blur around strokes
_WORD_SPACE = 7  # widest gap in a line of text
_NARROWEST, _HIGHEST = 9, 20  # smallest width and largest height of a line of text
# Roughness, the change along a line of text over its contrast. Drawn lines have less. A row of lights has more than
# text of its height, in which letters run together.
_SMOOTHEST, _ROUGHEST, _ROUGHEST_BY_HEIGHT = 0.1, 0.5, 0.15
_SUBTITLES = 75  # if all text is below this row, it is subtitles
_LATER, _FARTHEST = 4, 10  # frames between the two compared pictures, and the farthest that text scrolls meanwhile

_PLAIN = 0.95  # least smooth share of the picture
_TEXT = 0.5  # least share of the strokes' contrast that lies in lines of text
_AGREE = 0.6  # least correlation of the lines in the two pictures
_BLACK = 0.075  # brightness, as in the scorer's quality measure
_GAP_S = 5.0  # longest gap between clips of text, for figures that cross the background
_MOST = 0.5  # largest share of credits in a film: if there is more text, the film is about text


def measure(clip: np.ndarray) -> dict[str, np.ndarray]:
    """Measures text on a plain background.

    Args:
      clip: (T, H, W, 3) uint8 RGB.

    Returns:
      `plain`: bool, whether the background is smooth once thin strokes are removed; `text`: bool, whether there is text
      on such a background.
    """
    middle = len(clip) // 2
    gray, later = (_gray(clip[index]) for index in (middle, min(middle + _LATER, len(clip) - 1)))
    # Dark text has bright strokes, too, the spaces between its lines, but its background is not smooth without these
    # strokes.
    grounds = {kind: _smooth(cv2.morphologyEx(gray, kind, _SQUARE)) for kind in (cv2.MORPH_OPEN, cv2.MORPH_CLOSE)}
    kind = max(grounds, key=grounds.__getitem__)
    plain = text = grounds[kind] >= _PLAIN
    if plain:
        strokes, strokes_later = (cv2.absdiff(each, cv2.morphologyEx(each, kind, _SQUARE)) for each in (gray, later))
        lines, share = _lines(strokes)
        text = share >= _TEXT and bool(lines[:_SUBTITLES].any()) and _move_as_one(lines, strokes, strokes_later)
    return {"plain": np.asarray(plain), "text": np.asarray(text)}


def _gray(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), (_SIZE, _SIZE), interpolation=cv2.INTER_AREA)


def _smooth(background: np.ndarray) -> float:
    steps = cv2.morphologyEx(background, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    return float((steps <= _STEEPEST).mean())


def _lines(strokes: np.ndarray) -> tuple[np.ndarray, float]:
    """The mask of the lines of text, and their share of the strokes' contrast."""
    strongest = int(np.partition(strokes, -_STRONGEST, axis=None)[-_STRONGEST])
    inked = (strokes > max(_FAINTEST, _RELATIVE * strongest)).astype(np.uint8)
    joined = cv2.morphologyEx(inked, cv2.MORPH_CLOSE, np.ones((1, _WORD_SPACE), np.uint8))
    count, label, boxes, _ = cv2.connectedComponentsWithStats(joined)
    within = np.flatnonzero(joined)
    line = label.ravel()[within]
    ink = np.bincount(line, (strokes * inked).ravel()[within], minlength=count)
    change = cv2.absdiff(strokes[:, 1:], strokes[:, :-1])
    change = cv2.copyMakeBorder(change, 0, 0, 1, 0, cv2.BORDER_CONSTANT)
    roughness = np.bincount(line, change.ravel()[within], minlength=count) / np.maximum(ink, 1)
    width, height = boxes[:, cv2.CC_STAT_WIDTH], boxes[:, cv2.CC_STAT_HEIGHT]
    is_line = (width >= np.maximum(_NARROWEST, 2 * height)) & (height <= _HIGHEST)
    is_line &= (roughness >= _SMOOTHEST) & (roughness <= np.maximum(_ROUGHEST, _ROUGHEST_BY_HEIGHT * height))
    is_line[0] = False  # the background
    return is_line[label].astype(np.uint8), float(ink[is_line].sum() / max(ink.sum(), 1))


def _move_as_one(lines: np.ndarray, strokes: np.ndarray, later: np.ndarray) -> bool:
    """Whether the lines as a whole match the later picture: one correlation over all strokes, at one vertical shift."""
    near = np.flatnonzero(cv2.dilate(lines, np.ones((5, 1), np.uint8)))
    shifts = _SIZE * np.arange(2 * _FARTHEST + 1)
    now = strokes.ravel()[near].astype(np.float32)
    padded = cv2.copyMakeBorder(later, _FARTHEST, _FARTHEST, 0, 0, cv2.BORDER_CONSTANT)
    then = padded.ravel()[near + shifts[:, None]].astype(np.float32)
    now, then = now - now.mean(), then - then.mean(axis=1, keepdims=True)
    correlation = then @ now / np.maximum(np.linalg.norm(then, axis=1) * np.linalg.norm(now), 1e-6)
    return bool(correlation.max() >= _AGREE)


def found(measured: Measured) -> np.ndarray:
    """(N,) bool: which clips are opening or end credits, from the measures of a film's clips in order of time."""
    text, times = measured["text"].copy(), measured["time_s"]
    for before, after in itertools.pairwise(np.flatnonzero(text)):
        between = slice(before + 1, after)
        if times[after] - times[before] <= _GAP_S and measured["plain"][between].all():
            text[between] = True
    # At each end, take the stretch in which clips of text outnumber the others by most. Black clips count as neither.
    # So a few clips of a logo, or of a scene after the credits, do not end the stretch.
    weight = np.where(text, 1, np.where(measured["brightness"] <= _BLACK, 0, -1))
    opening, ending = _longest_lead(weight), _longest_lead(weight[::-1])
    at_ends = np.zeros(len(text), bool)
    at_ends[:opening] = True
    at_ends[len(text) - ending :] = True
    credits = text & at_ends
    return credits if credits.mean() <= _MOST else np.zeros(len(text), bool)


def _longest_lead(weight: np.ndarray) -> int:
    """The length of the prefix with the greatest sum; 0 if no sum is positive."""
    sums = np.concatenate([[0], np.cumsum(weight)])
    return int(sums.argmax())
