"""KTS against all segmentations by brute force, and against a plain implementation of the formula."""

import itertools
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avmsnet_jax import numba_cache
from avmsnet_jax.errors import UserError
from avmsnet_jax.evaluation import kts
from tests.conftest import ROOT, small_disk
from tests.reference.kts import normalized, penalty, segment

TIE = 1e-9  # the documented tolerance


def objective(features, changes):
    """The formula, segment by segment."""
    rows = normalized(features)
    n, m = len(rows), len(changes)
    edges = [0, *changes, n]
    scatter = sum(((rows[a:b] - rows[a:b].mean(0)) ** 2).sum() for a, b in itertools.pairwise(edges))
    return scatter / n + penalty(m, n)


def film(rng, samples, shots, noise, dimensions=16):
    """Features that change at `shots` - 1 cuts, and the cuts."""
    cuts = np.sort(rng.choice(np.arange(1, samples), shots - 1, replace=False))
    places = rng.normal(size=(shots, dimensions))
    return places[np.searchsorted(cuts, np.arange(samples), "right")] + noise * rng.normal(
        size=(samples, dimensions)
    ), cuts


@st.composite
def features(draw, most):
    samples, dimensions = draw(st.integers(0, most)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    match draw(st.sampled_from(["noise", "film", "ties", "one-hot", "constant", "huge"])):
        case "film" if samples > 3:
            return film(rng, samples, 3, 0.2, dimensions)[0].astype(np.float32)
        case "ties":
            return rng.integers(-1, 2, (samples, dimensions))
        case "one-hot":
            return np.eye(dimensions, dtype=bool)[np.sort(rng.integers(0, dimensions, samples))]
        case "constant":
            return np.full((samples, dimensions), rng.normal())
        case "huge":
            return rng.normal(size=(samples, dimensions)) * 10.0 ** rng.choice([-200, 0, 200], (samples, 1))
    return rng.normal(size=(samples, dimensions))


@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(features(22), st.integers(0, 25))
def test_equals_the_plain_implementation(rows, most):
    found = kts(rows, most)
    assert found.dtype == np.int64
    assert found.tolist() == segment(rows, most)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(features(7), st.integers(0, 8))
def test_result_is_optimal_by_brute_force(rows, most):
    every = [c for m in range(min(most, len(rows) - 1) + 1) for c in itertools.combinations(range(1, len(rows)), m)]
    found = kts(rows, most)
    assert len(found) <= most
    if len(rows):
        assert objective(rows, found) <= min(objective(rows, changes) for changes in every) + TIE


@pytest.mark.parametrize(
    ("samples", "shots", "noise", "most"),
    [
        (64, 9, 0.5, 63),
        (65, 9, 0.5, 64),
        (190, 60, 1.0, 189),
        (260, 9, 2.0, 40),
        (330, 90, 0.05, 100),
        (257, 60, 0.2, 5),
        (1100, 110, 10.0, 1000),  # enough samples for several threads
    ],
)
def test_equals_the_plain_implementation_over_several_blocks(samples, shots, noise, most):
    rows, _ = film(np.random.default_rng(samples), samples, shots, noise)
    found = kts(rows, most)
    assert len(found)
    assert found.tolist() == segment(rows, most)


def test_finds_the_cuts_of_a_film():
    rows, cuts = film(np.random.default_rng(0), 700, 30, 0.2, 64)
    assert kts(rows, 699).tolist() == cuts.tolist()
    assert kts((1000 * rows).astype(np.int32), 70).tolist() == cuts.tolist()  # features are normalized
    assert len(kts(rows, 12)) == 12


@pytest.mark.parametrize("quarter", [1, 5, 40])
@pytest.mark.parametrize("share", [0.999, 1.001])
def test_a_change_point_must_save_what_it_costs(quarter, share):
    """Alternating directions 2 phi apart: mean scatter is sin(phi)^2 without change points, 0 with all of them."""
    for changes in (1, 3):
        cost = penalty(changes, 4 * quarter)
        sine = np.sqrt(share * cost)
        turns = np.repeat([1, 1, -1, -1] if changes == 1 else [1, -1, 1, -1], quarter)
        rows = np.stack([np.full(4 * quarter, np.sqrt(1 - sine**2)), sine * turns], axis=1)
        every = [quarter, 2 * quarter, 3 * quarter] if changes == 3 else [2 * quarter]
        assert kts(rows, 4 * quarter).tolist() == (every if share > 1 else [])


def test_ties_go_to_the_earliest_change_point():
    """Two samples in the middle are equally near to both sides, so both cuts cost the same."""
    rows = [[1, 0]] * 6 + [[1, 1]] * 2 + [[0, 1]] * 6
    assert objective(rows, [6]) == pytest.approx(objective(rows, [8]), abs=1e-12)
    assert kts(rows, 1).tolist() == [6]


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_features_have_no_change_points(value):
    for samples in (0, 1, 2, 500):
        for most in (0, 1, 1000):
            assert kts(np.full((samples, 5), value), most).tolist() == []
    assert kts(np.zeros((9, 0)), 8).tolist() == []
    assert kts([[1.0, 0.0], [0.0, 1.0]], 0).tolist() == []


def test_concurrent_calls():
    rows = [film(np.random.default_rng(seed), 300, 10, 0.2)[0] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: kts(one, 50).tolist(), rows))
    assert together == [kts(one, 50).tolist() for one in rows]


def test_the_input_is_not_modified():
    rows = np.random.default_rng(0).normal(size=(20, 3))
    kept = rows.copy()
    kts(rows, 19)
    assert (rows == kept).all()


@pytest.mark.parametrize(
    ("rows", "most", "word"),
    [
        ([[1.0], [np.nan]], 1, "NaN"),
        ([[1.0], [np.inf]], 1, "infinity"),
        ([1.0, 2.0], 1, r"\(samples, dimensions\)"),
        ([["a"], ["b"]], 1, "numbers"),
        ([[1.0], [2.0]], -1, "max_change_points is -1"),
    ],
)
def test_invalid_input_is_an_error(rows, most, word):
    with pytest.raises(UserError, match=word):
        kts(rows, most)


@pytest.mark.parametrize("module", ["evaluation.kts_loops", "gaze.concentration"])
def test_works_without_a_writable_cache(environment, tmp_path, module):
    """A container with read-only packages and a user without a home directory."""
    with small_disk(tmp_path / "disk", "20m") as resize:
        shutil.copytree(ROOT / "avmsnet_jax", tmp_path / "disk" / "avmsnet_jax", ignore=lambda *_: {"__pycache__"})
        resize("ro")
        variables = {"PYTHONPATH": str(tmp_path / "disk"), "HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}
        done = subprocess.run(
            [sys.executable, "-c", f"import avmsnet_jax.{module} as m; print(m.__file__)"],
            env=environment | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(str(tmp_path / "disk"))


@pytest.mark.parametrize(("mode", "kept"), [(0o777, False), (0o770, False), (0o700, True)])
def test_compiled_code_is_not_cached_where_others_can_write(tmp_path, monkeypatch, mode, kept):
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)

    def twice(number):
        return 2 * number

    assert numba_cache.compiled(twice)(4) == 8
    assert bool(list((tmp_path / "cache").rglob("*.nbc"))) == kept


def test_a_full_disk_is_no_error(tmp_path, monkeypatch):
    with small_disk(tmp_path / "cache", "4k"):
        (tmp_path / "cache").chmod(0o700)
        monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path / "cache"))

        def thrice(number):
            return 3 * number

        assert numba_cache.compiled(thrice)(4) == 12
