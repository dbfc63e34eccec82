"""Shows what is in a data set: an account in words, and a sheet of its clips with their sound and labels.

    {program} RECORDS --output=sheet.png

Half of the clips drawn are key ones, as far as there are such; the sound is that of the frames above it, all on one
scale.
"""

from pathlib import Path

from absl import flags

from avmsnet_jax import command_line, storage
from avmsnet_jax.config import DataConfig
from avmsnet_jax.errors import UserError, printable_lines

_SPLIT = flags.DEFINE_string("split", "", "which split to draw; empty = the first there is")
_OUTPUT = flags.DEFINE_string("output", "", "where the sheet goes, a PNG; empty = only the account")


def main(directories: list[str]) -> None:
    """Prints the account, and draws the sheet."""
    if len(directories) != 1:
        raise UserError("give one data set: the --output of prepare_data.py (--help lists all options)")
    storage.refuse(_OUTPUT.value, "--output")
    from avmsnet_jax.data import inspect, pipeline  # seconds to import: not for --help or a wrong flag
    from avmsnet_jax.data.cache import local_records
    from avmsnet_jax.staging import staged

    directory, output = Path(local_records(DataConfig(dir=directories[0]))), Path(_OUTPUT.value)
    manifest = pipeline.read_manifest(directory)
    records = pipeline.open_split(directory, _SPLIT.value or next(iter(manifest["splits"])))
    print(printable_lines(inspect.account(directory, len(records.template.get("scores", ())))), flush=True)
    if not _OUTPUT.value:
        return
    if output.is_dir():
        raise UserError(f"{output} is a folder; --output is the picture to write, such as sheet.png")
    with staged(output.absolute()) as stage:
        inspect.draw_sheet(records, stage)
    print(f"written to {output}")


def run() -> None:
    """Runs the command line."""
    command_line.run(main, positional="RECORDS")
