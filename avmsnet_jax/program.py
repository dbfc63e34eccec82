"""How the user started this program, so that messages name commands as the user types them."""

import os
import sys

SCRIPTS = {
    "prepare": "prepare_data.py",
    "train": "train.py",
    "evaluate": "eval.py",
    "convert": "convert_weights.py",
    "summarize": "summarize.py",
}


def name() -> str:
    """The running command without its folder or `python`: `train.py`, `avmsnet train`, `avmsnet_jax train`."""
    return _first().removeprefix("-m ")


def typed(command: str = "") -> str:
    """What the user types to run a command: `python train.py`, `avmsnet train`, `python -m avmsnet_jax train`.

    Args:
      command: one of `avmsnet_jax.commands.COMMANDS`; empty = the running one.
    """
    first = _first()
    if not command:
        return f"python {first}" if first.endswith(".py") or first.startswith("-m ") else first
    if first in SCRIPTS.values() and command in SCRIPTS:
        return f"python {SCRIPTS[command]}"
    return f"python -m avmsnet_jax {command}" if first.startswith("-m ") else f"avmsnet {command}"


def _first() -> str:
    """The program as the user typed it: the start of the command line, without its folder."""
    return sys.argv[0] if " " in sys.argv[0] else os.path.basename(sys.argv[0])
