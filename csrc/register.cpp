// Registers the CPU kernels under the operators whose schemas, fakes and gradients are defined in Python, in
// src/sasa/ops. Checks shapes, allocates results, and hands raw pointers to the kernels.
#include <pthread.h>

#include <array>
#include <tuple>

#include "tensors.h"

namespace sasa {
namespace {

// A forked child has none of its parent's threads, but torch's pool believes that it does, and waits for them.
bool forked = false;
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void run_parallel(const Parallel& pool, int64_t count, void (*task)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  if (pool.threads == 1 || count == 1) return task(context, 0, count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) { task(context, begin, end); });
}

}  // namespace

Parallel parallel() { return {run_parallel, forked ? 1 : static_cast<int>(torch::stable::get_num_threads())}; }

namespace {

// ---------------------------------------------------------------------------------------------------- local attention

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

// Where the operator finds its three maps: apart, or one after the other in the channels of one tensor.
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
  const ScalarType type = compute_type(query);
  return {shape,
          map_of(query),
          map_of(key),
          map_of(value),
          Parameter("rel_row", rel_row, type, local_embedding(shape)),
          Parameter("rel_col", rel_col, type, local_embedding(shape))};
}

LocalInputs local_inputs(const Tensor& qkv, const MaybeTensor& rel_row, const MaybeTensor& rel_col, bool content,
                         const LocalOptions& options) {
  const int64_t parts = content ? 3 : 2;
  STD_TORCH_CHECK(qkv.dim() == 4 && qkv.size(1) % parts == 0, "qkv must be (batch, ", parts,
                  " * channels, height, width)");
  const int64_t channels = qkv.size(1) / parts;
  const LocalShape shape = local_shape(qkv, channels, channels, options);
  check_map("qkv", qkv, qkv, sizes(qkv));
  const ScalarType type = compute_type(qkv);
  return {shape,
          map_of(qkv),
          content ? map_of(qkv, channels) : map_of(MaybeTensor()),
          map_of(qkv, (parts - 1) * channels),
          Parameter("rel_row", rel_row, type, local_embedding(shape)),
          Parameter("rel_col", rel_col, type, local_embedding(shape))};
}

LocalForward local_forward(const LocalInputs& in) {
  LocalForward work = {};
  work.shape = in.shape;
  work.query = in.query, work.key = in.key, work.value = in.value;
  work.rel_row = in.rel_row.data(), work.rel_col = in.rel_col.data();
  work.pool = 1;
  return work;
}

// The output and, of training, the log-sum-exp.
std::tuple<Tensor, Tensor> attend(const LocalInputs& in, const Tensor& like) {
  Tensor output = empty_map(like, in.shape.heads * in.shape.value_dim);
  Tensor logsumexp = empty(query_shape(in.shape), compute_type(like));
  if (output.numel() == 0) return {output, torch::stable::zero_(logsumexp)};
  LocalForward work = local_forward(in);
  work.output = map_of(output);
  work.logsumexp = logsumexp.data_ptr();
  kernels().local_forward(work, parallel());
  return {output, logsumexp};
}

// Into the maps of `work`; the gradients of the embeddings are returned.
std::tuple<Tensor, Tensor> attend_backward(LocalBackward& work, const LocalInputs& in, const Tensor& grad_output,
                                           const Tensor& like, const Tensor& logsumexp, const MaybeTensor& rel_row,
                                           const MaybeTensor& rel_col) {
  const LocalShape& shape = in.shape;
  check_map("grad_output", grad_output, like, {shape.batch, shape.heads * shape.value_dim, shape.height, shape.width});
  const Parameter saved("logsumexp", logsumexp, compute_type(like), query_shape(shape));
  ParameterGradient grad_row(rel_row, like, shape.batch), grad_col(rel_col, like, shape.batch);
  if (grad_output.numel() == 0) {
    grad_row.zero(), grad_col.zero();
    return {grad_row.total(), grad_col.total()};
  }
  work.shape = shape;
  work.grad_output = map_of(grad_output);
  work.query = in.query, work.key = in.key, work.value = in.value;
  work.rel_row = in.rel_row.data(), work.rel_col = in.rel_col.data();
  work.logsumexp = saved.data();
  work.grad_row = grad_row.data(), work.grad_col = grad_col.data();
  kernels().local_backward(work, parallel());
  return {grad_row.total(), grad_col.total()};
}

