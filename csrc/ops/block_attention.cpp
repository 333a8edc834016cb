// Attention inside blocks, Eq. 7-8 (`block_attention`), and the same with its output reduced to what max pooling and
// batch norm need (`block_attention_pooled`). Schemas, fakes and gradients: src/sasa/ops/block_attention.py and
// block_pooled.py.
#include "operators.h"
#include "run.h"

namespace sasa {
namespace {

struct BlockTensors {
  const Tensor& image;
  const Tensor& w_query;
  const MaybeTensor &w_key, &w_value, &rel_row, &rel_col, &value;
  int64_t block_size, num_heads;
  double scale;
};

BlockShape block_shape(const BlockTensors& t) {
  STD_TORCH_CHECK(t.image.dim() == 4 && t.w_query.dim() == 2, "image must have 4 dimensions and w_query 2");
  STD_TORCH_CHECK(t.w_value ? !t.value && t.w_value->dim() == 3 : t.value && t.value->dim() == 4,
                  "give the values once: w_value (a matrix for each position) or value (a map)");
  const int64_t channels = t.w_query.size(0), value_channels = t.w_value ? t.w_value->size(1) : t.value->size(1);
  STD_TORCH_CHECK(t.block_size > 0, "block_size (", t.block_size, ") must be positive");
  STD_TORCH_CHECK(t.num_heads > 0 && channels % t.num_heads == 0 && value_channels % t.num_heads == 0, "channels (",
                  channels, " and ", value_channels, ") must be divisible by num_heads (", t.num_heads, ")");
  return {t.image.size(0),
          t.image.size(1),
          t.image.size(2),
          t.image.size(3),
          t.num_heads,
          channels / t.num_heads,
          value_channels / t.num_heads,
          t.block_size,
          t.scale,
          storage(t.image)};
}

Sizes block_embedding(const BlockShape& shape) { return {shape.heads, 2 * shape.block - 1, shape.head_dim / 2}; }

Sizes query_shape(const BlockShape& shape) { return {shape.batch, shape.heads, shape.height, shape.width}; }

Sizes output_shape(const BlockShape& shape) {
  return {shape.batch, shape.heads * shape.value_dim, shape.height, shape.width};
}

Sizes pooled_shape(const BlockShape& shape) {
  const int64_t block = shape.block;
  return {shape.batch, shape.heads * shape.value_dim, (shape.height + block - 1) / block,
          (shape.width + block - 1) / block};
}

struct BlockInputs {
  BlockShape shape;
  Map image, value;
  Parameter w_query, w_key, w_value, rel_row, rel_col;

