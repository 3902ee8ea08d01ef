// Strict JSON: what Python's reader refuses is refused here, too. Repeated keys, NaN, numbers beyond
// those of a double, broken UTF-8, half characters, anything behind the value.

#ifndef HIOS_CHECKS_JSON_H_
#define HIOS_CHECKS_JSON_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace hios {

struct JsonMember;

// A value in the memory of its `Json`. It is small, because a text of 256 MiB may hold one for each
// second byte.
struct JsonValue {
  enum Kind : uint8_t { kNull, kFalse, kTrue, kInteger, kHugeInteger, kReal, kText, kList, kObject };

  Kind kind;
  uint32_t size;  // of a text in bytes, of a list or object in items
  union {
    int64_t integer;
    double real;             // of a huge integer, too
    const char* text;
    const JsonValue* items;
    const JsonMember* members;  // in the order of the text
  };

  bool is(Kind other) const { return kind == other; }
  std::string_view string() const { return {text, size}; }
  // The member called `name`, or nullptr; of an object.
  const JsonValue* find(std::string_view name) const;
};

struct JsonMember {
  JsonValue name;
  JsonValue value;
};

// A parsed text.
class Json {
 public:
  // Throws `Error` (HIOS_ARTIFACT) where `text` is no such JSON.
  explicit Json(std::string_view text);

  const JsonValue& root() const { return root_; }

 private:
  friend class JsonReader;

  void* Allocate(size_t bytes);

  std::vector<std::unique_ptr<uint64_t[]>> blocks_;
  char* free_ = nullptr;
  size_t left_ = 0;
  JsonValue root_;
};

}  // namespace hios

#endif  // HIOS_CHECKS_JSON_H_