// A map for the gradient of `input`: zeros where the kernel will not run because there is no output at all.
Tensor gradient_map(const Tensor& input, const Tensor& grad_output) {
  Tensor gradient = empty_map(input, input.size(1));
  return grad_output.numel() == 0 ? torch::stable::zero_(gradient) : gradient;
}

std::tuple<Tensor, Tensor> local_attention(const Tensor& query, const MaybeTensor& key, const Tensor& value,
                                           const MaybeTensor& rel_row, const MaybeTensor& rel_col, int64_t kernel_size,
                                           int64_t num_heads, const std::string& padding, double scale) {
  return attend(local_inputs(query, key, value, rel_row, rel_col, {kernel_size, num_heads, padding, scale}), query);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> local_attention_backward(
    const Tensor& grad_output, const Tensor& query, const MaybeTensor& key, const Tensor& value,
    const MaybeTensor& rel_row, const MaybeTensor& rel_col, const Tensor& logsumexp, int64_t kernel_size,
    int64_t num_heads, const std::string& padding, double scale) {
  const auto in = local_inputs(query, key, value, rel_row, rel_col, {kernel_size, num_heads, padding, scale});
  Tensor grad_query = gradient_map(query, grad_output), grad_value = gradient_map(value, grad_output);
  Tensor grad_key = key ? gradient_map(*key, grad_output) : nothing(query);
  LocalBackward work = {};
  work.grad_query = map_of(grad_query), work.grad_value = map_of(grad_value);
  if (key) work.grad_key = map_of(grad_key);
  auto [grad_row, grad_col] = attend_backward(work, in, grad_output, query, logsumexp, rel_row, rel_col);
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
  const auto in = local_inputs(qkv, rel_row, rel_col, content, {kernel_size, num_heads, padding, scale});
  const int64_t channels = in.shape.heads * in.shape.head_dim;
  Tensor grad_qkv = gradient_map(qkv, grad_output);
  LocalBackward work = {};
  work.grad_query = map_of(grad_qkv);
  if (content) work.grad_key = map_of(grad_qkv, channels);
  work.grad_value = map_of(grad_qkv, content ? 2 * channels : channels);
  auto [grad_row, grad_col] = attend_backward(work, in, grad_output, qkv, logsumexp, rel_row, rel_col);
  return {grad_qkv, grad_row, grad_col};
}

Tensor qkv_attention_inference(const Tensor& qkv, const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                               const MaybeTensor& gain, const MaybeTensor& shift, bool relu, int64_t pool,
                               int64_t kernel_size, int64_t num_heads, bool content, const std::string& padding,
                               double scale) {
  STD_TORCH_CHECK(pool == 1 || pool == 2, "pool (", pool, ") must be 1 or 2");
  const auto in = local_inputs(qkv, rel_row, rel_col, content, {kernel_size, num_heads, padding, scale});
  const int64_t channels = in.shape.heads * in.shape.value_dim;
  const ScalarType type = compute_type(qkv);
  const Parameter gains("gain", gain, type, {channels}), shifts("shift", shift, type, {channels});
  const int64_t height = (in.shape.height + pool - 1) / pool, width = (in.shape.width + pool - 1) / pool;
  Tensor output = empty_map(qkv, channels, height, width, qkv.scalar_type());
  if (output.numel() == 0) return output;
  LocalForward work = local_forward(in);
  work.output = map_of(output);
  work.gain = gains.data(), work.shift = shifts.data();
  work.relu = relu;
  work.pool = pool;
  kernels().local_forward(work, parallel());
  return output;
}

// ---------------------------------------------------------------------------------------------------- block attention

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

  template <class Work>  // BlockForward or BlockBackward
  Work work() const {
    Work work = {};
    work.shape = shape;
    work.image = image, work.value = value;
    work.w_query = w_query.data(), work.w_key = w_key.data(), work.w_value = w_value.data();
    work.rel_row = rel_row.data(), work.rel_col = rel_col.data();
    return work;
  }
};

