// The table of kernels of one instruction set: compiled once per set, with its flags and -DSASA_ISA=name.
#include "kernels.h"

#include "affine.h"
#include "block_backward.h"
#include "block_forward.h"
#include "instruction_sets.h"
#include "local.h"
#include "norm.h"
#include "peak.h"
#include "pointwise.h"

namespace sasa {

const Kernels& SASA_TABLE() {
  static const Kernels table{SASA_ISA_NAME, local_forward, local_backward, block_forward,      block_backward,
                             affine,        norm_forward,  norm_backward,  pointwise_gradient, multiply_adds};
  return table;
}

}  // namespace sasa
