"""Prepared records to batches: any record at any time, in an order that only the seed decides."""

import collections
import functools
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Protocol, TypeVar

import grain
import numpy as np
from absl import flags

from avmsnet_jax.data import MANIFEST, shards
from avmsnet_jax.data.manifest import inside, read_manifest
from avmsnet_jax.errors import UserError

Record = dict[str, Any]
Batch = dict[str, np.ndarray]
Placed = TypeVar("Placed")

FEWEST_FILMS = 4  # of fewer, none is held out


class Records:
    """The records of one split, by number. Safe to read from several threads, and sent to other processes by name.

    Attributes:
      directory: the prepared data set.
      split: which part of it.
      fold: which of its divisions into train and test; 0 where there is only one.
      frames: frames of a clip.
      frame_size: height and width of a frame, pixels.
      stored_split: the split of the files on disk that holds them.
      numbers: which records of that these are.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        fold: int,
        source: Any,
        stored_split: str,
        numbers: Sequence[int],
        frames: int,
        frame_size: int,
    ):
        self.directory = directory
        self.split = split
        self.fold = fold
        self.frames = frames
        self.frame_size = frame_size
        self.stored_split = stored_split
        self.numbers = numbers
        self._source = source

    def only(self, numbers: Sequence[int]) -> "Records":
        """Some of these records, by their numbers in `stored_split`."""
        facts = self.directory, self.split, self.fold, self._source, self.stored_split
        return Records(*facts, numbers, self.frames, self.frame_size)

    @property
    def stored(self) -> int:
        """How many records the split of the files on disk has."""
        return len(self._source)

    @functools.cached_property
    def template(self) -> Record:
        """The first record: what all of them look like."""
        return self[0]

    @functools.cached_property
    def identity(self) -> str:
        """What a position in these records is a position in: their films, how they were cut, and which these are."""
        manifest = read_manifest(self.directory)
        held = [[video["video"], video["frames"], video["clips"]] for video in manifest["videos"]]
        settings = {name: manifest["settings"].get(name) for name in ("frames", "frame_size", "spacing")}
        text = json.dumps([held, settings, self.stored_split, [int(number) for number in self.numbers]])
        return f"{len(self)} clips {zlib.crc32(text.encode()):08x}"

    def __len__(self) -> int:
        """Clips in the split."""
        return len(self.numbers)

    def __getitem__(self, index: int) -> Record:
        """One record.

        Returns:
          `clip` (T, size, size, 3) uint8; `sound` (2205 T,) float32 in ±256; `has_sound` bool; `label`
          float32, 0 or 1, NaN where nobody has judged the film; `scores` (users,) float32, NaN beyond the
          film's users, only of data sets that have them; and, of use on the host only, `video` str,
          `frame` int32 (the frame that the label is of, from 1), `time_s` float64 (when it is shown), `fps`
          float64.
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
        """Every record, in the order of the films and of time."""
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the files itself."""
        return _reopen, (self.directory, self.split, self.fold, self.numbers)

    def __repr__(self) -> str:
        """Grain logs and compares sources by this."""
        return f"Records({str(self.directory)!r}, {self.split!r}, fold {self.fold}, {len(self)} clips)"


class TakesClips(Protocol):
    """What takes clips of one size, such as a network's configuration or a scorer."""

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
      split: train or test; also whole, of a data set that is divided into folds, and unlabelled.
      model: the network that is to take the clips; None = any.
      fold: which of its divisions into train and test, from 0.

    Raises:
      UserError: there is no such data set, split or fold, or its clips are not what the network takes.
    """
    manifest = read_manifest(directory)
    directory = Path(directory)
    folder = inside(directory, manifest["records"])
    prefix, lengths = shards.read_lengths(folder)
    folds = manifest.get("folds", ())
    if not 0 <= fold < max(len(folds), 1):
        held = f"folds 0 to {len(folds) - 1}" if folds else "no folds"
        raise UserError(f"{directory} has {held}, so no fold {fold}; set --config.data.fold")
    spans = folds[fold].get(split) if folds else None
    stored = split if spans is None else "whole"
    if stored not in lengths:
        names = sorted({*lengths, *(folds[fold] if folds else ())})
        raise UserError(f"{directory} has no split {split!r}; it has {', '.join(names)}")
    frames, frame_size = manifest["settings"]["frames"], manifest["settings"]["frame_size"]
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
                f"{directory / MANIFEST} is damaged: fold {fold} has records beyond the {len(source)} that there are; "
                "prepare them again"
            )
        numbers = [number for span in spans for number in range(*span)]
    return Records(directory, split, fold, source, stored, numbers, frames, frame_size)


def _reopen(directory: Path, split: str, fold: int, numbers: Sequence[int]) -> Records:
    """What another process makes of records that were sent to it."""
    return open_split(directory, split, None, fold).only(numbers)


def _damaged(directory: Path, error: Exception) -> UserError:
    reason = str(error) or type(error).__name__
    return UserError(f"the records in {directory} are damaged ({reason}); prepare them again")


def hold_out(source: Records, fraction: float, seed: int) -> tuple[Records, Records | None]:
    """Divides a split by films: those to train on, and those to validate on.

    Args:
      source: the records.
      fraction: share of the films that is held out, at least one.
      seed: decides which.

    Returns:
      the rest, and what is held out: None where there are too few films to spare one, or `fraction` is 0.

    Raises:
      UserError: the manifest does not say which records are of which film.
    """
    if not fraction:
        return source, None
    films = _films(source)
    if len(films) < FEWEST_FILMS:
        return source, None
    count = min(max(round(fraction * len(films)), 1), len(films) - 1)
    chosen = set(np.random.default_rng(seed % 2**32).permutation(len(films))[:count].tolist())
    kept = [number for index, film in enumerate(films) if index not in chosen for number in film]
    held = [number for index, film in enumerate(films) if index in chosen for number in film]
    return source.only(kept), source.only(held)


def _films(source: Records) -> list[list[int]]:
    """The numbers of the records of each film that has any, from the manifest: no record is read."""
    own = set(source.numbers)
    counts = [video["clips"].get(source.stored_split, 0) for video in read_manifest(source.directory)["videos"]]
    if sum(counts) != source.stored:
        raise UserError(
            f"{source.directory / MANIFEST} is damaged: it does not say which records are of which film; "
            "prepare the data again"
        )
    ends = list(itertools.accumulate(counts))
    films = [
        [number for number in range(end - count, end) if number in own] for count, end in zip(counts, ends, strict=True)
    ]
    return [film for film in films if film]


def check_labelled(source: Records) -> None:
    """Raises UserError where nobody has said which clips of the split are key."""
    if source.split == "unlabelled":
        raise UserError(
            f"the split 'unlabelled' of {source.directory} has no labels to train or score with; "
            "write key shots beside the films and prepare them again"
        )


class Batches(Iterator[Batch]):
    """Batches read ahead by threads or processes; what has been handed out alone decides what comes next."""

    def __init__(self, dataset: grain.MapDataset[Batch], threads: int, workers: int):
        self._dataset = dataset
        self._threads = threads
        self._workers = workers
        self._position = 0
        self._iterator: grain.DatasetIterator[Batch] | None = None

    def __next__(self) -> Batch:
        """The batch that is due."""
        if self._iterator is None:
            self._iterator = self._read_from(self._position)
        batch = next(self._iterator)
        self._position += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The position after the last batch, JSON-able; the same whoever reads ahead."""
        return {"next_index": self._position}

    def set_state(self, state: dict[str, int]) -> None:
        """Makes the next batch the one that was due at `get_state`. Raises ValueError for what is no position."""
        position = state.get("next_index") if isinstance(state, dict) else None
        if not isinstance(position, int) or position < 0:
            raise ValueError(f"{state!r} is no position in the data")
        self.close()
        self._position = position

    def close(self) -> None:
        """Ends what reads ahead. The next batch would start it again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _read_from(self, position: int) -> grain.DatasetIterator[Batch]:
        # One element is a whole batch, up to 100 MB: one for each thread is enough to stay ahead.
        options = grain.ReadOptions(num_threads=self._threads, prefetch_buffer_size=self._threads)
        # A slice, and not the iterator's own state, which workers would make a state of each worker.
        dataset = self._dataset[position:].to_iter_dataset(options)
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain reads its flags, which only programs of absl's parse
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
    """Batches for training. The same arguments give the same batches, however many threads and workers read.

    In each epoch all processes together see every clip once, in a new order, save those that would not
    fill a last batch for every process; a batch never holds clips of two epochs. The batches of all processes, one
    after the other, are the batch that a single process would get, flips included.

    Args:
      source: the records.
      batch_size: clips in a batch of this process.
      seed: decides the order and the flips.
      epochs: passes over the records; None = without end.
      flip: mirror a whole clip left-right with probability 0.5.
      threads: threads that read and decode ahead, of each worker if there are any.
      workers: processes that read and decode ahead; 0 = this one does.
      process_index: which of the processes this is, from 0.
      process_count: processes that share an epoch.

    Returns:
      an iterator over dictionaries of stacked records: `clip` (B, T, size, size, 3) uint8, `sound`
      (B, 2205 T) float32, `label` (B,) float32 and the other fields of `Records`. Its `get_state()` is a
      small JSON-able dictionary; after `set_state()` with it, the next batch is exactly the one that
      was due.

    Raises:
      UserError: the split has fewer clips than one batch for every process, or no labels.
    """
    check_labelled(source)
    steps_per_epoch(source, batch_size=batch_size, process_count=process_count)
    order = grain.MapDataset.range(len(source)).seed(seed % 2**32).shuffle()
    picks = order.random_map(_maybe_flipped) if flip else order.map(_as_it_is)
    stack = functools.partial(_stack_share, source, batch_size, process_index)
    whole = batch_size * process_count
    return Batches(picks.batch(whole, drop_remainder=True, batch_fn=stack).repeat(epochs), threads, workers)


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
    source: Records,
    *,
    batch_size: int,
    threads: int = 4,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Batches for evaluation, in the order of the records; every clip comes exactly once.

    Args:
      source: the records.
      batch_size: clips in a batch of this process.
      threads: threads that read and decode ahead, of each worker if there are any.
      workers: processes that read and decode ahead; 0 = this one does.
      process_index: which of the processes this is, from 0.
      process_count: processes that share the split.

    Returns:
      an iterator over dictionaries as those of `train_batches`, with `mask` (B,) bool: True for a clip, False for
      the zeros that fill the last batch. Every process gets the same number of batches.
    """
    own = range(process_index, len(source), process_count)
    most = -(-len(source) // process_count)  # clips of the process that has the most
    load = functools.partial(_padded, source, batch_size, own)
    return Batches(grain.MapDataset.range(-(-most // batch_size)).map(load), threads, workers)


class Ahead(Iterator[tuple[Placed, dict[str, int]]]):
    """Batches on the devices before they are asked for, the first from now on.

    A thread waits for the disk and hands over to the devices, so that who takes a batch waits only if there is none.
    Each comes as what `place` returned, with the position after that batch for `Batches.set_state`.

    Args:
      batches: what to place; closed at the end.
      place: puts a batch on the devices.
      depth: placed batches that wait while one is used.
    """

    def __init__(self, batches: Batches, place: Callable[[Batch], Placed], depth: int = 2):
        self._batches = batches
        self._place = place
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._coming = collections.deque(self._thread.submit(self._following) for _ in range(depth))

    def __next__(self) -> tuple[Placed, dict[str, int]]:
        """The batch that is due. After the last, or one that fails, nothing is read any more."""
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
        """Ends what reads ahead."""
        self._coming.clear()
        self._thread.shutdown(cancel_futures=True)
        self._batches.close()

    def _following(self) -> tuple[Placed, dict[str, int]] | None:
        batch = next(self._batches, None)
        return None if batch is None else (self._place(batch), self._batches.get_state())


def _maybe_flipped(index: int, rng: np.random.Generator) -> tuple[int, bool]:
    return index, rng.random() < 0.5


def _as_it_is(index: int) -> tuple[int, bool]:
    return index, False


def _stack_share(source: Records, batch_size: int, process_index: int, picks: Sequence[tuple[int, bool]]) -> Batch:
    """Reads this process's part of the batch of all processes."""
    return _stack(source, batch_size, picks[process_index * batch_size : (process_index + 1) * batch_size])


def _padded(source: Records, batch_size: int, own: Sequence[int], index: int) -> Batch:
    numbers = own[index * batch_size : (index + 1) * batch_size]
    batch = _stack(source, batch_size, [(number, False) for number in numbers])
    return {**batch, "mask": np.arange(batch_size) < len(numbers)}


def _stack(source: Records, batch_size: int, picks: Sequence[tuple[int, bool]]) -> Batch:
    """Reads records into one batch, mirrored or not, and fills up with zeros; there may be none at all."""
    template = source.template
    batch = {name: np.empty((batch_size, *like.shape), like.dtype) for name, like in template.items() if like.ndim}
    rest: dict[str, list[Any]] = {name: [] for name, like in template.items() if not like.ndim}
    for place, (number, flipped) in enumerate(picks):
        record = source[number]
        for name, array in batch.items():
            if flipped and name == "clip":
                for channel in range(3):  # a fifth of the time that NumPy takes to reverse whole pixels
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
