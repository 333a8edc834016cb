"""The structs of csrc/kernels.h and of the launch plans, for ctypes, and how tensors get into them."""

import ctypes
from ctypes import c_bool, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint, c_void_p

import torch
from torch import Tensor

STORAGE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Map(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("stride", c_int64 * 4)]

    @classmethod
    def of(cls, tensor: Tensor | None) -> "Map":
        return map_of(tensor)


class LocalShape(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in "batch heads head_dim value_dim height width window".split()),
        ("mask", c_bool),
        ("scale", c_double),
        ("storage", c_int),
    ]


class LocalForward(ctypes.Structure):
    _fields_ = [
        ("shape", LocalShape),
        *((name, Map) for name in ("query", "key", "value")),
        *((name, c_void_p) for name in ("rel_row", "rel_col")),
        ("output", Map),
        ("logsumexp", c_void_p),
        ("pool", c_int64),
        *((name, c_void_p) for name in ("gain", "shift")),
        ("relu", c_bool),
    ]


class LocalBackward(ctypes.Structure):
    _fields_ = [
        ("shape", LocalShape),
        *((name, Map) for name in ("grad_output", "query", "key", "value")),
        *((name, c_void_p) for name in ("rel_row", "rel_col", "logsumexp")),
        *((name, Map) for name in ("grad_query", "grad_key", "grad_value")),
        *((name, c_void_p) for name in ("grad_row", "grad_col")),
    ]


class LocalTiling(ctypes.Structure):
    _fields_ = [(name, c_int) for name in "tiles_x tiles_y head_groups chunks tiles_of_chunk".split()]


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
        *((name, c_void_p) for name in ("w_query", "w_key", "w_value", "rel_row", "rel_col")),
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
        *((name, c_void_p) for name in ("w_query", "w_key", "w_value", "rel_row", "rel_col")),
        *((name, Map) for name in ("value", "grad_output", "grad_extreme", "position")),
        ("grad_sums", c_void_p),
        *((name, Map) for name in ("grad_image", "grad_value")),
        *((name, c_void_p) for name in ("grad_w_query", "grad_w_key", "grad_w_value", "grad_row", "grad_col")),
    ]


class Define(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("value", c_int)]


class Launch(ctypes.Structure):
    _fields_ = [
        ("source", c_char_p),
        ("kernel", c_char_p),
        ("defines", Define * 12),
        ("define_count", c_int),
        ("grid", c_uint * 3),
        ("threads", c_uint),
        ("shared", c_size_t),
    ]

    def variant(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.values().items())

    def values(self) -> dict[str, int]:
        """The macros."""
        return {d.name.decode(): d.value for d in self.defines[: self.define_count]}


class PlainWorkspace(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("delta", "rows", "columns")]


class PlainPlan(ctypes.Structure):
    _fields_ = [("queries", Launch), ("keys", Launch), ("parts", c_int64), ("delta_elements", c_int64)]


class SumParts(ctypes.Structure):
    _fields_ = [("parts", c_void_p), ("total", c_void_p), ("number", c_int64), ("count", c_int64)]


def map_of(tensor: Tensor | None) -> Map:
    """A (B, C, H, W) tensor as the kernels take it."""
    if tensor is None:
        return Map()
    return Map(tensor.data_ptr(), (c_int64 * 4)(*tensor.stride()))


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
