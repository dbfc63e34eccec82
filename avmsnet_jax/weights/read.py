"""Reads weight files of all kinds safely: no code in a file is ever run.

The format is recognized by the first bytes, not by the file's name. Tensors keep the file's names and dtypes.
"""

import dataclasses
import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import ml_dtypes
import numpy as np

from avmsnet_jax.errors import UserError, brief, few
from avmsnet_jax.weights import names

# Files of torch.save before PyTorch 1.6 begin with a pickled magic number; this is it after the PROTO opcode.
_LEGACY = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_LEGACY_PICKLES = 5  # magic number, version, system information, content, names of storages
_TORCH = 2, 10  # the oldest PyTorch without known exploits that bypass weights_only

MOST_BYTES = 3 * 10**9  # of a file: the largest published network with the state of Adam has half of it
_NPY_HEADER_BYTES = 65536  # at most, with the magic number and the length before it
_MOST_PARTS = 10_000  # of a tuple in a pickle, those of nested tuples included each time that one appears

# The dtypes that a weight file may have, and the names of PyTorch's storages of these.
STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclasses.dataclass
class WeightFile:
    """The contents of a weight file.

    Attributes:
      path: as the user gave it.
      format: the name of the format, for messages.
      tensors: arrays of a dtype in `STORAGES` by their names in the file; sound8.npy's are called `conv1.weights`.
      other: why other entries of the file are not weights, by name.
      arch: the `arch` entry of a published checkpoint, such as `resnet-50`; empty if there is none.
    """

    path: str
    format: str
    tensors: dict[str, np.ndarray]
    other: dict[str, str] = dataclasses.field(default_factory=dict)
    arch: str = ""


def read(path: str) -> WeightFile:
    """Reads a `.pth`/`.pt` (zip or legacy), SoundNet's `.npy` or a `.safetensors` file.

    Raises:
      UserError: the file is missing, empty, truncated, too large, of another kind, contains code, or anything but plain
        tensors.
    """
    place = Path(path)
    try:
        if place.is_dir():
            raise UserError(
                f"{path} is a directory; --source takes a weight file (a checkpoint directory needs no conversion)"
            )
        if place.exists() and not place.is_file():
            raise UserError(f"{path} is a pipe or a device; save it to a file first")
        with place.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    if not start:
        raise UserError(f"{path} is empty; fetch it again")
    if (size := place.stat().st_size) > MOST_BYTES:
        raise UserError(
            f"{path} has {size / 1e6:,.0f} MB, and no more than {MOST_BYTES / 1e6:,.0f} MB are read; "
            "save the weights of the network alone"
        )
    if start.startswith(b"\x93NUMPY"):
        found = _read_npy(path)
    elif start[5:9] == b"\0\0\0{":  # tested before pickles: the length's low byte may look like the PROTO opcode
        found = _read_safetensors(path, place.read_bytes())
    elif start.startswith(b"PK\x03\x04"):
        _check_zip(path)
        found = _read_torch(path, "zip .pth")
    elif start.startswith(_LEGACY, 2):
        found = _read_torch(path, "legacy .pth")
    elif start.startswith(b"\x80"):
        raise UserError(
            f"{path} is a Python pickle, not a file of torch.save's; pickles can carry code, so it was not opened: "
            "save the weights with torch.save or as .safetensors"
        )
    else:
        raise UserError(f"{path} is not a weight file; give a .pth, .pt, .safetensors or SoundNet's sound8.npy")
    if not found.tensors:
        raise UserError(f"{path} holds no tensors; give a file of weights")
    odd = [ascii(name) for name in found.tensors if not re.fullmatch(r"[\w.-]{1,200}", name, re.ASCII)]
    if odd:
        raise UserError(f"{path} is not a file of network weights: its tensors are called {few(odd)}")
    claimed = sum(array.nbytes for array in found.tensors.values())
    if claimed > 2 * size:  # twice, because a network may use one tensor in two places
        raise UserError(
            f"{path} has {size:,} bytes, but its tensors take {claimed:,}, as they share memory; "
            "give a file that holds each of them"
        )
    return found


