"""Collective operations in the text of a compiled XLA program: their bytes and their groups of devices."""

import dataclasses
import math
import re

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
_SIZES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([a-z\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{(.*?)\}")
_IOTA = re.compile(r"\[([\d,]+)\](?:<=\[([\d,]+)\](?:T\(([\d,]+)\))?|T\(([\d,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation as every device executes it.

    Attributes:
      kind: one of `KINDS`.
      dtype: element type as sent; `bf16` even if XLA on CPU has widened it to float32.
      size: bytes of the full array: the result of an all-reduce or all-gather, the operand of a reduce-scatter,
        all-to-all or permutation.
      groups: the communicating devices, (groups, devices in a group); for a permutation the (from, to) pairs.
    """

    kind: str
    dtype: str
    size: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def devices(self) -> int:
        """How many devices are in a group."""
        return len(self.groups[0])

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a ring algorithm.

        An all-reduce is a reduce-scatter and an all-gather, each of which sends (n - 1)/n of the array.
        """
        if self.kind == "collective-permute":
            return self.size
        share = (self.devices - 1) / self.devices
        return self.size * share * (2 if self.kind == "all-reduce" else 1)


def collectives(program: str) -> list[Collective]:
    """All collective operations of a program, in its order.

    Args:
      program: `compiled.as_text()`.

    Raises:
      ValueError: the syntax of an operation is unknown, or it is in a loop, whose iterations are not counted.
    """
    computations = _computations(program)
    bodies = set(re.findall(r"\bbody=%([\w.\-]+)", program))
    found = []
    for name, lines in computations.items():
        for line in lines:
            parsed = _INSTRUCTION.match(line)
            if not parsed:
                continue
            kind = parsed[3].removesuffix("-start")
            if kind not in KINDS or _is_alone(line):
                continue
            if name in bodies:
                raise ValueError(f"{parsed[1]} is in a loop, whose iterations are not counted")
            found.append(_collective(kind, parsed, lines, computations))
    return found


def _computations(program: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in program.splitlines():
        if heading := _COMPUTATION.match(line):
            current = found.setdefault(heading[1], [])
        else:
            current.append(re.sub(r"/\*.*?\*/", "", line))
    return found


def _collective(kind: str, parsed: re.Match[str], lines: list[str], computations: dict[str, list[str]]) -> Collective:
    _, shape, opcode, rest = parsed.groups()
    arrays = [(dtype, _elements(dims)) for dtype, dims in _ARRAY.findall(shape)]
    if opcode == "all-gather-start":  # operands, then results
        arrays = arrays[len(arrays) // 2 :]
    elif opcode == "collective-permute-start":  # operand, result, and internal counters
        arrays = arrays[1:2]
    groups = _pairs(rest) if kind == "collective-permute" else _groups(rest)
    size = sum(_SIZES[dtype] * elements for dtype, elements in arrays)
    dtype = arrays[0][0]
    if dtype == "f32" and _is_widened(rest, lines, computations):
        dtype, size = "bf16", size // 2
    if kind == "reduce-scatter":
        size *= len(groups[0])
    return Collective(kind, dtype, size, groups)


def _elements(dims: str) -> int:
    return math.prod(int(dim) for dim in dims.split(",") if dim)


def _is_widened(rest: str, lines: list[str], computations: dict[str, list[str]]) -> bool:
    """Whether float32 would be bfloat16 on an accelerator: XLA on CPU widens bfloat16 to add or send it."""
    if re.search(r"to_apply=%[\w.\-]*promoted", rest):
        return True
    (operand, *more) = re.findall(r"%([\w.\-]+)", rest.split(")", 1)[0])
    defined = next((line for line in lines if re.match(rf"\s+(?:ROOT )?%{re.escape(operand)} = ", line)), "")
    if more or not defined:
        return False
    if called := re.search(r" fusion\(.*calls=%([\w.\-]+)", defined):
        lines = computations[called[1]]
        defined = next(line for line in lines if line.lstrip().startswith("ROOT "))
    # Skip operations that only move elements after the conversion.
    while moved := re.search(r" (?:bitcast|copy|transpose|reshape)\(%([\w.\-]+)\)", defined):
        defined = next((line for line in lines if line.lstrip().startswith(f"%{moved[1]} = ")), "")
    converted = re.search(r" convert\(%([\w.\-]+)\)", defined)
    return converted is not None and any(f"%{converted[1]} = bf16[" in line for line in lines)


def _is_alone(rest: str) -> bool:
    """Whether every group has one device, so that nothing is sent."""
    return "source_target_pairs" not in rest and len(_groups(rest)[0]) == 1


def _pairs(rest: str) -> tuple[tuple[int, ...], ...]:
    (text,) = re.findall(r"source_target_pairs=\{(\{.*?\})\}", rest)
    return tuple((int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", text))


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """The devices of each group, written as a list, as a permuted range, or as axes of a mesh."""
    start = rest.index("replica_groups=") + len("replica_groups=")
    text = rest[start:]
    if listed := re.match(r"\{(\{[\d,{}]*\})\}", text):
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", listed[1]))
    if ranged := _IOTA.match(text):
        return _rows(_range(ranged))
    if mesh := _MESH.match(text):
        return _rows(_of_mesh(*mesh.groups()))
    raise ValueError(f"replica groups in an unknown form: {text[:80]}")


def _range(match: re.Match[str]) -> np.ndarray:
    """[2,4]<=[4,2]T(1,0): the device numbers reshaped to (4, 2), transposed, and reshaped to (2, 4)."""
    shape, start, order, order_alone = match.groups()
    devices = np.arange(_elements(start or shape)).reshape(_dims(start or shape))
    if order or order_alone:
        devices = devices.transpose(_dims(order or order_alone))
    return devices if order_alone else devices.reshape(_dims(shape))


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(dim) for dim in text.split(","))


def _of_mesh(axes: str, device_ids: str | None, used: str) -> np.ndarray:
    """(groups, devices in a group): devices of a group differ only in the used axes of the mesh.

    `'a':(2)4` splits an axis of 8 into 2 x 4 and uses the latter.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    wanted = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", used)
    if len(wanted) != len(used.split(",")) or not wanted:
        raise ValueError(f"axes of a mesh in an unknown form: {used}")
    shape: list[int] = []
    chosen: list[int] = []
    for name, size in sizes.items():
        cuts = {1, size}
        parts = [(int(before or 1), int(count or size)) for axis, before, count in wanted if axis == name]
        cuts.update(edge for before, count in parts for edge in (before, before * count))
        for low, high in zip(sorted(cuts), sorted(cuts)[1:], strict=False):
            if any(before <= low and high <= before * count for before, count in parts):
                chosen.append(len(shape))
            shape.append(high // low)
    devices = np.arange(math.prod(sizes.values()))
    if device_ids:
        permuted = _IOTA.match(device_ids)
        if not permuted:
            raise ValueError(f"devices of a mesh in an unknown form: {device_ids}")
        devices = _range(permuted).reshape(-1)
    others = [axis for axis in range(len(shape)) if axis not in chosen]
    group = math.prod(shape[axis] for axis in chosen)
    return devices.reshape(shape).transpose(others + chosen).reshape(-1, group)


def _rows(devices: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(device) for device in row) for row in devices)
