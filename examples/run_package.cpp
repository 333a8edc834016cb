// Runs a network of `sasa export --format aoti` without Python, and prints its outputs.
//
//   run_package network.pt2 libsasa.so images.bin 2 3 224 224
//
// images.bin: the images' float32 numbers in that shape (batch, channels, height, width), in the machine's byte order.
// libsasa.so: of the installed package, site-packages/sasa/_native; it holds the operators and their kernels.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 8) {
    std::fprintf(stderr, "usage: run_package network.pt2 libsasa.so images.bin B C H W\n");
    return 2;
  }
  if (!dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL)) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  std::vector<int64_t> shape;
  for (int place = 4; place < 8; ++place) shape.push_back(std::atoll(argv[place]));
  at::Tensor images = at::empty(shape);
  std::ifstream file(argv[3], std::ios::binary);
  if (!file.read(static_cast<char*>(images.data_ptr()), images.nbytes())) {
    std::fprintf(stderr, "%s holds fewer than %lld numbers\n", argv[3], static_cast<long long>(images.numel()));
    return 1;
  }

  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader loader(argv[1]);
  std::printf("%s\n", loader.get_metadata().at("sasa").c_str());  // class names and preprocessing, as JSON
  for (at::Tensor output : loader.run({images})) {
    output = output.contiguous().to(at::kFloat);
    for (int64_t place = 0; place < output.numel(); ++place) std::printf("%.9g ", output.data_ptr<float>()[place]);
    std::printf("\n");
  }
}
