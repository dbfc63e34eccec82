"""Maps of attention and sound localization, and the summary with both drawn over it."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from avmsnet_jax.clock import clock
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.media.writer import Mp4Writer
from avmsnet_jax.scoring.film import Scores
from avmsnet_jax.summarization.result import Summary

_FINEST = 28  # cells across the attention map; the stem's 56 x 56 show no more in four times the bytes
_LONGEST_SIDE = 1280  # pixels of the overlay; larger ones take minutes and show no more of such coarse maps
_MAPS_SIDE = 480  # pixels; maps are interpolated to this size and then scaled to the picture
_DIMMED = 0.4  # brightness where attention is uniform or less
_SOUND = (0.15, 0.85, 1.0)  # RGB of the glow where the sound is located
_DARK, _GREY, _LIGHT, _CHOSEN = (16, 17, 20), (92, 96, 104), (236, 233, 226), (242, 177, 52)


def attention_levels(scores: Scores) -> tuple[np.ndarray, float]:
    """Where the scorer looked: the mean over its attention maps, relative to uniform attention.

    Args:
      scores: the scores of M clips.

    Returns:
      (M, h, w) float32, h and w at most 28: 0 = uniform attention or less, 1 = the film's maximum; and that maximum in
      multiples of uniform attention. The maximum is the 99.5th percentile, but at least 1.2, so that almost uniform
      attention looks uniform.
    """
    rows, columns = (min(max(maps.shape[axis] for maps in scores.attention), _FINEST) for axis in (1, 2))
    parts = []
    # In parts, because the maps of a long film take more than 100 MB in float32.
    for start in range(0, len(scores.times_s), 256):
        part = np.zeros((1, 1, 1), np.float32)
        for maps in scores.attention:
            _, height, width = maps.shape
            even = maps[start : start + 256].astype(np.float32) * (height * width / len(scores.attention))
            part = part + resized(even, rows, columns)
        parts.append(part)
    relative = np.concatenate(parts)
    top = max(float(np.percentile(relative, 99.5)), 1.2)
    return np.clip((relative - 1) / (top - 1), 0, 1, dtype=np.float32), top


def sound_levels(scores: Scores) -> np.ndarray:
    """Where the scorer located the sound.

    Args:
      scores: the scores of M clips.

    Returns:
      (M, h, w) float32: 0 = the film's median or less, 1 = its 99.5th percentile or more; zeros if sound is not used.
    """
    norms = scores.localization.astype(np.float32)
    low, high = np.percentile(norms, (50, 99.5))
    return np.clip((norms - low) / (high - low), 0, 1) if high > low else np.zeros_like(norms)


def resized(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes maps with cubic B-splines, which neither ring nor show edges between cells.

    Args:
      maps: (..., h, w) float32.
      height: rows wanted.
      width: columns wanted.

    Returns:
      (..., height, width) float32.
    """
    return _spline(height, maps.shape[-2]) @ maps @ _spline(width, maps.shape[-1]).T


def _spline(size: int, cells: int) -> np.ndarray:
    """(size, cells) float32: the weight of each cell in each sample; rows sum to 1."""
    places = (np.arange(size) + 0.5) * cells / size - 0.5
    away = np.abs(places[:, None] - np.arange(cells)) / max(cells / size, 1)
    near, far = 2 / 3 - away**2 + away**3 / 2, np.clip(2 - away, 0, None) ** 3 / 6
    weights = np.where(away < 1, near, far)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def write_overlay(summary: Summary, path: Path, on_frame: Callable[[], Any] = lambda: None) -> None:
    """Writes the summary with attention and sound localization drawn over it.

    The picture is dimmed where there is little attention and unchanged where there is most; a blue-green glow marks
    the location of the sound. Below are the film's time, the score, and the score curve of the whole film with the
    chosen shots. The sound is that of the summary. Memory use does not grow with the length.

    Args:
      summary: the summary, with at least one chosen shot.
      path: the mp4 to write, beside `summary.mp4`, from which pictures and sound are read.
      on_frame: called after each frame.

    Raises:
      UserError: `summary.mp4` is missing or broken, or `path` cannot be written.
    """
    source = Movie(path.with_name("summary.mp4"))
    fps = source.info().fps
    pictures = _pictures(summary, source)
    first = next(pictures)
    with Mp4Writer(path) as movie:
        track, sound = movie.pictures(first.shape, fps, crf=20, preset="veryfast"), movie.copied_sound(source.path)
        for index, picture in enumerate(itertools.chain([first], pictures)):
            sound.copy(until=index / fps)
            track.add(picture)
            on_frame()


def _pictures(summary: Summary, source: Movie) -> Iterator[np.ndarray]:
    """The frames of the overlay, (H, W, 3) uint8, both sides even."""
    scores = summary.scores
    (looked, _), heard = attention_levels(scores), sound_levels(scores)
    scale = min(_LONGEST_SIDE / max(scores.width, scores.height), 1)
    width, height = (max(2 * round(side * scale / 2), 2) for side in (scores.width, scores.height))
    band = _Band(summary, width, height)
    chosen = [shot for shot in summary.shots if shot.chosen]
    begins = np.array([shot.summary_start_s for shot in chosen], float)

    coarse = min(_MAPS_SIDE / max(width, height), 1)
    rows, columns = max(round(height * coarse), 1), max(round(width * coarse), 1)

    @functools.lru_cache(maxsize=2)  # computed once per clip, not once per frame
    def maps(clip: int) -> tuple[np.ndarray, np.ndarray]:
        return resized(looked[clip], rows, columns), resized(heard[clip], rows, columns)

    for frame in source.frames(constant_rate=True):
        shot = chosen[max(int(np.searchsorted(begins, frame.time_s + 1e-6, side="right")) - 1, 0)]
        film_s = shot.start_s + frame.time_s - float(shot.summary_start_s or 0)
        before, after, share = _neighbors(scores.times_s, film_s)
        (look, hear), (look_next, hear_next) = maps(before), maps(after)
        picture = _lit(
            frame.scaled(width, height), look + share * (look_next - look), hear + share * (hear_next - hear)
        )
        yield np.concatenate([picture, band.at(film_s, float(scores.scores[before if share < 0.5 else after]))])


