"""`python -m avmsnet_jax COMMAND`."""

import os
import sys

# `python -m` looks for modules in the current folder first, which may be a stranger's.
if __name__ == "__main__" and sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()):
    del sys.path[0]

from avmsnet_jax import commands

if __name__ == "__main__":
    commands.run("-m avmsnet_jax")
