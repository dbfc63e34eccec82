"""`python -m avmsnet_jax COMMAND`."""

import os
import sys

# `python -m` puts the current folder first on the module path; modules there may be untrusted.
if __name__ == "__main__" and sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()):
    del sys.path[0]

from avmsnet_jax import commands

if __name__ == "__main__":
    commands.run("-m avmsnet_jax")
