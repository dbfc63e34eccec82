"""Runs commands in processes forked off one that has imported the libraries, as imports take most of their time.

Reads requests from standard input, one JSON object a line, and writes the exit status of each.
"""

import atexit
import gc
import json
import os
import runpy
import sys
import threading
import traceback
from typing import Any

# Everything that commands import when they need it, except their own modules, which define flags. None starts JAX.
import matplotlib.pyplot  # noqa: F401

import avmsnet_jax.data.prepare
import avmsnet_jax.evaluation.benchmark
import avmsnet_jax.evaluation.movie50
import avmsnet_jax.summarization.run
import avmsnet_jax.training.loop
import avmsnet_jax.weights.convert  # noqa: F401


def serve() -> list[str]:
    """Forks a process for each request, and returns in these: the arguments of Python."""
    gc.freeze()  # a collection in a child would copy all memory
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            return _prepared(request)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()


def _prepared(request: dict[str, Any]) -> list[str]:
    """Gives this process the folder, the variables and the streams of a request."""
    os.chdir(request["cwd"])
    os.environ |= request["variables"]
    for number, path in enumerate((os.devnull, request["stdout"], request["stderr"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    return request["arguments"]


def run(arguments: list[str]) -> int:
    """Does what `python ARGUMENTS` does, and returns the exit status."""
    try:
        if arguments[0] == "-m":
            sys.argv, sys.path[0] = arguments[1:], os.getcwd()
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            script = os.path.realpath(arguments[0])
            sys.argv, sys.path[0] = arguments, os.path.dirname(script)
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = run(serve())
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)  # an orderly exit, which frees all imports, would take ten times as long as the fork
