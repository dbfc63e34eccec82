"""The choice of an operation's form by platform."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def for_platform(platform: str | None, function: Callable[..., Any], *operands: Any) -> Any:
    """`function(platform, *operands)`.

    Args:
      platform: "cpu", "gpu" or "tpu". None = the platform that the program is compiled for; all three forms are
        traced then, which takes longer.
      function: chooses a form by its first argument.
      operands: arrays.
    """
    if platform is not None:
        return function(platform, *operands)
    gpu = functools.partial(function, "gpu")
    return jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(function, "cpu"),
        cuda=gpu,
        rocm=gpu,
        default=functools.partial(function, "tpu"),
    )
