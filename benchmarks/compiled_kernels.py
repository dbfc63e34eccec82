"""The kernels of a program that XLA compiled for a GPU, by name and kind."""

import re

# Names that XLA and cuDNN give to kernels. The first kind that matches counts.
_KINDS = {
    "convolutions": r"conv(?!ert)|fprop|dgrad|wgrad|implicit_gemm|cutlass__5x_cudnn|cudnn",
    "products": r"gemm|cublas|nvjet|dot",
    "reductions": r"reduce",
    "transposes": r"transpose",
    "copies": r"copy|memset|Memcpy|Memset",
    "element-wise": r"fusion|loop|wrapped|concatenate|slice|select|broadcast|convert|pad|iota",
}
_NO_KERNEL = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "call", "after-all", "iota"}


def kind_of(name: str) -> str:
    """What a kernel does, by its name in a trace or in the program."""
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, name)), "others")


def kernels(text: str) -> list[str]:
    """The names of the kernels of a compiled program (`compiled.as_text()`), in order."""
    found = []
    for body in re.findall(r"^(?:ENTRY |%command_buffer)[^\n]*\{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        for line in body.splitlines():
            parsed = re.match(r"\s*(?:ROOT )?%([\w.\-]+) = (?:\(.*?\)|\S+) ([\w\-]+)\(", re.sub(r"/\*.*?\*/", "", line))
            if not parsed or parsed[2] in _NO_KERNEL or parsed[2].endswith("-done"):
                continue
            target = re.search(r'custom_call_target="([^"]+)"', line)
            found.append(f"{parsed[1]} {target[1]}" if target else parsed[1])
    return found
