"""The peak FLOP/s of devices: from data sheets, or measured."""

import types

import numpy as np
import pytest

from avmsnet_jax.training import peak


def devices(*kinds):
    """A mesh with only the attributes that the data sheets are looked up by."""
    return types.SimpleNamespace(devices=np.array([types.SimpleNamespace(device_kind=kind) for kind in kinds]))


@pytest.mark.parametrize(
    ("kind", "dtype", "rate"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 624e12 / 2),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 1979e12 / 2),
        ("NVIDIA H100 80GB HBM3", "float32", 989e12 / 2),
        ("NVIDIA H100 PCIe", "bfloat16", 1513e12 / 2),
        ("NVIDIA H200", "bfloat16", 1979e12 / 2),
        ("NVIDIA B200", "bfloat16", 36e15 / 8 / 2),
        ("NVIDIA L4", "bfloat16", 242e12 / 2),
        ("TPU v4", "bfloat16", 275e12),
        ("TPU v5 lite", "float32", 197e12),
        ("TPU v5p", "bfloat16", 459e12),
        ("TPU v6 lite", "bfloat16", 918e12),
    ],
)
def test_data_sheet_rates_are_dense(kind, dtype, rate):
    assert peak.of(devices(kind), dtype).rate == pytest.approx(rate, rel=2e-3)


def test_float32_is_as_fast_as_bfloat16_on_tpus_and_half_as_fast_on_gpus():
    for kind, rates in peak.DATA_SHEETS.items():
        share = 1 if kind.startswith("TPU") else 0.5
        assert rates["float32"] / rates["bfloat16"] == pytest.approx(share, rel=0.01), kind


def test_all_devices_together():
    found = peak.of(devices(*["NVIDIA H200"] * 16), "bfloat16")
    assert found.rate == 16 * 989e12
    assert str(found) == "data-sheet peak 15.8 PFLOP/s (MFU is reported relative to it)"
    mixed = peak.of(devices("NVIDIA H100 PCIe", "NVIDIA A100 80GB PCIe"), "float32")
    assert str(mixed) == "data-sheet peak 534 TFLOP/s (MFU is reported relative to it)"


# A clock on which a product takes the given time, and nothing else any time.
CLOCK = """
import types
import jax
from avmsnet_jax import mesh as mesh_lib
from avmsnet_jax.config import MeshConfig
from avmsnet_jax.training import peak

now = 0.0

def wait(product):
    global now
    now += seconds(product)

jax.block_until_ready = wait
peak.time = types.SimpleNamespace(perf_counter=lambda: now)
"""


CASES = {
    # The faster dtype counts.
    "0.02 if product.dtype == 'bfloat16' else 0.01": 2 * 512**3 / 0.01,
    "0.01 if product.dtype == 'bfloat16' else 0.02": 2 * 512**3 / 0.01,
    # Products that are too short to time are repeated with larger sizes.
    "0.004 if product.shape[1] < 2048 else 0.02": 2 * 2048**3 / 0.02,
}


def test_devices_without_a_data_sheet_are_measured_together(forked, tmp_path):
    measure = "print(peak.of(mesh_lib.make_mesh(MeshConfig(data=2)), 'bfloat16').rate)"
    programs = [f"def seconds(product):\n    return {seconds}\n\n{measure}\n" for seconds in CASES]
    (tmp_path / "measure.py").write_text(CLOCK + "\n".join(programs))
    done = forked("-m", "tests.virtual_devices", 4, tmp_path / "measure.py")
    assert done.returncode == 0, done.stderr
    assert [float(rate) for rate in done.stdout.split()] == pytest.approx([2 * rate for rate in CASES.values()])
