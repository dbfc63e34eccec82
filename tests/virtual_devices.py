"""Runs a script on several virtual CPU devices: `python -m tests.virtual_devices COUNT SCRIPT ARGUMENTS`."""

import runpy
import sys

import jax

if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
