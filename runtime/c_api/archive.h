// The bytes of artifacts (.hios files): a zip of stored entries in one canonical form.
// docs/artifact.md describes them. No other bytes than the writer's are accepted.

#ifndef HIOS_C_API_ARCHIVE_H_
#define HIOS_C_API_ARCHIVE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace hios {

constexpr char kManifest[] = "manifest.json";
constexpr char kParams[] = "params.safetensors";
constexpr char kSources[] = "sources.safetensors";
constexpr char kSignature[] = "signature";

struct Entry {
  std::string name;
  int64_t bytes;
  uint32_t crc;
  int64_t offset;  // where its header begins

  int64_t data_offset() const;  // where the content begins
  int64_t end() const { return data_offset() + bytes; }
};

// An open archive whose directory has been checked.
class Archive {
 public:
  // Throws `Error` (HIOS_ARTIFACT), as all functions do where the file cannot be read.
  explicit Archive(const std::string& path);
  ~Archive();

  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  const std::vector<Entry>& entries() const { return entries_; }
  const Entry* find(std::string_view name) const;

  std::string Read(int64_t start, int64_t bytes) const;
  void ReadInto(int64_t start, int64_t bytes, char* to) const;

 private:
  void ReadDirectory();

  int descriptor_;
  std::vector<Entry> entries_;
};

}  // namespace hios

#endif  // HIOS_C_API_ARCHIVE_H_
