// Compiled kernels on disk. A file that is missing, damaged or of another kernel counts as absent. A directory that
// cannot be written is not an error: the next process compiles the kernels again. No torch, no CUDA.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace sasa::cuda {

// 64 bits of FNV-1a: names files and detects damage. It does not protect against an attacker.
uint64_t fnv1a(const std::string& bytes);

class Cache {
 public:
  explicit Cache(std::string directory) : directory_(std::move(directory)) {}

  // $SASA_CACHE, else $XDG_CACHE_HOME/sasa, else ~/.cache/sasa; without a home: nowhere, and nothing is kept.
  static Cache of_user();

  // `key` is all that the kernel depends on, in full: it stands in the file and is compared.
  std::optional<std::string> load(const std::string& key) const;
  bool has_file(const std::string& key) const;
  // False where it could not be kept.
  bool store(const std::string& key, const std::string& binary) const;

  const std::string& directory() const { return directory_; }
  int64_t count() const;  // files in it

 private:
  std::string file(const std::string& key) const;
  std::string directory_;
};

}  // namespace sasa::cuda
