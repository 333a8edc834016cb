// NVRTC and the CUDA driver, opened at run time: nothing here links against CUDA or includes its headers, so that one
// library serves machines with and without a GPU. No torch.
//
// NVRTC is the one that torch has loaded, or the one beside it; the environment variable SASA_NVRTC names another file.
#pragma once
#include <stdexcept>
#include <string>
#include <vector>

namespace sasa::cuda {

// What a user reads: one sentence.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// There is no kernel for a call, or none for a GPU: plain torch may compute it instead.
class UnsupportedError : public Error {
  using Error::Error;
};

// Handles, as CUDA declares them: pointers that are only passed on.
using Program = void*;   // nvrtcProgram
using Context = void*;   // CUcontext
using Module = void*;    // CUmodule
using Function = void*;  // CUfunction
using Stream = void*;    // CUstream

struct Nvrtc {
  const char* (*error_string)(int);
  int (*version)(int* major, int* minor);
  int (*count_architectures)(int* count);
  int (*architectures)(int* list);
  int (*create)(Program*, const char* source, const char* name, int headers, const char* const* header_sources,
                const char* const* header_names);
  int (*destroy)(Program*);
  int (*compile)(Program, int count, const char* const* options);
  int (*log_size)(Program, size_t*);
  int (*log)(Program, char*);
  int (*cubin_size)(Program, size_t*);
  int (*cubin)(Program, char*);
  int (*ptx_size)(Program, size_t*);
  int (*ptx)(Program, char*);

  std::string file;
  int major, minor;
  std::vector<int> supported;  // architectures that it compiles for, such as 90, ascending
};

struct Driver {
  int (*init)(unsigned flags);
  int (*version)(int* version);  // 13000 for 13.0
  int (*error_name)(int, const char**);
  int (*error_string)(int, const char**);
  int (*device_count)(int*);
  int (*device)(int* device, int ordinal);
  int (*device_attribute)(int* value, int attribute, int device);
  int (*retain_primary_context)(Context*, int device);
  int (*current_context)(Context*);
  int (*set_current_context)(Context);
  int (*load_module)(Module*, const void* image);
  int (*module_function)(Function*, Module, const char* name);
  int (*set_function_attribute)(Function, int attribute, int value);
  int (*launch)(Function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                unsigned block_z, unsigned shared, Stream, void** parameters, void** extra);
  int (*is_capturing)(Stream, int* status);
  int (*synchronize)(Stream);
};

// The libraries; an Error says which is missing. Opening the driver does not initialise it: a process may still fork.
const Nvrtc& nvrtc();
const Driver& driver();

// Whether both libraries are here: empty, or the sentence that says which is not.
std::string why_not();

// Raise the sentence "DOING failed: ERROR" if a call of the driver did.
void check(int result, const char* doing);

}  // namespace sasa::cuda
