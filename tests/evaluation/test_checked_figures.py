"""Published figures reproduced from the real annotations, which are not part of the repository."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import loadmat

from avmsnet_jax.evaluation import (
    constant_pairs,
    f1_score,
    frame_scores,
    kendall_tau,
    shot_scores,
    spearman_rho,
    summary,
)

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def tvsum():
    """For each of the 50 videos (20, n): each user's score for every 15th frame."""
    path = DATA / "tvsum" / "ydata-tvsum50.mat"
    if not path.exists():
        pytest.skip("needs ../shared/data/tvsum: TVSum's annotations")
    with h5py.File(path) as file:
        return [file[reference][:, ::15] for reference in file["tvsum50/user_anno"][:, 0]]


@pytest.fixture(scope="module")
def summe():
    """For each of the 25 videos: each user's summary (U, N) bool, and the shots (S, 2)."""
    path = DATA / "summe"
    if not path.exists():
        pytest.skip("needs ../shared/data/summe: SumMe's annotations")
    segments = json.loads((path / "segmentations.json").read_text(encoding="utf-8")).values()
    return [
        (
            loadmat(path / "GT" / f"{video['video_name']}.mat")["user_score"].T > 0,
            np.array([(shot["start"], shot["end"]) for shot in video["segments"]]),
        )
        for video in segments
    ]


@pytest.mark.parametrize(("measure", "expected"), [(kendall_tau, 0.378), (spearman_rho, 0.473)])
def test_tvsum_mean_of_users(tvsum, measure, expected):
    assert len(tvsum) == 50
    assert np.mean([measure(users.mean(0), users) for users in tvsum]) == pytest.approx(expected, abs=5e-4)
    assert sum(constant_pairs(users.mean(0), users) for users in tvsum) == 0


@pytest.mark.parametrize(
    ("measure", "expected"), [pytest.param(kendall_tau, 0.17745, marks=pytest.mark.soak), (spearman_rho, 0.20422)]
)
def test_tvsum_humans(tvsum, measure, expected):
    agreement = []
    for users in tvsum:  # both measures are symmetric, so each pair of users is taken once
        later = len(users) - 1 - np.arange(len(users) - 1)
        agreement.append(np.average([measure(users[i], users[i + 1 :]) for i in range(len(users) - 1)], weights=later))
    assert np.mean(agreement) == pytest.approx(expected, abs=5e-6)


def test_summe_humans(summe):
    assert len(summe) == 25
    for reduce, published in (("mean", 0.311), ("max", 0.543)):
        scores = [
            np.mean([f1_score(users[i], np.delete(users, i, 0), reduce) for i in range(len(users))])
            for users, _ in summe
        ]
        assert np.mean(scores) == pytest.approx(published, abs=5e-4)


def test_summe_random_scores(summe):
    """The mean of ten draws; one has a standard deviation of 0.018 (max) and 0.008 (mean) over all videos."""
    rng = np.random.default_rng(0)
    found = []
    for users, shots in summe * 10:
        picks = np.arange(0, users.shape[1], 15)
        scores = frame_scores(rng.random(len(picks)), picks, users.shape[1])
        assert len(shot_scores(scores, shots)) == len(shots)
        chosen = summary(scores, shots)
        assert chosen.sum() <= 0.15 * users.shape[1]
        found.append([f1_score(chosen, users, "max"), f1_score(chosen, users)])
    assert np.mean(found, axis=0) == pytest.approx([0.403, 0.189], abs=0.015)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ("tvsum/ydata-tvsum50.mat", {("human", "tau"): (0.17745, 1e-5), ("human", "rho"): (0.20422, 1e-5)}),
        (
            "summe",
            {
                ("human", "f1_mean"): (0.3107, 5e-5),
                ("human", "f1_max"): (0.5433, 5e-5),
                # The standard deviation of one draw over the 25 videos is 0.018 and 0.008.
                ("random", "f1_max"): (0.403, 0.036),
                ("random", "f1_mean"): (0.189, 0.016),
            },
        ),
    ],
)
def test_the_rows_of_eval_py(forked, tmp_path, annotations, expected):
    if not (DATA / annotations).exists():
        pytest.skip(f"needs ../shared/data/{annotations}")
    done = forked("eval.py", f"--annotations={DATA / annotations}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
    for (row, measure), (value, tolerance) in expected.items():
        assert rows[row][measure]["videos"]["mean"] == pytest.approx(value, abs=tolerance), (row, measure)