  template <class Call>  // BlockForward or BlockBackward
  Call make_call() const {
    Call call = {};
    call.shape = shape;
    call.image = image, call.value = value;
    call.w_query = w_query.data(), call.w_key = w_key.data(), call.w_value = w_value.data();
    call.rel_row = rel_row.data(), call.rel_col = rel_col.data();
    return call;
  }
};

BlockInputs block_inputs(const BlockTensors& t) {
  const BlockShape shape = block_shape(t);
  const Sizes projection = {shape.heads * shape.head_dim, shape.channels};
  check_map("image", t.image, t.image, sizes(t.image));
  if (t.value) check_map("value", *t.value, t.image, output_shape(shape));
  return {shape,
          map_of(t.image),
          map_of(t.value),
          Parameter("w_query", t.w_query, t.image, projection),
          Parameter("w_key", t.w_key, t.image, projection),
          Parameter("w_value", t.w_value, t.image,
                    {shape.block * shape.block, shape.heads * shape.value_dim, shape.channels}),
          Parameter("rel_row", t.rel_row, t.image, block_embedding(shape)),
          Parameter("rel_col", t.rel_col, t.image, block_embedding(shape))};
}

// `call` has the gradients of the outputs; with `empty_output` there are none, so all results are zero. The kernel does
// not need the log-sum-exp: it computes each softmax again.
BlockGradients block_backward(BlockBackward& call, const BlockTensors& t, bool image_gradient, bool empty_output) {
  const Tensor& image = t.image;
  Tensor grad_image = image_gradient ? empty_map(image, image.size(1)) : nothing(image);
  Tensor grad_value = t.value ? empty_map(*t.value, t.value->size(1)) : nothing(image);
  if (empty_output) {
    const auto zero = [&](const MaybeTensor& parameter) { return ParameterGradient::zero(parameter, image); };
    return {torch::stable::zero_(grad_image),
            zero(t.w_query),
            zero(t.w_key),
            zero(t.w_value),
            zero(t.rel_row),
            zero(t.rel_col),
            torch::stable::zero_(grad_value)};
  }
  if (image_gradient) call.grad_image = map_of(grad_image);
  if (t.value) call.grad_value = map_of(grad_value);
  auto [w_query, w_key, w_value, rel_row, rel_col] =
      run(call, image, {t.w_query, t.w_key, t.w_value, t.rel_row, t.rel_col});
  return {grad_image, w_query, w_key, w_value, rel_row, rel_col, grad_value};
}

}  // namespace

std::tuple<Tensor, Tensor> block_attention(const Tensor& image, const Tensor& w_query, const MaybeTensor& w_key,
                                           const MaybeTensor& w_value, const MaybeTensor& rel_row,
                                           const MaybeTensor& rel_col, const MaybeTensor& value, int64_t block_size,
                                           int64_t num_heads, double scale) {
  const auto inputs =
      block_inputs({image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale});
  Tensor output = empty_map(image, inputs.shape.heads * inputs.shape.value_dim);
  Tensor logsumexp = empty(query_shape(inputs.shape), compute_type(image), image);
  if (output.numel() == 0 || image.numel() == 0) {
    return {torch::stable::zero_(output), torch::stable::zero_(logsumexp)};
  }
  auto call = inputs.make_call<BlockForward>();
  call.output = map_of(output);
  call.logsumexp = logsumexp.data_ptr();
  run(call, image, nullptr);
  return {output, logsumexp};
}

std::tuple<Tensor, Tensor, Tensor> block_attention_pooled(const Tensor& image, const Tensor& w_query,
                                                          const MaybeTensor& w_key, const MaybeTensor& w_value,
                                                          const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                                          const MaybeTensor& value, const Tensor& sign,
                                                          int64_t block_size, int64_t num_heads, double scale) {
  STD_TORCH_CHECK(block_size <= 16, "block_size (", block_size, ") must be at most 16: a position is one byte");
  const auto inputs =
      block_inputs({image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale});
  const int64_t channels = inputs.shape.heads * inputs.shape.value_dim;
  const Sizes pooled = pooled_shape(inputs.shape);
  const Parameter signs("sign", sign, image, {channels});
  Tensor extreme = empty_map(image, channels, pooled[2], pooled[3], image.scalar_type());
  Tensor position = empty_map(image, channels, pooled[2], pooled[3], ScalarType::Byte);
  Tensor sums = empty({2, channels}, ScalarType::Double, image);
  if (extreme.numel() == 0 || image.numel() == 0) {
    for (Tensor* result : {&extreme, &position, &sums}) torch::stable::zero_(*result);
    return {extreme, position, sums};
  }
  auto call = inputs.make_call<BlockForward>();
  call.extreme = map_of(extreme), call.position = map_of(position);
  call.sign = signs.data();
  run(call, image, &sums);
  return {extreme, position, sums};
}

BlockGradients block_attention_backward(const Tensor& grad_output, const Tensor& image, const Tensor& w_query,
                                        const MaybeTensor& w_key, const MaybeTensor& w_value,
                                        const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                        const MaybeTensor& value, const Tensor& /*logsumexp*/, int64_t block_size,
                                        int64_t num_heads, double scale, bool image_gradient) {
  const BlockTensors t = {image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale};
  const auto inputs = block_inputs(t);
  check_map("grad_output", grad_output, image, output_shape(inputs.shape));
  auto call = inputs.make_call<BlockBackward>();
  call.grad_output = map_of(grad_output);
  return block_backward(call, t, image_gradient, grad_output.numel() == 0 || image.numel() == 0);
}

BlockGradients block_attention_pooled_backward(const Tensor& grad_extreme, const Tensor& grad_sums,
                                               const Tensor& position, const Tensor& image, const Tensor& w_query,
                                               const MaybeTensor& w_key, const MaybeTensor& w_value,
                                               const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                               const MaybeTensor& value, int64_t block_size, int64_t num_heads,
                                               double scale, bool image_gradient) {
  const BlockTensors t = {image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale};
  const auto inputs = block_inputs(t);
  const Sizes pooled = pooled_shape(inputs.shape);
  check_map("grad_extreme", grad_extreme, image, pooled);
  STD_TORCH_CHECK(
      position.device() == image.device() && position.scalar_type() == ScalarType::Byte && sizes(position) == pooled,
      "position does not fit the other arguments in device, dtype or shape");
  const Parameter sums("grad_sums", grad_sums, image, {2, pooled[1]}, ScalarType::Double);
  auto call = inputs.make_call<BlockBackward>();
  call.grad_extreme = map_of(grad_extreme), call.position = map_of(position);
  call.grad_sums = static_cast<const double*>(sums.data());
  return block_backward(call, t, image_gradient, grad_extreme.numel() == 0 || image.numel() == 0);
}

}  // namespace sasa
