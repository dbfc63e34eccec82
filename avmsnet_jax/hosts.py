"""Training with several processes, usually one per machine: joining, and ending all when one is lost.

JAX's own heartbeat notices a lost process as fast (8 s at a timeout of 10 s), but aborts the others with 20 to 30 lines
and a C++ stack trace that do not say how to resume. The watch here ends them with one line that names the lost process.
"""

import contextlib
import glob
import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from avmsnet_jax import compiled, unforeseen
from avmsnet_jax.config import HostsConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import locked

_BEAT_S = 1.0
_RESUME = "start all of them again with the same command to resume"


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Waits until all processes have called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def together(config: HostsConfig, workdir: Path) -> Iterator[None]:
    """Joins the other processes of the run, if there are any. Within the block `jax.devices()` has the devices of all.

    When a process dies, fails or is silent for `hosts.patience` seconds, the others end, each with a line on standard
    error that names it. They end by `os._exit`, because they are blocked in a collective operation with the lost
    process, and an orderly shutdown would wait for it.

    Args:
      config: how the processes find each other.
      workdir: a folder that all of them share. Signs of life are files in its folder `.alive`.

    Raises:
      UserError: the processes cannot find each other, or another run uses `workdir`.
    """
    _join(config)
    if jax.process_count() == 1:
        with locked(workdir):
            yield
        return
    compiled.keep_nothing_of_several()
    with _locked_by_the_first(workdir):
        watch = _Watch(workdir / ".alive", config.patience)
        try:
            yield
        except UserError as error:
            watch.leave(str(error), status=2)
        except Exception as error:
            what = unforeseen.report(error, workdir, f"process_{jax.process_index()}")
            if isinstance(error, RuntimeError | ValueError) and _LOST.match(str(error)):
                watch.leave(f"lost touch with the others ({what}); {_RESUME}", status=1)
            watch.leave(f"failed: {what}", status=1)
        except BaseException as error:
            watch.leave(f"stopped by {type(error).__name__} {error}".strip(), status=1)
        watch.close()
        jax.distributed.shutdown()
        watch.forget()


@contextlib.contextmanager
def _locked_by_the_first(workdir: Path) -> Iterator[None]:
    """Locks `workdir` for this run: the first process does, and tells the others whether it could."""
    with contextlib.ExitStack() as stack:
        refused: UserError | None = None
        if is_first():
            try:
                stack.enter_context(locked(workdir))
            except UserError as error:
                refused = error
        # Before any sign of life is written: those of a second run would end the first one.
        held = multihost_utils.broadcast_one_to_all(np.array(refused is None))
        if not held:
            raise refused or UserError(f"process 0 could not take {workdir} for this run, and says why")
        yield


def _join(config: HostsConfig) -> None:
    """Initializes `jax.distributed` if the configuration or the environment names other processes."""
    coordinator, count, index = config.coordinator, config.processes, config.index
    if not coordinator and config.auto and "JAX_COORDINATOR_ADDRESS" in os.environ:
        coordinator = os.environ["JAX_COORDINATOR_ADDRESS"]
        try:
            count, index = int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
        except (KeyError, ValueError):
            raise UserError(
                "JAX_COORDINATOR_ADDRESS is set, but JAX_NUM_PROCESSES and JAX_PROCESS_ID are not whole numbers; "
                "set all three, or none"
            ) from None
    if jax.distributed.is_initialized() or not (coordinator or (config.auto and _started_by_a_system())):
        return
    try:
        jax.distributed.initialize(
            coordinator or None,
            count if coordinator else None,
            index if coordinator else None,
            # With an explicit coordinator, do not let JAX take one device per process from Slurm's variables.
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=4 * config.patience,
            # JAX's own watch aborts with a stack trace, so it is only the fallback for the one here.
            heartbeat_timeout_seconds=3 * config.patience,
        )
    except (RuntimeError, ValueError) as error:
        told = f"hosts.coordinator={coordinator}" if coordinator else "the variables of Slurm, Open MPI or the TPU pod"
        raise UserError(
            f"cannot join the other processes by {told}: {' '.join(str(error).split())[:160]}; "
            "check that all were started and can reach process 0"
        ) from error
    if not coordinator and _alone_on_its_machine():
        # JAX gives a process that Slurm or Open MPI started one device, even if it is the only process on its machine.
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def _started_by_a_system() -> bool:
    """Whether Slurm (srun), Open MPI (mpirun) or a TPU machine may have started several processes."""
    slurm = "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    open_mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    tpu = importlib.util.find_spec("libtpu") is not None and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))
    return slurm or open_mpi or tpu


