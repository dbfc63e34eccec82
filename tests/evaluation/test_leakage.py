"""Reports name the tested split, and say if the network was trained on it."""

import json
import shutil

import pytest

from avmsnet_jax import config as config_lib
from avmsnet_jax.data.pipeline import hold_out, open_split
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import leakage, movie50
from tests.conftest import one_line


@pytest.fixture
def run(tmp_path, small_config):
    """Returns a function that fakes the checkpoint of a run on the small records, possibly under another path."""

    def run(directory=None, position=None, **data):
        config = small_config.replace(data={"dir": str(directory or small_config.data.dir), **data})
        found = tmp_path / "myrun" / "checkpoints" / "8"
        for part in ("model", "config", "position"):
            (found / part).mkdir(parents=True)
        (found.parents[1] / "config.json").write_text(config_lib.dumps(config))
        if position is not None:
            (found / "position" / "metadata").write_text(json.dumps({"next_index": 8, "records": position}))
        return found

    return run


def test_training_split_is_recognized(run, small_config):
    found = run()
    assert leakage.note(small_config, found, 0, "train") == (True, leakage.SEEN)
    assert leakage.note(small_config, found, 0, "test") == (False, "")


def test_run_on_the_test_split_is_recognized(run, small_config):
    found = run(train_split="test")
    assert leakage.note(small_config, found, 0, "test") == (True, leakage.SEEN)
    assert leakage.note(small_config, found, 0, "train") == (False, "")


def test_moved_records_are_recognized(run, small_config, tmp_path):
    shutil.copytree(small_config.data.dir, tmp_path / "moved")
    identity = open_split(small_config.data.dir, "train").identity
    found = run(directory="demo/records", position=identity)  # relative to a folder that is not the current one
    small_config = small_config.replace(data={"dir": str(tmp_path / "moved")})
    assert leakage.note(small_config, found, 0, "train") == (True, leakage.SEEN)
    (found / "position" / "metadata").write_text('{"records": "18 clips 00000000"}')
    assert leakage.note(small_config, found, 0, "train") == (False, "")  # records of other films
    (found / "position" / "metadata").write_text("[[[")
    assert leakage.note(small_config, found, 0, "train") == (False, "")


def test_held_out_validation_films_do_not_hide_leakage(run, judged_config, judged_records, monkeypatch):
    config = judged_config("tvsum", fold=0)
    rest, held = hold_out(open_split(judged_records["tvsum"], "train", fold=0), 0.4, config.train.seed)
    assert held
    found = run(directory="elsewhere", position=rest.identity, validation_fraction=0.4)
    assert leakage.note(config, found, 0, "train") == (True, leakage.SEEN)
    assert leakage.note(config, found, 0, "test") == (False, "")
    with pytest.raises(UserError, match=r"was trained on fold 0, with .* which would be tested"):
        movie50.evaluate(judged_config("tvsum", fold=1), str(found), "test", found / "out")


def test_converted_checkpoint_may_have_been_trained_on_the_split(small_config, networks, tmp_path):
    known, word = leakage.note(small_config, tmp_path / "converted", 0, "train")
    assert not known
    assert "does not say what it was trained on" in word
    assert leakage.note(small_config, tmp_path / "converted", 0, "test") == (False, "")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_report_names_data_set_split_and_checkpoint(run, small_config, monkeypatch, split):
    clips = [{"video": "v", "frame": n + 1, "time_s": 0.1 * n, "score": n / 4, "label": n > 2} for n in range(4)]
    monkeypatch.setattr(movie50, "score_split", lambda *_: clips)
    monkeypatch.setattr(movie50.Network, "load", lambda *_, **__: None)
    monkeypatch.setattr(movie50.pipeline, "open_split", lambda *_: None)
    found = run()
    metrics = movie50.evaluate(small_config, str(found.parents[1]), split, found / "out")
    report = (found / "out" / "report.md").read_text()
    assert metrics["dataset"] == "movies"
    assert f"Data set movies ({small_config.data.dir}), split {split}, checkpoint {found}." in report
    assert "published" not in report
    assert "Movie50" not in report
    assert metrics["seen_in_training"] == (split == "train")
    for text in (report, movie50.summary(metrics)):
        assert (leakage.SEEN in text) == (split == "train")


def test_options_without_effect_are_refused(forked, tmp_path):
    given = ["eval.py", "--annotations=a.mat", f"--output={tmp_path / 'out'}"]
    for option, word in (
        ("--split=train", "--split names a split of prepared records"),
        ("--config.eval.threshold_split=train", "eval.threshold_split names a split of prepared records"),
    ):
        assert word in one_line(forked(*given, option))
    given = ["eval.py", "--config=configs/films.py", "--checkpoint=x", f"--output={tmp_path / 'out'}"]
    assert "--splits divides --annotations" in one_line(forked(*given, "--splits=folds.json"))
