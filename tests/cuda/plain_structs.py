"""Structs of the plain kernels and of block attention, field by field: csrc/kernels.h, workspaces.h and the plans."""

import ctypes
from ctypes import c_double, c_int, c_int64, c_void_p

from cuda.structs import Launch, Map


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
