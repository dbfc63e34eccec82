"""Prepared records to batches: random access to records, in an order that depends only on the seed."""

import collections
import dataclasses
import functools
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from absl import flags

from avmsnet_jax.data import MANIFEST, shards
from avmsnet_jax.data.manifest import inside, read_manifest
from avmsnet_jax.data.sources import share_of
from avmsnet_jax.errors import UserError

if TYPE_CHECKING:
    import grain

Record = dict[str, Any]
Batch = dict[str, np.ndarray]
Placed = TypeVar("Placed")

FEWEST_FILMS = 4  # with fewer films, none is held out


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Records:
    """The records of one split, by number. Thread-safe; pickled as the place of its files, which are opened again.

    Attributes:
      directory: the prepared data set.
      split: the split, as requested.
      fold: the fold, from 0.
      frames: frames of a clip.
      frame_size: height and width of a frame, pixels.
      stored_split: the split of the files that hold the records: `split`, or `whole` if the data set has folds.
      numbers: the numbers of these records in `stored_split`.
    """

    directory: Path
    split: str
    fold: int
    frames: int
    frame_size: int
    stored_split: str
    numbers: Sequence[int]
    _source: shards.Shards

    def only(self, numbers: Sequence[int]) -> "Records":
        """A subset, by the records' numbers in `stored_split`."""
        return dataclasses.replace(self, numbers=numbers)

    @property
    def stored(self) -> int:
        """The number of records in `stored_split`."""
        return len(self._source)

    @functools.cached_property
    def template(self) -> Record:
        """The first record, for the shapes and types of all."""
        return self[0]

    @functools.cached_property
    def identity(self) -> str:
        """A digest of films, clip settings and record numbers. A run resumes only with records of the same identity."""
        manifest = read_manifest(self.directory)
        held = [[film.name, film.frames, film.clips] for film in manifest.films]
        settings = {name: getattr(manifest, name) for name in ("frames", "frame_size", "spacing")}
        text = json.dumps([held, settings, self.stored_split, [int(number) for number in self.numbers]])
        return f"{len(self)} clips {zlib.crc32(text.encode()):08x}"

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.numbers)

    def __getitem__(self, index: int) -> Record:
        """One record.

        Returns:
          `clip` (T, size, size, 3) uint8; `sound` (2205 T,) float32 in ±256; `has_sound` bool; `label`
          float32, 0 or 1, NaN if the film is unlabeled; `scores` (users,) float32, padded with NaN, only in data
          sets with users' scores; and, for the host only, `video` str, `frame` int32 (the labeled frame, from
          1), `time_s` float64 (its presentation time) and `fps` float64.
        """
        number = self.numbers[index]
        try:
            record = self._source[number]
        except shards.DAMAGE as error:
            raise _damaged(self.directory, error) from error
        return {
            "clip": record["clip"],
            "sound": record["sound"],
            "has_sound": np.bool_(record["has_sound"]),
            "label": np.float32(record["label"] if record["label"] >= 0 else np.nan),
            **({"scores": record["scores"]} if "scores" in record else {}),
            "video": np.asarray(record["video"]),
            "frame": np.int32(record["frame"]),
            "time_s": np.float64(record["time_s"]),
            "fps": np.float64(record["fps"]),
        }

    def __iter__(self) -> Iterator[Record]:
        """All records, by film and time."""
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the place of the files; the other process opens them."""
        return _reopen, (self.directory, self.split, self.fold, self.numbers)

    def __repr__(self) -> str:
        """Used by Grain to log and compare sources."""
        return f"Records({str(self.directory)!r}, {self.split!r}, fold {self.fold}, {len(self)} clips)"


class TakesClips(Protocol):
    """A consumer of clips of one size, such as a network's configuration or a scorer."""

    @property
    def frames(self) -> int:
        """Frames of a clip."""

    @property
    def frame_size(self) -> int:
        """Height and width of a frame, pixels."""


