import contextlib
import json
import pickle
import shutil
import threading

import numpy as np
import pytest

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.data.pipeline import Ahead, eval_batches, open_split, steps_per_epoch, train_batches
from avmsnet_jax.errors import UserError


@pytest.fixture(scope="module")
def train(directory):
    return open_split(directory, "train")


def names(batch):
    """Which clips a batch holds."""
    return [f"{video}{frame}" for video, frame in zip(batch["video"], batch["frame"], strict=True)]


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[field], b[field]) for field in a)


def test_batches_have_the_shapes_and_types_of_the_network(train):
    batch = next(train_batches(train, batch_size=4, seed=0))
    assert {name: (batch[name].shape, batch[name].dtype) for name in ("clip", "sound", "label")} == {
        "clip": ((4, 8, 16, 16, 3), np.uint8),
        "sound": ((4, 17640), np.float32),
        "label": ((4,), np.float32),
    }
    assert batch["time_s"].dtype == np.float64


def test_an_epoch_holds_every_clip_once_in_a_new_order(train):
    everything = sorted(names({name: [r[name] for r in train] for name in ("video", "frame")}))
    assert len(everything) == len(set(everything)) == 38
    batches = [names(batch) for batch in train_batches(train, batch_size=1, seed=3, epochs=3)]
    epochs = [[name for batch in batches[38 * e : 38 * (e + 1)] for name in batch] for e in range(3)]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert all(epoch != everything for epoch in epochs)


def test_the_batches_depend_on_the_seed_only(train):
    def run(**settings):
        return list(train_batches(train, batch_size=5, epochs=2, **settings))

    first = run(seed=0, threads=1)
    assert len(first) == 2 * 7 == 2 * steps_per_epoch(train, batch_size=5)  # 38 clips: three are left out of each epoch
    assert all(equal(a, b) for a, b in zip(first, run(seed=0, threads=4), strict=True))
    assert names(first[0]) != names(run(seed=1)[0])


# 38 clips: among four processes two have ten and two have nine, which would be two batches of five, or one.
@pytest.mark.parametrize(("batch_size", "process_count"), [(3, 2), (19, 2), (5, 4)])
def test_processes_share_an_epoch(train, batch_size, process_count):
    settings = {"batch_size": batch_size, "process_count": process_count}
    streams = [
        [names(batch) for batch in train_batches(train, seed=0, epochs=2, process_index=index, **settings)]
        for index in range(process_count)
    ]
    steps = steps_per_epoch(train, **settings)
    assert [len(stream) for stream in streams] == [2 * steps] * process_count
    for epoch in range(2):
        seen = [name for stream in streams for batch in stream[epoch * steps :][:steps] for name in batch]
        assert len(seen) == len(set(seen)) == process_count * batch_size * steps


def test_a_restored_iterator_gives_exactly_the_next_batch(train):
    for consumed in (0, 1, 6, 7, 9):  # within the first epoch, at its end, and in the second
        iterator = train_batches(train, batch_size=5, seed=2)
        for _ in range(consumed):
            next(iterator)
        state = json.loads(json.dumps(iterator.get_state()))
        expected = [next(iterator) for _ in range(3)]
        restored = train_batches(train, batch_size=5, seed=2)
        restored.set_state(state)
        assert all(equal(next(restored), batch) for batch in expected)


def test_flipping_mirrors_whole_clips_half_of_the_time(small_records):
    train = open_split(small_records, "train")  # in colors
    originals = {f"{r['video']}{r['frame']}": r for r in train}
    flipped = total = 0
    for batch in train_batches(train, batch_size=1, seed=0, epochs=16):
        original = originals[names(batch)[0]]
        mirrored = np.array_equal(batch["clip"][0], original["clip"][:, :, ::-1])
        assert mirrored or np.array_equal(batch["clip"][0], original["clip"])
        np.testing.assert_array_equal(batch["sound"][0], original["sound"])
        flipped, total = flipped + mirrored, total + 1
    assert 0.4 < flipped / total < 0.6
    for batch in train_batches(train, batch_size=1, seed=0, epochs=1, flip=False):
        np.testing.assert_array_equal(batch["clip"][0], originals[names(batch)[0]]["clip"])


@pytest.mark.parametrize("batch_size", [1, 8, 38, 50])
def test_evaluation_sees_every_clip_once_in_order(train, batch_size):
    everything = [f"{r['video']}{r['frame']}" for r in train]
    seen = []
    for batch in eval_batches(train, batch_size=batch_size):
        assert batch["clip"].shape == (batch_size, 8, 16, 16, 3)
        assert batch["mask"].dtype == bool
        seen += [name for name, real in zip(names(batch), batch["mask"], strict=True) if real]
        assert not batch["clip"][~batch["mask"]].any()
    assert seen == everything


