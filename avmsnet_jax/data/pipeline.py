"""Prepared records to batches: any record at any time, in an order that only the seed decides."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from avmsnet_jax.config import ModelConfig
from avmsnet_jax.data import MANIFEST
from avmsnet_jax.errors import UserError

Record = dict[str, Any]
Batch = dict[str, np.ndarray]


class Records:
    """The records of one split, by number. Safe to read from several threads.

    Attributes:
      directory: the prepared data set.
      split: which part of it.
      frames: frames of a clip.
      frame_size: height and width of a frame, pixels.
    """

    def __init__(self, directory: Path, split: str, source: Any, frames: int, frame_size: int):
        self.directory = directory
        self.split = split
        self.frames = frames
        self.frame_size = frame_size
        self._source = source

    def __len__(self) -> int:
        """Clips in the split."""
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """One record.

        Returns:
          `clip` (T, size, size, 3) uint8; `sound` (2205 T,) float32 in ±256; `has_sound` bool; `label`
          float32, 0 or 1; and, of use on the host only, `video` str, `frame` int32 (the frame that the
          label is of, from 1), `time_s` float64 (when it is shown), `fps` float64.
        """
        try:
            record = self._source[index]
        except (RuntimeError, ValueError, OSError) as error:  # what ArrayRecord makes of a missing or cut shard
            raise UserError(f"the records in {self.directory} are damaged ({error}); prepare them again") from error
        return {
            "clip": record["clip"],
            "sound": record["sound"],
            "has_sound": np.bool_(record["has_sound"]),
            "label": np.float32(record["label"]),
            "video": np.asarray(record["video"].decode()),
            "frame": np.int32(record["frame"]),
            "time_s": np.float64(record["time_s"]),
            "fps": np.float64(record["fps"]),
        }

    def __iter__(self) -> Iterator[Record]:
        """Every record, in the order of the films and of time."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        """Grain logs and compares sources by this."""
        return f"Records({str(self.directory)!r}, {self.split!r}, {len(self)} clips)"


def open_split(directory: str | os.PathLike[str], split: str, model: ModelConfig | None = None) -> Records:
    """Opens one split of a data set that prepare_data.py wrote.

    Args:
      directory: its --output.
      split: train or test.
      model: the network that is to take the clips; None = any.

    Raises:
      UserError: there is no such data set or split, or its clips are not what the network takes.
    """
    import tensorflow_datasets as tfds  # seconds to import, and only records need it

    if not os.fspath(directory):
        raise UserError("no records given; set --config.data.dir to the --output of prepare_data.py")
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"there is no folder of records {directory}; prepare one with prepare_data.py --output")
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        builder = tfds.builder_from_directory(directory / manifest["records"])
        settings = manifest["settings"]
        frames, frame_size = settings["frames"], settings["frame_size"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{directory} holds no prepared records ({MANIFEST} is missing or damaged); prepare it with prepare_data.py"
        ) from None
    if split not in builder.info.splits:
        raise UserError(f"{directory} has no split {split!r}; it has {', '.join(sorted(builder.info.splits))}")
    if model is not None:
        for name, held in (("frames", frames), ("frame_size", frame_size)):
            wanted = getattr(model, name)
            if wanted != held:
                raise UserError(
                    f"the clips in {directory} have {name}={held}, the network takes {name}={wanted}; prepare the "
                    f"data again with --{name}={wanted}, or train a network with --config.model.{name}={held}"
                )
    records = Records(directory, split, builder.as_data_source(split), frames, frame_size)
    for index in {0, len(records) - 1}:
        records[index]  # shards are opened when first read: better now than in the middle of a run
    return records


def train_batches(
    source: Records,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    flip: bool = True,
    threads: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """Batches for training. The same arguments give the same batches, however many threads read.

    In each epoch all processes together see every clip once, in a new order, save those that would not
    fill a last batch for every process; a batch never holds clips of two epochs.

    Args:
      source: the records.
      batch_size: clips in a batch of this process.
      seed: decides the order and the flips.
      epochs: passes over the records; None = without end.
      flip: mirror a whole clip left-right with probability 0.5.
      threads: threads that read and decode ahead.
      process_index: which of the processes this is, from 0.
      process_count: processes that share an epoch.

    Returns:
      an iterator over dictionaries of stacked records: `clip` (B, T, size, size, 3) uint8, `sound`
      (B, 2205 T) float32, `label` (B,) float32 and the other fields of `Records`. Its `get_state()` is a
      small JSON-able dictionary; after `set_state()` with it, the next batch is exactly the one that
      was due.

    Raises:
      UserError: the split has fewer clips than one batch for every process.
    """
    steps = steps_per_epoch(source, batch_size=batch_size, process_count=process_count)
    dataset = grain.MapDataset.source(source).seed(seed % 2**32)
    dataset = dataset.shuffle()[: steps * batch_size * process_count][process_index::process_count]
    if flip:
        dataset = dataset.random_map(_flip)
    dataset = dataset.batch(batch_size, drop_remainder=True).repeat(epochs)
    return iter(dataset.to_iter_dataset(_read_options(threads)))


def steps_per_epoch(source: Records, *, batch_size: int, process_count: int = 1) -> int:
    """Batches that each process gets in an epoch.

    Args:
      source: the records.
      batch_size: clips in a batch of one process.
      process_count: processes that share an epoch.

    Raises:
      UserError: the split has fewer clips than one batch for every process.
    """
    steps = len(source) // (batch_size * process_count)
    if not steps:
        raise UserError(
            f"the split {source.split!r} of {source.directory} has {len(source)} clips, fewer than one batch of "
            f"{batch_size * process_count}; lower --config.train.batch_size"
        )
    return steps


def eval_batches(
    source: Records, *, batch_size: int, threads: int = 4, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Batches for evaluation, in the order of the records; every clip comes exactly once.

    Args:
      source: the records.
      batch_size: clips in a batch of this process.
      threads: threads that read and decode ahead.
      process_index: which of the processes this is, from 0.
      process_count: processes that share the split.

    Yields:
      dictionaries as those of `train_batches`, with `mask` (B,) bool: True for a clip, False for the
      zeros that fill the last batch. Every process gets the same number of batches.
    """
    own = range(process_index, len(source), process_count)
    most = -(-len(source) // process_count)  # clips of the process that has the most
    dataset = grain.MapDataset.range(-(-most // batch_size))
    template = source[0]

    def load(index: int) -> Batch:
        return _stack([source[i] for i in own[index * batch_size : (index + 1) * batch_size]], batch_size, template)

    return iter(dataset.map(load).to_iter_dataset(_read_options(threads)))


def _flip(record: Record, rng: np.random.Generator) -> Record:
    if rng.random() < 0.5:
        return {**record, "clip": record["clip"][:, :, ::-1]}
    return record


def _read_options(threads: int) -> grain.ReadOptions:
    # One element is a whole batch, up to 100 MB: one for each thread is enough to stay ahead.
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)


def _stack(records: Sequence[Record], batch_size: int, template: Record) -> Batch:
    """Stacks records and fills up with zeros; a process may have no clip left at all."""
    batch = {}
    for name, like in template.items():
        values = [record[name] for record in records]
        empty = np.zeros_like(like)
        batch[name] = np.stack(values + [empty] * (batch_size - len(values)))
    batch["mask"] = np.arange(batch_size) < len(records)
    return batch