def open_split(
    directory: str | os.PathLike[str], split: str, model: TakesClips | None = None, fold: int = 0
) -> Records:
    """Opens one split of a prepared data set.

    Args:
      directory: its --output.
      split: train, test or unlabelled; also whole, if the data set has folds.
      model: the network that will take the clips, whose frames and frame size must match; None = any.
      fold: the fold, from 0.

    Raises:
      UserError: there is no such data set, split or fold, or its clips do not have the size that the network takes.
    """
    manifest = read_manifest(directory)
    directory = Path(directory)
    folder = inside(directory, manifest.records)
    prefix, lengths = shards.read_lengths(folder)
    folds = manifest.folds
    if not 0 <= fold < max(len(folds), 1):
        known = f"folds 0 to {len(folds) - 1}" if folds else "no folds"
        raise UserError(f"{directory} has {known}, so no fold {fold}; set --config.data.fold")
    spans = folds[fold].get(split) if folds else None
    stored = split if spans is None else "whole"
    if stored not in lengths:
        names = sorted({*lengths, *(folds[fold] if folds else ())})
        remedy = "; label films, and prepare again" if names == ["unlabelled"] else ""
        raise UserError(f"{directory} has no split {split!r}; it has {', '.join(names)}{remedy}")
    frames, frame_size = manifest.frames, manifest.frame_size
    if model is not None:
        for name, held in (("frames", frames), ("frame_size", frame_size)):
            wanted = getattr(model, name)
            if wanted != held:
                raise UserError(
                    f"the clips in {directory} have {name}={held}, the network takes {name}={wanted}; prepare the "
                    f"data again with --{name}={wanted}, or train a network with --config.model.{name}={held}"
                )
    paths = shards.shard_paths(directory, folder, prefix, stored, len(lengths[stored]))
    try:
        source = shards.Shards(folder, paths, lengths[stored], frames, frame_size)
    except shards.DAMAGE as error:
        raise _damaged(directory, error) from error
    numbers: Sequence[int] = range(len(source))
    if spans is not None:
        if any(stop > len(source) for _, stop in spans):
            raise UserError(
                f"{directory / MANIFEST} is damaged: fold {fold} lists records beyond the {len(source)} stored; "
                "prepare them again"
            )
        numbers = [number for span in spans for number in range(*span)]
    return Records(directory, split, fold, frames, frame_size, stored, numbers, source)


def _reopen(directory: Path, split: str, fold: int, numbers: Sequence[int]) -> Records:
    """Unpickles `Records` in another process."""
    return open_split(directory, split, None, fold).only(numbers)


