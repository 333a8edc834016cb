"""Properties that follow from Eq. 3 for any numbers: locality, independence, symmetry. No reference is needed."""

import pytest
import torch

from helpers import (
    HERE,
    WITHOUT_KERNELS,
    assert_close,
    backend_params,
    block_inputs,
    local_inputs,
    normal,
    skip_unless_it_runs,
)
from sasa.ops import block_attention, local_attention, reference
from sasa.ops.arguments import LocalOptions

PADDING = pytest.mark.parametrize("padding", ["zeros", "mask"])
HEADS, HEAD_DIM, KERNEL = 3, 4, 3
SHAPE = (2, HEADS, HEAD_DIM, HEAD_DIM, 8, 7, KERNEL)


@pytest.fixture(params=backend_params(*HERE, "auto"))
def backend(request):
    """The name of each back-end that runs on a float64 map of the CPU."""
    skip_unless_it_runs(request.param, normal(1, 1, 1, 1))
    return request.param


@pytest.fixture
def attend(backend):
    """`local_attention` by each back-end."""

    def function(*tensors, kernel_size=KERNEL, num_heads=HEADS, **options):
        content = tensors[1] is not None
        return local_attention(
            *tensors, kernel_size=kernel_size, num_heads=num_heads, content=content, backend=backend, **options
        )

    return function