def _damaged(path: str, what: str) -> UserError:
    return UserError(f"{path} is cut short or damaged ({what}); fetch it again")


def _code(path: str, name: str) -> UserError:
    return UserError(
        f"{path} carries code ({name}), which was not run; ask for a file that holds only tensors, a state dict"
    )


def _read_safetensors(path: str, data: bytes) -> WeightFile:
    import safetensors

    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise _damaged(path, brief(error)) from error
    dtypes = {"F32": "float32", "F64": "float64", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
    dtypes |= {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}
    tensors = {}
    for name, entry in sorted(entries, key=lambda pair: pair[0]):  # their order is random
        if entry["dtype"] not in dtypes:
            raise UserError(
                f"{path}: {ascii(name)[:80]} has dtype {entry['dtype']}; give a file of plain floats and integers"
            )
        dtype = _dtype(dtypes[entry["dtype"]])
        try:
            tensors[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
        except ValueError as error:  # too many axes, or too long ones
            raise _damaged(path, f"{ascii(name)[:80]}: {brief(error)}") from error
    return WeightFile(path, "safetensors", tensors)


def _dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


# --- pickles -------------------------------------------------------------------------------------


def _bounded(load_tuple: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same opcode for tuples, which refuses one of too many parts."""

    def load(reader: "_Bounded") -> None:
        load_tuple(reader)
        made = reader.stack[-1]
        parts = 1 + sum(reader.parts[id(part)][0] if id(part) in reader.parts else 1 for part in made)
        if parts > _MOST_PARTS:
            raise ValueError(f"a tuple of {parts:,} parts")
        reader.parts[id(made)] = parts, made

    return load


class _Bounded(pickle._Unpickler):
    """An unpickler for files from strangers, which bounds tuples.

    A tuple made of the one before twice, 60 times over, takes 2^60 steps to hash or print; hashing one that is nested
    very deeply overflows the stack. The unpickler in C, besides, makes room for any memo index that a file names.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch | {
        opcode[0]: _bounded(pickle._Unpickler.dispatch[opcode[0]])
        for opcode in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    }

    def __init__(self, file: IO[bytes], **options: Any):
        super().__init__(file, **options)
        self.parts: dict[int, tuple[int, tuple]] = {}  # by id: the parts of each tuple, nested ones included


# --- PyTorch -------------------------------------------------------------------------------------


class _Ignored:
    """Replaces NumPy's classes in a checkpoint (`best_prec` may be a NumPy number), and does nothing."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_NUMPY_NAMES = [
    f"numpy{module}.{name}"
    for module, named in {
        "": ("dtype", "ndarray"),
        ".core.multiarray": ("scalar", "_reconstruct"),
        "._core.multiarray": ("scalar", "_reconstruct"),
    }.items()
    for name in named
]


class _Placeholder:
    """Stands for whatever a pickle makes by a class or a function."""

    def __setitem__(self, key: Any, value: Any) -> None:
        hash(key)

    def append(self, _: Any) -> None:
        """Takes an item of a list."""

    extend = append


class _Dry(_Bounded):
    """Goes through a pickle without calling anything: PyTorch's reader bounds no tuples, and prints what it refuses."""

    dispatch = dict(_Bounded.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        return _Placeholder

    def persistent_load(self, _: Any) -> Any:
        return _Placeholder()

    def _call(self) -> None:
        self.stack.pop()
        if self.stack[-1] is not _Placeholder:
            raise ValueError(f"it calls a {type(self.stack[-1]).__name__}")
        self.stack[-1] = _Placeholder()

    def _build(self) -> None:
        self.stack.pop()

    dispatch[pickle.REDUCE[0]] = dispatch[pickle.NEWOBJ[0]] = _call
    dispatch[pickle.BUILD[0]] = _build


def _check_pickles(path: str, *, zipped: bool) -> None:
    """Raises UserError where a pickle in a PyTorch file is damaged, or made so that reading it would not end."""
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith("/data.pkl"):
                        _Dry(io.BytesIO(archive.read(name))).load()
        else:
            with open(path, "rb") as file:
                for _ in range(_LEGACY_PICKLES):
                    _Dry(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise any exception
        raise _damaged(path, brief(error)) from error


def _read_torch(path: str, form: str) -> WeightFile:
    torch = _import_torch(path)
    _check_pickles(path, zipped=form == "zip .pth")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(_Ignored, name) for name in _NUMPY_NAMES]):
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can raise any exception
        named = re.search(r"GLOBAL ([\w.]+)|unrecognized function (.{1,60})", str(error))
        if named:
            raise _code(path, (named[1] or named[2])[:80]) from error
        # PyTorch's message has a page of advice before and after its reason.
        reason = str(error).rsplit("WeightsUnpickler error:", 1)[-1].split("Check the documentation")[0]
        raise _damaged(path, brief(ValueError(reason))) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict; save model.state_dict() instead")
    label, state = _state_dict(path, content, torch.Tensor)
    found = WeightFile(path, form, {})
    if state is not content:
        kept = label.split(".")[0]
        found.other = {str(name)[:80]: "training state, not weights" for name in content if name != kept}
        if isinstance(content.get("arch"), str):
            found.arch = content["arch"]
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{path} is not a state dict (tensors by name): its entry {_shown(name)} is a {type(value).__name__}"
            )
        try:
            found.tensors[name] = _from_torch(torch, value)
        except Exception as error:  # each kind of exotic tensor raises its own exceptions
            raise UserError(f"{path}: {_shown(name)} is not a plain dense tensor ({brief(error)})") from error
    return found


def _import_torch(path: str) -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {path} takes PyTorch, which is not installed: pip install 'avmsnet_jax[convert]' "
            "(or torch==2.13.0), or give the weights as .safetensors"
        ) from None
    if tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2]) < _TORCH:
        raise UserError(
            f"PyTorch {torch.__version__} is installed, in which a .pth can run code (CVE-2025-32434, "
            f"CVE-2026-24747), so {path} was not opened: pip install --upgrade 'torch>=2.10', or hand in the weights "
            "as .safetensors"
        )
    return torch


