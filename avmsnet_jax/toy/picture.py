"""The picture of a toy movie: landscapes that drift by, passers-by, and the ball and the square."""

import colorsys
import itertools
from collections.abc import Iterator

import numpy as np

from avmsnet_jax.toy.script import BEATS, EVENT_SECONDS, FPS, Event, Script

HEIGHT, WIDTH = 96, 128
GROUND = 0.84  # height of the line that the ball lands on, as a share of the picture's
NOISE = 2.5  # standard deviation of the camera noise, on a scale of 0-255

RED = np.array((228, 38, 30), np.float32)
BLUE = np.array((36, 78, 236), np.float32)
# Passers-by have neither the ball's color nor the square's.
PASSERS = np.array(((244, 205, 70), (92, 176, 96), (170, 112, 196), (235, 236, 228)), np.float32)

_ROWS, _COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)


def frames(script: Script) -> Iterator[np.ndarray]:
    """The frames of a film, (HEIGHT, WIDTH, 3) uint8 RGB, `FPS * seconds` of them."""
    edges = (0.0, *script.cuts, float(script.seconds))
    events = iter(script.events)
    event = next(events, None)
    firsts = [round(edge * FPS) for edge in edges]
    for number, (first, end) in enumerate(itertools.pairwise(firsts)):
        rng = np.random.default_rng((script.seed, number))
        shot = _Shot(rng)
        for index in range(first, end):
            time = index / FPS
            while event is not None and event.span[1] <= time:
                event = next(events, None)
            picture = shot.draw((index - first) / FPS)
            if event is not None and event.sight is not None and event.span[0] <= time:
                _draw_event(picture, event, time - event.time, script.seed)
            picture += shot.noise(rng)
            yield np.clip(picture, 0, 255).astype(np.uint8)


class _Shot:
    """One landscape: a sky, a sun, clouds, two lines of hills, a meadow, and passers-by."""

    def __init__(self, rng: np.random.Generator):
        hue = rng.uniform(0.5, 0.85)
        dusk = rng.random()
        top = _color(hue, 0.25 + 0.35 * rng.random(), 0.85 - 0.5 * dusk)
        low = _color(rng.uniform(0.07, 0.16), 0.1 + 0.35 * dusk, 0.95 - 0.3 * dusk)
        down = (_ROWS / HEIGHT)[..., None]
        self.sky = top + (low - top) * np.minimum(1, down / 0.7)
        x, y, radius = rng.uniform(0.1, 0.9) * WIDTH, rng.uniform(0.12, 0.35) * HEIGHT, rng.uniform(0.05, 0.09) * HEIGHT
        away = np.hypot(_COLUMNS - x, _ROWS - y)[..., None]
        self.sky += (np.array((255, 246, 205)) - self.sky) * np.clip(radius - away + 0.5, 0, 1)
        self.sky += 40 * np.exp(-np.maximum(0, away - radius) / (2 * radius))
        light = 0.95 - 0.45 * dusk

        # Each scrolling layer is a periodic strip, two pictures wide, with the channels color x cover and 1 - cover.
        across = np.arange(2 * WIDTH, dtype=np.float32) * (2 * np.pi / (2 * WIDTH))
        rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
        cover = 0.55 * _clouds(rng) * np.clip(1.4 - 2.2 * rows / HEIGHT, 0, 1)
        strips = [(cover, np.full(3, 255 * (0.97 - 0.3 * dusk), np.float32), rng.uniform(3, 8))]
        hills = rng.uniform(0.2, 0.45)
        direction = rng.choice((-1, 1))
        for line, rough, speed in ((0.55, 0.07, 5.0), (0.68, 0.05, 11.0), (0.78, 0.012, 22.0)):
            wave = sum(
                np.sin(across * rng.integers(octave, 2 * octave + 1) + rng.uniform(0, 6.3)) / octave
                for octave in (1, 2, 4)
            )
            height = HEIGHT * (line + rough * wave)
            hills += rng.uniform(-0.04, 0.04)
            tone = _color(hills, 0.25 + 0.4 * line, light * (0.85 - 0.45 * (1 - line)))
            strips.append((np.clip(rows - height + 0.5, 0, 1), tone, speed * rng.uniform(0.7, 1.3)))
        grain = 1 + 0.06 * rng.standard_normal((HEIGHT, 2 * WIDTH, 1)).astype(np.float32)
        self.layers = []
        for number, (cover, tone, speed) in enumerate(strips):
            texture = tone * (1 + (grain - 1) * min(number, 2) / 2)
            strip = np.concatenate([texture * cover[..., None], 1 - cover[..., None]], axis=-1).astype(np.float32)
            used = np.flatnonzero(cover.any(axis=1))
            span = slice(int(used[0]), int(used[-1]) + 1)
            strip = np.concatenate([strip, strip[:, : WIDTH + 1]], axis=1)[span]
            self.layers.append((strip, span, float(direction * speed)))
        self.passers = [_Passer(rng) for _ in range(rng.integers(1, 4))]
        self.flicker = rng.uniform(0, 6.3)
        # Noise is drawn once per shot and shifted randomly in each frame: drawing new noise would take longer than the
        # rest of the picture.
        self.grain = rng.normal(0, NOISE, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)

    def draw(self, time: float) -> np.ndarray:
        """The landscape `time` seconds into the shot, (HEIGHT, WIDTH, 3) float32."""
        picture = self.sky.copy()
        for number, (strip, span, speed) in enumerate(self.layers):
            if number == 2:
                for passer in self.passers:
                    passer.draw(picture, time)
            # Interpolate between pixels; otherwise slow layers would jerk.
            offset = speed * time % (2 * WIDTH)
            whole = int(offset)
            part = np.float32(offset - whole)
            layer = strip[:, whole : whole + WIDTH] * (1 - part) + strip[:, whole + 1 : whole + 1 + WIDTH] * part
            picture[span] *= layer[..., 3:]
            picture[span] += layer[..., :3]
        picture *= np.float32(1 + 0.02 * np.sin(1.7 * time + self.flicker))
        return picture

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        """The camera's noise for one frame, (HEIGHT, WIDTH, 3) float32."""
        row, column = rng.integers(0, (HEIGHT, WIDTH))
        return self.grain[row : row + HEIGHT, column : column + WIDTH]


