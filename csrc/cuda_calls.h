// Calls of the operators as launches of CUDA kernels: plans from csrc/cuda, results' parts and workspaces from torch's
// allocator, torch's current stream of the tensors' device.
#pragma once
#include <string>

#include "ops/run.h"

namespace sasa::cuda {

// Whether CUDA kernels can be compiled and launched in this process: empty, or the sentence that says why not. Looks for
// libraries only; the driver is not initialised.
std::string why_not_with_torch();

void add_parts(const Tensor& parts, Tensor& total);

// As in run.h.
void run(const LocalForward& call, const Tensor& like);
std::tuple<Tensor, Tensor> run(LocalBackward& call, const Tensor& like, const MaybeTensor& rel_row,
                               const MaybeTensor& rel_col);
void run(BlockForward& call, const Tensor& like, Tensor* sums);
BlockParameterGradients run(BlockBackward& call, const Tensor& like, const BlockParameters& parameters);

}  // namespace sasa::cuda