def _state_dict(path: str, content: dict, tensor: type) -> tuple[str, dict]:
    """The dictionary in a checkpoint that holds the weights, and the names of the entries that lead to it."""
    found = dict(_networks(content, tensor, "", {id(content)}))
    if len(found) > 1:
        raise UserError(
            f"{path} holds the weights of several networks: {few(list(found))}; "
            f"save the one that you want alone, such as torch.load({path!r}, weights_only=True)"
            + "".join(f"[{key!r}]" for key in next(iter(found)).split("."))
        )
    for label, state in found.items():
        return label, state
    inner = content.get("state_dict")  # of another network, which `convert` refuses by its names
    return ("state_dict", inner) if isinstance(inner, dict) else ("", content)


def _networks(content: dict, tensor: type, label: str, seen: set[int]) -> Iterator[tuple[str, dict]]:
    """Dictionaries of a network's weights in a checkpoint, up to four entries deep, each once."""
    if names.wrappings(key for key, value in content.items() if isinstance(key, str) and isinstance(value, tensor)):
        yield label, content
    elif label.count(".") < 3:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                yield from _networks(value, tensor, f"{label}.{key}".lstrip("."), seen)


def _shown(key: object) -> str:
    """A dictionary's key for a message; other keys than text only by type, as printing a hostile one may not end."""
    return ascii(key)[:80] if isinstance(key, str) else f"of type {type(key).__name__}"


