"""The structs of csrc/kernels.h and csrc/cuda, field by field."""

import ctypes

import torch
from torch import Tensor

STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Map(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("stride", ctypes.c_int64 * 4)]

    @classmethod
    def of(cls, tensor: Tensor | None) -> "Map":
        return cls() if tensor is None else cls(tensor.data_ptr(), (ctypes.c_int64 * 4)(*tensor.stride()))


class LocalShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "batch heads head_dim value_dim height width window".split()),
        ("mask", ctypes.c_bool),
        ("scale", ctypes.c_double),
        ("storage", ctypes.c_int),
    ]


class LocalForward(ctypes.Structure):
    _fields_ = [
        ("shape", LocalShape),
        *((name, Map) for name in "query key value".split()),
        ("rel_row", ctypes.c_void_p),
        ("rel_col", ctypes.c_void_p),
        ("output", Map),
        ("logsumexp", ctypes.c_void_p),
        ("pool", ctypes.c_int64),
        ("gain", ctypes.c_void_p),
        ("shift", ctypes.c_void_p),
        ("relu", ctypes.c_bool),
    ]


class LocalBackward(ctypes.Structure):
    _fields_ = [
        ("shape", LocalShape),
        *((name, Map) for name in "grad_output query key value".split()),
        *((name, ctypes.c_void_p) for name in "rel_row rel_col logsumexp".split()),
        *((name, Map) for name in "grad_query grad_key grad_value".split()),
        ("grad_row", ctypes.c_void_p),
        ("grad_col", ctypes.c_void_p),
    ]


class LocalTiling(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "tiles_x tiles_y head_groups chunks tiles_of_chunk".split()]


class Define(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_int)]


class Launch(ctypes.Structure):
    _fields_ = [
        ("source", ctypes.c_char_p),
        ("kernel", ctypes.c_char_p),
        ("defines", Define * 12),
        ("define_count", ctypes.c_int),
        ("grid", ctypes.c_uint * 3),
        ("threads", ctypes.c_uint),
        ("shared", ctypes.c_size_t),
    ]

    def variant(self) -> tuple[tuple[str, int], ...]:
        return tuple((d.name.decode(), d.value) for d in self.defines[: self.define_count])


class LocalWork(ctypes.Structure):
    _fields_ = [("delta", ctypes.c_void_p), ("parts", ctypes.c_void_p)]


class LocalBackwardPlan(ctypes.Structure):
    _fields_ = [
        *((name, Launch) for name in "queries sums keys".split()),
        *((name, LocalTiling) for name in "queries_tiling keys_tiling".split()),
        *((name, ctypes.c_size_t) for name in "delta_bytes parts_bytes".split()),
    ]
