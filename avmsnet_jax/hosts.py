"""Several processes that train one network together, usually one a machine, and what they do when one is lost."""

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
    """Whether this is the process that writes and speaks for all."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Goes on when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def together(config: HostsConfig, workdir: Path) -> Iterator[None]:
    """Joins the other processes of the run, if there are any; inside, `jax.devices()` are those of all.

    A process that dies, fails or falls silent for `hosts.patience` seconds ends the others, each with a line on
    standard error that names it. They end at once (`os._exit`), as they are stuck in an exchange with the one that is
    gone, and anything tidier would wait for it.

    Args:
      config: how the processes find each other.
      workdir: a folder that all of them see; signs of life go into a folder `.alive` in it.

    Raises:
      UserError: the processes cannot find each other, or another run holds `workdir`.
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
    """Holds `workdir` for this run: the first process locks it, and the others hear whether it could."""
    with contextlib.ExitStack() as stack:
        refused: UserError | None = None
        if is_first():
            try:
                stack.enter_context(locked(workdir))
            except UserError as error:
                refused = error
        # Before the signs of life: those of a second run would end the first one.
        held = multihost_utils.broadcast_one_to_all(np.array(refused is None))
        if not held:
            raise refused or UserError(f"process 0 could not take {workdir} for this run, and says why")
        yield


def _join(config: HostsConfig) -> None:
    """Starts `jax.distributed` where the configuration or the environment says that there are others."""
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
            # Said here in full; of what is left open JAX would take from Slurm which one device to use.
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=4 * config.patience,
            # JAX's own ends a process with a stack trace: it is for when this module's watch has failed.
            heartbeat_timeout_seconds=3 * config.patience,
        )
    except (RuntimeError, ValueError) as error:
        told = f"hosts.coordinator={coordinator}" if coordinator else "what Slurm, Open MPI or the TPU pod says"
        raise UserError(
            f"cannot join the other processes by {told}: {' '.join(str(error).split())[:160]}; "
            "check that all were started and can reach process 0"
        ) from error
    if not coordinator and _alone_on_its_machine():
        # JAX takes one device for each process that Slurm or Open MPI started, even where it is the only one there.
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def _started_by_a_system() -> bool:
    """Whether Slurm (srun), Open MPI (mpirun) or a TPU machine says that there may be other processes."""
    slurm = "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    open_mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    tpu = importlib.util.find_spec("libtpu") is not None and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))
    return slurm or open_mpi or tpu


def _alone_on_its_machine() -> bool:
    """Whether Slurm or Open MPI started one process on each machine, which then has all of its devices."""
    slurm = re.match(r"1(\(|,|$)", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return bool(slurm) or os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


# What XLA says, after the name of a status, when a peer of a collective has gone (Gloo, NCCL, coordination service).
_LOST = re.compile(
    r"[A-Z_]{5,}: .*(?i:gloo|nccl|peer|connection|coordination|heartbeat|barrier|unavailable|deadline)", re.DOTALL
)


class _Watch:
    """Shows that this process lives and looks whether others do: the first at all of them, they at the first.

    Each writes a counting file once a second. Files, as all processes see the working directory anyway; nothing here
    depends on the clocks of two machines.
    """

    def __init__(self, folder: Path, patience: float):
        self._folder, self._patience = folder, patience
        self._index, self._count = jax.process_index(), jax.process_count()
        self._ended = threading.Event()
        self._once = threading.Lock()  # the first to say why is the one that is heard
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
        """Says why this process ends, to the terminal and to the others, and ends it."""
        with self._once:
            self._ended.set()
            with contextlib.suppress(OSError):
                self._show(f"failed {reason}")
            program = sys.argv[0].rsplit("/", 1)[-1]
            print(f"{program}: process {self._index} of {self._count}: {reason}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            if self._index == 0:  # JAX ends the others with a stack trace once its service, which is here, has gone
                time.sleep(3 * _BEAT_S)
            os._exit(status)

    def close(self) -> None:
        """Says that this process has done its work."""
        self._ended.set()
        self._thread.join()
        self._show("done")

    def forget(self) -> None:
        """Removes this process's file, once nobody looks any more."""
        (self._folder / str(self._index)).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _show(self, sign: str) -> None:
        # A new file, renamed: a link in its place is not followed, and nobody reads half a sign.
        unfinished = self._folder / f".{self._index}"
        with self._showing:
            if self._ended.is_set() and sign.isdecimal():
                return  # the last word stands
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
        # What stands there now may be the last words of an earlier run: only what comes after it counts.
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