@pytest.mark.parametrize(("batch_size", "process_count"), [(5, 2), (4, 3), (19, 2)])
def test_processes_share_an_evaluation(train, batch_size, process_count):
    streams = [
        list(eval_batches(train, batch_size=batch_size, process_index=p, process_count=process_count))
        for p in range(process_count)
    ]
    assert len({len(stream) for stream in streams}) == 1
    seen = [np.array(names(batch))[batch["mask"]] for stream in streams for batch in stream]
    assert sorted(np.concatenate(seen)) == sorted(f"{r['video']}{r['frame']}" for r in train)


def test_a_split_smaller_than_a_batch(train):
    with pytest.raises(UserError, match=r"has 38 clips, fewer than one batch of 39; lower --config\.train\.batch_size"):
        train_batches(train, batch_size=39, seed=0)
    with pytest.raises(UserError, match="fewer than one batch of 40"):
        train_batches(train, batch_size=20, seed=0, process_count=2)


def test_unopenable_records_are_refused(directory, tmp_path):
    for path, reason in (
        ("", "no records given; set --config.data.dir"),
        (tmp_path / "nowhere", r"there is no folder of records .*nowhere; prepare one with avmsnet prepare --output"),
        (tmp_path, "holds no prepared records"),
    ):
        with pytest.raises(UserError, match=reason):
            open_split(path, "train")
    with pytest.raises(UserError, match="no split 'validation'; it has test, train"):
        open_split(directory, "validation")
    (tmp_path / "manifest.json").write_text('{"dataset": ')
    with pytest.raises(UserError, match="damaged"):
        open_split(tmp_path, "train")


def test_clips_that_do_not_fit_the_network_are_refused(directory):
    assert open_split(directory, "test", ModelConfig(frames=8, frame_size=16)).frame_size == 16
    remedy = r"prepare the data again with --frames=16, or train a network with --config.model.frames=8"
    with pytest.raises(UserError, match=rf"have frames=8, the network takes frames=16; {remedy}"):
        open_split(directory, "test", ModelConfig(frame_size=16))
    with pytest.raises(UserError, match=r"have frame_size=16, the network takes frame_size=112"):
        open_split(directory, "test", ModelConfig(frames=8))


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damaged_records_are_found_before_a_run(directory, tmp_path, harm):
    copy = tmp_path / "records"
    shutil.copytree(directory, copy)
    shard = next(copy.rglob("*test.array_record*"))
    if harm == "cut":
        shard.write_bytes(shard.read_bytes()[:20000])
    else:
        shard.unlink()
    with pytest.raises(UserError, match=r"the records in .* are damaged .*; prepare them again"):
        open_split(copy, "test")


# Worker processes


def test_workers_give_the_same_batches_and_go_on_exactly(train):
    """Whoever reads, the position is that of the batches handed out: a run may go on with other workers."""
    settings = {"batch_size": 4, "seed": 2, "epochs": 2}
    expected = list(train_batches(train, **settings))
    state = {"next_index": 3}  # an epoch has nine batches
    with contextlib.closing(train_batches(train, workers=2, threads=1, **settings)) as batches:
        batches.set_state(state)
        assert all(equal(next(batches), batch) for batch in expected[3:14])
        state = json.loads(json.dumps(batches.get_state()))
    restored = train_batches(train, **settings)
    restored.set_state(state)
    assert all(equal(a, b) for a, b in zip(restored, expected[14:], strict=True))


def test_workers_give_the_same_evaluation_batches_and_report_damage(train, directory, tmp_path):
    expected = list(eval_batches(train, batch_size=15))
    with contextlib.closing(eval_batches(train, batch_size=15, workers=1)) as batches:
        assert all(equal(a, b) for a, b in zip(batches, expected, strict=True))
    copy = shutil.copytree(directory, tmp_path / "records")
    records = open_split(copy, "train")
    shard = next(copy.rglob("*train.array_record*"))
    shard.write_bytes(garbled(shard.read_bytes()))
    with (
        contextlib.closing(eval_batches(records, batch_size=15, workers=1)) as batches,
        pytest.raises(UserError, match=r"the records in .* are damaged .*; prepare them again"),
    ):
        list(batches)


def garbled(content):
    """The middle third of a file overwritten."""
    third = len(content) // 3
    return content[:third] + b"\xaa" * third + content[2 * third :]


SECOND = """
import json, sys
from avmsnet_jax.data.pipeline import open_split, train_batches
from tests.data.test_pipeline import names
batches = train_batches(open_split(sys.argv[1], "train"), **json.loads(sys.argv[2]))
print(json.dumps([name for batch in batches for name in names(batch)]))
"""


