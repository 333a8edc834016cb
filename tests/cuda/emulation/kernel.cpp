// One kernel, emulated: see launch.h.
#include "device.h"
#include "kernels.h"
#include SASA_KERNEL_SOURCE

using namespace sasa;
#include "launch.h"
