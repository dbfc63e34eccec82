"""The collective operations of a compiled XLA program: how many bytes each moves, and between which devices."""

import dataclasses
import math
import re
from collections.abc import Iterator

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
      dtype: of the elements as they travel, `bf16` also where the compiler for CPUs has widened them.
      size: bytes of the whole: what an all-reduce adds up, what an all-gather leaves, what a reduce-scatter or an
        all-to-all takes, what a permutation sends.
      groups: the devices that talk to each other, (groups, devices in a group); of a permutation the (from, to) pairs.
      source: the operation in the traced program that asked for it.
    """

    kind: str
    dtype: str
    size: int
    groups: tuple[tuple[int, ...], ...]
    source: str = ""

    @property
    def devices(self) -> int:
        """How many devices are in a group."""
        return len(self.groups[0])

    @property
    def sent(self) -> float:
        """Bytes that each device sends, and receives, when devices pass pieces around a ring.

        An all-reduce is a reduce-scatter and an all-gather, each of which moves (n - 1)/n of the whole.
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
      ValueError: an operation is written in a way that is not known here, or stands in a loop, whose turns are not
        counted.
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
                raise ValueError(f"{parsed[1]} is in a loop, whose turns are not counted")
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
    if opcode == "all-gather-start":  # what it was given, then what it leaves
        arrays = arrays[len(arrays) // 2 :]
    elif opcode == "collective-permute-start":  # what it was given, what it leaves, and the compiler's own counters
        arrays = arrays[1:2]
    groups = _pairs(rest) if kind == "collective-permute" else _groups(rest)
    size = sum(_SIZES[dtype] * elements for dtype, elements in arrays)
    dtype = arrays[0][0]
    if dtype == "f32" and _is_widened(rest, lines, computations):
        dtype, size = "bf16", size // 2
    if kind == "reduce-scatter":
        size *= len(groups[0])
    source = re.search(r'op_name="([^"]*)"', rest)
    return Collective(kind, dtype, size, groups, source[1] if source else "")


def _elements(dims: str) -> int:
    return math.prod(int(dim) for dim in dims.split(",") if dim)


def _is_widened(rest: str, lines: list[str], computations: dict[str, list[str]]) -> bool:
    """True for float32 that is bfloat16 to every other compiler: XLA on CPU can neither add nor pass on the latter."""
    if re.search(r"to_apply=%[\w.\-]*promoted", rest):
        return True
    (operand, *more) = re.findall(r"%([\w.\-]+)", rest.split(")", 1)[0])
    defined = next((line for line in lines if re.match(rf"\s+(?:ROOT )?%{re.escape(operand)} = ", line)), "")
    if more or not defined:
        return False
    if called := re.search(r" fusion\(.*calls=%([\w.\-]+)", defined):
        lines = computations[called[1]]
        defined = next(line for line in lines if line.lstrip().startswith("ROOT "))
    # Whatever moved the elements since, they were widened last.
    while moved := re.search(r" (?:bitcast|copy|transpose|reshape)\(%([\w.\-]+)\)", defined):
        defined = next((line for line in lines if line.lstrip().startswith(f"%{moved[1]} = ")), "")
    converted = re.search(r" convert\(%([\w.\-]+)\)", defined)
    return converted is not None and any(f"%{converted[1]} = bf16[" in line for line in lines)


def _is_alone(rest: str) -> bool:
    """True where every group has one device, so that nothing moves."""
    return "source_target_pairs" not in rest and len(_groups(rest)[0]) == 1


def _pairs(rest: str) -> tuple[tuple[int, ...], ...]:
    (text,) = re.findall(r"source_target_pairs=\{(\{.*?\})\}", rest)
    return tuple((int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", text))


def _groups(rest: str) -> tuple[tuple[int, ...], ...]:
    """The devices of each group: from a list of them, from a permuted range, or from axes of a mesh."""
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
    """[2,4]<=[4,2]T(1,0): the devices by number as an array (4, 2), transposed, as an array (2, 4)."""
    shape, start, order, order_alone = match.groups()
    devices = np.arange(_elements(start or shape)).reshape(_dims(start or shape))
    if order or order_alone:
        devices = devices.transpose(_dims(order or order_alone))
    return devices if order_alone else devices.reshape(_dims(shape))


def _dims(text: str) -> tuple[int, ...]:
    return tuple(int(dim) for dim in text.split(","))


def _of_mesh(axes: str, device_ids: str | None, used: str) -> np.ndarray:
    """The groups (groups, devices in a group) that differ only in the axes used.

    An axis of 8 that is used as `'a':(2)4` is one of 2 and one of 4, of which the latter is used.
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


def by_kind(found: list[Collective]) -> Iterator[tuple[str, str, int, float]]:
    """(kind, dtype, how many, bytes each device sends) of each sort."""
    sorts = sorted({(each.kind, each.dtype) for each in found})
    for kind, dtype in sorts:
        these = [each for each in found if (each.kind, each.dtype) == (kind, dtype)]
        yield kind, dtype, len(these), sum(each.sent for each in these)
