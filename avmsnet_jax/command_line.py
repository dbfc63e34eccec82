"""Shared by all commands: parsing the command line, help, and one clear line for a user's mistake."""

import io
import logging as python_logging
import os
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging
from ml_collections import config_dict, config_flags

from avmsnet_jax import compiled, interrupts, program, unforeseen
from avmsnet_jax import config as config_lib
from avmsnet_jax.errors import UserError


def run(
    main: Callable[..., None],
    *,
    takes_config: bool = False,
    config_optional: bool = False,
    positional: str = "",
    sections: Sequence[str] = (),
) -> None:
    """Parses the command line, calls `main`, and exits: 0 on success, 2 with one line for a user's mistake.

    An unexpected error exits with 1 and one line, which names the file with the traceback; with --verbosity, the
    traceback goes to standard error.

    Args:
      main: called with the `Config` (`takes_config`), with the list of positional arguments, or with both if
        the command has both.
      takes_config: the command has `--config=FILE` and `--config.section.field=value`.
      config_optional: without `--config=FILE` the fields have their defaults.
      positional: the name of the positional arguments in the help; empty = the command takes none.
      sections: the sections of the configuration that the command reads, if these are few: the help lists only
        these, and no configuration file is required.
    """
    for stream in (sys.stdout, sys.stderr):  # printing a name must not fail on a terminal that lacks its characters
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.unraisablehook = _on_unraisable
    module = sys.modules[main.__module__]
    try:
        if any(argument in ("--help", "-h", "--helpfull", "-help") for argument in _split(sys.argv)[0][1:]):
            print(_help(module, takes_config, positional, sections), flush=True)
            sys.exit(0)
        if takes_config:  # now, because JAX reads the settings when a configuration file imports it
            compiled.enable_cache()
        main(*_parse(sys.argv, takes_config, config_optional or bool(sections), positional))
    except UserError as error:
        print(f"{program.name()}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as error:  # its message says what was saved
        interrupts.say(str(error))
        sys.exit(interrupts.STATUS)
    except BrokenPipeError:  # the reader of standard output has ended, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the flush at exit would fail again
        sys.exit(141)
    except Exception as error:
        if flags.FLAGS.is_parsed() and flags.FLAGS["verbosity"].present:
            raise
        print(f"{program.name()}: {unforeseen.report(error)}; please report it", file=sys.stderr)
        sys.exit(1)


def _on_unraisable(unraisable: Any) -> None:
    """Handles exceptions that cannot propagate, which Python would only print.

    Ctrl-C during a garbage-collection callback of JAX is raised again. On a full disk, each pending write of
    Tensorstore fails; these tracebacks are dropped, because the first failure is reported.
    """
    if unraisable.exc_type is KeyboardInterrupt:
        # Delayed, because this still runs within the callback.
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    elif not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


def require(*given: flags.FlagHolder[Any]) -> None:
    """Raises UserError for the first option that has no value."""
    for flag in given:
        if not flag.value:
            raise UserError(f"--{flag.name} is missing (--help lists all options)")


def _parse(argv: Sequence[str], takes_config: bool, config_optional: bool, positional: str) -> list[Any]:
    options, names = _split(argv)
    for option in options[1:]:
        # Ambiguous, as in `summarize.py *` where a file is called `--config=x.py`.
        if option.startswith("-") and os.path.lexists(option):
            raise UserError(
                f"{option} is an option, but also the name of a file here; "
                f"write ./{option} for the file, or run the command in another folder for the option"
            )
    try:
        argv = flags.FLAGS.read_flags_from_files(options, force_gnu=False)
        holder = None
        if takes_config:
            path, argv = _take_config_path(argv)
            if not path and not config_optional:
                raise UserError(
                    f"no configuration given; add --config=NAME, one of {', '.join(config_lib.installed())}, or "
                    "--config=FILE (--help lists the fields)"
                )
            config = config_lib.load(path) if path else config_lib.Config()
            _check_override_names(argv)
            tree = config_dict.ConfigDict(config_lib.to_dict(config))
            holder = config_flags.DEFINE_config_dict("config", tree, sys_argv=argv)
        left = flags.FLAGS(argv)[1:] + names
        if not flags.FLAGS["verbosity"].present:  # libraries log errors with tracebacks
            logging.set_verbosity(logging.FATAL)
            # Matplotlib warns if there is no home directory.
            python_logging.getLogger("matplotlib").setLevel(python_logging.ERROR)
    except UnicodeDecodeError:
        raise UserError("the --flagfile is not UTF-8 text; give options, one a line") from None
    except (flags.Error, ValueError) as error:  # the latter: `--nooverwrite=1`
        raise UserError(_plain(str(error))) from None
    if left and not positional:
        raise UserError(f"unexpected argument {left[0]!r}; options begin with -- (--help lists them)")
    if holder is None:
        return [left]
    config = config_lib.checked(holder.value.to_dict(), "")
    return [config, left] if positional else [config]


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line before and after the first `--`; arguments after it are names, even if they start with `-`."""
    end = argv.index("--") if "--" in argv else len(argv)
    return list(argv[:end]), list(argv[end + 1 :])


def _take_config_path(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Splits off `--config=FILE` or `--config FILE`, at any position among the overrides."""
    path, rest, arguments = "", [], iter(argv)
    for argument in arguments:
        if argument in ("--config", "-config"):
            path = next(arguments, "")
        elif argument.startswith(("--config=", "-config=")):
            path = argument.split("=", 1)[1]
        else:
            rest.append(argument)
    return path, rest


def _check_override_names(argv: Sequence[str]) -> None:
    known = config_lib.fields()
    for argument in argv:
        match = re.match(r"--?(no)?config\.([^=]*)", argument)
        if not match:
            continue
        negated, name = match.groups()
        if name not in known:
            raise config_lib.unknown_field(name)
        if negated and known[name].type is not bool:
            raise UserError(f"--noconfig.{name}: only true-or-false fields can be switched off that way")


def _plain(message: str) -> str:
    """The flag library's error message, in terms of the configuration."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", message, re.DOTALL)
    if match and match[1] in config_lib.fields():
        name, value = match.groups()
        expected = config_lib.type_name(config_lib.fields()[name].type)
        return f"--config.{name}={textwrap.shorten(value, 80)}: it must be {expected}"
    return message.removeprefix("FATAL Flags parsing error:") + " (--help lists all options)"


_CONFIG_MEANING = (
    "configuration: an installed one by name, or a file. FILE.py is executed, so use only files that you trust; "
    "FILE.json, such as the config.json of a training run, is only read. Installed: "
)


def _help(module: Any, takes_config: bool, positional: str, sections: Sequence[str]) -> str:
    file = "[--config=NAME]" if sections else "--config=NAME"
    options = " ".join(filter(None, [positional, f"{file} [--config.section.field=value ...]" * takes_config]))
    meaning = (module.__doc__ or "").strip().replace("{program}", program.typed())
    parts = [meaning, "", f"usage: {program.typed()} {options} [options]", ""]
    # By id, because the module's name differs under `python -m`.
    own = flags.FLAGS.flags_by_module_id_dict().get(id(module), [])
    if takes_config:
        parts.append(_entry("--config", _CONFIG_MEANING + ", ".join(config_lib.installed())))
    for flag in sorted(own, key=lambda flag: flag.name):
        value = str(flag.default).lower() if flag.boolean else flag.default
        default = "" if value in (None, "", []) else f" (default: {value})"
        parts.append(_entry(f"--{'[no]' if flag.boolean else ''}{flag.name}", _meaning(flag) + default))
    if takes_config:
        parts += ["", "configuration fields (defaults are those of the code; the file may set others):"]
        for name, field in config_lib.fields().items():
            if sections and name.split(".")[0] not in sections:
                continue
            unit = field.metadata["unit"]
            default = "" if field.default == "" else f" (default: {field.default}{f' {unit}' if unit else ''})"
            parts.append(_entry(f"--config.{name}", field.metadata["meaning"] + default))
    return "\n".join(parts)


def _meaning(flag: flags.Flag[Any]) -> str:
    """A flag's help without the values of a choice, which absl adds and our texts explain."""
    text = re.sub(r"^<[^>]*>: ", "", flag.help)
    return re.sub(r";\s+repeat this option to specify a list of values$", "; may be given several times", text)


def _entry(name: str, text: str) -> str:
    indent = " " * 6
    wrapped = textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    return f"  {name}\n{wrapped}"
