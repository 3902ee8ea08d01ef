#include "archive.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "error.h"
#include "memory.h"

namespace hios {
namespace {

constexpr int64_t kMaxArchiveBytes = 0xffffffff;  // what a zip without extensions can describe
constexpr int64_t kMaxEntries = 1024;
constexpr int64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22;
constexpr uint32_t kVersion = 20, kStored = 0, kMidnight = 0, kDay = 0x21;  // 1980-01-01
constexpr uint32_t kPadding = 0xd935;  // the extra field that aligns contents

// Writes numbers of 2 and 4 bytes, the lowest first.
class Record {
 public:
  explicit Record(std::string_view magic) : bytes_(magic) {}

  Record& Two(std::initializer_list<uint32_t> numbers) { return Put(numbers, 2); }
  Record& Four(std::initializer_list<uint32_t> numbers) { return Put(numbers, 4); }

  Record& Text(std::string_view text) {
    bytes_ += text;
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  Record& Put(std::initializer_list<uint32_t> numbers, int size) {
    for (const uint32_t number : numbers) {
      for (int i = 0; i < size; ++i) bytes_ += static_cast<char>(number >> 8 * i & 0xff);
    }
    return *this;
  }

  std::string bytes_;
};

uint32_t NumberAt(std::string_view bytes, size_t at, size_t size) {
  uint32_t number = 0;
  for (size_t i = size; i-- > 0;) number = number << 8 | static_cast<uint8_t>(bytes[at + i]);
  return number;
}

// The bytes before the content of an entry.
std::string LocalHeader(const Entry& entry) {
  const auto size = static_cast<uint32_t>(entry.bytes);
  const auto length = static_cast<uint32_t>(entry.name.size());
  const auto padding =
      static_cast<uint32_t>(entry.data_offset() - entry.offset - kLocalBytes - length - 4);
  return Record("PK\3\4")
      .Two({kVersion, 0, kStored, kMidnight, kDay})
      .Four({entry.crc, size, size})
      .Two({length, padding + 4})
      .Text(entry.name)
      .Two({kPadding, padding})
      .Text(std::string(padding, '\0'))
      .bytes();
}

// The bytes behind the last entry, to the end of the file.
std::string CentralDirectory(const std::vector<Entry>& entries) {
  Record directory("");
  for (const Entry& entry : entries) {
    const auto size = static_cast<uint32_t>(entry.bytes);
    directory.Text("PK\1\2")
        .Two({kVersion, kVersion, 0, kStored, kMidnight, kDay})
        .Four({entry.crc, size, size})
        .Two({static_cast<uint32_t>(entry.name.size()), 0, 0, 0, 0})
        .Four({0, static_cast<uint32_t>(entry.offset)})
        .Text(entry.name);
  }
  const auto count = static_cast<uint32_t>(entries.size());
  const auto bytes = static_cast<uint32_t>(directory.bytes().size());
  return directory.Text("PK\5\6")
      .Two({0, 0, count, count})
      .Four({bytes, static_cast<uint32_t>(entries.back().end())})
      .Two({0})
      .bytes();
}

bool IsName(std::string_view name) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (name.empty() || name.size() > 100 || !plain(name[0])) return false;
  for (const char c : name) {
    if (!plain(c) && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

// A name as messages show it: it may hold any bytes.
std::string Printable(std::string_view name) {
  std::string text(name);
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return text;
}

// Reads `count` entries of a directory; their other fields are not looked at.
std::vector<Entry> ParseDirectory(std::string_view directory, int64_t count) {
  std::vector<Entry> entries;
  for (int64_t i = 0; i < count; ++i) {
    Require(directory.size() >= kCentralBytes, "its directory is damaged");
    const size_t length = NumberAt(directory, 28, 2);
    Entry entry;
    entry.name = directory.substr(kCentralBytes, length);
    entry.bytes = NumberAt(directory, 24, 4);
    entry.crc = NumberAt(directory, 16, 4);
    entry.offset = NumberAt(directory, 42, 4);
    bool allowed = IsName(entry.name);
    for (const Entry& other : entries) allowed = allowed && other.name != entry.name;
    Require(allowed, [&] {
      return "its entry name " + QuotedStart(Printable(entry.name)) +
             " is not allowed, or occurs twice";
    });
    directory.remove_prefix(kCentralBytes + entry.name.size());
    entries.push_back(std::move(entry));
  }
  Require(entries[0].name == kManifest, "its first entry is not manifest.json");
  return entries;
}

}  // namespace

int64_t Entry::data_offset() const {
  const int64_t header = offset + kLocalBytes + static_cast<int64_t>(name.size()) + 4;
  return static_cast<int64_t>(AlignUp(static_cast<size_t>(header)));
}

Archive::Archive(const std::string& path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) Fail(HIOS_ARTIFACT, strerror(errno));
  try {
    ReadDirectory();
  } catch (...) {
    close(descriptor_);
    throw;
  }
}

Archive::~Archive() { close(descriptor_); }

const Entry* Archive::find(std::string_view name) const {
  for (const Entry& entry : entries_) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

std::string Archive::Read(int64_t start, int64_t bytes) const {
  std::string content(static_cast<size_t>(bytes), '\0');
  ReadInto(start, bytes, content.data());
  return content;
}

void Archive::ReadInto(int64_t start, int64_t bytes, char* to) const {
  while (bytes > 0) {
    const ssize_t got = pread(descriptor_, to, static_cast<size_t>(bytes), start);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) Fail(HIOS_ARTIFACT, strerror(errno));
    Require(got != 0, "it ends too early");
    start += got;
    bytes -= got;
    to += got;
  }
}

// The file must be what the writer makes of the entries, byte for byte.
void Archive::ReadDirectory() {
  struct stat status;
  if (fstat(descriptor_, &status) != 0) Fail(HIOS_ARTIFACT, strerror(errno));
  const int64_t size = status.st_size;
  Require(kEndBytes <= size && size <= kMaxArchiveBytes,
          [&] { return "a file of " + std::to_string(size) + " bytes is no artifact"; });
  const std::string end = Read(size - kEndBytes, kEndBytes);
  const int64_t count = NumberAt(end, 10, 2), bytes = NumberAt(end, 12, 4), start = NumberAt(end, 16, 4);
  Require(start + bytes + kEndBytes == size && 0 < count && count <= kMaxEntries,
          "it is no artifact, or was cut off (no directory at its end)");
  const std::string directory = Read(start, bytes + kEndBytes);
  std::vector<Entry> entries = ParseDirectory(directory, count);
  int64_t position = 0;
  for (const Entry& entry : entries) {
    const std::string header = LocalHeader(entry);
    Require(entry.offset == position &&
                Read(position, static_cast<int64_t>(header.size())) == header,
            [&] { return "the header of its entry " + Quoted(entry.name) + " is damaged"; });
    position = entry.end();
  }
  Require(position == start && CentralDirectory(entries) == directory, "its directory is damaged");
  entries_ = std::move(entries);
}

}  // namespace hios
