"""The 8 x 8 lowest frequencies of thumbnails: perceptual hashes of rotated images and of crops, and likeness of crops.

A hash is the sign, relative to their median, of the 63 lowest frequencies of the cosine transform of a thumbnail's luma
(pHash: Zauner 2010, section 3.2.1). Rotating an image exchanges its rows' and columns' frequencies, or changes their
signs, so the hashes of all orientations come from one transform. The hashes of a part of an image also come from the
thumbnail: interpolation blurs it, but hardly at these frequencies.

Shape letters: N images, P pairs, W = THUMB.
"""

from itertools import product

import numpy as np

from kerazoo.pipelines.checks.inspection import THUMB, chunks

AT_ONCE = 4096  # thumbnails
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# rows of the discrete cosine transform (II) of 16 samples, frequencies 0 to 7
_COSINES = np.cos(np.pi / THUMB * (np.arange(THUMB) + 0.5) * np.arange(8)[:, None]).astype(np.float32)
# factors that make their lengths 1, for rows and columns together
_LENGTHS = np.kron(*[1 / np.linalg.norm(_COSINES, axis=1)] * 2).astype(np.float32)
_FLIP = (-1.0) ** np.arange(8, dtype=np.float32)  # the effect of mirroring on the frequencies
# (rows and columns exchanged, rows reversed, columns reversed): the orientation in words
TURNS = {
    (False, False, False): "",
    (False, False, True): "mirrored",
    (False, True, True): "turned by 180 degrees",
    (True, False, True): "turned by 90 degrees",
    (True, True, False): "turned by 270 degrees",
    (False, True, False): "mirrored and turned by 180 degrees",
    (True, False, False): "mirrored and turned by 270 degrees",
    (True, True, True): "mirrored and turned by 90 degrees",
}
CORNER = 0.05  # share of width and height that is cut off for the hashes of crops
CUTS = (0.05, 0.1)  # shares that are cut off to compare pairs
PLACES = (0.0, 0.5, 1.0)  # positions of a crop: the part of the cut that is at the top, or at the left


def hashes_of_turns(thumbs: np.ndarray) -> np.ndarray:
    """(N, W, W, 3) -> (8, N) uint64: the hashes of the thumbnails in each orientation of TURNS."""
    hashes = np.empty((len(TURNS), len(thumbs)), np.uint64)
    for part in chunks(len(thumbs), AT_ONCE):
        waves = _COSINES @ (thumbs[part] @ LUMA) @ _COSINES.T
        for turn, (exchanged, rows, columns) in enumerate(TURNS):
            turned = waves.transpose(0, 2, 1) if exchanged else waves
            hashes[turn, part] = _hashed(turned * (_FLIP[:, None] if rows else 1) * (_FLIP if columns else 1))
    return hashes


def hashes_of_corners(thumbs: np.ndarray) -> np.ndarray:
    """(N, W, W, 3) -> (4, N) uint64: the hashes of the crops that keep each corner."""
    windows = [_window(CORNER, top, left) for top, left in product((0.0, 1.0), repeat=2)]
    hashes = np.empty((len(windows), len(thumbs)), np.uint64)
    for part in chunks(len(thumbs), AT_ONCE):
        luma = (thumbs[part] @ LUMA).reshape(-1, THUMB**2)
        for corner, window in enumerate(windows):
            hashes[corner, part] = _hashed(luma @ window)
    return hashes


def likeness_of_crops(thumbs: np.ndarray, wholes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(P,) the likeness of the best crop of thumbs[wholes] to thumbs[parts], in [-1, 1].

    It is the larger correlation of their lowest frequencies, in color and in gray. Both thumbnails are interpolated, so
    that they lose the same detail.
    """
    windows = [_window(cut, top, left) for cut in CUTS for top, left in product(PLACES, repeat=2)]
    values = np.full(len(wholes), -1, np.float32)
    for some in chunks(len(wholes), AT_ONCE):
        whole, part = (_channels(thumbs[index[some]]) for index in (wholes, parts))
        b = _leveled(part @ _window(0, 0, 0))
        for window in windows:
            values[some] = np.maximum(values[some], _likeness(_leveled(whole @ window), b))
    return values


def ranks_of_crops(thumbs: np.ndarray, wholes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(P,) the rank correlation of the best crop of thumbs[wholes] with thumbs[parts], in [-1, 1].

    It is Spearman's correlation of the gray pixels that the lowest frequencies give. The same bright shape on different
    noise gives a high likeness, but the ranks of the background differ.
    """
    grey = (thumbs @ LUMA).reshape(-1, THUMB**2)
    b = _ranks(grey[parts] @ _window(0, 0, 0))
    values = np.full(len(wholes), -1, np.float32)
    for cut, (top, left) in product(CUTS, product(PLACES, repeat=2)):
        values = np.maximum(values, _cosine(_ranks(grey[wholes] @ _window(cut, top, left)), b))
    return values


def _ranks(waves: np.ndarray) -> np.ndarray:
    """(P, 64) frequencies -> (P, W * W) ranks of the pixels that they give, with mean 0."""
    from scipy.stats import rankdata

    pixels = _COSINES.T @ (waves * _LENGTHS**2).reshape(-1, 8, 8) @ _COSINES
    ranks: np.ndarray = rankdata(pixels.reshape(len(waves), THUMB**2), axis=1) - (THUMB**2 + 1) / 2
    return ranks


def _hashed(waves: np.ndarray) -> np.ndarray:
    """(N, 64) or (N, 8, 8) frequencies -> (N,) uint64 hashes."""
    values = waves.reshape(len(waves), 64)[:, 1:]  # without the mean
    bits = np.zeros((len(waves), 64), bool)
    bits[:, :63] = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _window(cut: float, top: float, left: float) -> np.ndarray:
    """(W * W, 64): the matrix that maps an image's pixels to the frequencies of a crop.

    The crop removes the share `cut` of the width and of the height; `left` and `top` are the parts of it that are
    removed at these sides.
    """
    centers = (1 - cut) * (np.arange(THUMB) + 0.5)
    sides = []
    for place in (top, left):
        at = np.clip(centers + THUMB * cut * place - 0.5, 0, THUMB - 1)
        linear = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(THUMB)))
        sides.append((_COSINES @ linear).astype(np.float32))
    window: np.ndarray = np.kron(*sides).T
    return window


def _channels(thumbs: np.ndarray) -> np.ndarray:
    """(P, W, W, 3) uint8 -> (P, 3, W * W) float32."""
    return np.ascontiguousarray(thumbs.reshape(-1, THUMB**2, 3).transpose(0, 2, 1), np.float32)


def _leveled(waves: np.ndarray) -> np.ndarray:
    """(P, 3, 64) frequencies in the scale that preserves lengths, without the mean of all pixels and channels."""
    waves = waves * _LENGTHS
    waves[:, :, 0] -= waves[:, :, 0].mean(axis=1, keepdims=True)
    return waves


def _likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) likeness of leveled frequencies (P, 3, 64): a sum over them is a sum over pixels (Parseval)."""
    grey_a, grey_b = (np.einsum("pck,c->pk", waves, LUMA)[:, 1:] for waves in (a, b))
    colors: np.ndarray = np.maximum(_cosine(a.reshape(-1, 192), b.reshape(-1, 192)), _cosine(grey_a, grey_b))
    return colors


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    cosine: np.ndarray = (a * b).sum(axis=1) / np.maximum(scale, 1e-6)
    return cosine