class _Passer:
    """A balloon, a kite or a box that drifts by: a visual distractor."""

    def __init__(self, rng: np.random.Generator):
        self.shape = rng.integers(3)
        self.color = PASSERS[rng.integers(len(PASSERS))] * rng.uniform(0.75, 1)
        self.radius = rng.uniform(0.05, 0.12) * HEIGHT
        self.start = rng.uniform(0, WIDTH), rng.uniform(0.2, 0.7) * HEIGHT
        self.speed = rng.choice((-1, 1)) * rng.uniform(8, 30), rng.uniform(-4, 4)
        self.swing = rng.uniform(1, 3), rng.uniform(0, 6.3), rng.uniform(1, 5)

    def draw(self, picture: np.ndarray, time: float) -> None:
        rate, phase, reach = self.swing
        # It leaves on one side and returns on the other.
        x = (self.start[0] + self.speed[0] * time + self.radius) % (WIDTH + 2 * self.radius) - self.radius
        y = self.start[1] + self.speed[1] * time + reach * np.sin(rate * time + phase)
        box = _box(x, y, 1.5 * self.radius)
        dx, dy = _COLUMNS[box] - x, _ROWS[box] - y
        distance = (np.hypot(dx, dy), np.abs(dx) + np.abs(dy) / 1.4, np.maximum(np.abs(dx), np.abs(dy)))[self.shape]
        _paint(picture[box], self.color * (1 - 0.25 * (dy[..., None] / self.radius)), self.radius - distance + 0.5)


def middle(event: Event, time: float, seed: int) -> tuple[float, float]:
    """Where the ball (at half its hop) or the square is, as shares of the picture's width and height.

    Args:
      event: one with a sight.
      time: seconds from the middle of the event.
      seed: of the script.
    """
    x, drift, *rest = _course(event, seed)
    y = GROUND - 0.7 * rest[0] - rest[1] / 2 if event.sight == "ball" else rest[0]
    return x + drift * time, y


def _course(event: Event, seed: int) -> list[float]:
    """Position at the middle of the event, drift; then radius and hop (ball), or y, half side and spin (square)."""
    rng = np.random.default_rng((seed, round(1000 * event.time)))
    ball, square = ((0.14, 0.17), (0.22, 0.34)), ((0.3, 0.6), (0.13, 0.16), (-0.6, 0.6))
    ranges = ((0.22, 0.78), (-0.12, 0.12), *(ball if event.sight == "ball" else square))
    return [rng.uniform(*edges) for edges in ranges]


