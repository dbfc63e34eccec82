"""The curve of a training run."""

from pathlib import Path
from typing import Any

_FEW = 120  # up to so many steps, the loss of each is drawn; of longer runs, the mean of each line


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draws training and validation loss, average precision and learning rates over steps as a PNG.

    Args:
      lines: of `metrics.jsonl`, from `metrics.read_metrics`.
      path: the file to write.
    """
    from matplotlib.figure import Figure  # takes half a second to import; pyplot would need a window system
    from matplotlib.ticker import MaxNLocator

    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ends, each = [line["step"] for line in steps], _each_step(steps)
    if len(each) <= _FEW:
        loss.plot(*zip(*each, strict=True) if each else ((), ()), ".-", color="#1b5e8c", label="training loss")
    else:
        loss.plot(ends, [line["loss"] for line in steps], color="#1b5e8c", label="training loss")
    if validations:
        _draw_validations(loss, validations)
    else:
        loss.legend(loc="upper right", frameon=False, bbox_to_anchor=(1.0, 1.14))
    loss.set(ylabel="loss")
    loss.set_ylim(bottom=0)
    loss.margins(y=0.08)
    for name in steps[-1]["learning_rate"] if steps else ():
        rates = [line["learning_rate"][name] for line in steps]
        rate.plot([0, *ends], [*rates[:1], *rates], drawstyle="steps-pre", label=name)
    last = max((line["step"] for line in lines), default=1)
    rate.set(xlabel="step", ylabel="learning rate", xlim=(0, last + max(last / 100, 0.1)))
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    if steps and min(line["learning_rate"][name] for line in steps for name in line["learning_rate"]) > 0:
        rate.set_yscale("log")
    rate.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    for axes in (loss, rate):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _each_step(steps: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Step and loss of every step. Lines of older versions have only a mean, which is drawn at their last step."""
    found = []
    for line in steps:
        losses = line.get("losses", [line["loss"]])
        found += [(line["step"] - len(losses) + 1 + place, loss) for place, loss in enumerate(losses)]
    return found


def _draw_validations(loss: Any, validations: list[dict[str, Any]]) -> None:
    """Draws the loss on held-out films, and the average precision where there is one."""
    at = [line["step"] for line in validations]
    loss.plot(at, [line["validation"]["loss"] for line in validations], "o-", color="#d98e04", label="validation loss")
    found = [(line["step"], line["validation"]["average_precision"]) for line in validations]
    defined = [(step, value) for step, value in found if value is not None]
    precision = loss.twinx()
    label = "validation average precision" if defined else "no average precision: no held-out clip is a key moment"
    precision.plot(*zip(*defined, strict=True) if defined else ((), ()), "s--", color="#3f8f4f", ms=4, label=label)
    precision.set(ylabel="average precision", ylim=(0, 1.02))
    precision.spines["top"].set_visible(False)
    handles = [*loss.get_legend_handles_labels()[0], *precision.get_legend_handles_labels()[0]]
    precision.legend(handles=handles, loc="upper right", frameon=False, ncols=3, bbox_to_anchor=(1.0, 1.14))
