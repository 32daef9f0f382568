"""Reads the tensors of a GGUF file as float32 (F32, F16, Q8_0, Q4_1), in Hugging Face's row order.

The layout is ggml's: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct

import numpy as np

_SCALARS = {0: '<B', 1: '<b', 2: '<H', 3: '<h', 4: '<I', 5: '<i', 6: '<f', 7: '<?', 10: '<Q', 11: '<q', 12: '<d'}
_STRING, _ARRAY = 8, 9


def read_gguf(path) -> tuple[dict, dict[str, np.ndarray]]:
    """Returns (metadata, tensors by GGUF name). Raises ValueError for a file or tensor type it cannot read."""
    data = np.memmap(path, dtype=np.uint8, mode='r')
    position = 4

    def scalar(fmt):
        nonlocal position
        size = struct.calcsize(fmt)
        (value,) = struct.unpack(fmt, data[position : position + size].tobytes())
        position += size
        return value

    def string():
        nonlocal position
        size = scalar('<Q')
        value = data[position : position + size].tobytes().decode('utf8', 'replace')
        position += size
        return value

    def value(kind):
        if kind == _STRING:
            return string()
        if kind == _ARRAY:
            kind, count = scalar('<I'), scalar('<Q')
            return [value(kind) for _ in range(count)]
        return scalar(_SCALARS[kind])

    if data[:4].tobytes() != b'GGUF':
        raise ValueError(f'{path} is not a GGUF file')
    scalar('<I')
    tensor_count, pair_count = scalar('<Q'), scalar('<Q')
    metadata = {}
    for _ in range(pair_count):
        key = string()
        metadata[key] = value(scalar('<I'))
    infos = []
    for _ in range(tensor_count):
        name = string()
        dims = [scalar('<Q') for _ in range(scalar('<I'))]
        infos.append((name, dims[::-1], scalar('<I'), scalar('<Q')))
    alignment = metadata.get('general.alignment', 32)
    base = (position + alignment - 1) // alignment * alignment
    return metadata, {n: _dequantize(data, base + off, shape, kind, n) for n, shape, kind, off in infos}


def _dequantize(data, start, shape, kind, name):
    count = int(np.prod(shape))
    half = lambda raw: raw.copy().view('<f2').astype('f4')  # noqa: E731
    if kind == 0:
        flat = data[start : start + 4 * count].view('<f4').copy()
    elif kind == 1:
        flat = data[start : start + 2 * count].view('<f2').astype('f4')
    elif kind == 8:  # Q8_0: f16 scale, 32 int8
        rows = data[start : start + count // 32 * 34].reshape(-1, 34)
        flat = (rows[:, 2:].copy().view('i1').astype('f4') * half(rows[:, :2])).ravel()
    elif kind == 3:  # Q4_1: f16 scale, f16 minimum, 32 nibbles, low nibbles first
        rows = data[start : start + count // 32 * 20].reshape(-1, 20)
        codes = np.concatenate([rows[:, 4:] & 15, rows[:, 4:] >> 4], 1).astype('f4')
        flat = (codes * half(rows[:, :2]) + half(rows[:, 2:4])).ravel()
    else:
        raise ValueError(f'tensor {name} has GGUF type {kind}; only F32, F16, Q8_0 and Q4_1 are read here')
    return flat.reshape(shape)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Undoes llama.cpp's reordering of q/k rows (interleaved RoPE pairs -> rotate-half), weight [heads * dim, in]."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
