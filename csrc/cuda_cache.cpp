#include "cuda_cache.h"

#include <dirent.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sasa::cuda {
namespace {

constexpr char kMagic[8] = {'s', 'a', 's', 'a', 'k', 'r', 'n', '1'};
constexpr char kSuffix[] = ".kernel";

// The start of a file; the key and the binary follow.
struct Header {
  char magic[8];
  uint64_t key_size, binary_size, checksum;  // of the binary
};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string home() {
  const std::string named = variable("HOME");
  if (!named.empty()) return named;
  const passwd* user = getpwuid(getuid());
  return user != nullptr && user->pw_dir != nullptr ? user->pw_dir : "";
}

bool make_directories(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string part = path.substr(0, end);
    if (mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) return false;
    if (end == std::string::npos) return true;
  }
}

std::optional<std::string> read_file(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rbe");
  if (file == nullptr) return std::nullopt;
  std::string content;
  char buffer[1 << 16];
  while (const size_t read = std::fread(buffer, 1, sizeof buffer, file)) content.append(buffer, read);
  const bool failed = std::ferror(file) != 0;
  std::fclose(file);
  return failed ? std::nullopt : std::optional(content);
}

bool write_file(const std::string& path, const std::string& content) {
  std::FILE* file = std::fopen(path.c_str(), "wbe");
  if (file == nullptr) return false;
  const bool written = std::fwrite(content.data(), 1, content.size(), file) == content.size();
  return (std::fclose(file) == 0) && written;  // a full disk may tell only now
}

bool ends_with(const char* name, const char* suffix) {
  const size_t length = std::strlen(name), tail = std::strlen(suffix);
  return length >= tail && std::strcmp(name + length - tail, suffix) == 0;
}

}  // namespace

uint64_t fnv1a(const std::string& bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return hash;
}

Cache Cache::of_user() {
  if (const std::string named = variable("SASA_CACHE"); !named.empty()) return Cache(named);
  if (const std::string named = variable("XDG_CACHE_HOME"); !named.empty()) return Cache(named + "/sasa");
  const std::string directory = home();
  return Cache(directory.empty() ? "" : directory + "/.cache/sasa");
}

std::string Cache::file(const std::string& key) const {
  char name[17];
  std::snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(fnv1a(key)));
  return directory_ + "/" + name + kSuffix;
}

std::optional<std::string> Cache::load(const std::string& key) const {
  if (directory_.empty()) return std::nullopt;
  const auto content = read_file(file(key));
  Header header;
  if (!content || content->size() < sizeof header) return std::nullopt;
  std::memcpy(&header, content->data(), sizeof header);
  const bool fits = std::memcmp(header.magic, kMagic, sizeof kMagic) == 0 && header.key_size == key.size() &&
                    header.binary_size == content->size() - sizeof header - key.size() &&
                    content->compare(sizeof header, key.size(), key) == 0;
  if (!fits) return std::nullopt;
  std::string binary = content->substr(sizeof header + key.size());
  return fnv1a(binary) == header.checksum ? std::optional(std::move(binary)) : std::nullopt;
}

bool Cache::has_file(const std::string& key) const {
  return !directory_.empty() && access(file(key).c_str(), R_OK) == 0;
}

bool Cache::store(const std::string& key, const std::string& binary) const {
  if (directory_.empty() || !make_directories(directory_)) return false;
  Header header = {};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.key_size = key.size(), header.binary_size = binary.size(), header.checksum = fnv1a(binary);
  std::string content(reinterpret_cast<const char*>(&header), sizeof header);
  content += key;
  content += binary;
  // Into place in one step: other processes and threads read and write the same files.
  static std::atomic<int> number{0};
  const std::string path = file(key);
  const std::string fresh = path + "." + std::to_string(getpid()) + "." + std::to_string(number++);
  if (write_file(fresh, content) && std::rename(fresh.c_str(), path.c_str()) == 0) return true;
  std::remove(fresh.c_str());
  return false;
}

int64_t Cache::count() const {
  DIR* listing = directory_.empty() ? nullptr : opendir(directory_.c_str());
  if (listing == nullptr) return 0;
  int64_t found = 0;
  while (const dirent* entry = readdir(listing)) found += ends_with(entry->d_name, kSuffix);
  closedir(listing);
  return found;
}

}  // namespace sasa::cuda
