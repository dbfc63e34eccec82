"""What people type: `avmsnet COMMAND`, `python -m avmsnet_jax COMMAND`, or one of the scripts of a checkout."""

import importlib
import importlib.metadata
import sys

COMMANDS = {
    "prepare": "cut films into clips, and write them as records to train and test on",
    "train": "train a network on records",
    "evaluate": "test scores, a network's or anyone's, beside random, uniform and human ones",
    "convert": "turn published PyTorch weights into a checkpoint, or a checkpoint into PyTorch weights",
    "summarize": "cut the summary of a film, with a report that shows why",
    "studio": "change the cuts of summaries in the browser, and cut them again",
    "inspect": "show what is in a folder of records",
}


def run(program: str = "avmsnet") -> None:
    """Runs the command that the command line names.

    Args:
      program: what the user typed before the command's name, for help and errors.
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
        print(f"{program.removeprefix('-m ')}: no command {name!r}; choose {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.argv = [f"{program} {name}", *sys.argv[2:]]
        importlib.import_module(f"avmsnet_jax.commands.{name}").run()
