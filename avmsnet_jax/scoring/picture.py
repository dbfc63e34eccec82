"""What the attention scorer measures of a clip's frames."""

import cv2
import numpy as np
import scipy.fft
from scipy import ndimage

_GRID = 14  # cells in a row and in a column of the maps
_FLOW_SIZE, _BLOCKS = 56, 7  # pixels of the pictures that flow is computed on, and blocks in a row
_PAIRS = 5  # of frames, spread over a clip, whose flow is computed
_DIRECTIONS = 8
_STILL = 0.05  # pixels a frame: less is noise of the flow
_RESIDUAL_SIZE = 64  # of the picture for the spectral residual
_COLOR_BINS = (8, 4, 4)  # of red, green and blue: 128
_NOISE = 2.0  # of 255: a change below is noise of the codec


def measure(clip: np.ndarray) -> dict[str, np.ndarray]:
    """Measures a clip's frames.

    Args:
      clip: (T, H, W, 3) uint8 RGB.

    Returns:
      `flow_length`, `flow_entropy`, `flow_entropy_around` (49,): per block the mean length of the flow, and the entropy
      of its directions over the clip and in the blocks around it, 0-1;
      `begins`, `turns` (T - 1,): the largest change that begins in a cell, and that is taken back with the next frame,
      as where something bounces, 0-255;
      `movement` (T - 1, 14, 14): by how much each cell changes from frame to frame, and back again;
      `saliency`: mean of the spectral residual map; `attention` (14, 14), sums to 1;
      `colors` (640,), `edges` (8,): histograms;
      `brightness`, `sharpness`, `uniformity` in 0-1; `dissolve`: how far the middle frame is from the mean of the first
      and the last, over their difference: 0 in the midst of a dissolve, 1 where there is none.
    """
    gray = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip])
    middle = len(clip) // 2
    change, turn = _change(gray)
    residual = np.mean([_spectral_residual(gray[index]) for index in (0, middle, len(gray) - 1)], axis=0)
    length, over_time, around = _flow(gray)
    return {
        "flow_length": length.astype(np.float32),
        "flow_entropy": over_time.astype(np.float16),
        "flow_entropy_around": around.astype(np.float16),
        **_movement(change.astype(np.float16), turn.astype(np.float16)),
        "saliency": np.asarray(residual.mean(), np.float32),
        "attention": _attention(residual, change),
        "colors": _colors(clip[middle]),
        "edges": _edges(gray[middle]),
        "brightness": np.asarray(gray.mean() / 255, np.float32),
        "sharpness": np.asarray(_sharpness(gray[middle]), np.float32),
        "uniformity": np.asarray(_uniformity(gray[middle]), np.float32),
        "dissolve": np.asarray(_dissolve(gray), np.float32),
    }


def _cells(pictures: np.ndarray, cells: int) -> np.ndarray:
    """(T, H, W) to (T, cells, cells), the mean over each cell."""
    return np.stack([cv2.resize(each, (cells, cells), interpolation=cv2.INTER_AREA) for each in pictures])


def _movement(change: np.ndarray, turn: np.ndarray) -> dict[str, np.ndarray]:
    cells = change.astype(np.float32).reshape(len(change), -1)
    begins = np.diff(cells, axis=0, prepend=0).max(axis=1)
    begins[0] = 0  # it began before the clip
    turns = turn.reshape(len(turn), -1).max(axis=1).astype(np.float32)
    return {"begins": begins, "turns": turns, "movement": change + turn}


