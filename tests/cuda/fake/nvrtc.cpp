// A stand-in for NVRTC that compiles nothing: its machine code is a text that says what was asked for, from which the
// fake driver (driver.cpp) makes an emulated kernel.
#include <cstring>
#include <string>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Program {
  std::string source, binary;
};

constexpr int kArchitectures[] = {75, 80, 86, 89, 90, 100, 120};

}  // namespace

EXPORT const char* nvrtcGetErrorString(int) { return "an error of the test"; }

EXPORT int nvrtcVersion(int* major, int* minor) {
  *major = 13, *minor = 99;
  return 0;
}

EXPORT int nvrtcGetNumSupportedArchs(int* count) {
  *count = static_cast<int>(sizeof kArchitectures / sizeof *kArchitectures);
  return 0;
}

EXPORT int nvrtcGetSupportedArchs(int* list) {
  std::memcpy(list, kArchitectures, sizeof kArchitectures);
  return 0;
}

EXPORT int nvrtcCreateProgram(Program** program, const char*, const char* name, int, const char* const*,
                              const char* const*) {
  *program = new Program{name, ""};
  return 0;
}

EXPORT int nvrtcDestroyProgram(Program** program) {
  delete *program;
  return 0;
}

EXPORT int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
  program->binary = "emulated " + program->source;
  for (int i = 0; i < count; ++i)
    if (std::strncmp(options[i], "-D", 2) == 0) program->binary += std::string(" ") + (options[i] + 2);
  return 0;
}

EXPORT int nvrtcGetProgramLogSize(Program*, size_t* size) {
  *size = 0;
  return 0;
}

EXPORT int nvrtcGetProgramLog(Program*, char*) { return 0; }

EXPORT int nvrtcGetCUBINSize(Program* program, size_t* size) {
  *size = program->binary.size() + 1;
  return 0;
}

EXPORT int nvrtcGetCUBIN(Program* program, char* binary) {
  std::strcpy(binary, program->binary.c_str());
  return 0;
}

EXPORT int nvrtcGetPTXSize(Program* program, size_t* size) { return nvrtcGetCUBINSize(program, size); }

EXPORT int nvrtcGetPTX(Program* program, char* binary) { return nvrtcGetCUBIN(program, binary); }
