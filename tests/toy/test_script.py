import numpy as np
import pytest

from avmsnet_jax.toy.script import EVENT_SECONDS, FPS, OWN_SOUND, SHARES, Event, Script, write_script

SECONDS = 40


@pytest.fixture(scope="module")
def scripts():
    return [write_script(SECONDS, seed) for seed in range(20)]


def test_a_script_depends_on_its_seed_alone():
    assert write_script(SECONDS, 7) == write_script(SECONDS, 7)
    assert write_script(SECONDS, 7) != write_script(SECONDS, 8)


def test_a_key_event_is_one_whose_sound_belongs_to_what_is_seen():
    assert Event(1, "ball", "boing").key
    assert Event(1, "square", "chirp").key
    for sight, heard in [("ball", "chirp"), ("square", "boing"), ("ball", None), (None, "boing"), (None, None)]:
        assert not Event(1, sight, heard).key


def test_every_film_holds_the_shares_of_every_kind(scripts):
    for script in scripts:
        slots = script.slots()
        assert len(slots) == SECONDS - 1
        kinds = {
            "key": [s for s in slots if s.key],
            "sight": [s for s in slots if s.sight and not s.sound],
            "sound": [s for s in slots if s.sound and not s.sight],
            "mismatch": [s for s in slots if s.sight and s.sound and not s.key],
            "nothing": [s for s in slots if not s.sight and not s.sound],
        }
        for kind, share in SHARES.items():
            assert abs(len(kinds[kind]) - share * len(slots)) <= 1
        for kind in ("key", "sight", "mismatch"):
            balls = sum(event.sight == "ball" for event in kinds[kind])
            assert abs(balls - len(kinds[kind]) / 2) <= 0.5


def test_an_event_fills_the_clip_of_its_slot_and_stays_out_of_the_others(scripts):
    for event in (event for script in scripts for event in script.events):
        k = round(event.time)
        start, end = event.span
        # Frames 25 k - 7 ... 25 k + 8, counted from 1, are those shown from time k - 8 / 25 to k + 7 / 25.
        assert start <= k - 8 / FPS - 1 / (2 * FPS) + 0.03  # the picture of the clip's first frame
        assert end > k + 7 / FPS
        assert start > (k - 1) + 8 / FPS + 0.1
        assert end < (k + 1) - 9 / FPS - 0.1
        assert abs(end - start - EVENT_SECONDS) < 1e-9


def test_no_clip_holds_a_cut(scripts):
    for script in scripts:
        assert len(script.cuts) >= 2
        for cut in script.cuts:
            assert cut % 1 == 0.5


def ceiling(scripts, observe) -> float:
    """The highest F of any model that knows only `observe(event)` of each slot.

    F rises with hits and falls with false alarms, so the best rule calls key the observations with the highest share of
    key events; all such rules are tried in order of that share.
    """
    slots = [slot for script in scripts for slot in script.slots()]
    keys_of = {}
    for slot in slots:
        keys_of.setdefault(observe(slot), []).append(slot.key)
    keys = sum(slot.key for slot in slots)
    best, hits, called = 0.0, 0, 0
    for found in sorted(keys_of.values(), key=np.mean, reverse=True):
        hits, called = hits + sum(found), called + len(found)
        best = max(best, 2 * hits / (called + keys))
    return best


def test_neither_picture_nor_sound_alone_predicts_key_events(scripts):
    assert 0.55 < ceiling(scripts, lambda event: event.sight) < 0.6
    assert 0.55 < ceiling(scripts, lambda event: event.sound) < 0.6
    assert 0.32 < ceiling(scripts, lambda event: None) < 0.35  # calling everything key
    assert ceiling(scripts, lambda event: (event.sight, event.sound)) == 1
    # That something is seen and something heard, without knowing which, is not enough either.
    assert ceiling(scripts, lambda event: (event.sight is None, event.sound is None)) < 0.85


def test_best_possible_score_of_a_script_counted_by_hand():
    events = (
        Event(1, "ball", "boing"),
        Event(2, "ball", None),
        Event(3, "square", "chirp"),
        Event(4, "square", "boing"),
        Event(5, "square", None),
    )
    script = Script(7, events, (), 0)
    # Balls are key in 1 of 2 cases, squares in 1 of 3. Calling both finds 2 of 2 among 5: F = 4 / 7; balls alone 2 / 4.
    assert ceiling([script], lambda event: event.sight) == pytest.approx(4 / 7)
    assert list(OWN_SOUND) == ["ball", "square"]