BlockInputs block_inputs(const BlockTensors& t) {
  const BlockShape shape = block_shape(t);
  const ScalarType type = compute_type(t.image);
  const Sizes projection = {shape.heads * shape.head_dim, shape.channels};
  check_map("image", t.image, t.image, sizes(t.image));
  if (t.value) check_map("value", *t.value, t.image, output_shape(shape));
  return {
      shape,
      map_of(t.image),
      map_of(t.value),
      Parameter("w_query", t.w_query, type, projection),
      Parameter("w_key", t.w_key, type, projection),
      Parameter("w_value", t.w_value, type, {shape.block * shape.block, shape.heads * shape.value_dim, shape.channels}),
      Parameter("rel_row", t.rel_row, type, block_embedding(shape)),
      Parameter("rel_col", t.rel_col, type, block_embedding(shape))};
}

std::tuple<Tensor, Tensor> block_attention(const Tensor& image, const Tensor& w_query, const MaybeTensor& w_key,
                                           const MaybeTensor& w_value, const MaybeTensor& rel_row,
                                           const MaybeTensor& rel_col, const MaybeTensor& value, int64_t block_size,
                                           int64_t num_heads, double scale) {
  const auto in = block_inputs({image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale});
  Tensor output = empty_map(image, in.shape.heads * in.shape.value_dim);
  Tensor logsumexp = empty(query_shape(in.shape), compute_type(image));
  if (output.numel() == 0 || image.numel() == 0) {
    return {torch::stable::zero_(output), torch::stable::zero_(logsumexp)};
  }
  auto work = in.work<BlockForward>();
  work.output = map_of(output);
  work.logsumexp = logsumexp.data_ptr();
  kernels().block_forward(work, parallel());
  return {output, logsumexp};
}

std::tuple<Tensor, Tensor, Tensor> block_attention_pooled(const Tensor& image, const Tensor& w_query,
                                                          const MaybeTensor& w_key, const MaybeTensor& w_value,
                                                          const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                                          const MaybeTensor& value, const Tensor& sign,
                                                          int64_t block_size, int64_t num_heads, double scale) {
  STD_TORCH_CHECK(block_size <= 16, "block_size (", block_size, ") must be at most 16: a position is one byte");
  const auto in = block_inputs({image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale});
  const int64_t channels = in.shape.heads * in.shape.value_dim;
  const Sizes pooled = pooled_shape(in.shape);
  const Parameter signs("sign", sign, compute_type(image), {channels});
  Tensor extreme = empty_map(image, channels, pooled[2], pooled[3], image.scalar_type());
  Tensor position = empty_map(image, channels, pooled[2], pooled[3], ScalarType::Byte);
  Tensor sums = empty({2, channels}, ScalarType::Double);
  if (extreme.numel() == 0 || image.numel() == 0) {
    for (Tensor* result : {&extreme, &position, &sums}) torch::stable::zero_(*result);
    return {extreme, position, sums};
  }
  const int64_t strips = in.shape.batch * block_strips(in.shape);
  Tensor sums_of_strips = empty({strips, 2, channels}, ScalarType::Double);
  auto work = in.work<BlockForward>();
  work.extreme = map_of(extreme), work.position = map_of(position);
  work.sign = signs.data();
  work.sums = static_cast<double*>(sums_of_strips.data_ptr());
  kernels().block_forward(work, parallel());
  add_parts<double>(sums_of_strips.data_ptr(), strips, 2 * channels, sums.data_ptr());
  return {extreme, position, sums};
}

using BlockGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// `work` knows what gradients come in; `empty_output`: there are none, so all results are zero. The kernel needs no
// log-sum-exp: it has a whole softmax at hand.
BlockGradients backward_of_block(BlockBackward& work, const BlockTensors& t, bool image_gradient, bool empty_output) {
  const Tensor& image = t.image;
  const int64_t strips = work.shape.batch * block_strips(work.shape);
  Tensor grad_image = image_gradient ? empty_map(image, image.size(1)) : nothing(image);
  Tensor grad_value = t.value ? empty_map(*t.value, t.value->size(1)) : nothing(image);
  ParameterGradient w_query(t.w_query, image, strips), w_key(t.w_key, image, strips);
  ParameterGradient w_value(t.w_value, image, strips);
  ParameterGradient rel_row(t.rel_row, image, strips), rel_col(t.rel_col, image, strips);
  if (empty_output) {
    torch::stable::zero_(grad_image), torch::stable::zero_(grad_value);
    for (auto* gradient : {&w_query, &w_key, &w_value, &rel_row, &rel_col}) gradient->zero();
  } else {
    if (image_gradient) work.grad_image = map_of(grad_image);
    if (t.value) work.grad_value = map_of(grad_value);
    work.grad_w_query = w_query.data(), work.grad_w_key = w_key.data(), work.grad_w_value = w_value.data();
    work.grad_row = rel_row.data(), work.grad_col = rel_col.data();
    kernels().block_backward(work, parallel());
  }
  return {grad_image, w_query.total(), w_key.total(), w_value.total(), rel_row.total(), rel_col.total(), grad_value};
}

BlockGradients block_attention_backward(const Tensor& grad_output, const Tensor& image, const Tensor& w_query,
                                        const MaybeTensor& w_key, const MaybeTensor& w_value,
                                        const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                        const MaybeTensor& value, const Tensor& /*logsumexp*/, int64_t block_size,
                                        int64_t num_heads, double scale, bool image_gradient) {
  const BlockTensors t = {image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale};
  const auto in = block_inputs(t);
  check_map("grad_output", grad_output, image, output_shape(in.shape));
  auto work = in.work<BlockBackward>();
  work.grad_output = map_of(grad_output);
  return backward_of_block(work, t, image_gradient, grad_output.numel() == 0 || image.numel() == 0);
}

BlockGradients block_attention_pooled_backward(const Tensor& grad_extreme, const Tensor& grad_sums,
                                               const Tensor& position, const Tensor& image, const Tensor& w_query,
                                               const MaybeTensor& w_key, const MaybeTensor& w_value,
                                               const MaybeTensor& rel_row, const MaybeTensor& rel_col,
                                               const MaybeTensor& value, int64_t block_size, int64_t num_heads,
                                               double scale, bool image_gradient) {
  const BlockTensors t = {image, w_query, w_key, w_value, rel_row, rel_col, value, block_size, num_heads, scale};
  const auto in = block_inputs(t);
  const Sizes pooled = pooled_shape(in.shape);
  check_map("grad_extreme", grad_extreme, image, pooled);
  STD_TORCH_CHECK(position.is_cpu() && position.scalar_type() == ScalarType::Byte && sizes(position) == pooled,
                  "position does not fit the other arguments in device, dtype or shape");
  const Parameter sums("grad_sums", grad_sums, ScalarType::Double, {2, pooled[1]});
  auto work = in.work<BlockBackward>();
  work.grad_extreme = map_of(grad_extreme), work.position = map_of(position);
  work.grad_sums = static_cast<const double*>(sums.data());
  return backward_of_block(work, t, image_gradient, grad_extreme.numel() == 0 || image.numel() == 0);
}

// -------------------------------------------------------------------------------------------- between convolutions

// Whether the elements of both lie in memory in the same order.
bool same_layout(const Tensor& a, const Tensor& b) {
  for (int64_t axis = 0; axis < 4; ++axis)
    if (a.stride(axis) != b.stride(axis)) return false;
  return true;
}

Tensor constant(int64_t count, double value, ScalarType type) {
  Tensor tensor = empty({count}, type);
  for (int64_t i = 0; i < count; ++i) {
    if (type == ScalarType::Double) {
      static_cast<double*>(tensor.data_ptr())[i] = value;
    } else {
      static_cast<float*>(tensor.data_ptr())[i] = static_cast<float>(value);
    }
  }
  return tensor;
}

