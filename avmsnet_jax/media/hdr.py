"""Tone mapping of HDR (BT.2100, PQ and HLG) to BT.709, which all browsers show, as a table for FFmpeg's lut3d."""

from pathlib import Path

import numpy as np

PQ, HLG = 16, 18  # transfer characteristics by their number in ITU-T H.273

_WHITE = 203.0  # cd/m2: HDR reference white (ITU-R BT.2408)
_PEAK = 1000.0  # cd/m2: the peak that films are graded for; brighter highlights clip
_KNEE = 0.75  # of reference white: darker colors keep their brightness
_NODES = 33
# Linear light, BT.2020 primaries to BT.709 (ITU-R BT.2087).
_TO_709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593])


def to_bt709(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """Maps colors: up to `_KNEE` they keep their brightness; brighter ones are compressed.

    Args:
      rgb: (..., 3) in 0-1, coded BT.2020 colors.
      transfer: `PQ` or `HLG`.

    Returns:
      (..., 3) in 0-1, coded BT.709 colors, for a display with a gamma of 2.4 (BT.1886).
    """
    light = (_pq(rgb) if transfer == PQ else _hlg(rgb)) / _WHITE
    light = np.maximum(light @ _TO_709.T, 0)
    brightest = light.max(axis=-1, keepdims=True)
    above = np.maximum(brightest - _KNEE, 0) / (1 - _KNEE)
    most = (_PEAK / _WHITE - _KNEE) / (1 - _KNEE)
    pressed = _KNEE + (1 - _KNEE) * above * (1 + above / most**2) / (1 + above)  # Reinhard et al. 2002, formula 4
    scale = np.where(brightest > _KNEE, pressed / np.maximum(brightest, _KNEE), 1)
    return np.clip(light * scale, 0, 1) ** (1 / 2.4)


def write_table(path: Path, transfer: int) -> None:
    """Writes `to_bt709` as a .cube file."""
    node = np.linspace(0, 1, _NODES)
    blue, green, red = np.meshgrid(node, node, node, indexing="ij")  # red varies fastest
    table = to_bt709(np.stack([red, green, blue], axis=-1).reshape(-1, 3), transfer)
    np.savetxt(path, table, fmt="%.6f", header=f"LUT_3D_SIZE {_NODES}", comments="")


def _pq(coded: np.ndarray) -> np.ndarray:
    """cd/m2 (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = coded ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg(coded: np.ndarray) -> np.ndarray:
    """cd/m2 on a display of 1000 (BT.2100)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luma = (scene @ _LUMA_2020)[..., None]
    return 1000 * np.maximum(luma, 1e-9) ** 0.2 * scene
