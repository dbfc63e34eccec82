"""A training run as a picture."""

from pathlib import Path
from typing import Any


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draws the loss, its validation and the learning rate over the steps of a run to a PNG.

    Args:
      lines: of `metrics.jsonl`, as `log.read_metrics` gives them.
      path: the file to write.
    """
    from matplotlib.figure import Figure  # half a second, and no window system: pyplot is not needed

    steps = [line for line in lines if "loss" in line]
    validations = [line for line in lines if "validation" in line]
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    loss.plot(
        [line["step"] for line in steps], [line["loss"] for line in steps], color="#1b5e8c", label="training loss"
    )
    if validations:
        at = [line["step"] for line in validations]
        loss.plot(
            at, [line["validation"]["loss"] for line in validations], "o-", color="#d98e04", label="validation loss"
        )
        precision = loss.twinx()
        values = [line["validation"]["average_precision"] for line in validations]
        precision.plot(at, values, "s--", color="#3f8f4f", markersize=4, label="validation average precision")
        precision.set(ylabel="average precision", ylim=(0, 1.02))
        handles = [*loss.get_legend_handles_labels()[0], *precision.get_legend_handles_labels()[0]]
        precision.legend(handles=handles, loc="upper right", frameon=False, ncols=3, bbox_to_anchor=(1.0, 1.14))
    else:
        loss.legend(loc="upper right", frameon=False)
    loss.set(ylabel="loss")
    loss.set_ylim(bottom=0)
    for name in steps[-1]["learning_rate"] if steps else ():
        rate.plot(
            [line["step"] for line in steps],
            [line["learning_rate"][name] for line in steps],
            drawstyle="steps-pre",
            label=name,
        )
    rate.set(xlabel="step", ylabel="learning rate")
    if steps and min(line["learning_rate"][name] for line in steps for name in line["learning_rate"]) > 0:
        rate.set_yscale("log")
    rate.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    for axes in (loss, rate):
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})