void affine_(Tensor x, const MaybeTensor& gain, const MaybeTensor& shift, const MaybeTensor& residual, bool relu) {
  STD_TORCH_CHECK(x.dim() == 4, "x must have 4 dimensions");
  const int64_t B = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3);
  const bool channels_last = x.stride(1) == 1 && x.stride(3) == C && x.stride(2) == C * W && x.stride(0) == C * W * H;
  STD_TORCH_CHECK(channels_last || x.is_contiguous(), "x must be dense, contiguous or channels_last");
  if (residual) {
    check_map("residual", *residual, x, sizes(x));
    STD_TORCH_CHECK(same_layout(x, *residual), "residual must have the layout of x");
  }
  if (x.numel() == 0) return;
  const ScalarType type = compute_type(x);
  const Parameter gains("gain", gain ? gain : MaybeTensor(constant(C, 1, type)), type, {C});
  const Parameter shifts("shift", shift ? shift : MaybeTensor(constant(C, 0, type)), type, {C});
  const bool rows = channels_last || (H == 1 && W == 1);
  kernels().affine({x.data_ptr(), residual ? residual->data_ptr() : nullptr, gains.data(), shifts.data(),
                    rows ? B * H * W : B, C, rows ? 1 : H * W, relu, storage(x)},
                   parallel());
}

// Float32 maps that are dense in channels_last, as (pixels, channels).
void check_rows(const char* name, const Tensor& map, const Tensor& like) {
  const int64_t C = map.size(1), H = map.size(2), W = map.size(3);
  STD_TORCH_CHECK(map.dim() == 4 && map.is_cpu() && map.scalar_type() == ScalarType::Float && sizes(map) == sizes(like),
                  name, " does not fit the other arguments in device, dtype or shape");
  STD_TORCH_CHECK(map.stride(1) == 1 && map.stride(3) == C && map.stride(2) == C * W && map.stride(0) == C * W * H,
                  name, " must be dense and channels_last");
}

const float* floats(const Tensor& tensor) { return static_cast<const float*>(tensor.data_ptr()); }
float* floats_of(Tensor& tensor) { return static_cast<float*>(tensor.data_ptr()); }

