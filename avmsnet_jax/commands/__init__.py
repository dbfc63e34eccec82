"""The commands: `avmsnet COMMAND`, `python -m avmsnet_jax COMMAND`, or a script of a checkout."""

import difflib
import importlib
import importlib.metadata
import sys

COMMANDS = {
    "prepare": "cut films into clips, and write them as records for training and testing",
    "train": "train a network on records",
    "evaluate": "evaluate the scores of a network or of any model, with random, uniform and human baselines",
    "convert": "convert published PyTorch weights to a checkpoint, or a checkpoint to PyTorch weights",
    "summarize": "cut the summary of a film, with a report that explains it",
    "studio": "edit the cuts of summaries in the browser, and render them again",
    "inspect": "show what a folder of records or summaries holds",
}


def run(program: str = "avmsnet") -> None:
    """Runs the command that the first argument names.

    Args:
      program: what the user typed before the command's name, for help and error messages.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "-help", "help"):
        typed = f"python {program}" if program.startswith("-m") else program
        print(f"usage: {typed} COMMAND [options]\n")
        print("\n".join(f"  {command:10} {meaning}" for command, meaning in COMMANDS.items()))
        print(f"\n{typed} COMMAND --help explains its options.")
    elif name == "--version":
        print(f"avmsnet_jax {importlib.metadata.version('avmsnet_jax')}")
    elif name not in COMMANDS:
        meant = difflib.get_close_matches(name, COMMANDS, 1)
        remedy = f"did you mean {meant[0]}?" if meant else f"choose {', '.join(COMMANDS)}"
        print(f"{program.removeprefix('-m ')}: no command {name!r}; {remedy}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [f"{program} {name}", *sys.argv[2:]]
        importlib.import_module(f"avmsnet_jax.commands.{name}").run()
