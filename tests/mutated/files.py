"""Changes to score, label, annotation and weight files, records and checkpoints that know their formats."""

import contextlib
import io
import json
import os
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.mutated.damage import damaged, number

# --- JSON -----------------------------------------------------------------------------------------


def _odd_value(rng: random.Random, address: str) -> Any:
    return rng.choice(
        (
            None,
            True,
            "",
            "text",
            address,
            "../../elsewhere",
            "\x1b[31m\n\u202e",
            "os.system",
            -1,
            0,
            0.5,
            10**12,
            2**63,
            10**400,
            1e308,
            float("nan"),
            float("inf"),
            [],
            {},
            [[]],
            [0.1, [0.2]],
            [0.5] * 3000,
            {"a": {"b": [1]}},
            "7" * 5000,
        )
    )


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inside, dict | list):
            found += _places(inside)
    return found


def _change_json(data: bytes, rng: random.Random, address: str) -> tuple[bytes, str]:
    text = data.decode()
    top = [json.loads(text)]
    places = _places(top)
    # Lists of numbers would have nearly all of the places.
    places = [pair for pair in places if isinstance(pair[0], dict)] * 8 + places
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del holder[key]
            what = f"{key!r} removed"
        case 1 if isinstance(holder, dict):
            other = rng.choice([*map(str, holder), "another", "", "../x", address])
            holder[other] = holder.pop(key)
            what = f"{key!r} renamed {other!r}"
        case 2:
            depth = rng.choice((20, 300, 100_000))
            text = json.dumps(top[0] if top else None)
            middle = rng.randrange(len(text) + 1)
            return (text[:middle] + "[" * depth + "]" * depth + text[middle:]).encode(), f"{depth} lists put inside"
        case 3:
            text = json.dumps(top[0])
            return (text[:-1] + "," + text[1:]).encode(), "all keys twice"
        case 4 if isinstance(holder[key], list):
            holder[key] = rng.choice((holder[key][:-1], holder[key] * 2, [holder[key]], holder[key] + ["x"]))
            what = f"list {key!r} of another length"
        case _:
            holder[key] = _odd_value(rng, address)
            what = f"{key!r} is {str(holder[key])[:40]}"
    return json.dumps(top[0] if top else None).encode(), what


# --- CSV ------------------------------------------------------------------------------------------


def _change_csv(data: bytes, rng: random.Random, address: str) -> tuple[bytes, str]:
    # Not by the csv module, which refuses the long fields that an earlier change may have made.
    rows = [line.split(",") for line in data.decode().splitlines()]
    row = rng.randrange(len(rows))
    column = rng.randrange(len(rows[row]) or 1)
    match rng.randrange(7):
        case 0:
            rows[row].insert(column, "1")
            what = f"row {row} has one more field"
        case 1:
            del rows[row]
            what = f"row {row} removed"
        case 2:
            separator = rng.choice((";", "\t", " ", "|"))
            return "\n".join(separator.join(row) for row in rows).encode(), f"separated by {separator!r}"
        case 3:
            coding = rng.choice(("utf-16", "utf-32", "utf-8-sig"))
            return data.decode().encode(coding), f"in {coding}"
        case 4:
            rows[row:row] = [rows[row]] * rng.choice((1, 1, 20_000))
            what = f"row {row} repeated"
        case _:
            odd = (
                "",
                " ",
                "-1",
                "nan",
                "inf",
                "1e999",
                "1e300",
                "x",
                "2000",
                "0:05",
                "1,5",
                '"',
                "\0",
                "\uff11",
                "9" * 5000,
            )
            value = rng.choice((*odd, "x" * 200_000, address))
            rows[row][column : column + 1] = [value]
            what = f"row {row}, field {column} is {value[:20]!r}"
    return "\n".join(",".join(row) for row in rows).encode(), what


# --- arrays ---------------------------------------------------------------------------------------


def _change_npy(data: bytes, rng: random.Random, address: str) -> tuple[bytes, str]:
    """Another header in front of the same numbers."""
    length = int.from_bytes(data[8:10], "little")
    shape = rng.choice(
        ("()", "(20,)", "(19,)", "(20, 1)", "(10**13,)", "(-1,)", "(2**40, 2**40)", "(0,)", "'x'", "(1.5,)")
    )
    kind = rng.choice(("<f8", "<f4", "<i8", ">f8", "|O", "<c16", "|S8", "<U2", "<M8[s]", "|V8", "f9", "|b1"))
    header = f"{{'descr': {kind!r}, 'fortran_order': {rng.choice(('False', 'True', '2'))}, 'shape': {shape}, }}"
    if rng.random() < 0.3:
        header = rng.choice(("{", "(" * 500, "{}", "[1]", header + "\n" * 60_000, "__import__('os')"))
    if rng.random() < 0.3:
        return data[:8] + number(rng, 2, "little") + data[10:], "another length of the header"
    return data[:8] + (len(header) % 65536).to_bytes(2, "little") + header.encode() + data[10 + length :], header[:80]


def _change_safetensors(data: bytes, rng: random.Random, address: str) -> tuple[bytes, str]:
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.2:
        return number(rng, 8, "little") + data[8:], "another length of the header"
    header, what = _change_json(data[8 : 8 + length], rng, address)
    return len(header).to_bytes(8, "little") + header + data[8 + length :], f"header: {what}"


