"""Serves a folder of summaries to the browser: look through the cuts, change them, render them again.

    {program} summaries

SUMMARIES is the --output of summarize, or a new folder, as films can be dropped into the page. The printed address
holds a token and works on this machine only; Ctrl-C ends the studio.
"""

from pathlib import Path

from absl import flags

from avmsnet_jax import command_line, program
from avmsnet_jax.errors import UserError

PORT = flags.DEFINE_integer(
    "port",
    8765,
    "port on 127.0.0.1; 0 = a free one. The browser stores unsaved changes for this address and port",
    0,
    65535,
)


def main(folders: list[str]) -> None:
    """Serves until Ctrl-C."""
    if len(folders) != 1:
        raise UserError(f"give one folder: the --output of {program.typed('summarize')} (--help lists all options)")
    root = Path(folders[0]).absolute()
    try:
        root.mkdir(exist_ok=True)
        root = root.resolve()
    except FileNotFoundError:
        raise UserError(f"create {root.parent} first") from None
    except OSError as error:
        raise UserError(f"{root} is no folder and cannot be made one: {error.strerror}; choose another") from None
    try:
        from avmsnet_jax.studio.app import serve  # a second to import, which --help and wrong options should not cost
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise UserError(f"the studio needs {error.name}; pip install 'avmsnet_jax[studio]'") from None
    serve(root, PORT.value)


def run() -> None:
    """Runs the command line."""
    command_line.run(main, positional="SUMMARIES")