def changed_heads(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Heads with at least one differing channel."""
    different = (before != after).unflatten(1, (HEADS, -1)).flatten(3).any(-1).any(2).any(0)
    return different.nonzero().flatten().tolist()


@PADDING
def test_a_shifted_image_gives_a_shifted_result(attend, padding):
    """In the interior, where no window reaches the border before or after."""
    large = local_inputs(1, HEADS, HEAD_DIM, HEAD_DIM, 13, 12, KERNEL)
    here = [t[..., 0:9, 0:8] for t in large[:3]]
    there = [t[..., 3:12, 2:10] for t in large[:3]]
    first = attend(*here, *large[3:], padding=padding)
    second = attend(*there, *large[3:], padding=padding)
    assert_close(first[..., 4:8, 3:7], second[..., 1:5, 1:5], 1e-13)


@PADDING
@pytest.mark.parametrize("head", range(HEADS))
@pytest.mark.parametrize("which", range(5), ids=["query", "key", "value", "rel_row", "rel_col"])
def test_a_change_in_one_head_stays_in_its_channels(attend, which, head, padding):
    tensors = local_inputs(*SHAPE)
    before = attend(*tensors, padding=padding)
    other = tensors[which].clone()
    if which < 3:
        other[:, head * HEAD_DIM : (head + 1) * HEAD_DIM] += 0.5 * normal(2, HEAD_DIM, 8, 7, seed=7)
    else:
        other[head] += 0.5 * normal(KERNEL, HEAD_DIM // 2, seed=7)
    tensors[which] = other
    assert changed_heads(before, attend(*tensors, padding=padding)) == [head]


def test_every_head_sees_rows_and_columns(attend):
    """Every head, offset and channel of rel_row and rel_col has a gradient."""
    tensors = local_inputs(*SHAPE)
    for rel in tensors[3:]:
        rel.requires_grad_()
    (attend(*tensors) * normal(2, HEADS * HEAD_DIM, 8, 7, seed=5)).sum().backward()
    for rel in tensors[3:]:
        assert (rel.grad.abs() > 1e-6).all()


@pytest.mark.parametrize("which", [3, 4], ids=["rel_row", "rel_col"])
def test_the_order_of_offsets_matters_to_every_head(attend, which):
    tensors = local_inputs(*SHAPE)
    before = attend(*tensors)
    tensors[which] = tensors[which].flip(1)
    assert changed_heads(before, attend(*tensors)) == list(range(HEADS))


@pytest.mark.parametrize(("which", "axis"), [(3, 2), (4, 3)], ids=["rel_row", "rel_col"])
def test_rows_are_rows_and_columns_are_columns(attend, which, axis):
    """An embedding that prefers offset +1 of one axis moves the image by one along that axis and no other."""
    query = torch.ones(1, 2, 6, 5, dtype=torch.float64)
    value = normal(1, 2, 6, 5)
    rel = [torch.zeros(1, 3, 1, dtype=torch.float64), torch.zeros(1, 3, 1, dtype=torch.float64)]
    for r in rel:
        r[0, 1] = 100.0  # both prefer the centre,
    rel[which - 3][0, 2] = 200.0  # but one of them the next
    got = attend(query, None, value, *rel, num_heads=1, padding="zeros")
    want = torch.zeros_like(value)
    length = value.shape[axis]
    want.narrow(axis, 0, length - 1).copy_(value.narrow(axis, 1, length - 1))
    assert_close(got, want)


def test_mask_and_zeros_differ_at_borders_only(attend):
    tensors = local_inputs(*SHAPE)
    different = (attend(*tensors, padding="zeros") - attend(*tensors, padding="mask")).abs()
    inside = torch.zeros(8, 7, dtype=torch.bool)
    inside[1:-1, 1:-1] = True
    assert (different[..., inside] < 1e-14).all()
    assert (different[..., ~inside] > 1e-9).all()


def test_weights_sum_to_one(attend):
    """A constant value is returned: everywhere with mask, in the interior with zeros, and smaller at the borders."""
    query, key, value, *rel = local_inputs(*SHAPE)
    value = torch.ones_like(value)
    assert_close(attend(query, key, value, *rel, padding="mask"), value, 1e-14)
    got = attend(query, key, value, *rel, padding="zeros")
    assert_close(got[..., 1:-1, 1:-1], value[..., 1:-1, 1:-1], 1e-14)
    border = torch.cat([got[..., 0, :], got[..., -1, :], got[..., 0], got[..., -1]], dim=-1)
    assert (border < 0.999).all()
    assert (border > 0).all()


@WITHOUT_KERNELS
@PADDING
def test_reference_weights_sum_to_one(padding):
    query, key, _, *rel = local_inputs(*SHAPE)
    weights = reference.attention_weights(query, key, *rel, LocalOptions(KERNEL, HEADS, padding, 1.0))
    assert weights.shape == (2, HEADS, KERNEL, KERNEL, 8, 7)
    assert (weights >= 0).all()
    assert_close(weights.sum((2, 3)), torch.ones(2, HEADS, 8, 7))
    outside = weights[:, :, 0, :, 0].abs().sum() + weights[:, :, :, 0, :, 0].abs().sum()
    assert (outside == 0) == (padding == "mask")


@PADDING
@pytest.mark.parametrize("pixel", [(4, 3), (0, 0), (7, 5)])
def test_a_pixel_depends_on_its_window_and_on_nothing_else(attend, pixel, padding):
    i, j = pixel
    tensors = [t.requires_grad_() for t in local_inputs(*SHAPE)]
    attend(*tensors, padding=padding)[:, :, i, j].sum().backward()
    window = torch.zeros(8, 7, dtype=torch.bool)
    window[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2] = True
    alone = torch.zeros(8, 7, dtype=torch.bool)
    alone[i, j] = True
    for tensor, place in zip(tensors[:3], (alone, window, window), strict=True):
        reached = tensor.grad.abs().amax((0, 1))
        assert (reached[place] > 1e-9).all()
        assert (reached[~place] == 0).all()


@PADDING
def test_a_transposed_image_gives_the_transposed_result(attend, padding):
    """With rows and columns of r exchanged, and the corresponding halves of q and k."""
    query, key, value, rel_row, rel_col = local_inputs(*SHAPE)

    def swap(t):
        first, second = t.unflatten(1, (HEADS, HEAD_DIM)).chunk(2, dim=2)
        return torch.cat([second, first], dim=2).flatten(1, 2).mT

    got = attend(swap(query), swap(key), value.mT, rel_col, rel_row, padding=padding)
    assert_close(got.mT, attend(query, key, value, rel_row, rel_col, padding=padding), 1e-13)


@PADDING
def test_without_content_is_a_key_of_zeros(attend, padding):
    query, key, value, *rel = local_inputs(*SHAPE)
    got = attend(query, None, value, *rel, padding=padding)
    assert_close(got, attend(query, torch.zeros_like(key), value, *rel, padding=padding), 1e-13)


@PADDING
def test_without_relative_positions_is_embeddings_of_zeros(attend, padding):
    query, key, value, *rel = local_inputs(*SHAPE)
    got = attend(query, key, value, None, None, padding=padding)
    assert_close(got, attend(query, key, value, *[torch.zeros_like(r) for r in rel], padding=padding), 1e-13)


def test_scale_multiplies_the_logits(attend):
    query, *rest = local_inputs(*SHAPE)
    assert_close(attend(query, *rest, scale=0.3), attend(0.3 * query, *rest), 1e-13)


@PADDING
def test_scale_zero_is_the_mean_of_the_values(attend, padding):
    """With zeros, positions outside count as zero vectors; with mask they do not count."""
    tensors = local_inputs(*SHAPE)
    mean = torch.nn.functional.avg_pool2d(tensors[2], KERNEL, 1, KERNEL // 2, count_include_pad=padding == "zeros")
    assert_close(attend(*tensors, scale=0.0, padding=padding), mean, 1e-13)


def test_a_window_of_one_pixel_under_mask_returns_the_values(attend):
    query, key, value, *_ = local_inputs(*SHAPE)
    rel = [normal(HEADS, 1, HEAD_DIM // 2), normal(HEADS, 1, HEAD_DIM // 2)]
    for padding in ("zeros", "mask"):
        assert_close(attend(query, key, value, *rel, kernel_size=1, padding=padding), value, 1e-14)


def test_images_of_a_batch_do_not_mix(attend):
    tensors = local_inputs(*SHAPE)
    alone = [attend(*[t[b : b + 1] for t in tensors[:3]], *tensors[3:]) for b in range(2)]
    assert_close(attend(*tensors), torch.cat(alone), 1e-14)


# ------------------------------------------------------------------------------------------------ block_attention


def attend_blocks(tensors, backend, **changes):
    image, w_query, w_key, w_value, rel_row, rel_col, value = tensors
    options = {"block_size": 4, "num_heads": 2, "content": w_key is not None, "backend": backend, **changes}
    return block_attention(image, w_query, w_key, w_value, rel_row, rel_col, value=value, **options)


BLOCKS = (2, 3, 2, 4, 4, 8, 12, 4)


def test_a_pixel_depends_on_its_block_and_on_nothing_else(backend):
    tensors = block_inputs(2, 3, 2, 4, 4, 7, 10, 4)
    tensors[0].requires_grad_()
    attend_blocks(tensors, backend)[:, :, 5, 9].sum().backward()
    block = torch.zeros(7, 10, dtype=torch.bool)
    block[4:7, 8:10] = True
    reached = tensors[0].grad.abs().amax((0, 1))
    assert (reached[block] > 1e-9).all()
    assert (reached[~block] == 0).all()


def test_shifts_by_whole_blocks_shift_the_result(backend):
    tensors = block_inputs(*BLOCKS)
    want = attend_blocks(tensors, backend).roll((4, 8), (2, 3))
    tensors[0] = tensors[0].roll((4, 8), (2, 3))
    assert_close(attend_blocks(tensors, backend), want, 1e-14)


def test_pixels_beyond_the_image_are_not_keys(backend):
    """Cropping an image to whole blocks does not change the output of those blocks."""
    tensors = block_inputs(*BLOCKS)
    whole = attend_blocks(tensors, backend)
    tensors[0] = tensors[0][:, :, :7, :11]
    cut = attend_blocks(tensors, backend)
    assert_close(cut[:, :, :4, :8], whole[:, :, :4, :8], 1e-14)
    ones = torch.full_like(cut, 3.0)
    constant = [*tensors[:3], None, *tensors[4:6], ones]
    assert_close(attend_blocks(constant, backend), ones, 1e-14)


def test_scale_zero_is_the_mean_of_a_block(backend):
    tensors = block_inputs(*BLOCKS, values="map")
    mean = torch.nn.functional.avg_pool2d(tensors[6], 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert_close(attend_blocks(tensors, backend, scale=0.0), mean, 1e-13)


@pytest.mark.parametrize("which", [1, 2, 4, 5], ids=["w_query", "w_key", "rel_row", "rel_col"])
def test_a_change_in_one_head_of_a_block_stays_in_its_channels(backend, which):
    tensors = block_inputs(*BLOCKS)
    before = attend_blocks(tensors, backend)
    other = tensors[which].clone()
    if which < 3:
        other[4:] += normal(4, 3, seed=7)
    else:
        other[1] += normal(7, 2, seed=7)
    tensors[which] = other
    after = attend_blocks(tensors, backend)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).any(-1).all()