def test_two_processes_see_every_clip_once_an_epoch(train, directory, python):
    """The second is an interpreter of its own: the order of clips must not depend on Python's seed of `hash`."""
    settings = {"batch_size": 1, "seed": 4, "epochs": 2, "process_count": 2}
    done = python("-c", SECOND, directory, json.dumps(settings | {"process_index": 1}))
    assert done.returncode == 0, done.stderr
    first = train_batches(train, process_index=0, **settings)
    streams = [[name for batch in first for name in names(batch)], json.loads(done.stdout)]
    assert [len(stream) for stream in streams] == [38, 38]
    everything = sorted(f"{r['video']}{r['frame']}" for r in train)
    for epoch in (slice(0, 19), slice(19, 38)):
        assert sorted(streams[0][epoch] + streams[1][epoch]) == everything


# Before they are asked for


def test_the_position_moves_only_with_batches_handed_out(train):
    expected = list(train_batches(train, batch_size=5, seed=0, epochs=1))
    placed = []
    source = train_batches(train, batch_size=5, seed=0, epochs=1)
    for number, (batch, state) in enumerate(Ahead(source, lambda batch: placed.append(batch) or batch, depth=2)):
        assert equal(batch, expected[number])
        assert len(placed) <= number + 3
        restored = train_batches(train, batch_size=5, seed=0, epochs=1)
        restored.set_state(state)
        following = next(restored, None)
        assert following is None if number == 6 else equal(following, expected[number + 1])
    assert len(placed) == 7


def test_reading_ahead_starts_at_once_and_stops_when_closed(train):
    placed = threading.Event()
    source = train_batches(train, batch_size=5, seed=0)
    batches = Ahead(source, lambda batch: placed.set())
    assert placed.wait(60)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
    assert next(batches, None) is None


def test_a_failure_while_reading_ahead_is_raised(train):
    def place(batch):
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        next(Ahead(train_batches(train, batch_size=5, seed=0), place))


def test_an_invalid_position_is_refused(train):
    batches = train_batches(train, batch_size=5, seed=0)
    for state in ({}, {"next_index": -1}, {"next_index": "3"}, None, [3]):
        with pytest.raises(ValueError, match="is no position in the data"):
            batches.set_state(state)


# Folds, users' scores, films that nobody has judged


def test_a_fold_is_its_ranges_of_all_records(scored, train):
    order = [f"{r['video']}{r['frame']}" for r in train]
    for fold, split, numbers in (
        (0, "train", range(20)),
        (0, "test", range(20, 38)),
        (1, "train", [*range(5), *range(30, 38)]),
        (1, "test", range(5, 30)),
        (1, "whole", range(38)),
    ):
        records = open_split(scored, split, fold=fold)
        assert [f"{r['video']}{r['frame']}" for r in records] == [order[number] for number in numbers]
    records = open_split(scored, "train", fold=1)
    seen = [name for batch in train_batches(records, batch_size=1, seed=0, epochs=1) for name in names(batch)]
    assert sorted(seen) == sorted(order[number] for number in [*range(5), *range(30, 38)])
    assert [r["frame"] for r in pickle.loads(pickle.dumps(records))] == [r["frame"] for r in records]


def test_scores_are_in_the_batches(scored):
    records = open_split(scored, "test", fold=0)
    for batch in (next(train_batches(records, batch_size=3, seed=0)), next(eval_batches(records, batch_size=3))):
        assert (batch["scores"].shape, batch["scores"].dtype) == ((3, 3), np.float32)
        np.testing.assert_array_equal(batch["scores"][:, 1], batch["label"])
    np.testing.assert_array_equal(batch["scores"][:, 0], [20, 21, 22])
    assert np.isnan(batch["scores"][:, 2]).all()


def test_unlabelled_clips_have_no_label(scored):
    records = open_split(scored, "unlabelled")
    assert len(records) == 38
    assert all(np.isnan(record["label"]) for record in records)
    assert np.isnan(next(eval_batches(records, batch_size=2))["label"]).all()
    with pytest.raises(UserError, match=r"the split 'unlabelled' of .* has no labels to train or score with; "):
        train_batches(records, batch_size=2, seed=0)


def test_missing_folds_are_refused(scored, directory, tmp_path):
    with pytest.raises(UserError, match=r"has folds 0 to 1, so no fold 2; set --config\.data\.fold"):
        open_split(scored, "train", fold=2)
    with pytest.raises(UserError, match=r"has no folds, so no fold 1; set --config\.data\.fold"):
        open_split(directory, "train", fold=1)
    with pytest.raises(UserError, match="has no split 'dev'; it has test, train, unlabelled, whole"):
        open_split(scored, "dev")
    copy = shutil.copytree(scored, tmp_path / "records")
    manifest = json.loads((copy / "manifest.json").read_text())
    for folds, message in (
        ([{"train": [[0, 99]]}], "fold 0 lists records beyond the 38 stored; prepare them again"),
        ([{"train": [[0]]}, {"train": 3}], "holds no prepared records"),
    ):
        (copy / "manifest.json").write_text(json.dumps({**manifest, "folds": folds}))
        with pytest.raises(UserError, match=message):
            open_split(copy, "train")