std::tuple<Tensor, Tensor, Tensor> norm_relu(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                             const MaybeTensor& residual, bool relu, double eps) {
  check_rows("x", x, x);
  if (residual) check_rows("residual", *residual, x);
  const int64_t C = x.size(1), pixels = x.numel() / C;
  const Parameter weights("weight", weight, ScalarType::Float, {C}), biases("bias", bias, ScalarType::Float, {C});
  using torch::headeronly::MemoryFormat;
  Tensor y = torch::stable::empty(sizes(x), ScalarType::Float, std::nullopt, std::nullopt, std::nullopt,
                                  MemoryFormat::ChannelsLast);
  Tensor mean = empty({C}, ScalarType::Float), variance = empty({C}, ScalarType::Float);
  Tensor parts = empty({norm_parts(pixels, C)}, ScalarType::Float);
  NormForward work = {};
  work.x = floats(x), work.residual = residual ? floats(*residual) : nullptr;
  work.weight = static_cast<const float*>(weights.data()), work.bias = static_cast<const float*>(biases.data());
  work.y = floats_of(y), work.mean = floats_of(mean), work.variance = floats_of(variance);
  work.parts = floats_of(parts);
  work.pixels = pixels, work.channels = C, work.eps = eps, work.relu = relu;
  kernels().norm_forward(work, parallel());
  return {y, mean, variance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> norm_relu_backward(const Tensor& grad, const Tensor& x, const MaybeTensor& y,
                                                              const Tensor& weight, const Tensor& bias,
                                                              const Tensor& mean, const Tensor& variance, bool relu,
                                                              double eps) {
  check_rows("x", x, x);
  check_rows("grad", grad, x);
  if (y) check_rows("y", *y, x);
  const int64_t C = x.size(1), pixels = x.numel() / C;
  const Parameter weights("weight", weight, ScalarType::Float, {C}), biases("bias", bias, ScalarType::Float, {C});
  const Parameter means("mean", mean, ScalarType::Float, {C});
  const Parameter variances("variance", variance, ScalarType::Float, {C});
  using torch::headeronly::MemoryFormat;
  auto map = [&] {
    return torch::stable::empty(sizes(x), ScalarType::Float, std::nullopt, std::nullopt, std::nullopt,
                                MemoryFormat::ChannelsLast);
  };
  Tensor grad_x = map(), grad_residual = y && relu ? map() : nothing(x);
  Tensor grad_weight = empty({C}, ScalarType::Float), grad_bias = empty({C}, ScalarType::Float);
  Tensor parts = empty({norm_parts(pixels, C)}, ScalarType::Float);
  NormBackward work = {};
  work.grad = floats(grad), work.x = floats(x), work.y = y ? floats(*y) : nullptr;
  work.weight = static_cast<const float*>(weights.data()), work.bias = static_cast<const float*>(biases.data());
  work.mean = static_cast<const float*>(means.data());
  work.variance = static_cast<const float*>(variances.data());
  work.grad_x = floats_of(grad_x), work.grad_residual = y && relu ? floats_of(grad_residual) : nullptr;
  work.grad_weight = floats_of(grad_weight), work.grad_bias = floats_of(grad_bias), work.parts = floats_of(parts);
  work.pixels = pixels, work.channels = C, work.eps = eps, work.relu = relu;
  kernels().norm_backward(work, parallel());
  return {grad_x, grad_weight, grad_bias, grad_residual};
}

// ------------------------------------------------------------------------------------------------ about this library

std::string cpu_kernels() { return kernels().name; }

std::string cpu_kernels_error() { return kernels_error() == nullptr ? "" : kernels_error(); }

// On every thread at once: the peak that a benchmark compares with is that of the machine.
double cpu_multiply_adds(int64_t rounds) {
  STD_TORCH_CHECK(kernels().multiply_adds != nullptr, "this instruction set has no multiply_adds");
  const Parallel pool = parallel();
  struct Context {
    int64_t rounds;
    std::vector<double> done;
  } context = {rounds, std::vector<double>(static_cast<size_t>(pool.threads))};
  const auto task = [](void* data, int64_t begin, int64_t end) {
    auto& work = *static_cast<Context*>(data);
    for (int64_t i = begin; i < end; ++i) work.done[static_cast<size_t>(i)] = kernels().multiply_adds(work.rounds);
  };
  pool.run(pool, pool.threads, task, &context);
  double total = 0;
  for (double done : context.done) total += done;
  return total;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(sasa, m) {
  m.def("cpu_kernels() -> str");
  m.def("cpu_kernels_error() -> str");
  m.def("cpu_multiply_adds(int rounds) -> float");
}

STABLE_TORCH_LIBRARY_IMPL(sasa, CompositeExplicitAutograd, m) {
  m.impl("cpu_kernels", TORCH_BOX(&cpu_kernels));
  m.impl("cpu_kernels_error", TORCH_BOX(&cpu_kernels_error));
  m.impl("cpu_multiply_adds", TORCH_BOX(&cpu_multiply_adds));
}

STABLE_TORCH_LIBRARY_IMPL(sasa, CPU, m) {
  if (kernels_error() != nullptr) return;  // the operators then stay with what Python registered
  const Kernels& table = kernels();        // and so do those that the table lacks
  if (table.local_forward != nullptr) {
    m.impl("local_attention", TORCH_BOX(&local_attention));
    m.impl("qkv_attention", TORCH_BOX(&qkv_attention));
    m.impl("qkv_attention_inference", TORCH_BOX(&qkv_attention_inference));
  }
  if (table.local_backward != nullptr) {
    m.impl("local_attention_backward", TORCH_BOX(&local_attention_backward));
    m.impl("qkv_attention_backward", TORCH_BOX(&qkv_attention_backward));
  }
  if (table.block_forward != nullptr) {
    m.impl("block_attention", TORCH_BOX(&block_attention));
    m.impl("block_attention_pooled", TORCH_BOX(&block_attention_pooled));
  }
  if (table.norm_forward != nullptr) m.impl("norm_relu", TORCH_BOX(&norm_relu));
  if (table.norm_backward != nullptr) m.impl("norm_relu_backward", TORCH_BOX(&norm_relu_backward));
  if (table.affine != nullptr) m.impl("affine_", TORCH_BOX(&affine_));
  if (table.block_backward != nullptr) {
    m.impl("block_attention_backward", TORCH_BOX(&block_attention_backward));
    m.impl("block_attention_pooled_backward", TORCH_BOX(&block_attention_pooled_backward));
  }
}

}  // namespace sasa
