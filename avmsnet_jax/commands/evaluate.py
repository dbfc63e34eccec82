"""Evaluate a checkpoint or the scores of any model, beside attention, random, uniform and human baselines.

A checkpoint on prepared records; the data set determines the protocol. Without --checkpoint, the baselines alone:
  {program} --config=films --config.data.dir=RECORDS --checkpoint=RUN --output=RESULTS

Scores of any model against TVSum's or SumMe's annotations; without --scores, the baselines alone:
  {program} --annotations=ydata-tvsum50.mat --scores=SCORES.json --output=RESULTS
"""

import sys
from pathlib import Path

from absl import flags

from avmsnet_jax import command_line
from avmsnet_jax.config import Config
from avmsnet_jax.errors import UserError, printable, printable_lines
from avmsnet_jax.weights import location

_CHECKPOINT = flags.DEFINE_multi_string(
    "checkpoint",
    [],
    "the --workdir of a training run, one of its steps, or the --output of a conversion; give one per fold to test all "
    "folds; empty = the attention scorer, which needs no weights",
)
_SCORES = flags.DEFINE_string(
    "scores",
    "",
    "scores to evaluate instead of a checkpoint: FILE.json ({video: [score, ...]}, or a list of these, one for each "
    "split), FILE.h5 (a dataset for each video), a folder of VIDEO.csv (frame,score) or VIDEO.npy, or of split*/",
)
_ANNOTATIONS = flags.DEFINE_multi_string(
    "annotations",
    [],
    "users' judgments to compare --scores with: ydata-tvsum50.mat, SumMe's folder, an HDF5 file in the usual format "
    "(eccv16), or prepared records; several files on the same videos are combined",
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "",
    ["", "movie50", "tvsum", "summe"],
    "movie50 (precision, recall, F of clips), tvsum (mean agreement with users) or summe (agreement with the nearest "
    "user); empty = that of the data set",
)
_SPLITS = flags.DEFINE_string(
    "splits",
    "",
    "with --annotations: a JSON file, a list of {train_keys, test_keys}, one for each split; empty = the usual five "
    "splits of the data set. Prepared records have their own: see --split",
)
_SPLIT = flags.DEFINE_string(
    "split",
    "test",
    "the split of the prepared records to test (train, test); whole = all videos of all folds; for annotations see "
    "--splits",
)
_OUTPUT = flags.DEFINE_string(
    "output", "", "folder for the results, or a place on gs:// or s3://; must be new or empty"
)


def main(config: Config) -> None:
    """Evaluates a checkpoint, the attention scorer, or scores of any model."""
    if not (_CHECKPOINT.value or _SCORES.value or _ANNOTATIONS.value or config.data.dir):
        raise UserError(
            "--checkpoint is missing: give a training run or a converted checkpoint; or give --config.data.dir "
            "(prepared records) or --annotations for the baselines alone, or --annotations and --scores for any model "
            "(--help lists all options)"
        )
    command_line.require(_OUTPUT)
    table, failed = _test_files(config) if _SCORES.value or _ANNOTATIONS.value else _test_checkpoints(config)
    print(printable_lines(table))
    print(f"written to {_OUTPUT.value}")
    if failed:
        for video, error in failed.items():
            print(printable(f"{video}: {error}"), file=sys.stderr)
        raise UserError(f"{len(failed)} of the videos could not be tested or drawn in full; please report it")


def _test_checkpoints(config: Config) -> tuple[str, dict[str, str]]:
    if _SPLITS.value:
        raise UserError(
            "--splits divides --annotations; a checkpoint is tested on prepared records, which have their own splits: "
            "leave it out, and choose one by --split"
        )
    location.check(*_CHECKPOINT.value)
    # Imported here, so that --help and wrong options do not wait for JAX.
    from avmsnet_jax.evaluation.baselines import protocol_of

    output = _OUTPUT.value
    protocol = _PROTOCOL.value or protocol_of(config)
    if protocol != "movie50":
        from avmsnet_jax.evaluation import benchmark, benchmark_report

        metrics = benchmark.evaluate(config, _CHECKPOINT.value, protocol, _SPLIT.value, output)
        return benchmark_report.text(metrics), metrics.get("failed", {})
    if len(_CHECKPOINT.value) > 1:
        raise UserError("several checkpoints are for the folds of tvsum and summe; give one --checkpoint for movie50")
    from avmsnet_jax.evaluation import movie50

    metrics = movie50.evaluate(config, (_CHECKPOINT.value or [""])[0], _SPLIT.value, output)
    return movie50.summary(metrics), metrics.get("failed", {})


def _test_files(config: Config) -> tuple[str, dict[str, str]]:
    if _CHECKPOINT.value:
        raise UserError(
            "a checkpoint is tested on prepared records (--config.data.dir); leave out --scores and --annotations"
        )
    command_line.require(_ANNOTATIONS)
    if _SPLIT.present:
        raise UserError(
            "--split names a split of prepared records and goes with --checkpoint; leave it out: all videos are "
            "tested, or those listed in the file given by --splits"
        )
    if config.eval.threshold_split:
        raise UserError(
            "eval.threshold_split names a split of prepared records and goes with --checkpoint; leave it out, and set "
            "--config.eval.threshold"
        )
    if _PROTOCOL.value == "movie50":
        raise UserError("movie50 tests a checkpoint on prepared records; for --annotations give tvsum or summe")
    from avmsnet_jax.evaluation import benchmark_report, given_scores

    metrics = given_scores.evaluate(
        [Path(path) for path in _ANNOTATIONS.value],
        Path(_SCORES.value) if _SCORES.value else None,
        _PROTOCOL.value,
        Path(_SPLITS.value) if _SPLITS.value else None,
        config.eval.threshold,
        _OUTPUT.value,
    )
    return benchmark_report.text(metrics), metrics.get("failed", {})


def run() -> None:
    """Runs the command line."""
    command_line.run(main, takes_config=True, config_optional=True)
