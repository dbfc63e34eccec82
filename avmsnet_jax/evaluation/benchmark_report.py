"""The figures of TVSum and SumMe as tables, for `report.md` and the terminal."""

from collections.abc import Mapping
from typing import Any

from avmsnet_jax.evaluation import report
from avmsnet_jax.evaluation.baselines import PROTOCOLS


def markdown(metrics: Mapping[str, Any]) -> str:
    """`metrics.json` of a trial as tables."""
    protocol = PROTOCOLS[metrics["protocol"]]
    parts = [f"# {protocol.title}'s protocol", _sources(metrics), *metrics["notes"]]
    for heading, kind, note in _tables(metrics):
        header, rows = _table(metrics, kind, short=False)
        parts += [f"## {heading}", report.markdown_table(header, rows), note]
    if next(iter(metrics["rows"])) in ("model", "attention") and len(metrics["folds"]) > 1:
        parts += ["## Each split", report.markdown_table(*_each_split(metrics))]
    if "num_clips" in metrics:
        parts += ["## All scored frames pooled", report.pooled_sentence(metrics)]
    meanings = [f"- **{measure.heading}**: {measure.meaning}." for measure in protocol.measures.values()]
    meanings += [f"- **{row}**: {meaning}." for row, meaning in metrics["baselines"].items()]
    return "\n\n".join([*parts, "## Definitions", "\n".join(meanings)]) + "\n"


def text(metrics: Mapping[str, Any]) -> str:
    """The figures as small tables for the terminal."""
    parts = []
    for heading, kind, _ in _tables(metrics):
        parts += [f"{PROTOCOLS[metrics['protocol']].title}'s protocol, {heading[0].lower()}{heading[1:]}"]
        parts += [report.text_table(*_table(metrics, kind, short=True))]
    dashed = [row for row, cells in metrics["rows"].items() if not all(cell["videos"] for cell in cells.values())]
    meanings = [f"{row}: {meaning}." for row, meaning in metrics["baselines"].items() if row in dashed]
    return "\n".join([*parts, *metrics["notes"], *meanings])


def _tables(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of each table the heading, the figures it takes, and how to read it."""
    count, folds = metrics["num_videos"], len(metrics["folds"])
    tables = [
        (
            f"Mean over {report.counted(count, 'video')}",
            "videos",
            "Mean ± standard deviation over videos [95% interval of the mean: bootstrap over videos]; a single "
            "video has neither.",
        )
    ]
    if folds > 1 and any(cell["splits"] for row in metrics["rows"].values() for cell in row.values()):
        tables.append(
            (
                f"Mean over {folds} splits",
                "splits",
                "Mean of the splits' means over their test videos ± standard deviation over splits [95% interval of "
                "the mean: bootstrap over videos, each with its places in all splits].",
            )
        )
    return tables


def _table(metrics: Mapping[str, Any], kind: str, short: bool) -> tuple[list[str], list[list[str]]]:
    measures = PROTOCOLS[metrics["protocol"]].measures
    rows = [
        [row, *(report.cell(figures[name][kind], short=short) for name in measures)]
        for row, figures in metrics["rows"].items()
    ]
    return ["", *(measure.heading for measure in measures.values())], rows


def _each_split(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    measures = PROTOCOLS[metrics["protocol"]].measures
    rows = []
    first = next(iter(metrics["rows"]))
    for number, (name, tested) in enumerate(metrics["folds"].items()):
        cells = [metrics["rows"][first][measure]["splits"] for measure in measures]
        rows.append(
            [f"{name}, {len(tested)} videos", *(f"{cell['each'][number]:.4f}" if cell else "-" for cell in cells)]
        )
    return [first, *(measure.heading for measure in measures.values())], rows


def _sources(metrics: Mapping[str, Any]) -> str:
    """A sentence on where the figures are from."""
    whose = "Random, uniform and human rows only"
    if metrics.get("checkpoint"):
        whose = (
            f"Checkpoint {', '.join(metrics['checkpoint'])} on data set {metrics['dataset']} ({metrics['records']}), "
            f"split {metrics['split']}"
        )
    elif metrics.get("scores"):
        whose = f"Scores of {metrics['scores']}"
    elif metrics.get("records"):
        whose = (
            f"Attention scorer, not learned from people, on data set {metrics['dataset']} ({metrics['records']}), "
            f"split {metrics['split']}"
        )
    said = f"; annotations {', '.join(metrics['annotations'])}" if metrics.get("annotations") else ""
    return f"{whose}{said}. Shots: {metrics['shots']}."