def _damaged(directory: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(f"the records in {directory} are damaged ({reason}); prepare them again")


def hold_out(source: Records, fraction: float, seed: int) -> tuple[Records, Records | None]:
    """Divides a split by films into records for training and for validation.

    Args:
      source: the records.
      fraction: share of the films to hold out, at least one film.
      seed: decides which.

    Returns:
      the records for training, and those held out: None with fewer than `FEWEST_FILMS` films or a `fraction` of 0.

    Raises:
      UserError: the manifest's counts of clips do not match the stored records.
    """
    if not fraction:
        return source, None
    films = _films(source)
    if len(films) < FEWEST_FILMS:
        return source, None
    count = share_of(fraction, len(films))
    chosen = set(np.random.default_rng(seed % 2**32).permutation(len(films))[:count].tolist())
    kept = [number for index, film in enumerate(films) if index not in chosen for number in film]
    held = [number for index, film in enumerate(films) if index in chosen for number in film]
    return source.only(kept), source.only(held)


def _films(source: Records) -> list[list[int]]:
    """The record numbers of each film, from the manifest alone; films without records are left out."""
    own = set(source.numbers)
    counts = [film.clips.get(source.stored_split, 0) for film in read_manifest(source.directory).films]
    if sum(counts) != source.stored:
        raise UserError(
            f"{source.directory / MANIFEST} is damaged: its counts of clips do not match the stored records; "
            "prepare the data again"
        )
    ends = list(itertools.accumulate(counts))
    films = [
        [number for number in range(end - count, end) if number in own] for count, end in zip(counts, ends, strict=True)
    ]
    return [film for film in films if film]


def check_labeled(source: Records) -> None:
    """Raises UserError if the split has no labels."""
    if source.split == "unlabelled":
        raise UserError(
            f"the split 'unlabelled' of {source.directory} has no labels to train or score with; "
            "write key shots beside the films and prepare them again"
        )


class Batches(Iterator[Batch]):
    """Batches, read ahead by threads or processes. The position counts batches handed out, not those read ahead."""

    def __init__(self, dataset: "grain.MapDataset[Batch]", threads: int, workers: int):
        self._dataset = dataset
        self._threads = threads
        self._workers = workers
        self._position = 0
        self._iterator: grain.DatasetIterator[Batch] | None = None

    def __next__(self) -> Batch:
        """The next batch."""
        if self._iterator is None:
            self._iterator = self._read_from(self._position)
        batch = next(self._iterator)
        self._position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The position after the last batch, JSON-serializable; independent of threads and workers."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues at the position that `get_state` returned. Raises ValueError if it is not one."""
        position = state.get("next_index") if isinstance(state, dict) else None
        if not isinstance(position, int) or position < 0:
            raise ValueError(f"{state!r} is no position in the data")
        self.close()
        self._position = position

    def close(self) -> None:
        """Stops reading ahead; the next batch starts it again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _read_from(self, position: int) -> "grain.DatasetIterator[Batch]":
        import grain

        # An element is a whole batch of up to 100 MB, so one per thread is enough.
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
        # Slice instead of using the iterator's state, which has a different form with workers.
        dataset = self._dataset[position:].to_iter_dataset(options)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain reads absl flags, which only absl programs parse
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers))
        return iter(dataset)


def train_batches(
    source: Records,
    *,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    flip: bool = True,
    threads: int = 4,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Batches for training; `threads` and `workers` do not change them.

    In each epoch all processes together see every clip once, in a new order, except the remainder that does not fill a
    batch for every process; no batch has clips of two epochs. The batches of all processes, concatenated, are the batch
    that a single process would get, flips included.

    Args:
      source: the records.
      batch_size: clips in a batch of this process.
      seed: decides the order and the flips.
      epochs: passes over the records; None = without end.
      flip: mirror clips left-right with probability 0.5.
      threads: threads that read and decode ahead, in each worker if there are any.
      workers: processes that read and decode ahead; 0 = threads of this process do.
      process_index: number of this process, from 0.
      process_count: processes that share an epoch.

    Returns:
      an iterator over dictionaries of stacked records: `clip` (B, T, size, size, 3) uint8, `sound`
      (B, 2205 T) float32, `label` (B,) float32 and the other fields of `Records`. After `set_state()` with
      what `get_state()` returned, it continues with exactly the next batch.

    Raises:
      UserError: the split has fewer clips than one batch for every process, or no labels.
    """
    check_labeled(source)
    steps_per_epoch(source, batch_size=batch_size, process_count=process_count)
    import grain  # it imports JAX: not for who opens records without batches

    order = grain.MapDataset.range(len(source)).seed(seed % 2**32).shuffle()
    picks = order.random_map(functools.partial(_maybe_flipped, flip))
    stack = functools.partial(_stack_share, source, batch_size, process_index)
    whole = batch_size * process_count
    return Batches(picks.batch(whole, drop_remainder=True, batch_fn=stack).repeat(epochs), threads, workers)


def steps_per_epoch(source: Records, *, batch_size: int, process_count: int = 1) -> int:
    """The number of batches that each process gets in an epoch.

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
    source: Records,
    *,
    batch_size: int,
    threads: int = 4,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Batches for evaluation, in the order of the records, each clip exactly once.

    Args:
      source: the records.
      batch_size: clips in a batch of this process.
      threads: threads that read and decode ahead, in each worker if there are any.
      workers: processes that read and decode ahead; 0 = threads of this process do.
      process_index: number of this process, from 0.
      process_count: processes that share the split.

    Returns:
      an iterator over dictionaries as those of `train_batches`, with `mask` (B,) bool: False for the
      zeros that pad the last batch. Every process gets the same number of batches.
    """
    import grain

    own = range(process_index, len(source), process_count)
    most = -(-len(source) // process_count)  # of the process with the most clips
    load = functools.partial(_padded, source, batch_size, own)
    return Batches(grain.MapDataset.range(-(-most // batch_size)).map(load), threads, workers)


class Ahead(Iterator[tuple[Placed, dict[str, int]]]):
    """Places batches on the devices ahead of use, in a background thread that starts at once.

    Yields what `place` returned, with the position after that batch for `Batches.set_state`.

    Args:
      batches: the batches; closed at the end.
      place: puts a batch on the devices.
      depth: placed batches waiting while one is used.
    """

    def __init__(self, batches: Batches, place: Callable[[Batch], Placed], depth: int = 2):
        self._batches = batches
        self._place = place
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._coming = collections.deque(self._thread.submit(self._following) for _ in range(depth))

    def __next__(self) -> tuple[Placed, dict[str, int]]:
        """The next batch. Reading stops after the last one, or one that fails."""
        try:
            item = self._coming.popleft().result() if self._coming else None
        except BaseException:
            self.close()
            raise
        if item is None:
            self.close()
            raise StopIteration
        self._coming.append(self._thread.submit(self._following))
        return item

    def close(self) -> None:
        """Stops reading ahead."""
        self._coming.clear()
        self._thread.shutdown(cancel_futures=True)
        self._batches.close()

    def _following(self) -> tuple[Placed, dict[str, int]] | None:
        batch = next(self._batches, None)
        return None if batch is None else (self._place(batch), self._batches.get_state())


def _maybe_flipped(flip: bool, index: int, rng: np.random.Generator) -> tuple[int, bool]:
    return index, flip and rng.random() < 0.5


def _stack_share(source: Records, batch_size: int, process_index: int, picks: Sequence[tuple[int, bool]]) -> Batch:
    """Reads this process's part of the batch of all processes."""
    return _stack(source, batch_size, picks[process_index * batch_size : (process_index + 1) * batch_size])


def _padded(source: Records, batch_size: int, own: Sequence[int], index: int) -> Batch:
    numbers = own[index * batch_size : (index + 1) * batch_size]
    batch = _stack(source, batch_size, [(number, False) for number in numbers])
    return {**batch, "mask": np.arange(batch_size) < len(numbers)}


def _stack(source: Records, batch_size: int, picks: Sequence[tuple[int, bool]]) -> Batch:
    """Reads records into one batch, some mirrored, padded with zeros; `picks` may be empty."""
    template = source.template
    batch = {name: np.empty((batch_size, *like.shape), like.dtype) for name, like in template.items() if like.ndim}
    rest: dict[str, list[Any]] = {name: [] for name, like in template.items() if not like.ndim}
    for place, (number, flipped) in enumerate(picks):
        record = source[number]
        for name, array in batch.items():
            if flipped and name == "clip":
                for channel in range(3):  # five times as fast as reversing whole pixels
                    array[place, ..., channel] = record[name][:, :, ::-1, channel]
            else:
                array[place] = record[name]
        for name, values in rest.items():
            values.append(record[name])
    for array in batch.values():
        array[len(picks) :] = 0
    for name, values in rest.items():
        batch[name] = np.asarray(values + [np.zeros_like(template[name])] * (batch_size - len(picks)))
    return batch
