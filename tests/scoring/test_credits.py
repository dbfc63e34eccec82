"""Opening and end credits are found, and scenes that resemble them are not."""

import functools
import json
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

import avmsnet_jax
from avmsnet_jax.data.clips import SAMPLES_PER_FRAME, Clip
from avmsnet_jax.scoring import credits
from avmsnet_jax.scoring.attention import Attention
from avmsnet_jax.scoring.scorer import Measured
from tests.media.films import encode

FRAMES, WIDTH, HEIGHT = 16, 320, 240  # films are scaled to this size before they become a clip's small pictures
WHITE, BLACK, BLUE = (255, 255, 255), (0, 0, 0), (20, 30, 120)
ROLES = ("Direction", "Screenplay", "Camera", "Animation", "Sound", "Music")
NAMES = ("Ada Sundberg", "Noor Vandermeer", "Luis Ortega Paz", "Mei Tanaka", "Jonas Albrecht", "Olga Petrova")

Shot = Callable[[int], np.ndarray]  # frame number -> (240, 320, 3) uint8


def flat(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), color, np.uint8)


def landscape(seed: int) -> np.ndarray:
    """A still picture with some texture."""
    coarse = np.random.default_rng(seed).integers(60, 200, (15, 20, 3)).astype(np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def glow() -> np.ndarray:
    """Blue that gets darker away from the middle."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(columns / WIDTH - 0.5, rows / HEIGHT - 0.5)[..., None]
    return (np.array([60, 120, 170]) * (1 - 1.1 * distance)).clip(0).astype(np.uint8)


def write(
    picture: np.ndarray, text: str, x: int, y: float, size: int, color: tuple[int, int, int], anchor: str
) -> None:
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((x, y), text, color, ImageFont.load_default(size=size), anchor, align="center")
    picture[:] = np.asarray(image)


def rolling(color=WHITE, ground=None, *, columns: int = 1, size: int = 11, figure: bool = False) -> Shot:
    """Lines of text that move up a pixel a frame."""
    ground = flat(BLACK) if ground is None else ground
    if columns == 1:
        texts = [(WIDTH // 2, "ma", "".join(f"{role}\n{name}\n\n" for role, name in zip(ROLES, NAMES, strict=True)))]
    else:
        texts = [(WIDTH // 2 - 8, "ra", "\n\n".join(ROLES)), (WIDTH // 2 + 8, "la", "\n\n".join(NAMES))]
    mask = np.zeros((HEIGHT + FRAMES, WIDTH, 3), np.uint8)
    for x, anchor, text in texts:
        write(mask, text, x, 10, size, WHITE, anchor)

    def shot(number: int) -> np.ndarray:
        share = mask[number : number + HEIGHT] / 255
        picture = (share * color + (1 - share) * ground).astype(np.uint8)
        if figure:
            cv2.ellipse(picture, (20 + number, 170), (14, 40), 0, 0, 360, (200, 140, 60), -1)
        return picture

    return shot


def card(text: str, size: int = 18, color=WHITE, ground=None) -> Shot:
    picture = flat(BLACK) if ground is None else ground.copy()
    write(picture, text, WIDTH // 2, HEIGHT / 2, size, color, "mm")
    return lambda number: picture


def scene(seed: int) -> Shot:
    """A disc that moves through a landscape."""
    still = landscape(seed)

    def shot(number: int) -> np.ndarray:
        picture = still.copy()
        cv2.circle(picture, (60 + 3 * number, 40 + 6 * seed % 160), 20, (220, 50, 40), -1, cv2.LINE_AA)
        return picture

    return shot


def night(number: int) -> np.ndarray:
    """A dark town with lit windows and street lamps."""
    picture, chance = flat((8, 8, 12)), np.random.default_rng(0)
    cv2.rectangle(picture, (0, 160), (WIDTH, HEIGHT), (18, 18, 25), -1)
    for x, y in chance.integers((0, 60), (WIDTH, HEIGHT), (50, 2)).tolist():
        cv2.circle(picture, (x, y), 1 + x % 2, (230, 210, 150), -1, cv2.LINE_AA)
    for x in range(10, WIDTH, 24):
        cv2.circle(picture, (x, 158), 2, (255, 230, 170), -1, cv2.LINE_AA)
    return picture


def snow(number: int) -> np.ndarray:
    picture, chance = flat((15, 15, 20)), np.random.default_rng(0)
    for x, y, speed in chance.integers((0, 0, 2), (WIDTH, HEIGHT, 6), (200, 3)).tolist():
        cv2.circle(picture, (x + speed % 2 * number, (y + speed * number) % HEIGHT), 1 + x % 2, WHITE, -1, cv2.LINE_AA)
    return picture


def glitter(number: int) -> np.ndarray:
    """Streaks of light on dark water."""
    picture, chance = flat((10, 14, 24)), np.random.default_rng(number)
    for x, y in chance.integers(0, (WIDTH, HEIGHT), (40, 2)).tolist():
        cv2.ellipse(picture, (x, y), (14 + x % 9, 2), 0, 0, 360, (200, 200, 180), -1, cv2.LINE_AA)
    return picture


def subtitled(ground: np.ndarray) -> Shot:
    picture = ground.copy()
    write(picture, "I never said that you should\nwait here for the whole night.", WIDTH // 2, 205, 13, WHITE, "mm")
    return lambda number: picture


def talking_head(number: int) -> np.ndarray:
    """In black and white, on a plain background."""
    picture, y = np.full((HEIGHT, WIDTH), 60, np.uint8), round(2 * np.sin(number / 3))
    for center, axes, gray in (
        ((160, 220), (85, 80), 35),
        ((160, 110), (38, 66), 180),
        ((160, 66), (40, 33), 40),
        ((146, 103), (7, 5), 240),
        ((174, 103), (7, 5), 240),
        ((160, 143), (13, 2 + abs(number % 6 - 3)), 70),
    ):
        cv2.ellipse(picture, (center[0], center[1] + y), axes, 0, 0, 360, gray, -1)
    noisy = picture + np.random.default_rng(number).normal(0, 3, picture.shape)
    return np.repeat(noisy.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def cartoon(number: int) -> np.ndarray:
    """Flat colors and thin lines, a horizon among them."""
    picture, x = flat((250, 240, 200)), 100 + number
    for place in range(5):
        cv2.line(picture, (20, 30 + 8 * place), (90, 30 + 8 * place), BLACK, 1)  # ruled lines
    cv2.rectangle(picture, (220, 100), (280, 170), (230, 90, 80), -1)
    cv2.rectangle(picture, (220, 100), (280, 170), BLACK, 2)
    cv2.circle(picture, (x, 100), 15, BLACK, 2)
    for start, end in (((0, 115), (0, 150)), ((0, 125), (18, 138)), ((0, 150), (-12, 170)), ((0, 150), (12, 170))):
        cv2.line(picture, (x + start[0], start[1]), (x + end[0], end[1]), BLACK, 2)
    cv2.line(picture, (0, 170), (WIDTH, 170), BLACK, 2)
    return picture


def scoreboard(number: int) -> np.ndarray:
    picture = flat((10, 30, 80))
    for row, line in enumerate(("LIONS   2", "TIGERS   1", "BEARS   0", "WOLVES   4")):
        write(picture, line, WIDTH // 2, 50 + 45 * row, 18, WHITE, "mm")
    return picture


def clip_of(shot: Shot, second: int = 1, loudness: float = 0.01) -> Clip:
    frames = [Image.fromarray(shot(number)).resize((112, 112), Image.Resampling.BILINEAR) for number in range(FRAMES)]
    noise = loudness * np.random.default_rng(second).standard_normal(SAMPLES_PER_FRAME * FRAMES)
    return Clip(1 + 25 * second, float(second), np.stack(frames), noise.astype(np.float32), has_sound=True)


@functools.cache
def measured(shot: Shot) -> Measured:
    return Attention().measure([clip_of(shot)])


def found(shots: Sequence[Shot]) -> list[int]:
    """The clips that are credits in a film of one shot a second."""
    rows = [measured(shot) for shot in shots]
    film = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return np.flatnonzero(credits.found(film | {"time_s": np.arange(1.0, len(shots) + 1)})).tolist()


SCENES = [scene(seed) for seed in range(12)]
CARDS = [card("Directed by\nAda Sundberg"), card("Music", 14), card("THE END", 26)]
CREDITS = {
    "rolling": [rolling()],
    "rolling, black on white": [rolling(BLACK, flat(WHITE))],
    "rolling in two columns": [rolling(columns=2)],
    "rolling over a dimmed picture": [rolling(ground=(0.25 * landscape(3)).astype(np.uint8))],
    "rolling on a glow": [rolling(ground=glow())],
    "gray and small": [rolling((150, 150, 150), size=8)],
    "cards": CARDS,
    "cards in color": [card("Chapter One\nThe Forest", 22, (250, 220, 60), flat(BLUE))],
}


@pytest.mark.parametrize("kind", CREDITS)
def test_credits_at_both_ends_are_found(kind):
    shots = (CREDITS[kind] * 3)[:3]
    assert found([*shots, *SCENES, *shots]) == [0, 1, 2, 15, 16, 17]


SCENES_LIKE_CREDITS = {
    "night": night,
    "snow": snow,
    "light on water": glitter,
    "subtitles": subtitled(landscape(30)),
    "subtitles in the dark": subtitled(flat((12, 10, 14))),
    "talking head": talking_head,
    "cartoon": cartoon,
}


@pytest.mark.parametrize("kind", SCENES_LIKE_CREDITS)
def test_scenes_are_never_credits(kind):
    shot = SCENES_LIKE_CREDITS[kind]
    assert found([shot, shot, *SCENES, shot, shot, shot]) == []


@pytest.mark.parametrize("shot", [CARDS[0], scoreboard])
def test_text_in_the_middle_of_a_film_is_no_credits(shot):
    assert credits.measure(clip_of(shot).clip)["text"]
    assert found([*SCENES[:6], shot, shot, *SCENES[6:]]) == []


def test_credits_go_on_where_a_figure_crosses_them_but_not_in_a_scene_between():
    figure = rolling(ground=glow(), figure=True)
    text = [rolling(ground=glow())] * 2
    assert found([*SCENES, *text, figure, *text]) == [12, 13, 14, 15, 16]
    assert found([*SCENES, *text, SCENES[3], *text]) == [12, 13, 15, 16]


def test_a_scene_or_black_after_the_credits_changes_nothing():
    shots, black = [*SCENES, *CARDS, rolling(), rolling()], card("")
    assert found([*shots, *SCENES[:3]]) == found([*shots, *[black] * 8]) == [12, 13, 14, 15, 16]


def test_a_film_of_text_has_no_credits():
    assert found([*CARDS * 3, *SCENES[:6]]) == []


def test_loud_credits_score_lowest():
    shots = [*SCENES, rolling(), rolling(), *CARDS]
    scorer = Attention()
    film = [clip_of(shot, second, 0.3 if second > 12 else 0.01) for second, shot in enumerate(shots, 1)]
    found = scorer.finish(scorer.measure(film))
    assert found.signals["sound"][12:].min() > found.signals["sound"][:12].max()
    assert found.scores[12:].max() == 0 < found.scores[:12].min()


def test_larger_pictures_give_the_same_result():
    large = np.stack([cv2.resize(rolling()(number), (224, 224)) for number in range(FRAMES)])
    assert credits.measure(large)["text"]


def encoded(path, shots: Sequence[Shot]):
    """A film of 2 seconds a shot at 10 frames a second."""
    pictures = [cv2.resize(shot(number), (160, 120)) for shot in shots for number in range(20)]
    sound = 0.1 * np.random.default_rng(0).standard_normal((1, len(pictures) * 2205))
    return encode(path, pictures, 10, sound=sound.astype(np.float32))


def test_a_summary_shows_no_credits(tmp_path):
    film = encoded(tmp_path / "film.mkv", [*SCENES[:8], *CARDS])
    facts = json.loads((avmsnet_jax.summarize(film, tmp_path / "out", budget="70%") / "summary.json").read_text())
    assert facts["length_s"] > 8
    assert max(shot["end"] for shot in facts["shots"]) <= 16


def test_a_film_of_titles_alone_has_a_summary(tmp_path):
    film = encoded(tmp_path / "film.mkv", CARDS * 2)
    assert (avmsnet_jax.summarize(film, tmp_path / "out", budget="50%") / "summary.mp4").exists()