def _neighbors(times_s: np.ndarray, time_s: float) -> tuple[int, int, float]:
    """The clips before and after a time, and its position between them, 0-1."""
    after = int(np.searchsorted(times_s, time_s))
    if after in (0, len(times_s)):
        only = min(after, len(times_s) - 1)
        return only, only, 0.0
    before = after - 1
    return before, after, float((time_s - times_s[before]) / (times_s[after] - times_s[before]))


def _lit(picture: np.ndarray, look: np.ndarray, hear: np.ndarray) -> np.ndarray:
    """Dims a picture, (H, W, 3) uint8, by attention and adds the glow of the sound; maps are (h, w) in 0-1."""
    height, width, _ = picture.shape
    gain = _spread(_DIMMED + (1 - _DIMMED) * np.sqrt(look), height, width)
    light = _spread(0.25 * hear + 0.65 * _rings(hear), height, width)
    dark = 255 - (picture.transpose(2, 0, 1) * gain >> 8)
    # Blended by "screen": bright places stay bright, and no color is washed out.
    for plane, color in zip(dark, _SOUND, strict=True):
        plane[:] = plane * (256 - (light * round(256 * color) >> 8)) >> 8
    return (255 - dark).astype(np.uint8).transpose(1, 2, 0)


def _spread(levels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales a map of 0-1 to (height, width) uint16 in 0-255."""
    image = Image.fromarray((255 * levels).astype(np.uint8))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(np.uint16)


def _rings(levels: np.ndarray) -> np.ndarray:
    """(h, w) float32, 0-1: contour lines around the place of the sound."""
    down, across = np.gradient(levels)
    slope = np.sqrt(down**2 + across**2) + 1e-6
    ring = 0.35 + 0.25 * np.clip(np.round((levels - 0.35) / 0.25), 0, 2)  # the nearest of three levels
    return np.clip(1 - np.abs(levels - ring) / slope, 0, 1) * ring


class _Band:
    """The strip below the picture: time, the film's score curve with the chosen shots, score."""

    def __init__(self, summary: Summary, width: int, height: int):
        self._size = min(max(min(width, height) // 22, 10), 28)  # of the text, in pixels
        self._height = 2 * self._size if width >= 14 * self._size else 0  # none where the picture is too narrow
        self._duration_s = summary.scores.duration_s
        self._decimals = summary.decimals
        self._left = (4 if self._duration_s < 3600 else 5) * self._size
        self._right = width - max(4, 2 + self._decimals // 2 + 1) * self._size
        self._font = ImageFont.load_default(self._size)
        self._base = self._curve(summary, width) if self._height else Image.new("RGB", (width, 0))
        self._shown: tuple[tuple[str, str], Image.Image] | None = None

    def at(self, time_s: float, score: float) -> np.ndarray:
        """(height, width, 3) uint8 for a moment of the film; height 0 where the picture is too narrow."""
        if not self._height:
            return np.asarray(self._base)
        text = clock(time_s), f"{score:.{self._decimals}f}"
        if self._shown is None or self._shown[0] != text:
            image = self._base.copy()
            draw = ImageDraw.Draw(image)
            middle = self._height // 2
            draw.text((self._size // 2, middle), text[0], _LIGHT, self._font, anchor="lm")
            draw.text((image.width - self._size // 2, middle), text[1], _CHOSEN, self._font, anchor="rm")
            self._shown = text, image
        strip = np.array(self._shown[1])
        place = self._left + round((self._right - self._left - 1) * min(time_s / self._duration_s, 1))
        strip[2:-2, place : place + max(self._size // 10, 1)] = _LIGHT
        return strip

    def _curve(self, summary: Summary, width: int) -> Image.Image:
        """The curve of the film's scores, light over the chosen shots; drawn four times as large for smooth edges."""
        finer, scores = 4, summary.scores
        left, right, bottom = self._left * finer, self._right * finer, (self._height - 4) * finer
        top = self._size // 3 * finer

        def across(time_s: float) -> float:
            return left + (right - left) * min(time_s / scores.duration_s, 1)

        line = [(across(time), bottom - (bottom - top) * float(score)) for time, score in _pairs(scores)]
        hill = [(left, bottom), (left, line[0][1]), *line, (right, line[-1][1]), (right, bottom)]
        size = width * finer, self._height * finer
        chosen = Image.new("L", size)
        for shot in summary.shots:
            if shot.chosen:
                box = (across(shot.start_s), 0, max(across(shot.end_s), across(shot.start_s) + finer), size[1])
                ImageDraw.Draw(chosen).rectangle(box, 255)
        gray, light = Image.new("RGB", size, _DARK), Image.new("RGB", size, _DARK)
        ImageDraw.Draw(gray).polygon(hill, _GREY)
        ImageDraw.Draw(light).polygon(hill, _CHOSEN)
        gray.paste(light, mask=chosen)
        return gray.resize((width, self._height), Image.Resampling.BOX)


def _pairs(scores: Scores) -> Iterable[tuple[float, float]]:
    return zip(scores.times_s.tolist(), scores.scores.tolist(), strict=True)