def _alone_on_its_machine() -> bool:
    """Whether Slurm or Open MPI started one process per machine, which then has all its devices."""
    slurm = re.match(r"1(\(|,|$)", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return bool(slurm) or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


# XLA's errors when a peer of a collective operation is lost (Gloo, NCCL, coordination service): a status, then text.
_LOST = re.compile(
    r"[A-Z_]{5,}: .*(?i:gloo|nccl|peer|connection|coordination|heartbeat|barrier|unavailable|deadline)", re.DOTALL
)


class _Watch:
    """Shows that this process is alive and checks others: the first process checks all, the others the first.

    Each process writes a growing number to its file once a second. All share the working directory anyway, and no two
    machines' clocks are compared.
    """

    def __init__(self, folder: Path, patience: float):
        self._folder, self._patience = folder, patience
        self._index, self._count = jax.process_index(), jax.process_count()
        self._ended = threading.Event()
        self._once = threading.Lock()  # only the first reason is printed
        self._showing = threading.Lock()
        try:
            if folder.is_symlink():
                raise UserError(f"{folder} is a link; remove it, or choose another --workdir")
            folder.mkdir(parents=True, exist_ok=True)
            self._show("0")
        except OSError as error:
            raise UserError(f"cannot write {folder}: {error.strerror}; choose another --workdir") from None
        self._thread = threading.Thread(target=self._run, name="hosts", daemon=True)
        self._thread.start()

    def leave(self, reason: str, status: int) -> None:
        """Ends this process, and says why on the terminal and to the others."""
        with self._once:
            self._ended.set()
            with contextlib.suppress(OSError):
                self._show(f"failed {reason}")
            program = sys.argv[0].rsplit("/", 1)[-1]
            print(f"{program}: process {self._index} of {self._count}: {reason}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            if self._index == 0:  # JAX's service is in this process: without it, JAX aborts the others with a trace
                time.sleep(3 * _BEAT_S)
            os._exit(status)

    def close(self) -> None:
        """Says that this process is done."""
        self._ended.set()
        self._thread.join()
        self._show("done")

    def forget(self) -> None:
        """Removes this process's file, when no process checks it any more."""
        (self._folder / str(self._index)).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _show(self, sign: str) -> None:
        # Written to a new file and renamed: a link in its place is not followed, and no sign is read half-written.
        unfinished = self._folder / f".{self._index}"
        with self._showing:
            if self._ended.is_set() and sign.isdecimal():
                return  # do not overwrite the last message
            unfinished.unlink(missing_ok=True)
            with open(unfinished, "x", encoding="utf-8") as file:
                file.write(sign)
            os.replace(unfinished, self._folder / str(self._index))

    def _sign_of(self, peer: int) -> str:
        try:
            return (self._folder / str(peer)).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _run(self) -> None:
        watched = range(1, self._count) if self._index == 0 else [0]
        # The files may hold the last messages of an earlier run: only changes count.
        seen = {peer: self._sign_of(peer) for peer in watched}
        heard: set[int] = set()
        changed = dict.fromkeys(watched, time.monotonic())
        beat = 0
        while not self._ended.wait(_BEAT_S):
            beat += 1
            try:
                self._show(str(beat))
            except OSError as error:
                self.leave(f"cannot write {self._folder}: {error.strerror}; {_RESUME}", status=2)
            for peer in watched:
                sign = self._sign_of(peer)
                if sign != seen[peer]:
                    seen[peer], changed[peer] = sign, time.monotonic()
                    heard.add(peer)
                if peer in heard and seen[peer].startswith("failed"):
                    self.leave(f"process {peer} has stopped ({seen[peer][7:]}), so this one does", status=1)
                silent = time.monotonic() - changed[peer]
                if not (peer in heard and seen[peer] == "done") and silent > self._patience:
                    self.leave(
                        f"process {peer} has given no sign of life for {silent:.0f} s: it died, hangs, or does not "
                        f"see {self._folder.parent}, which all must share; {_RESUME}",
                        status=1,
                    )
