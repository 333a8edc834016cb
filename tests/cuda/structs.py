"""The structs of csrc/kernels.h and csrc/cuda, field by field, and addresses of tensors."""

import ctypes
from ctypes import c_double, c_int, c_int64, c_size_t, c_uint, c_void_p

import torch
from torch import Tensor

STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Map(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("stride", c_int64 * 4)]

    @classmethod
    def of(cls, tensor: Tensor | None) -> "Map":
        return cls() if tensor is None else cls(tensor.data_ptr(), (c_int64 * 4)(*tensor.stride()))


class LocalShape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in "batch heads head_dim value_dim height width window".split()),
        ("mask", ctypes.c_bool),
        ("scale", c_double),
        ("storage", c_int),
    ]


class LocalForward(ctypes.Structure):
    _fields_ = [
        ("shape", LocalShape),
        *((name, Map) for name in "query key value".split()),
        ("rel_row", c_void_p),
        ("rel_col", c_void_p),
        ("output", Map),
        ("logsumexp", c_void_p),
        ("pool", c_int64),
        ("gain", c_void_p),
        ("shift", c_void_p),
        ("relu", ctypes.c_bool),
    ]


class LocalBackward(ctypes.Structure):
    _fields_ = [
        ("shape", LocalShape),
        *((name, Map) for name in "grad_output query key value".split()),
        *((name, c_void_p) for name in "rel_row rel_col logsumexp".split()),
        *((name, Map) for name in "grad_query grad_key grad_value".split()),
        ("grad_row", c_void_p),
        ("grad_col", c_void_p),
    ]


class LocalTiling(ctypes.Structure):
    _fields_ = [(name, c_int) for name in "tiles_x tiles_y head_groups chunks tiles_of_chunk".split()]


class Define(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", c_int)]


class Launch(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_char_p),
        ("kernel", ctypes.c_char_p),
        ("defines", Define * 12),
        ("define_count", c_int),
        ("grid", c_uint * 3),
        ("threads", c_uint),
        ("shared", c_size_t),
    ]

    def variant(self) -> tuple[tuple[str, int], ...]:
        return tuple((d.name.decode(), d.value) for d in self.defines[: self.define_count])


class LocalWork(ctypes.Structure):
    _fields_ = [("delta", c_void_p), ("parts", c_void_p)]


class LocalBackwardPlan(ctypes.Structure):
    _fields_ = [
        *((name, Launch) for name in "queries sums keys".split()),
        *((name, LocalTiling) for name in "queries_tiling keys_tiling".split()),
        *((name, c_size_t) for name in "delta_bytes parts_bytes".split()),
    ]


class PlainWorkspace(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in "delta rows columns".split()]


class PlainPlan(ctypes.Structure):
    _fields_ = [("queries", Launch), ("keys", Launch), ("parts", c_int64), ("delta_elements", c_int64)]


class SumParts(ctypes.Structure):
    _fields_ = [("parts", c_void_p), ("total", c_void_p), ("number", c_int64), ("count", c_int64)]


class BlockShape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in "batch channels height width heads head_dim value_dim block".split()),
        ("scale", c_double),
        ("storage", c_int),
    ]


class BlockForward(ctypes.Structure):
    _fields_ = [
        ("shape", BlockShape),
        ("image", Map),
        *((name, c_void_p) for name in "w_query w_key w_value rel_row rel_col".split()),
        ("value", Map),
        ("output", Map),
        ("logsumexp", c_void_p),
        ("extreme", Map),
        ("position", Map),
        ("sign", c_void_p),
        ("sums", c_void_p),
    ]


class BlockBackward(ctypes.Structure):
    _fields_ = [
        ("shape", BlockShape),
        ("image", Map),
        *((name, c_void_p) for name in "w_query w_key w_value rel_row rel_col".split()),
        *((name, Map) for name in "value grad_output grad_extreme position".split()),
        ("grad_sums", c_void_p),
        *((name, Map) for name in "grad_image grad_value".split()),
        *((name, c_void_p) for name in "grad_w_query grad_w_key grad_w_value grad_row grad_col".split()),
    ]


class BlockWorkspace(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in "folded sums grads total".split()]


class BlockPlan(ctypes.Structure):
    _fields_ = [
        *((name, Launch) for name in "fold attend sum unfold".split()),
        *((name, c_int64) for name in "folded_elements parts elements".split()),
    ]
