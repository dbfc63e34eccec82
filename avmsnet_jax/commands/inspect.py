"""Shows what is in a data set or in a folder of summaries.

    {program} RECORDS --output=sheet.png
    {program} SUMMARIES

For records: films, clips, labels, and a picture of some clips with their sound. Half of the clips drawn are key clips,
if there are enough; the waveform below the frames has the same scale for all clips. For summaries: how many cuts a
person has looked through; prepare --cuts=SUMMARIES uses these as labels.
"""

from pathlib import Path

from absl import flags

from avmsnet_jax import command_line, program, storage
from avmsnet_jax.config import DataConfig
from avmsnet_jax.data import MANIFEST
from avmsnet_jax.data.cache import local_records
from avmsnet_jax.data.manifest import read_manifest
from avmsnet_jax.errors import UserError, printable_lines
from avmsnet_jax.staging import staged

_SPLIT = flags.DEFINE_string("split", "", "split to draw; empty = the first")
_OUTPUT = flags.DEFINE_string("output", "", "picture to write, a PNG; empty = none")


def main(directories: list[str]) -> None:
    """Describes the folder, and draws clips of records."""
    if len(directories) != 1:
        raise UserError(
            f"give one folder: the --output of {program.typed('prepare')} or {program.typed('summarize')} "
            "(--help lists all options)"
        )
    storage.refuse(_OUTPUT.value, "--output")
    directory, output = Path(directories[0]), Path(_OUTPUT.value)
    if not storage.is_remote(directories[0]) and not directory.is_file() and not (directory / MANIFEST).exists():
        if directory.is_dir():
            from avmsnet_jax.summarization import reviewed

            if next(directory.glob(f"*/{reviewed.CUT}"), None):
                print(printable_lines(reviewed.account(directory)))
                return
        what = "holds neither records nor summaries" if directory.is_dir() else "is no folder"
        raise UserError(
            f"{directory} {what}; give the --output of {program.typed('prepare')} or {program.typed('summarize')}"
        )
    directory = Path(local_records(DataConfig(dir=directories[0])))
    manifest = read_manifest(directory)
    from avmsnet_jax.data import inspect, pipeline  # a second to import, which --help and wrong options should not cost

    records = pipeline.open_split(directory, _SPLIT.value or next(iter(manifest.splits)))
    print(printable_lines(inspect.account(directory, len(records.template.get("scores", ())))), flush=True)
    if not _OUTPUT.value:
        return
    if output.is_dir():
        raise UserError(f"{output} is a folder; give the picture to write, such as --output=sheet.png")
    with staged(output.absolute()) as stage:
        inspect.draw_sheet(records, stage)
    print(f"written to {output}")


def run() -> None:
    """Runs the command line."""
    command_line.run(main, positional="RECORDS | SUMMARIES")