def _change(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """By how much each cell changes from frame to frame, and how much of that changes back with the next frame."""
    frames = gray.astype(np.float32)
    step = _cells(np.maximum(np.abs(np.diff(frames, axis=0)) - _NOISE, 0), _GRID)
    across = _cells(np.maximum(np.abs(frames[2:] - frames[:-2]) - _NOISE, 0), _GRID)
    turn = np.zeros_like(step)
    # What moves steadily, or appears, changes as much over two frames as in both steps together.
    turn[:-1] = np.maximum(step[:-1] + step[1:] - across, 0) / 2
    return step, turn


def _flow(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length, entropy over time and entropy around of the flow in each block, without the movement of the camera."""
    small = [cv2.resize(frame, (_FLOW_SIZE, _FLOW_SIZE), interpolation=cv2.INTER_AREA) for frame in gray]
    starts = np.unique(np.linspace(0, len(small) - 2, _PAIRS).round().astype(int))
    nothing = np.zeros((_FLOW_SIZE, _FLOW_SIZE, 2), np.float32)
    flows = np.stack(
        [
            cv2.calcOpticalFlowFarneback(small[n], small[n + 1], nothing.copy(), 0.5, 2, 9, 2, 5, 1.1, 0)
            for n in starts.tolist()
        ]
    )
    flows = flows - np.median(flows, axis=(1, 2), keepdims=True)  # what most of the picture does is the camera's
    length = np.hypot(flows[..., 0], flows[..., 1])  # (P, H, W)
    length[length < _STILL] = 0
    angle = np.arctan2(flows[..., 1], flows[..., 0]) / (2 * np.pi) % 1
    direction = np.floor(angle * _DIRECTIONS).astype(int) % _DIRECTIONS
    along = np.arange(_FLOW_SIZE) * _BLOCKS // _FLOW_SIZE
    block = along[:, None] * _BLOCKS + along
    bins = (direction * _BLOCKS**2 + block).ravel()
    histogram = np.bincount(bins, length.ravel(), minlength=_DIRECTIONS * _BLOCKS**2)
    histogram = histogram.reshape(_DIRECTIONS, _BLOCKS, _BLOCKS)
    mean = histogram.sum(axis=0) * _BLOCKS**2 / length.size
    around = np.stack([cv2.blur(each, (3, 3)) for each in histogram])
    return mean.ravel(), _entropy(histogram).ravel(), _entropy(around).ravel()


def _entropy(histogram: np.ndarray) -> np.ndarray:
    """Of the directions, the first axis; 0 for one direction or none, 1 for all alike."""
    total = histogram.sum(axis=0)
    share = histogram / np.maximum(total, 1e-12)
    return -(share * np.log(np.maximum(share, 1e-12))).sum(axis=0) / np.log(_DIRECTIONS) * (total > 0)


def _spectral_residual(gray: np.ndarray) -> np.ndarray:
    """Hou and Zhang's saliency map, (64, 64), of the picture in units of its own contrast."""
    small = cv2.resize(gray, (_RESIDUAL_SIZE, _RESIDUAL_SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    spread = float(small.std())
    if spread < 1:  # of 255: a picture of one color
        return np.zeros_like(small)
    spectrum = scipy.fft.fft2((small - small.mean()) / spread)
    amplitude = np.abs(spectrum)
    log = np.log(amplitude + 1e-3)
    residual = log - ndimage.uniform_filter(log, 3, mode="wrap")  # the spectrum is periodic
    phase = np.where(amplitude > 0, spectrum / np.maximum(amplitude, 1e-20), 1)
    saliency = np.abs(scipy.fft.ifft2(np.exp(residual) * phase)) ** 2
    return cv2.GaussianBlur(saliency.astype(np.float32), (0, 0), 2.5)


def _attention(residual: np.ndarray, change: np.ndarray) -> np.ndarray:
    still = cv2.resize(residual, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    maps = [each / each.sum() for each in (still, change.mean(axis=0)) if each.sum() > 1e-9]
    both = np.mean(maps, axis=0) if maps else np.full((_GRID, _GRID), 1.0)
    return (both / both.sum()).astype(np.float16)


def _colors(frame: np.ndarray) -> np.ndarray:
    """Histograms of the picture and of its quarters, the square root of shares."""
    red, green, blue = (frame[..., channel].astype(int) * bins // 256 for channel, bins in enumerate(_COLOR_BINS))
    index = (red * _COLOR_BINS[1] + green) * _COLOR_BINS[2] + blue
    height, width = (size // 2 for size in index.shape)
    parts = [index, index[:height, :width], index[:height, width:], index[height:, :width], index[height:, width:]]
    counts = [np.bincount(part.ravel(), minlength=int(np.prod(_COLOR_BINS))) / part.size for part in parts]
    return np.sqrt(np.concatenate(counts)).astype(np.float16)


def _gradients(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    picture = gray.astype(np.float32) / 255
    return cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1)


def _edges(gray: np.ndarray) -> np.ndarray:
    """Histogram of the directions of edges, whichever side is brighter; the square root of shares."""
    across, down = _gradients(gray)
    angle = np.floor(np.arctan2(down, across) / np.pi % 1 * _DIRECTIONS).astype(int) % _DIRECTIONS
    weight = np.bincount(angle.ravel(), np.hypot(across, down).ravel(), minlength=_DIRECTIONS)
    return np.sqrt(weight / max(weight.sum(), 1e-9)).astype(np.float16)


def _sharpness(gray: np.ndarray) -> float:
    return float(np.hypot(*_gradients(gray)).mean())


def _uniformity(gray: np.ndarray) -> float:
    """The share of the picture in the fullest twentieth of 128 shades."""
    counts = np.sort(np.bincount(gray.ravel() // 2, minlength=128))[::-1]
    return float(counts[:6].sum() / gray.size)


def _dissolve(gray: np.ndarray) -> float:
    """How far the middle frame is from the mean of the first and the last, over their difference; at most 1."""
    first, middle, last = (gray[index].astype(np.float32) for index in (0, len(gray) // 2, len(gray) - 1))
    difference = float(np.abs(last - first).mean())
    if difference < 8:  # of 255: there is none, or it goes on for seconds
        return 1.0
    place = (len(gray) // 2) / (len(gray) - 1)
    return min(float(np.abs(middle - (first + place * (last - first))).mean()) / difference / 0.5, 1.0)
