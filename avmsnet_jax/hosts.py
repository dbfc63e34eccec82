"""Multi-process training, usually one process per machine: joins the processes, and ends all when one is lost.

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
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # its client of the coordination service has no public name
from jax.experimental import multihost_utils

from avmsnet_jax import compiled, storage, unforeseen
from avmsnet_jax.config import HostsConfig
from avmsnet_jax.errors import UserError
from avmsnet_jax.staging import LOCK, locked

_BEAT_S = 1.0
# Process 0 ends so much later than it must, because JAX's service is in it: without that, JAX aborts the others with a
# traceback.
_GOODBYE_S = 3 * _BEAT_S
_SIGNS = "avmsnet_jax/alive"  # keys of the signs of life in JAX's key-value store
_RESUME = "start all of them again with the same command to resume"


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Waits until all processes have called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def together(config: HostsConfig, workdir: storage.Place) -> Iterator[None]:
    """Joins the other processes of the run, if any. Within the block, `jax.devices()` has the devices of all of them.

    When a process dies, fails or is silent for `hosts.patience` seconds, the others end, each with a line on standard
    error that names it. They end by `os._exit`, because they are blocked in a collective operation with the lost
    process, and an orderly shutdown would wait for it.

    Args:
      config: how the processes find each other.
      workdir: a folder that all processes share, locked during the block; or a place on a store, which has no locks.

    Raises:
      UserError: the processes cannot find each other, do not share `workdir`, or another run uses it.
    """
    _join(config)
    if jax.process_count() == 1:
        with _locked(workdir):
            yield
        return
    compiled.disable_cache()
    with _locked_by_the_first(workdir):
        watch = _Watch(config.patience)
        try:
            _check_shared(workdir, config.patience)
            yield
        except UserError as error:
            watch.leave(str(error), status=2)
        except Exception as error:
            folder = None if storage.is_remote(workdir) else Path(workdir)
            what = unforeseen.report(error, folder, f"process_{jax.process_index()}")
            if isinstance(error, RuntimeError | ValueError) and _LOST.match(str(error)):
                watch.leave(f"lost touch with the others ({what}); {_RESUME}", status=1)
            watch.leave(f"failed: {what}", status=1)
        except BaseException as error:
            watch.leave(f"stopped by {type(error).__name__} {error}".strip(), status=1)
        watch.close()
        jax.distributed.shutdown()


def _locked(workdir: storage.Place) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if storage.is_remote(workdir) else locked(Path(workdir))


def _check_shared(workdir: storage.Place, patience: float) -> None:
    """Raises UserError if this process does not see the folder that the first one has locked."""
    for _ in range(0 if storage.is_remote(workdir) else int(patience)):  # network file systems take a while
        if Path(workdir, LOCK).exists():
            return
        time.sleep(_BEAT_S)
    if not storage.is_remote(workdir):
        raise UserError(
            f"this process does not see {workdir} of process 0; give a --workdir that all share: a folder of a file "
            "system that all mount, or a place on gs:// or s3://"
        )


@contextlib.contextmanager
def _locked_by_the_first(workdir: storage.Place) -> Iterator[None]:
    """Locks `workdir` in the first process, which tells the others whether it succeeded."""
    with contextlib.ExitStack() as stack:
        refused: UserError | None = None
        if is_first():
            try:
                stack.enter_context(_locked(workdir))
            except UserError as error:
                refused = error
        # Before any sign of life is written, because those of a second run would end the first one.
        is_locked = multihost_utils.broadcast_one_to_all(np.array(refused is None))
        if not is_locked:
            if is_first():
                time.sleep(_GOODBYE_S)
            raise refused or UserError(f"process 0 could not lock {workdir}; its message says why")
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
    if jax.distributed.is_initialized() or not (coordinator or (config.auto and _started_by_a_launcher())):
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
        source = (
            f"hosts.coordinator={coordinator}" if coordinator else "the variables of Slurm, Open MPI or the TPU pod"
        )
        raise UserError(
            f"cannot join the other processes by {source}: {' '.join(str(error).split())[:160]}; "
            "check that all were started and can reach process 0"
        ) from error
    if not coordinator and _alone_on_its_machine():
        # JAX gives a process that Slurm or Open MPI started one device, even if it is the only process on its machine.
        for platform in ("cuda", "rocm"):
            jax.config.update(f"jax_{platform}_visible_devices", "all")


def _started_by_a_launcher() -> bool:
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

    Each process writes a growing number once a second to the key-value store of JAX's coordination service, which runs
    in the first process. No two machines' clocks are compared.
    """

    def __init__(self, patience: float):
        self._patience = patience
        self._index, self._count = jax.process_index(), jax.process_count()
        self._client: Any = distributed.global_state.client
        self._ended = threading.Event()
        self._once = threading.Lock()  # only the first reason is printed
        self._showing = threading.Lock()
        self._show("0")
        self._thread = threading.Thread(target=self._run, name="hosts", daemon=True)
        self._thread.start()

    def leave(self, reason: str, status: int) -> None:
        """Ends this process, and says why on the terminal and to the others."""
        with self._once:
            self._ended.set()
            self._show(f"failed {reason}")
            program = sys.argv[0].rsplit("/", 1)[-1]
            print(f"{program}: process {self._index} of {self._count}: {reason}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            if self._index == 0:
                time.sleep(_GOODBYE_S)
            os._exit(status)

    def close(self) -> None:
        """Says that this process is done."""
        self._ended.set()
        self._thread.join()
        self._show("done")

    def _show(self, sign: str) -> None:
        with self._showing, contextlib.suppress(jax.errors.JaxRuntimeError):  # the first process has ended
            if not (self._ended.is_set() and sign.isdecimal()):  # do not overwrite the last message
                self._client.key_value_set(f"{_SIGNS}/{self._index}", sign, allow_overwrite=True)

    def _sign_of(self, peer: int) -> str | None:
        """The last sign of a process; None if there is none yet, or the first process does not answer."""
        try:
            if self._index == 0:
                return self._client.key_value_try_get(f"{_SIGNS}/{peer}")
            # With a limit, because the process that answers may hang.
            return self._client.blocking_key_value_get(f"{_SIGNS}/{peer}", int(1000 * self._patience))
        except jax.errors.JaxRuntimeError:
            return None

    def _run(self) -> None:
        watched = range(1, self._count) if self._index == 0 else [0]
        seen: dict[int, str] = dict.fromkeys(watched, "")
        changed = dict.fromkeys(watched, time.monotonic())
        beat = 0
        while not self._ended.wait(_BEAT_S):
            for peer in watched:
                sign = self._sign_of(peer)
                if sign is not None and sign != seen[peer]:
                    seen[peer], changed[peer] = sign, time.monotonic()
                if seen[peer].startswith("failed"):
                    self.leave(f"process {peer} has stopped ({seen[peer][7:]}), so this one does", status=1)
                silent = time.monotonic() - changed[peer]
                if seen[peer] != "done" and silent > self._patience:
                    self.leave(
                        f"process {peer} has given no sign of life for {silent:.0f} s: it died or hangs; {_RESUME}",
                        status=1,
                    )
            beat += 1
            self._show(str(beat))
