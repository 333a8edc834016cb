// The operators on CUDA tensors: by the CUDA kernels, or in plain torch where none of them takes the call.
#pragma once
#include <algorithm>
#include <array>
#include <cstdio>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "cuda_api.h"
#include "ops/tensors.h"

namespace sasa::cuda {

// Says once for each reason that plain torch computes instead, which is slow.
inline void report_plain(const std::string& reason) {
  static std::mutex mutex;
  static std::set<std::string> reported;
  const std::lock_guard<std::mutex> lock(mutex);
  if (reported.insert(reason).second) std::fprintf(stderr, "sasa: %s; plain torch computes it\n", reason.c_str());
}

template <class Result>
struct Results {
  static constexpr size_t count = 1;
  static Result take(const StableIValue* stack) { return torch::stable::detail::to<Result>(stack[0]); }
};
template <class... Each>
struct Results<std::tuple<Each...>> {
  static constexpr size_t count = sizeof...(Each);
  static std::tuple<Each...> take(const StableIValue* stack) { return take(stack, std::index_sequence_for<Each...>()); }
  template <size_t... I>
  static std::tuple<Each...> take(const StableIValue* stack, std::index_sequence<I...>) {
    return {torch::stable::detail::to<Each>(stack[I])...};
  }
};

// OPERATOR, an operator of operators.h, or the dispatcher op PLAIN, which takes the same arguments.
template <auto Operator, const char* Plain>
struct OrPlain;
template <class Result, class... Arguments, Result (*Operator)(Arguments...), const char* Plain>
struct OrPlain<Operator, Plain> {
  static Result run(Arguments... arguments) {
    try {
      return Operator(arguments...);
    } catch (const UnsupportedError& error) {
      report_plain(error.what());
    }
    std::array<StableIValue, std::max(sizeof...(Arguments), Results<Result>::count)> stack{
        torch::stable::detail::from(arguments)...};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(Plain, "", stack.data(), TORCH_ABI_VERSION));
    return Results<Result>::take(stack.data());
  }
};

}  // namespace sasa::cuda
