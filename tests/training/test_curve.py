"""curve.png, checked by the figure's contents before it is saved."""

import pytest
from matplotlib.figure import Figure

from avmsnet_jax.training import curve


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that draws lines and returns the axes: loss, learning rate, and average precision if validated."""

    def drawn(lines):
        kept = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: kept.append(figure))
        curve.draw(lines, tmp_path / "curve.png")
        return kept[0].axes

    return drawn


def line(step, losses):
    return {"step": step, "loss": sum(losses) / len(losses), "losses": losses, "learning_rate": {"all": 1e-3}}


def validation(step, precision):
    return {"step": step, "validation": {"loss": 0.7, "average_precision": precision, "fscore": precision}}


@pytest.mark.parametrize("ends", [(10, 12), (1,), (5, 10, 13), (7, 14, 21, 26)])
def test_a_short_run_shows_every_step_on_an_axis_of_whole_steps(drawn, ends):
    losses = [1 / step for step in range(1, ends[-1] + 1)]
    starts = (0, *ends[:-1])
    axes = drawn([line(end, losses[start:end]) for start, end in zip(starts, ends, strict=True)])
    [shown] = axes[0].get_lines()
    assert shown.get_xdata().tolist() == list(range(1, ends[-1] + 1))
    assert shown.get_ydata().tolist() == losses
    assert shown.get_marker() == "."
    ticks = [tick for tick in axes[1].get_xticks() if 0 <= tick <= ends[-1]]
    assert ticks == [round(tick) for tick in ticks]
    low, high = axes[1].get_xlim()
    assert low == 0
    assert ends[-1] < high < ends[-1] + 0.5


def test_a_long_run_shows_the_mean_of_each_line(drawn):
    lines = [line(step, [0.5, 0.7] * 5) for step in range(10, 2010, 10)]
    [shown] = drawn(lines)[0].get_lines()
    assert shown.get_xdata().tolist() == list(range(10, 2010, 10))
    assert set(shown.get_ydata()) == {lines[0]["loss"]}


def test_lines_of_an_older_version_are_drawn(drawn):
    old = [{name: value for name, value in line(step, [0.5]).items() if name != "losses"} for step in (10, 12)]
    assert drawn(old)[0].get_lines()[0].get_xdata().tolist() == [10, 12]


def test_the_legend_says_if_average_precision_is_missing(drawn):
    axes = drawn([line(4, [1.0] * 4), validation(4, None), validation(8, None)])
    assert len(axes[2].get_lines()[0].get_xdata()) == 0
    assert "no held-out clip is a key moment" in axes[2].get_legend().get_texts()[-1].get_text()
    axes = drawn([line(4, [1.0] * 4), validation(4, 0.25), validation(8, None)])
    assert axes[2].get_lines()[0].get_xdata().tolist() == [4]
