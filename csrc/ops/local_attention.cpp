// Local attention, Eq. 3, on three maps (`local_attention`) or on one map that holds all three in its channels
// (`qkv_attention`). Schemas, fakes and gradients: src/sasa/ops/local_attention.py and qkv_attention.py.
#include "operators.h"
#include "run.h"

namespace sasa {
namespace {

struct LocalOptions {
  int64_t kernel_size, num_heads;
  const std::string& padding;
  double scale;
};

LocalShape local_shape(const Tensor& query, int64_t channels, int64_t value_channels, const LocalOptions& options) {
  const int64_t heads = options.num_heads, window = options.kernel_size;
  STD_TORCH_CHECK(window > 0 && window % 2 == 1, "kernel_size (", window, ") must be positive and odd");
  STD_TORCH_CHECK(heads > 0 && channels % heads == 0 && value_channels % heads == 0, "channels (", channels, " and ",
                  value_channels, ") must be divisible by num_heads (", heads, ")");
  STD_TORCH_CHECK(options.padding == "zeros" || options.padding == "mask", "padding must be \"zeros\" or \"mask\"");
  return {query.size(0), heads,  channels / heads,          value_channels / heads, query.size(2),
          query.size(3), window, options.padding == "mask", options.scale,          storage(query)};
}

Sizes local_embedding(const LocalShape& shape) { return {shape.heads, shape.window, shape.head_dim / 2}; }

Sizes query_shape(const LocalShape& shape) { return {shape.batch, shape.heads, shape.height, shape.width}; }

// The three maps of either form of the operator, and its embeddings.
struct LocalInputs {
  LocalShape shape;
  Map query, key, value;
  Parameter rel_row, rel_col;
};

LocalInputs local_inputs(const Tensor& query, const MaybeTensor& key, const Tensor& value, const MaybeTensor& rel_row,
                         const MaybeTensor& rel_col, const LocalOptions& options) {
  STD_TORCH_CHECK(query.dim() == 4 && value.dim() == 4, "query and value must be (batch, channels, height, width)");
  const LocalShape shape = local_shape(query, query.size(1), value.size(1), options);
  check_map("query", query, query, sizes(query));
  check_map("value", value, query, {shape.batch, value.size(1), shape.height, shape.width});
  if (key) check_map("key", *key, query, sizes(query));
  return {shape,
          map_of(query),
          map_of(key),
          map_of(value),
          Parameter("rel_row", rel_row, query, local_embedding(shape)),
          Parameter("rel_col", rel_col, query, local_embedding(shape))};
}

LocalInputs local_inputs(const Tensor& qkv, const MaybeTensor& rel_row, const MaybeTensor& rel_col, bool content,
                         const LocalOptions& options) {
  const int64_t parts = content ? 3 : 2;
  STD_TORCH_CHECK(qkv.dim() == 4 && qkv.size(1) % parts == 0, "qkv must be (batch, ", parts,
                  " * channels, height, width)");
  const int64_t channels = qkv.size(1) / parts;
  const LocalShape shape = local_shape(qkv, channels, channels, options);
  check_map("qkv", qkv, qkv, sizes(qkv));
  return {shape,
          map_of(qkv),
          content ? map_of(qkv, channels) : map_of(MaybeTensor()),
          map_of(qkv, (parts - 1) * channels),
          Parameter("rel_row", rel_row, qkv, local_embedding(shape)),
          Parameter("rel_col", rel_col, qkv, local_embedding(shape))};
}

LocalForward forward_call(const LocalInputs& inputs) {
  LocalForward call = {};
  call.shape = inputs.shape;
  call.query = inputs.query, call.key = inputs.key, call.value = inputs.value;
  call.rel_row = inputs.rel_row.data(), call.rel_col = inputs.rel_col.data();
  call.pool = 1;
  return call;
}

// Returns the output and the log-sum-exp.
std::tuple<Tensor, Tensor> attend(const LocalInputs& inputs, const Tensor& like) {
  Tensor output = empty_map(like, inputs.shape.heads * inputs.shape.value_dim);
  Tensor logsumexp = empty(query_shape(inputs.shape), compute_type(like), like);
  if (output.numel() == 0) return {output, torch::stable::zero_(logsumexp)};
  LocalForward call = forward_call(inputs);
  call.output = map_of(output);
  call.logsumexp = logsumexp.data_ptr();
  run(call, like);
  return {output, logsumexp};
}

// Writes the gradients of the maps of `call`, and returns those of the embeddings.
std::tuple<Tensor, Tensor> attend_backward(LocalBackward& call, const LocalInputs& inputs, const Tensor& grad_output,
                                           const Tensor& like, const Tensor& logsumexp, const MaybeTensor& rel_row,
                                           const MaybeTensor& rel_col) {
  const LocalShape& shape = inputs.shape;
  check_map("grad_output", grad_output, like, {shape.batch, shape.heads * shape.value_dim, shape.height, shape.width});
  const Parameter saved("logsumexp", logsumexp, like, query_shape(shape));
  if (grad_output.numel() == 0) {
    return {ParameterGradient::zero(rel_row, like), ParameterGradient::zero(rel_col, like)};
  }
  call.shape = shape;
  call.grad_output = map_of(grad_output);
  call.query = inputs.query, call.key = inputs.key, call.value = inputs.value;
  call.rel_row = inputs.rel_row.data(), call.rel_col = inputs.rel_col.data();
  call.logsumexp = saved.data();
  return run(call, like, rel_row, rel_col);
}

// A map for the gradient of `input`: zeros if the output is empty, because the kernel does not run then.
Tensor gradient_map(const Tensor& input, const Tensor& grad_output) {
  Tensor gradient = empty_map(input, input.size(1));
  return grad_output.numel() == 0 ? torch::stable::zero_(gradient) : gradient;
}

}  // namespace

std::tuple<Tensor, Tensor> local_attention(const Tensor& query, const MaybeTensor& key, const Tensor& value,
                                           const MaybeTensor& rel_row, const MaybeTensor& rel_col, int64_t kernel_size,
                                           int64_t num_heads, const std::string& padding, double scale) {
  return attend(local_inputs(query, key, value, rel_row, rel_col, {kernel_size, num_heads, padding, scale}), query);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> local_attention_backward(
    const Tensor& grad_output, const Tensor& query, const MaybeTensor& key, const Tensor& value,
    const MaybeTensor& rel_row, const MaybeTensor& rel_col, const Tensor& logsumexp, int64_t kernel_size,
    int64_t num_heads, const std::string& padding, double scale) {
  const auto inputs = local_inputs(query, key, value, rel_row, rel_col, {kernel_size, num_heads, padding, scale});
  Tensor grad_query = gradient_map(query, grad_output), grad_value = gradient_map(value, grad_output);
  Tensor grad_key = key ? gradient_map(*key, grad_output) : nothing(query);
  LocalBackward call = {};
  call.grad_query = map_of(grad_query), call.grad_value = map_of(grad_value);
  if (key) call.grad_key = map_of(grad_key);
  auto [grad_row, grad_col] = attend_backward(call, inputs, grad_output, query, logsumexp, rel_row, rel_col);
  return {grad_query, grad_key, grad_value, grad_row, grad_col};
}

std::tuple<Tensor, Tensor> qkv_attention(const Tensor& qkv, const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                         int64_t kernel_size, int64_t num_heads, bool content,
                                         const std::string& padding, double scale) {
  return attend(local_inputs(qkv, rel_row, rel_col, content, {kernel_size, num_heads, padding, scale}), qkv);
}

std::tuple<Tensor, Tensor, Tensor> qkv_attention_backward(const Tensor& grad_output, const Tensor& qkv,
                                                          const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                                          const Tensor& logsumexp, int64_t kernel_size,
                                                          int64_t num_heads, bool content, const std::string& padding,
                                                          double scale) {
  const auto inputs = local_inputs(qkv, rel_row, rel_col, content, {kernel_size, num_heads, padding, scale});
  const int64_t channels = inputs.shape.heads * inputs.shape.head_dim;
  Tensor grad_qkv = gradient_map(qkv, grad_output);
  LocalBackward call = {};
  call.grad_query = map_of(grad_qkv);
  if (content) call.grad_key = map_of(grad_qkv, channels);
  call.grad_value = map_of(grad_qkv, content ? 2 * channels : channels);
  auto [grad_row, grad_col] = attend_backward(call, inputs, grad_output, qkv, logsumexp, rel_row, rel_col);
  return {grad_qkv, grad_row, grad_col};
}

Tensor qkv_attention_inference(const Tensor& qkv, const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                               const MaybeTensor& gain, const MaybeTensor& shift, bool relu, int64_t pool,
                               int64_t kernel_size, int64_t num_heads, bool content, const std::string& padding,
                               double scale) {
  STD_TORCH_CHECK(pool == 1 || pool == 2, "pool (", pool, ") must be 1 or 2");
  const auto inputs = local_inputs(qkv, rel_row, rel_col, content, {kernel_size, num_heads, padding, scale});
  const int64_t channels = inputs.shape.heads * inputs.shape.value_dim;
  const Parameter gains("gain", gain, qkv, {channels}), shifts("shift", shift, qkv, {channels});
  const int64_t height = (inputs.shape.height + pool - 1) / pool, width = (inputs.shape.width + pool - 1) / pool;
  Tensor output = empty_map(qkv, channels, height, width, qkv.scalar_type());
  if (output.numel() == 0) return output;
  LocalForward call = forward_call(inputs);
  call.output = map_of(output);
  call.gain = gains.data(), call.shift = shifts.data();
  call.relu = relu;
  call.pool = pool;
  run(call, qkv);
  return output;
}

}  // namespace sasa
