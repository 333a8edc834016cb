// Runs a call on the device of its tensors: with the CPU kernels on torch's threads, or with the CUDA kernels on
// torch's current stream. `like` is one of the tensors. Returns the gradients of parameters, empty tensors where a
// parameter is not given.
#pragma once
#include <array>
#include <tuple>

#include "tensors.h"

namespace sasa {

void run(const LocalForward& call, const Tensor& like);
std::tuple<Tensor, Tensor> run(LocalBackward& call, const Tensor& like, const MaybeTensor& rel_row,
                               const MaybeTensor& rel_col);

// `sums` is (2, N * E) in float64, or nullptr if the call does not compute them.
void run(BlockForward& call, const Tensor& like, Tensor* sums);

struct BlockParameters {
  const MaybeTensor &w_query, &w_key, &w_value, &rel_row, &rel_col;
};
using BlockParameterGradients = std::array<Tensor, 5>;  // in that order
BlockParameterGradients run(BlockBackward& call, const Tensor& like, const BlockParameters& parameters);

}  // namespace sasa
