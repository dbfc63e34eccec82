"""Whether the folder of a collection can be prepared, checked without slow imports."""

import os
from pathlib import Path

from avmsnet_jax.errors import UserError


def check(source: str | os.PathLike[str]) -> None:
    """Refuses a `--source` that cannot hold a collection.

    Raises:
      UserError: it is a file, missing or empty.
    """
    folder = Path(source)
    if folder.is_file():
        raise UserError(f"--source={folder} is a file; give the folder that holds it")
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; --source must be the folder of the collection")
    if not any(folder.iterdir()):
        raise UserError(
            f"nothing in {folder} could be prepared (it is empty); --source must hold films (.mp4, .mkv, …) or the "
            "published layout"
        )
