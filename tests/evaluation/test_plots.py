"""Plots, checked on the matplotlib figure before it is saved."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import binomtest

from avmsnet_jax.evaluation import plots

CONTEXT = "split test of movies; checkpoint films/checkpoints/40"


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that a function of `plots` draws."""

    def drawn(function, *arguments):
        kept = []
        save = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: kept.append(figure) or save(figure, *a, **k))
        function(*arguments, tmp_path / "plot.png")
        return kept[0]

    return drawn


def words(figure):
    """All text in a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def film(seconds, key=lambda second: second % 100 < 15):
    return [
        {"video": "A $film$", "time_s": float(second), "score": second % 7 / 7, "label": key(second)}
        for second in range(seconds)
    ]


@pytest.mark.parametrize(
    ("seconds", "ticks", "label"),
    [
        (9, ["0:00", "0:01", "0:08"], "time (m:ss)"),
        (75, ["0:10", "1:00", "1:10"], "time (m:ss)"),
        (4503, ["10:00", "1:00:00", "1:10:00"], "time (h:mm:ss)"),
        (7500, ["30:00", "1:30:00", "2:00:00"], "time (h:mm:ss)"),
        (10 * 3600, ["2:00:00", "8:00:00", "10:00:00"], "time (h:mm:ss)"),
    ],
)
def test_time_axis_labels(drawn, seconds, ticks, label):
    figure = drawn(plots.score_curve, film(seconds), 0.5, CONTEXT)
    said = words(figure)
    assert set(ticks) <= set(said)
    assert label in said
    assert "A $film$" in [word.strip() for word in said]
    assert CONTEXT in said
    shown = [
        tick.label1.get_window_extent() for tick in figure.axes[0].xaxis.get_major_ticks() if tick.label1.get_text()
    ]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(shown))


@pytest.mark.parametrize("seconds", [50, 300, 7200, 20000])
def test_a_long_film_is_a_smoothed_line_over_a_band(drawn, seconds):
    axes = drawn(plots.score_curve, film(seconds), 0.5, CONTEXT).axes[0]
    points = len(axes.get_lines()[0].get_xdata())
    long = seconds > 400
    assert points == (200 if long else seconds)
    assert len(axes.collections) == long
    if long:
        low, high = np.array([path.get_extents().get_points() for path in axes.collections[0].get_paths()])[0]
        assert (low[1], high[1]) == (0, 6 / 7)  # the band covers all scores
        assert axes.get_lines()[0].get_ydata() == pytest.approx(3 / 7, abs=0.05)
    assert len(axes.patches) == -(-seconds // 100)  # neighboring key clips are drawn as one span


def test_a_film_without_key_moments_says_so(drawn):
    assert "no key moment" in words(drawn(plots.score_curve, film(30, lambda _: False), 0.5, CONTEXT))
    assert "no key moment" not in words(drawn(plots.score_curve, film(30), 0.5, CONTEXT))


def test_users_of_a_long_film(drawn):
    frames = 2 * 3600 * 25
    rng = np.random.default_rng(0)
    scores, users = rng.random(frames // 25).repeat(25), rng.integers(1, 6, (4, frames // 50)).repeat(50, 1)
    shots = np.arange(0, frames, 50)[:, None] + [0, 49]
    figure = drawn(plots.judged_curve, "film", CONTEXT, scores, users, shots, np.arange(frames) < 500, 25.0)
    assert {"1:15:00", "2:00:00", "time (h:mm:ss)", CONTEXT} <= set(words(figure))
    assert [len(line.get_xdata()) for line in figure.axes[0].get_lines()] == [200, 200]
    assert len(figure.axes[0].patches) == 1  # the summary only; too many shots to shade


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_precision_and_recall_without_key_clips_have_no_curve(drawn, threshold):
    figure = drawn(plots.precision_recall, CONTEXT, np.array([0.2, 0.7]), np.array([False, False]), threshold)
    assert not figure.axes[0].get_lines()
    assert "None of 2 clips is a key moment:\nprecision and recall have no value." in words(figure)
    assert not [word for word in words(figure) if "average precision" in word]


def test_a_threshold_above_all_scores_has_no_marker(drawn):
    figure = drawn(plots.precision_recall, CONTEXT, np.array([0.2, 0.7]), np.array([False, True]), 0.9)
    assert len(figure.axes[0].get_lines()[-1].get_xdata()) == 0
    assert "threshold 0.9: no score reaches it" in words(figure)


def test_calibration_plot_shows_the_number_of_clips(drawn):
    scores = np.concatenate([np.full(200, 0.05), np.full(20, 0.35), [0.95]])
    labels = np.concatenate([np.arange(200) < 20, np.arange(20) < 8, [True]])
    figure = drawn(plots.calibration_curve, CONTEXT, scores, labels)
    markers, intervals = figure.axes[0].collections
    many, some, one = markers.get_sizes()
    assert many > 4 * some > 4 * one
    for (hits, count), segment in zip([(20, 200), (8, 20), (1, 1)], intervals.get_segments(), strict=True):
        expected = binomtest(hits, count).proportion_ci(0.95, "wilson")
        assert segment[:, 1] == pytest.approx([expected.low, expected.high], abs=1e-6)
    assert {"200", "20", "1", CONTEXT} <= set(words(figure))