def _from_torch(torch: Any, tensor: Any) -> np.ndarray:
    """The tensor as an array that shares its memory, bit for bit."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError("sparse, quantised or without data")
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in STORAGES:
        raise ValueError(f"dtype {name}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("it claims more elements than the file holds")
    tensor = tensor.detach()
    if name == "bfloat16":
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _check_zip(path: str) -> None:
    """Raises UserError if a zip archive was not written by torch.save, before torch reads it."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise _damaged(path, brief(error)) from error
    if any("/code/" in entry.filename for entry in entries):
        raise _code(path, "a TorchScript program")
    if not any(entry.filename.endswith("/data.pkl") for entry in entries):
        raise UserError(f"{path} is a zip archive without PyTorch weights; give a .pth that torch.save wrote")
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    # torch.save does not compress: an archive that unpacks to more than its size was made to use up memory.
    if not stored or sum(entry.file_size for entry in entries) > Path(path).stat().st_size:
        raise UserError(f"{path} unpacks to more than it holds, which torch.save's files never do; fetch it again")
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()  # torch.load does not check the checksums
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise _damaged(path, brief(error)) from error
    if wrong:
        raise _damaged(path, f"checksum of {ascii(wrong)[:80]}")


# --- sound8.npy ----------------------------------------------------------------------------------


class _Dtype:
    """The description of a NumPy dtype in a pickle, which NumPy itself never sees."""

    def __init__(self, code: Any, *_: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """The description of a NumPy array in a pickle, which NumPy itself never sees."""

    def __init__(self, *_: Any):
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def items(self) -> Any:
        """The contents of an array of objects."""
        return self.state[4]

    def numpy(self) -> np.ndarray:
        """The array of numbers. Raises ValueError where the description is inconsistent."""
        _, shape, dtype, fortran, raw = self.state
        order = dtype.order if dtype.order in ("<", ">") else "="
        if not re.fullmatch(r"[fiub][1248]", dtype.code):
            raise ValueError(f"dtype {dtype.code!r}")
        if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
            raise ValueError("a shape that is not a tuple of integers")
        data = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
        flat = np.frombuffer(data, np.dtype(order + dtype.code))
        array = flat.reshape(shape, order="F" if fortran else "C")
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError("an encoding other than latin1")
    return text.encode("latin1")


class _NumpyOnly(_Bounded):
    """Unpickles dictionaries, lists, text, numbers and NumPy arrays, and refuses every other class and function."""

    _ALLOWED = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise _CarriesCodeError(f"{module}.{name}")
        return self._ALLOWED[module, name]


class _CarriesCodeError(Exception):
    pass


def _read_npy(path: str) -> WeightFile:
    """sound8.npy: a dictionary, pickled in Python 2, of `conv1` ... `conv8_2` to dictionaries of arrays."""
    foreign = f"{path} is not SoundNet's sound8.npy, a dictionary conv1 ... conv7 of weights; no other .npy is known"
    with open(path, "rb") as file:
        start = file.read(_NPY_HEADER_BYTES)
        try:
            major = start[6]
            size_bytes = 2 if major == 1 else 4
            end = 8 + size_bytes + int.from_bytes(start[8 : 8 + size_bytes], "little")
            if end > len(start):
                raise ValueError("its header is cut")
        except (IndexError, ValueError) as error:
            raise _damaged(path, brief(error)) from error
        header = start[8 + size_bytes : end]
        if not (re.search(rb"'descr': *'\|?O'", header) and re.search(rb"'shape': *\(\)", header)):
            raise UserError(foreign)
        file.seek(end)
        try:
            content = _NumpyOnly(file, encoding="latin1").load()
            layers = content.items()[0] if isinstance(content, _Array) else content
        except _CarriesCodeError as error:
            raise _code(path, brief(error)) from error
        except Exception as error:  # a damaged pickle can raise any exception
            raise _damaged(path, brief(error)) from error
    tensors: dict[str, np.ndarray] = {}
    if not isinstance(layers, dict) or "conv1" not in layers:
        raise UserError(foreign)
    for layer, arrays in layers.items():
        if not isinstance(arrays, dict):
            raise UserError(f"{foreign} (its entry {_shown(layer)} is not a dictionary)")
        for name, array in arrays.items():
            try:
                tensors[f"{layer}.{name}"] = array.numpy()
            except Exception as error:
                raise _damaged(path, f"{_shown(layer)} {_shown(name)}: {brief(error)}") from error
    return WeightFile(path, "SoundNet .npy", tensors)