def _draw_event(picture: np.ndarray, event: Event, time: float, seed: int) -> None:
    """Paints the ball or the square, `time` seconds from the middle of the event."""
    # Both grow from zero and shrink to zero within the first and the last 0.08 s.
    size = np.clip((EVENT_SECONDS / 2 - abs(time)) / 0.08, 0, 1)
    start, drift, *rest = _course(event, seed)
    x = (start + drift * time) * WIDTH
    if event.sight == "ball":
        radius, hop = rest
        _draw_ball(picture, x, time, size * radius * HEIGHT, hop * HEIGHT)
    else:
        y, half, spin = rest
        _draw_square(picture, x, y * HEIGHT, time, size * half * HEIGHT, spin)


def _draw_ball(picture: np.ndarray, x: float, time: float, radius: float, hop: float) -> None:
    """A red ball that lands at each of `BEATS` and hops between them."""
    if radius < 1:
        return
    fall = (BEATS[1] - BEATS[0]) / 2
    since = (time - BEATS[0]) % (2 * fall) / fall - 1  # -1 and 1 at a landing, 0 at the top
    above = hop * (1 - since**2)
    squash = 0.22 * np.exp(-((1 - abs(since)) ** 2) / 0.01)
    wide, tall = radius * (1 + squash), radius * (1 - squash)
    ground = GROUND * HEIGHT + 0.3 * radius
    y = ground - tall - above
    box = _box(x, ground, 1.3 * wide)
    shade = 1 - np.hypot((_COLUMNS[box] - x) / wide, (_ROWS[box] - ground) / (0.3 * wide))
    _paint(picture[box], np.zeros(3, np.float32), 0.5 * np.clip(2 * shade, 0, 1) * (1 - 0.6 * above / hop))
    box = _box(x, y, 1.3 * radius + 1)
    dx, dy = (_COLUMNS[box] - x) / wide, (_ROWS[box] - y) / tall
    light = np.exp(-((dx + 0.35) ** 2 + (dy + 0.4) ** 2) / 0.12)[..., None]
    body = RED * (1 - 0.35 * np.clip(dx + dy, 0, 1))[..., None]
    _paint(picture[box], body + (255 - body) * 0.8 * light, (1 - np.hypot(dx, dy)) * radius + 0.5)


def _draw_square(picture: np.ndarray, x: float, y: float, time: float, half: float, spin: float) -> None:
    """A blue square that flashes at each of `BEATS` and throws a glow around it."""
    if half < 1:
        return
    flash = max(np.exp(-(((time - beat) / 0.07) ** 2)) for beat in BEATS)
    box = _box(x, y, 3 * half)
    angle = 0.3 * spin + spin * time
    dx, dy = _COLUMNS[box] - x, _ROWS[box] - y
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    away = np.maximum(np.abs(u), np.abs(v)) - half
    _paint(picture[box], BLUE + 60, (0.15 + 0.5 * flash) * np.exp(-np.maximum(0, away) / (0.35 * half)))
    face = BLUE + (np.array((120, 190, 255), np.float32) - BLUE) * (0.75 * flash)
    edge = np.clip(1 - np.abs(away + 0.18 * half) / (0.12 * half), 0, 1)[..., None]
    _paint(picture[box], face + (255 - face) * 0.5 * edge, 0.5 - away)


def _paint(target: np.ndarray, color: np.ndarray, cover: np.ndarray) -> None:
    """Blends `color` (3,) or (h, w, 3) into `target` (h, w, 3) with opacity `cover` (h, w)."""
    target += (color - target) * np.clip(cover, 0, 1)[..., None]


def _box(x: float, y: float, reach: float) -> tuple[slice, slice]:
    """The part of the picture within `reach` of a point."""
    top, bottom = np.clip((y - reach, y + reach + 1), 0, HEIGHT).astype(int)
    left, right = np.clip((x - reach, x + reach + 1), 0, WIDTH).astype(int)
    return slice(top, bottom), slice(left, right)


def _clouds(rng: np.random.Generator) -> np.ndarray:
    """Cover of a strip of clouds, (HEIGHT, 2 WIDTH) in 0-1: the positive part of low-pass noise."""
    spectrum = np.fft.rfft2(rng.standard_normal((HEIGHT, 2 * WIDTH)))
    fy, fx = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(2 * WIDTH)[None]
    smooth = np.fft.irfft2(spectrum / (0.02 + np.hypot(2 * fx, fy)) ** 2 * (np.hypot(fx, fy) > 0), (HEIGHT, 2 * WIDTH))
    return np.clip(smooth / smooth.std(), 0, 1).astype(np.float32)


def _color(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, min(saturation, 1), min(value, 1)), np.float32)
