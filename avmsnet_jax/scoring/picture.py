"""The attention scorer's measures of a clip's frames."""

import cv2
import numpy as np
import scipy.fft

_GRID = 14  # cells in a row and in a column of the maps
_FLOW_SIZE, _BLOCKS = 56, 7  # pixels of the pictures for optical flow, and blocks in a row
_PAIRS = 5  # pairs of frames per clip whose flow is computed
_DIRECTIONS = 8
_STILL = 0.05  # pixels a frame: less flow is noise
_RESIDUAL_SIZE = 64  # of the picture for the spectral residual
_COLOR_BINS = (8, 4, 4)  # of red, green and blue: 128
_NOISE = 2  # of 255: less change is codec noise


def measure(clip: np.ndarray) -> dict[str, np.ndarray]:
    """Measures a clip's frames.

    Args:
      clip: (T, H, W, 3) uint8 RGB.

    Returns:
      `flow_length`, `flow_entropy`, `flow_entropy_around` (49,): for each block the mean length of the flow, and the
      entropy of its directions over the clip and over the surrounding blocks, 0-1;
      `begins`, `turns` (T - 1,): the largest onset of change in any cell, and the largest change that the next frame
      reverses, as when something bounces, 0-255;
      `movement` (T - 1, 14, 14): change of each cell from frame to frame, plus the part that is reversed;
      `saliency`: mean of the spectral residual map; `attention` (14, 14), sums to 1;
      `colors` (640,), `edges` (8,): histograms;
      `brightness`, `sharpness`, `uniformity` in 0-1; `dissolve`: distance of the middle frame from the mean of the
      first and the last, relative to their difference: 0 within a dissolve, 1 if there is none.
    """
    gray = cv2.cvtColor(_strip(np.ascontiguousarray(clip)), cv2.COLOR_RGB2GRAY).reshape(clip.shape[:3])
    middle = len(clip) // 2
    change, turn = _change(gray)
    residual = _spectral_residual(gray[[0, middle, len(gray) - 1]]).mean(axis=0)
    length, over_time, around = _flow(gray)
    strength, angle = _gradients(gray[middle])
    return {
        "flow_length": length.astype(np.float32),
        "flow_entropy": over_time.astype(np.float16),
        "flow_entropy_around": around.astype(np.float16),
        **_movement(change.astype(np.float16), turn.astype(np.float16)),
        "saliency": np.asarray(residual.mean(), np.float32),
        "attention": _attention(residual, change),
        "colors": _colors(clip[middle]),
        "edges": _edges(strength, angle),
        "brightness": np.asarray(cv2.mean(_strip(gray))[0] / 255, np.float32),
        "sharpness": np.asarray(strength.mean(), np.float32),
        "uniformity": np.asarray(_uniformity(gray[middle]), np.float32),
        "dissolve": np.asarray(_dissolve(gray), np.float32),
    }


def _strip(pictures: np.ndarray) -> np.ndarray:
    """(T, H, W, ...) to (T * H, W, ...): stacks pictures vertically, so that OpenCV needs a single call."""
    return pictures.reshape(-1, *pictures.shape[2:])


def _cells(pictures: np.ndarray) -> np.ndarray:
    """(T, H, W) to (T, 14, 14): the mean over each cell."""
    cells = cv2.resize(_strip(pictures), (_GRID, _GRID * len(pictures)), interpolation=cv2.INTER_AREA)
    return cells.reshape(-1, _GRID, _GRID)


def _movement(change: np.ndarray, turn: np.ndarray) -> dict[str, np.ndarray]:
    cells = change.astype(np.float32).reshape(len(change), -1)
    begins = np.diff(cells, axis=0, prepend=0).max(axis=1)
    begins[0] = 0  # it began before the clip
    turns = turn.reshape(len(turn), -1).max(axis=1).astype(np.float32)
    return {"begins": begins, "turns": turns, "movement": change + turn}


