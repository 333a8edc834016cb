// A fiber for each thread of a block: a stack and a place to go on from. Switching costs a few nanoseconds on x86-64
// and aarch64; elsewhere ucontext does it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

constexpr size_t kStackBytes = 1 << 17;

#if defined(__x86_64__)
extern "C" void sasa_switch_stack(void** save, void* load);
asm(R"(
.text
.weak sasa_switch_stack
.type sasa_switch_stack, @function
sasa_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sasa_switch_stack, .-sasa_switch_stack
)");
#endif

class Fiber {
 public:
  // The fiber of the caller itself: it has a stack already.
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  ~Fiber() { std::free(stack_); }

  // Makes it start `entry`, which never returns, at the first switch.
  void start(void (*entry)()) {
    if (stack_ == nullptr) stack_ = static_cast<char*>(std::aligned_alloc(64, kStackBytes));
#if defined(__x86_64__)
    auto* top = reinterpret_cast<void**>(stack_ + kStackBytes);
    *--top = nullptr;  // as a return address: keeps the stack aligned as at a call
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    pointer_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  static void switch_to(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, to.bottom(), to.size());
#endif
#if defined(__x86_64__)
    sasa_switch_stack(&from.pointer_, to.pointer_);
#else
    swapcontext(&from.context_, &to.context_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  // To be called first in `entry`, with the fiber that switched to it.
  static void entered([[maybe_unused]] Fiber& from) {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (from.stack_ == nullptr) from.main_bottom_ = bottom, from.main_size_ = size;
#endif
  }

 private:
  char* stack_ = nullptr;
#if defined(__x86_64__)
  void* pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom() const { return stack_ ? stack_ : main_bottom_; }
  size_t size() const { return stack_ ? kStackBytes : main_size_; }
  const void* main_bottom_ = nullptr;
  size_t main_size_ = 0;
#endif
};

}  // namespace emulation
