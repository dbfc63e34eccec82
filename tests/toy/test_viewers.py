"""Simulated viewers look at the objects that sound, and labels from their gaze equal those of the scripts."""

import numpy as np
import pytest

from avmsnet_jax.gaze import formats
from avmsnet_jax.gaze.concentration import concentration, key_frames
from avmsnet_jax.gaze.geometry import Geometry
from avmsnet_jax.toy import picture, viewers
from avmsnet_jax.toy.script import FPS, Event, Script, write_script

SECONDS = 40
GEOMETRY = Geometry(picture.WIDTH, picture.HEIGHT, float(SECONDS))


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Two films: each script, and (20, N, 2) where its viewers looked, as read from the files."""
    found = []
    for seed in (3, 4):
        script = write_script(SECONDS, seed)
        folder = tmp_path_factory.mktemp("viewers") / "film.gaze"
        viewers.write_gaze(folder, script)
        recordings = [one for path in folder.iterdir() for one in formats.read(path, GEOMETRY)]
        positions = np.stack([one.positions(SECONDS * FPS, float(FPS)) for one in recordings])
        found.append((script, recordings, positions))
    return found


def test_labels_from_gaze_overlap_the_truth(watched):
    truth, labels = [], []
    for script, _, positions in watched:
        assert positions.shape == (viewers.VIEWERS, SECONDS * FPS, 2)
        values = concentration(positions, FPS, GEOMETRY.aspect).values
        frames = key_frames(values, 0.2)  # of all moments a fifth are key events
        slots = script.slots()
        truth += [slot.key for slot in slots]
        labels += [frames[FPS * second] == 1 for second in range(1, len(slots) + 1)]
    truth, labels = np.array(truth), np.array(labels)
    assert 2 * (truth & labels).sum() / (truth.sum() + labels.sum()) >= 0.9


def test_viewers_look_at_what_sounds_and_elsewhere_at_different_places(watched):
    for script, _, positions in watched:
        for event in (event for event in script.events if event.sight):
            here = positions[:, round((event.time + 0.1) * FPS)]
            here = here[np.isfinite(here).all(axis=1)]
            near = np.abs(here - picture.middle(event, 0.1, script.seed)).max(axis=1) < 0.1
            assert near.mean() > 0.9 if event.key else near.mean() < 0.8, event


def test_some_viewers_join_late_and_all_blink(watched):
    for _, recordings, positions in watched:
        starts = [np.flatnonzero(np.isfinite(each[:, 0]))[0] / FPS for each in positions]
        assert sum(start > 1.5 for start in starts) == 2
        assert all(0.75 < recording.validity < 0.97 for recording in recordings)


def test_the_middle_of_a_ball_is_where_its_color_is():
    """Mean over the event's frames, in which the ball hops."""
    script = Script(3, (Event(1.5, "ball", "boing"),), (), 2)
    frames = np.stack(list(picture.frames(script)))[32:45].astype(int)
    red, green, blue = np.moveaxis(frames, -1, 0)
    _, rows, columns = np.nonzero(red > 2.2 * np.maximum(green, blue))
    found = np.array([columns.mean() / picture.WIDTH, rows.mean() / picture.HEIGHT])
    np.testing.assert_allclose(found, picture.middle(script.events[0], 0.0, 2), atol=0.06)
