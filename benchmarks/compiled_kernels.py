"""The kernels that XLA compiled for a GPU, read from the program's text."""

import math
import re
from typing import NamedTuple

_LAUNCH_S = 2e-6
# By the names that XLA and cuDNN give kernels; the first that fits.
_KINDS = {
    "convolutions": r"conv(?!ert)|fprop|dgrad|wgrad|implicit_gemm|cutlass__5x_cudnn|cudnn",
    "products": r"gemm|cublas|nvjet|dot",
    "reductions": r"reduce",
    "transposes": r"transpose",
    "copies": r"copy|memset|Memcpy|Memset",
    "element-wise": r"fusion|loop|wrapped|concatenate|slice|select|broadcast|convert|pad|iota",
}
_SIZES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "u16": 2, "s16": 2, "f32": 4, "s32": 4, "u32": 4}
_SIZES |= {"f64": 8, "s64": 8, "u64": 8}
_FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "call", "after-all", "iota"}


class Kernel(NamedTuple):
    """A kernel of a compiled program, and the bytes of its operands and results."""

    name: str
    bytes: int


def kind_of(name: str) -> str:
    """What a kernel does, by its name in a trace or in the program."""
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, name)), "others")


def seconds(kernel: Kernel, bandwidth: float) -> float:
    """How long a kernel takes that is bound by memory; 0 of those that are not."""
    return 0.0 if kind_of(kernel.name) in ("convolutions", "products") else max(kernel.bytes / bandwidth, _LAUNCH_S)


def kernels(text: str) -> list[Kernel]:
    """The kernels of a compiled program, in order of the text."""
    bodies = {}
    for header, body in re.findall(r"^((?:ENTRY )?%[\w.\-]+) \([^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        bodies[header] = [_instruction(each) for each in body.splitlines() if " = " in each]
    run = [header for header in bodies if header.startswith("ENTRY") or header.startswith("%command_buffer")]
    found = []
    for header in run:
        sizes = {name: size for name, size, *_ in bodies[header]}
        for name, size, opcode, operands, rest in bodies[header]:
            if opcode in _FREE or opcode.endswith("-done"):
                continue
            fused = re.search(r"calls=(%[\w.\-]+)", rest)
            read = _read(bodies[fused[1]]) if opcode == "fusion" and fused else {}
            moved = size + sum(read.get(i, sizes.get(operand, 0)) for i, operand in enumerate(operands))
            target = re.search(r'custom_call_target="([^"]+)"', rest)
            found.append(Kernel(f"{name[1:]} {target[1]}" if target else name[1:], moved))
    return found


def _instruction(text: str) -> tuple[str, int, str, list[str], str]:
    """Name, bytes of the result, opcode, operands, and what is left of a line."""
    found = re.match(r"\s*(?:ROOT )?(%[\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", re.sub(r"/\*.*?\*/", "", text))
    if not found:
        return text, 0, "constant", [], ""
    name, shape, opcode, rest = found.groups()
    size = sum(
        _SIZES.get(dtype, 0) * math.prod(int(n) for n in sides.split(",") if n)
        for dtype, sides in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    )
    operands = rest.split(")")[0]
    return name, size, opcode, re.findall(r"%[\w.\-]+", operands), operands + rest[len(operands) :]


def _read(body: list[tuple[str, int, str, list[str], str]]) -> dict[int, int]:
    """By number of a fusion's operand the bytes that it reads, where that is slices alone."""
    found = {}
    for name, _, opcode, _, rest in body:
        if opcode != "parameter":
            continue
        users = [(size, used) for _, size, used, operands, _ in body if name in operands]
        if users and all(used in ("slice", "dynamic-slice") for _, used in users):
            found[int(rest.split(")")[0])] = sum(size for size, _ in users)
    return found