def _change_zip(data: bytes, rng: random.Random, address: str) -> tuple[bytes, str]:
    """An entry changed, dropped, renamed, repeated or compressed: of a .pth, an .npz."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(written, "w") as target:
        entries = archive.infolist()
        pickles = [entry.filename for entry in entries if entry.filename.endswith(".pkl")]
        chosen = rng.choice(pickles * len(entries) + [entry.filename for entry in entries])
        how = rng.choice(("changed", "changed", "changed", "dropped", "renamed", "repeated", "compressed"))
        what = f"{chosen} {how}"
        for entry in entries:
            content, name = archive.read(entry), entry.filename
            if name == chosen:
                if how == "dropped":
                    continue
                if how == "changed":
                    content, detail = (
                        _change_npy(content, rng, address) if name.endswith(".npy") else damaged(content, rng)
                    )
                    what += f": {detail}"
                name = rng.choice(("../x", "/x", "a/code/x.py", "x")) if how == "renamed" else name
            compression = zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED
            for _ in range(2 if how == "repeated" and name == chosen else 1):
                with warnings.catch_warnings(action="ignore"):
                    target.writestr(name, content, compression)
    return written.getvalue(), what


def _change_hdf5(path: Path, rng: random.Random, address: str) -> str:
    """A dataset of an HDF5 file replaced by something else of its name."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = rng.choice(names)
        before = file[name][()] if isinstance(file[name], h5py.Dataset) else np.zeros(4)
        kind = np.float64 if before.dtype.kind not in "fiu" else before.dtype
        size = before.nbytes
        del file[name]
        match rng.randrange(10):
            case 0:
                what = "missing"
            case 1:
                file.create_group(name)
                what = "an empty group"
            case 2:
                file[name] = h5py.ExternalLink(address, "/a")
                what = f"an external link to {address}"
            case 3:
                file[name] = h5py.SoftLink(rng.choice(("/nowhere", "/", name)))
                what = "a soft link"
            case 4:
                file.create_dataset(name, (size,), "u1", external=[(address, 0, size)])
                what = f"stored at {address}"
            case 5:
                layout = h5py.VirtualLayout((20,), "f8")
                layout[:] = h5py.VirtualSource(address, "a", (20,))
                file.create_virtual_dataset(name, layout)
                what = f"a part of {address}"
            case 6:
                shape = rng.choice(((10**12,), (20, 10**10), (0,), (), (1, 1, 20)))
                file.create_dataset(name, shape, kind, chunks=True if shape and all(shape) else None)
                what = f"of shape {shape}"
            case 7:
                odd = ("text", b"bytes", np.array([b"a"] * 20), np.ones(20, "c8"), np.array([(1, 2.0)] * 20, "i4,f8"))
                file[name] = rng.choice(odd)
                what = "of another type"
            case 8:
                ragged = file.create_dataset(name, (20,), h5py.vlen_dtype(np.float64))
                ragged[0] = [1.0, 2.0]
                what = "ragged"
            case _:
                values = np.full(np.shape(before), rng.choice((np.nan, -1, 1e300, 2**31, 0.5)))
                with np.errstate(all="ignore"):
                    file[name] = values.astype(kind)
                what = "of one awkward value"
    return f"{name} is {what}"


# --- files of any kind ----------------------------------------------------------------------------

_KNOWN: dict[str, Callable[[bytes, random.Random, str], tuple[bytes, str]]] = {
    ".json": _change_json,
    ".csv": _change_csv,
    ".npy": _change_npy,
    ".safetensors": _change_safetensors,
    ".pth": _change_zip,
    ".npz": _change_zip,
}


def change(path: Path, rng: random.Random, address: str) -> str:
    """Changes a file where it lies, by what its name says that it is, and says how.

    Args:
      path: the file.
      rng: what decides.
      address: something that the file must not make anybody open: a URL, or a path.
    """
    if rng.random() < 0.06:
        return _replace(path, rng, address)
    data, known = path.read_bytes(), _KNOWN.get(path.suffix)
    if known is None and data.startswith(b"{"):  # Orbax's and ours that have no suffix
        known = _change_json
    if known is _change_zip and not data.startswith(b"PK"):
        known = None
    if rng.random() < 0.7:
        if data.startswith(b"\x89HDF"):
            return _change_hdf5(path, rng, address)
        if known:
            told = []
            for _ in range(rng.choice((1, 1, 2))):
                with contextlib.suppress(
                    ValueError, IndexError, KeyError, RecursionError
                ):  # the first change left no such file
                    data, what = known(data, rng, address)
                    told.append(what)
            path.write_bytes(data)
            return ", ".join(told)
    data, what = damaged(data, rng)
    path.write_bytes(data)
    return what


def _replace(path: Path, rng: random.Random, address: str) -> str:
    """Something else than a file in its place."""
    path.unlink()
    match rng.randrange(6):
        case 0:
            return "removed"
        case 1:
            path.mkdir()
            return "a folder in its place"
        case 2:
            path.symlink_to("nowhere")
            return "a link to nowhere in its place"
        case 3:
            path.symlink_to(path.parent)
            return "a link to its folder in its place"
        case 4:
            os.mkfifo(path)
            return "a pipe in its place"
        case _:
            path.touch()
            os.truncate(path, 2**36)
            return "64 GB of zeros in its place"
