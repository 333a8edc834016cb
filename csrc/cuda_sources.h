// The CUDA sources that this library carries, for NVRTC: setup.py writes the file that defines these from csrc/cuda.
#pragma once

namespace sasa::cuda {

struct SourceFile {
  const char* name;  // as another source includes it
  const char* text;
};

extern const SourceFile source_files[];
extern const int source_file_count;
extern const char* const sources_digest;  // of names and texts

}  // namespace sasa::cuda
