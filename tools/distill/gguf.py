"""Reading and writing GGUF v3 (F32, F16, Q8_0) with numpy alone."""
import struct

import numpy as np

MAGIC, VERSION, ALIGNMENT = 0x46554747, 3, 32
F32, F16, Q8_0 = 0, 1, 8
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?", 10: "<Q", 11: "<q",
           12: "<d"}


def quantize_q8_0(x):
    """(rows, cols) -> raw blocks of 32: float16 scale, 32 int8."""
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(1) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse[:, None]
    q = (np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(0.5))).astype(np.int8)  # roundf: halves away from zero
    out = np.empty(len(blocks), [("d", "<f2"), ("q", "i1", 32)])
    out["d"], out["q"] = scale.astype(np.float16), q
    return out.tobytes()


def dequantize_q8_0(raw, count):
    blocks = np.frombuffer(raw, [("d", "<f2"), ("q", "i1", 32)], count // 32)
    return (blocks["q"].astype(np.float32) * blocks["d"].astype(np.float32)[:, None]).reshape(-1)


def _string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind, value):
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        inner, values = value
        return struct.pack("<IQ", inner, len(values)) + b"".join(_value(inner, v) for v in values)
    return struct.pack(SCALARS[kind], value)


ENCODERS = {
    F32: lambda x: np.ascontiguousarray(x, "<f4").tobytes(),
    F16: lambda x: np.ascontiguousarray(x, "<f2").tobytes(),
    Q8_0: quantize_q8_0,
}


def _padding(size):
    return b"\0" * (-size % ALIGNMENT)


def write(path, metadata, tensors):
    """metadata: [(key, kind, value)]; tensors: [(name, array, type)]."""
    head = [struct.pack("<IIQQ", MAGIC, VERSION, len(tensors), len(metadata))]
    head += [_string(key) + struct.pack("<I", kind) + _value(kind, value) for key, kind, value in metadata]
    blobs, offset = [], 0
    for name, array, kind in tensors:
        raw = ENCODERS[kind](array)
        shape = array.shape[::-1]
        head.append(_string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
                    + struct.pack("<IQ", kind, offset))
        raw += _padding(len(raw))
        blobs.append(raw)
        offset += len(raw)
    header = b"".join(head)
    with open(path, "wb") as file:
        file.write(header + _padding(len(header)))
        for raw in blobs:
            file.write(raw)


class _Reader:
    def __init__(self, raw):
        self.raw, self.at = raw, 0

    def scalar(self, kind):
        form = SCALARS[kind]
        (value,) = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self):
        size = self.scalar(10)
        self.at += size
        return self.raw[self.at - size:self.at].decode()

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            inner, count = self.scalar(UINT32), self.scalar(10)
            return [self.value(inner) for _ in range(count)]
        return self.scalar(kind)


def _decoded(raw, kind, count):
    if kind == Q8_0:
        return dequantize_q8_0(raw, count)
    return np.frombuffer(raw, "<f4" if kind == F32 else "<f2", count).astype(np.float32)


def read(path):
    """(metadata dict, {name: float32 array}, {name: type})."""
    with open(path, "rb") as file:
        raw = file.read()
    reader = _Reader(raw)
    magic, version = reader.scalar(UINT32), reader.scalar(UINT32)
    if magic != MAGIC or version != VERSION:
        raise ValueError(f"{path}: not GGUF v{VERSION}")
    n_tensors, n_keys = reader.scalar(10), reader.scalar(10)
    metadata = {}
    for _ in range(n_keys):
        key = reader.string()
        metadata[key] = reader.value(reader.scalar(UINT32))
    infos = []
    for _ in range(n_tensors):
        name, dims = reader.string(), reader.scalar(UINT32)
        shape = [reader.scalar(10) for _ in range(dims)][::-1]
        infos.append((name, shape, reader.scalar(UINT32), reader.scalar(10)))
    base = reader.at + (-reader.at % ALIGNMENT)
    tensors = {name: _decoded(raw[base + offset:], kind, int(np.prod(shape))).reshape(shape)
               for name, shape, kind, offset in infos}
    return metadata, tensors, {name: kind for name, _, kind, _ in infos}
