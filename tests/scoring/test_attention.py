"""The attention scorer on synthetic films with a known answer."""

import cv2
import numpy as np
import pytest
from flax import nnx

import avmsnet_jax
from avmsnet_jax.data import clips
from avmsnet_jax.errors import UserError
from avmsnet_jax.media.movie import Movie
from avmsnet_jax.scoring.attention import SIGNALS, Attention
from avmsnet_jax.scoring.scorer import finish
from tests.conftest import SMALL
from tests.media.films import encode

FPS, RATE, SIZE = 25, 22050, 112
BLUE, RED, GREEN = (40, 80, 220), (220, 50, 40), (40, 180, 60)


def landscape(seed=0, width=SIZE):
    """A still picture with some texture."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(60, 200, (14, width // 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, SIZE), interpolation=cv2.INTER_CUBIC)


def disc(picture, x, y, color, radius=8):
    cv2.circle(picture, (round(x), round(y)), radius, color, -1, cv2.LINE_AA)


def beep(wave, at_s, hertz=600, loudness=0.3, length_s=0.15):
    first, n = round(at_s * RATE), round(length_s * RATE)
    times = np.arange(n) / RATE
    part = wave[first : first + n]
    part += (loudness * np.sin(2 * np.pi * hertz * times) * np.exp(-times / 0.05))[: len(part)]


def cut(pictures, wave=None):
    """Clips of a film: one a second, as data.clips makes them."""
    made = []
    for center in clips.centers(len(pictures)):
        labeled = clips.label_frame(center)
        start, stop = clips.excerpt_bounds(center, FPS)
        excerpt = np.zeros(0, np.float32) if wave is None else wave[start:stop].astype(np.float32)
        made.append(
            clips.Clip(
                frame=labeled,
                time_s=clips.frame_time(labeled, FPS),
                clip=np.stack([pictures[number - 1] for number in clips.frame_list(center)]),
                sound=clips.sound_buffer(excerpt, clips.SAMPLES_PER_FRAME * 16),
                has_sound=wave is not None,
            )
        )
    return made


def scored(pictures, wave=None, batch=8):
    made, scorer = cut(pictures, wave), Attention()
    measured = [scorer.measure(made[first : first + batch]) for first in range(0, len(made), batch)]
    return finish(scorer, measured, "film")


def noise(seconds, loudness=0.002, seed=0):
    return loudness * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


BOUNCES, SILENT, ALONE = (4, 9, 14, 19, 24, 29, 34), (6, 12, 21, 27, 36), (2, 7, 16, 23, 31)


@pytest.fixture(scope="module")
def bouncing():
    """A ball that sounds at each bounce, among balls that move silently and beeps without any ball."""
    seconds, still = 40, landscape()
    wave, pictures, places = noise(seconds), [], {}
    chance = np.random.default_rng(1)
    for when in (*BOUNCES, *ALONE):
        beep(wave, when - 0.02)
    for when in (*BOUNCES, *SILENT):
        places[when] = chance.uniform(20, 92)
    for number in range(seconds * FPS):
        picture, now = still.copy(), number / FPS
        disc(picture, 56 + 45 * np.sin(now), 30 + 20 * np.cos(now), GREEN, 5)  # another one is always on its way
        for when, x in places.items():
            if abs(now - when) < 0.4:  # it falls, and is thrown up again
                y = 92 - 60 * (1 - (1 - abs(now - when) / 0.4) ** 2)
                if when in BOUNCES:
                    disc(picture, x, y, RED)
                else:  # without landing
                    disc(picture, x + 30 * (now - when), 50, BLUE)
        pictures.append(picture)
    return scored(pictures, wave), places


def at(times_s):
    """The clips of some whole seconds."""
    return [round(time) - 1 for time in times_s]


def test_agreement_is_highest_where_a_ball_sounds_as_it_bounces(bouncing):
    agreement = bouncing[0].signals["agreement"]
    best = np.argsort(-agreement)[: len(BOUNCES)]
    assert sorted(best) == sorted(at(BOUNCES))


def test_localization_peaks_at_the_ball_that_sounds(bouncing):
    found, places = bouncing
    hits = 0
    for when in BOUNCES:
        row, column = np.unravel_index(found.localization[at([when])[0]].argmax(), found.localization.shape[1:])
        hits += abs((column + 0.5) * 8 - places[when]) < 16 and row > 4
    assert hits >= 0.9 * len(BOUNCES) - 1e-9


def test_attention_maps_sum_to_1_and_signals_are_in_0_to_1(bouncing):
    found = bouncing[0]
    (attention,) = found.attention
    np.testing.assert_allclose(attention.astype(float).sum(axis=(1, 2)), 1, atol=0.01)
    assert set(found.signals) == set(SIGNALS)
    for signal in found.signals.values():
        assert signal.min() >= 0
        assert signal.max() <= 1
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1


def test_a_walking_person_has_more_motion_than_a_panning_camera():
    wide, still = landscape(3, 800), landscape(4)
    pictures = [wide[:, number // 2 : number // 2 + SIZE].copy() for number in range(10 * FPS)]
    for number in range(10 * FPS):
        picture, x = still.copy(), 10 + 90 * (number / (10 * FPS))
        disc(picture, x, 40, RED, 7)
        cv2.rectangle(picture, (round(x) - 7, 48), (round(x) + 7, 80), BLUE, -1)
        swing = round(6 * np.sin(number / 3))
        cv2.line(picture, (round(x), 80), (round(x) + swing, 104), GREEN, 4)
        cv2.line(picture, (round(x), 80), (round(x) - swing, 104), GREEN, 4)
        pictures.append(picture)
    motion = scored(pictures).signals["motion"]
    assert motion[10:].min() > motion[:8].max()


@pytest.mark.parametrize("fault", ["black", "blurred", "one color", "dissolve"])
def test_black_blurred_and_uniform_pictures_score_lowest(fault):
    seconds, chance = 20, np.random.default_rng(0)
    shots = [landscape(seed) for seed in range(seconds)]
    pictures = []
    for number in range(seconds * FPS):
        # A second begins in the middle between two clips.
        second = min(int(number / FPS + 0.5), seconds - 1)
        picture = shots[second].copy()
        disc(picture, 56 + 30 * np.sin(number / 4), 56, RED)
        if second in (5, 6, 12):
            if fault == "black":
                picture[:] = 2
            elif fault == "blurred":
                picture = cv2.GaussianBlur(landscape(50), (0, 0), 25)
            elif fault == "one color":
                picture[:] = BLUE
            else:
                share = (number / FPS + 0.5) % 1
                picture = ((1 - share) * landscape(50) + share * landscape(60)).astype(np.uint8)
        pictures.append(picture)
    wave = noise(seconds)
    for second in (5, 6, 12, *chance.choice(20, 5)):  # the bad ones are loud
        beep(wave, second + 0.1, loudness=0.5)
    scores = scored(pictures, wave).scores
    bad = at((5, 6, 12))
    assert scores[bad].max() < np.delete(scores, bad).min()


def test_a_fault_marks_down_at_most_15_percent_of_the_clips():
    """Half of the pictures are blurred, each more than the one before: only the most blurred ones count as faulty."""
    seconds, ramp = 40, np.linspace(-80, 80, SIZE)
    shots = [landscape(seed) for seed in range(seconds)]
    for second in range(1, seconds, 2):
        row = (120 + (1 - second / 400) * ramp).astype(np.uint8)
        shots[second] = np.broadcast_to(row[None, :, None], shots[0].shape).copy()
    found = scored([shots[min(int(number / FPS + 0.5), seconds - 1)] for number in range(seconds * FPS)])
    ranks = np.mean([found.signals[name] for name in ("motion", "picture", "novelty")], axis=0)
    marked = np.flatnonzero(found.scores < 0.99 * ranks)  # clip 0 is at second 1
    assert marked.tolist() == [28, 30, 32, 34, 36, 38]


def test_loudness_changes_no_order_and_brightness_and_a_mirror_hardly_any(bouncing):
    seconds, still = 20, landscape()
    wave, pictures = noise(seconds), []
    for when in (3, 8, 15):
        beep(wave, when)
    for number in range(seconds * FPS):
        picture = still.copy()
        disc(picture, 56 + 40 * np.sin(number**1.2 / 40), 40 + 20 * np.cos(number / 9), RED)
        pictures.append(np.clip(picture, 30, 220))
    plain = scored(pictures, wave).scores

    def same(scores, least):
        return np.corrcoef(np.argsort(np.argsort(plain)), np.argsort(np.argsort(scores)))[0, 1] >= least

    assert same(scored(pictures, 2 * wave).scores, 1 - 1e-9)
    assert same(scored(pictures, 0.5 * wave).scores, 1 - 1e-9)
    assert same(scored([picture + np.uint8(25) for picture in pictures], wave).scores, 0.95)
    assert same(scored([picture - np.uint8(25) for picture in pictures], wave).scores, 0.95)
    assert same(scored([picture[:, ::-1].copy() for picture in pictures], wave).scores, 0.95)


def test_stillness_and_silence_score_equally_everywhere():
    found = scored([landscape()] * (12 * FPS), np.zeros(12 * RATE))
    assert np.ptp(found.scores) == 0
    assert found.scores[0] > 0
    assert not found.localization.any()


def test_without_a_sound_track_the_picture_decides():
    pictures = [landscape(number // 50) for number in range(10 * FPS)]
    found = scored(pictures)
    assert not found.signals["sound"].any()
    assert not found.signals["agreement"].any()
    assert np.ptp(found.scores) > 0


def test_a_film_of_one_clip():
    found = scored([landscape()] * 34, noise(2))
    assert found.scores.tolist() == [0.5]


def test_pictures_differ_little_from_those_of_a_network(tmp_path):
    """One step of scaling takes the place of two; an order of colors or a shift would differ by much more."""
    film = encode(tmp_path / "film.mkv", [landscape(seed, 320) for seed in range(5)])
    for frame in Movie(film).frames():
        found = Attention().picture(frame, SIZE)
        assert found.shape == (SIZE, SIZE, 3)
        assert np.abs(found.astype(float) - clips.resize(frame, SIZE)).mean() < 2


def test_batches_of_any_size_and_a_second_run_give_the_same_bits():
    pictures = [landscape(number // 40) for number in range(8 * FPS)]
    first, second = scored(pictures, noise(8), 1), scored(pictures, noise(8), 8)
    np.testing.assert_array_equal(first.scores, second.scores)
    np.testing.assert_array_equal(first.features, second.features)


def save_network(path, *, audiovisual=True):
    """A small network whose SoundNet tells sounds apart: by its initial weights little is left after seven layers."""
    model = avmsnet_jax.AVMSNet(avmsnet_jax.ModelConfig(**SMALL, audiovisual=audiovisual), rngs=nnx.Rngs(0))
    for conv in model.soundnet.convs:
        conv.kernel.set_value(20 * conv.kernel[...])
    avmsnet_jax.save(model, path)


def test_soundnet_adds_to_features_and_novelty_alone(tmp_path):
    save_network(tmp_path / "sound")
    pictures, wave = [landscape(number // 40) for number in range(8 * FPS)], noise(8, 0.1)
    beep(wave, 3.0)
    made, scorer = cut(pictures, wave), Attention(soundnet=str(tmp_path / "sound"))
    found, plain = finish(scorer, [scorer.measure(made)], "film"), scored(pictures, wave)
    assert found.features.shape[1] - plain.features.shape[1] == 64 * SMALL["soundnet_width"]
    assert np.abs(found.features[:, plain.features.shape[1] :]).max() > 0
    for name in SIGNALS:
        assert (found.signals[name] == plain.signals[name]).all() == (name != "novelty")
    again = finish(scorer, [scorer.measure([clip]) for clip in made], "film")
    np.testing.assert_array_equal(again.features, found.features)


def test_a_network_without_soundnet_is_refused(tmp_path):
    save_network(tmp_path / "silent", audiovisual=False)
    with pytest.raises(UserError, match="visual-only network without SoundNet"):
        Attention(soundnet=str(tmp_path / "silent")).measure(cut([landscape()] * 34, noise(2)))
