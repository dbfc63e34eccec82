"""Several processes that train one network together, usually one a machine, and what they do when one is lost."""

import contextlib
import glob
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from avmsnet_jax.config import HostsConfig
from avmsnet_jax.errors import UserError

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
      UserError: the processes cannot find each other.
    """
    _join(config)
    if jax.process_count() == 1:
        yield
        return
    watch = _Watch(workdir / ".alive", config.patience)
    try:
        yield
    except UserError as error:
        watch.leave(str(error), status=2)
    except (RuntimeError, ValueError) as error:  # of the collectives, where a peer has gone
        watch.leave(f"lost touch with the others ({' '.join(str(error).split())[:160]}); {_RESUME}", status=1)
    except BaseException as error:
        watch.leave(f"stopped by {type(error).__name__} {error}".strip(), status=1)
    watch.close()
    jax.distributed.shutdown()
    watch.forget()


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


def _started_by_a_system() -> bool:
    """Whether Slurm (srun), Open MPI (mpirun) or a TPU machine says that there may be other processes."""
    slurm = "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    open_mpi = int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    tpu = importlib.util.find_spec("libtpu") is not None and bool(glob.glob("/dev/accel*") or glob.glob("/dev/vfio/*"))
    return slurm or open_mpi or tpu


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
        folder.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="hosts", daemon=True)
        self._thread.start()

    def leave(self, reason: str, status: int) -> None:
        """Says why this process ends, to the terminal and to the others, and ends it."""
        with self._once:
            with contextlib.suppress(OSError):
                (self._folder / str(self._index)).write_text(f"failed {reason}", encoding="utf-8")
            program = sys.argv[0].rsplit("/", 1)[-1]
            print(f"{program}: process {self._index} of {self._count}: {reason}", file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def close(self) -> None:
        """Says that this process has done its work."""
        self._ended.set()
        self._thread.join()
        (self._folder / str(self._index)).write_text("done", encoding="utf-8")

    def forget(self) -> None:
        """Removes this process's file, once nobody looks any more."""
        (self._folder / str(self._index)).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def _run(self) -> None:
        watched = range(1, self._count) if self._index == 0 else [0]
        seen = dict.fromkeys(watched, "")
        changed = dict.fromkeys(watched, time.monotonic())
        beat = 0
        while not self._ended.wait(_BEAT_S):
            beat += 1
            try:
                (self._folder / str(self._index)).write_text(str(beat), encoding="utf-8")
            except OSError as error:
                self.leave(f"cannot write {self._folder}: {error.strerror}; {_RESUME}", status=2)
            for peer in watched:
                with contextlib.suppress(OSError):
                    content = (self._folder / str(peer)).read_text(encoding="utf-8")
                    if content != seen[peer]:
                        seen[peer], changed[peer] = content, time.monotonic()
                if seen[peer].startswith("failed"):
                    self.leave(f"process {peer} has stopped ({seen[peer][7:]}), so this one does", status=1)
                silent = time.monotonic() - changed[peer]
                if seen[peer] != "done" and silent > self._patience:
                    self.leave(
                        f"process {peer} has given no sign of life for {silent:.0f} s: it died, hangs, or does not "
                        f"see {self._folder.parent}, which all must share; {_RESUME}",
                        status=1,
                    )