def _change(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The change of each cell from frame to frame, and the part of it that the next frame reverses."""
    step, across = _difference(gray[1:], gray[:-1]), _difference(gray[2:], gray[:-2])
    turn = np.zeros_like(step)
    # Without reversal, as in steady movement, the change over two frames is the sum of both steps.
    turn[:-1] = np.maximum(step[:-1] + step[1:] - across, 0) / 2
    return step, turn


def _difference(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """(T, 14, 14) float32: the mean absolute difference in each cell, 0-255."""
    difference = cv2.absdiff(_strip(now), _strip(before))
    above = np.maximum(difference, _NOISE) - _NOISE  # in bytes, in a tenth of the time
    return _cells(above.reshape(now.shape).astype(np.float32))


def _flow(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length, entropy over time and surrounding entropy of the flow in each block, without camera motion."""
    small = [cv2.resize(frame, (_FLOW_SIZE, _FLOW_SIZE), interpolation=cv2.INTER_AREA) for frame in gray]
    starts = np.unique(np.linspace(0, len(small) - 2, _PAIRS).round().astype(int))
    nothing = np.zeros((_FLOW_SIZE, _FLOW_SIZE, 2), np.float32)
    flows = np.stack(
        [
            cv2.calcOpticalFlowFarneback(small[n], small[n + 1], nothing.copy(), 0.5, 2, 9, 2, 5, 1.1, 0)
            for n in starts.tolist()
        ]
    )
    flows = np.ascontiguousarray(flows.transpose(3, 0, 1, 2)).reshape(2, len(flows), -1)
    flows -= np.median(flows, axis=2, keepdims=True)  # subtract camera motion, which most of the picture shares
    length, angle = cv2.cartToPolar(*flows)
    length[length < _STILL] = 0
    direction = _sector(angle, _DIRECTIONS)
    along = np.arange(_FLOW_SIZE) * _BLOCKS // _FLOW_SIZE
    block = (along[:, None] * _BLOCKS + along).ravel()
    bins = (direction * _BLOCKS**2 + block).ravel()
    histogram = np.bincount(bins, length.ravel(), minlength=_DIRECTIONS * _BLOCKS**2)
    histogram = histogram.reshape(_DIRECTIONS, _BLOCKS, _BLOCKS)
    mean = histogram.sum(axis=0) * _BLOCKS**2 / length.size
    around = np.stack([cv2.blur(each, (3, 3)) for each in histogram])
    return mean.ravel(), _entropy(histogram).ravel(), _entropy(around).ravel()


def _entropy(histogram: np.ndarray) -> np.ndarray:
    """Entropy over the directions, the first axis: 0 for one direction or none, 1 for a uniform distribution."""
    total = histogram.sum(axis=0)
    share = histogram / np.maximum(total, 1e-12)
    return -(share * np.log(np.maximum(share, 1e-12))).sum(axis=0) / np.log(_DIRECTIONS) * (total > 0)


def _spectral_residual(gray: np.ndarray) -> np.ndarray:
    """Hou and Zhang's saliency maps, (T, 64, 64) float32, of pictures normalized to equal contrast."""
    size = (_RESIDUAL_SIZE, _RESIDUAL_SIZE)
    small = np.stack([cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in gray]).astype(np.float32)
    small -= small.mean(axis=(1, 2), keepdims=True)
    spread = small.std(axis=(1, 2), keepdims=True)
    plain = spread < 1  # of 255: a uniform picture
    spectrum = scipy.fft.fft2(small / np.where(plain, np.inf, spread))
    log = np.log(np.abs(spectrum) + 1e-3)
    around = np.stack([_blurred_around(each) for each in log])
    # exp(residual + i phase) is the spectrum over the exponential of the average of its logarithm.
    saliency = np.square(np.abs(scipy.fft.ifft2(spectrum * np.exp(-around))))
    return np.stack([cv2.GaussianBlur(each, (0, 0), 2.5) for each in saliency])


def _blurred_around(spectrum: np.ndarray) -> np.ndarray:
    """The mean over 3 x 3 values, with periodic boundaries, as a spectrum has."""
    return cv2.blur(cv2.copyMakeBorder(spectrum, 1, 1, 1, 1, cv2.BORDER_WRAP), (3, 3))[1:-1, 1:-1]


def _attention(residual: np.ndarray, change: np.ndarray) -> np.ndarray:
    still = cv2.resize(residual, (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    maps = [each / each.sum() for each in (still, change.mean(axis=0)) if each.sum() > 1e-9]
    both = np.mean(maps, axis=0) if maps else np.full((_GRID, _GRID), 1.0)
    return (both / both.sum()).astype(np.float16)


def _colors(frame: np.ndarray) -> np.ndarray:
    """Color histograms of the picture and its quarters, as square roots of shares."""
    red, green, blue = (frame[..., channel] // (256 // bins) for channel, bins in enumerate(_COLOR_BINS))
    color = (red * _COLOR_BINS[1] + green) * _COLOR_BINS[2] + blue  # below 128: it fits in a byte
    lower, right = (np.arange(size) >= size // 2 for size in color.shape)
    place = (2 * lower[:, None] + right) * int(np.prod(_COLOR_BINS)) + color
    counts = np.bincount(place.ravel(), minlength=4 * int(np.prod(_COLOR_BINS))).reshape(4, -1)
    parts = np.concatenate([counts.sum(axis=0, keepdims=True), counts])
    return np.sqrt(parts / parts.sum(axis=1, keepdims=True)).astype(np.float16).ravel()


def _gradients(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strength and angle, 0 to 2 pi, of the brightness gradient; brightness is in 0-1."""
    across, down = (cv2.Sobel(gray, cv2.CV_32F, *order, scale=1 / 255) for order in ((1, 0), (0, 1)))
    return cv2.cartToPolar(across, down)


def _sector(angle: np.ndarray, sectors: int) -> np.ndarray:
    """The index of the sector, of `sectors` equal ones, that each angle (0 to 2 pi) lies in."""
    return (angle * (sectors / (2 * np.pi))).astype(int) % sectors


def _edges(strength: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Histogram of edge directions modulo pi, as square roots of shares."""
    direction = _sector(angle, 2 * _DIRECTIONS) % _DIRECTIONS
    weight = np.bincount(direction.ravel(), strength.ravel(), minlength=_DIRECTIONS)
    return np.sqrt(weight / max(weight.sum(), 1e-9)).astype(np.float16)


def _uniformity(gray: np.ndarray) -> float:
    """The share of the picture in its 5% most frequent shades, 6 of 128."""
    counts = np.sort(np.bincount(gray.ravel() // 2, minlength=128))[::-1]
    return float(counts[:6].sum() / gray.size)


def _dissolve(gray: np.ndarray) -> float:
    """Distance of the middle frame from the mean of the first and the last, relative to their difference; at most 1."""
    first, middle, last = (gray[index].astype(np.float32) for index in (0, len(gray) // 2, len(gray) - 1))
    difference = float(np.abs(last - first).mean())
    if difference < 8:  # of 255: no dissolve, or one that takes seconds
        return 1.0
    place = (len(gray) // 2) / (len(gray) - 1)
    return min(float(np.abs(middle - (first + place * (last - first))).mean()) / difference / 0.5, 1.0)
