#include "json.h"

#include <locale.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "error.h"

namespace hios {

namespace {

constexpr int kMaxDepth = 900;           // about what Python's reader can nest
constexpr size_t kMaxDigits = 4300;      // of an integer, as in Python
constexpr size_t kBlock = 1 << 16;

locale_t PlainLocale() {
  static const locale_t locale = newlocale(LC_ALL_MASK, "C", nullptr);
  return locale;
}

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// The bytes of the UTF-8 character at `at`, or 0 where it is none.
size_t CharacterBytes(const unsigned char* at, size_t left) {
  const unsigned char c = at[0];
  if (c < 0x80) return 1;
  const size_t size = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
  if (c < 0xc2 || c > 0xf4 || left < size) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((at[i] & 0xc0) != 0x80) return 0;
  }
  const unsigned char d = at[1];
  if ((c == 0xe0 && d < 0xa0) || (c == 0xed && d > 0x9f)) return 0;  // overlong, half characters
  if ((c == 0xf0 && d < 0x90) || (c == 0xf4 && d > 0x8f)) return 0;  // overlong, beyond Unicode
  return size;
}

size_t WriteCharacter(uint32_t code, char* to) {
  if (code < 0x80) return to[0] = static_cast<char>(code), 1;
  if (code < 0x800) {
    to[0] = static_cast<char>(0xc0 | code >> 6);
    to[1] = static_cast<char>(0x80 | (code & 0x3f));
    return 2;
  }
  if (code < 0x10000) {
    to[0] = static_cast<char>(0xe0 | code >> 12);
    to[1] = static_cast<char>(0x80 | (code >> 6 & 0x3f));
    to[2] = static_cast<char>(0x80 | (code & 0x3f));
    return 3;
  }
  to[0] = static_cast<char>(0xf0 | code >> 18);
  to[1] = static_cast<char>(0x80 | (code >> 12 & 0x3f));
  to[2] = static_cast<char>(0x80 | (code >> 6 & 0x3f));
  to[3] = static_cast<char>(0x80 | (code & 0x3f));
  return 4;
}

}  // namespace

class JsonReader {
 public:
  JsonReader(std::string_view text, Json* json) : text_(text), json_(json) {}

  JsonValue Read() {
    const JsonValue value = Value(0);
    Space();
    if (at_ != text_.size()) Refuse("extra data");
    return value;
  }

 private:
  [[noreturn]] void Refuse(const std::string& problem) const {
    Fail(HIOS_ARTIFACT, "not valid JSON: " + problem + " at byte " + std::to_string(at_));
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void Space() {
    while (at_ < text_.size() && std::strchr(" \t\n\r", text_[at_]) && text_[at_] != '\0') ++at_;
  }

  void Expect(char c) {
    if (Peek() != c || at_ == text_.size()) Refuse(std::string("no '") + c + "'");
    ++at_;
  }

  bool Skip(char c) {
    Space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }

  bool Word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  JsonValue Value(int depth) {
    if (depth > kMaxDepth) Refuse("too many values inside of each other");
    Space();
    JsonValue value{};
    switch (Peek()) {
      case '{':
        return Object(depth);
      case '[':
        return List(depth);
      case '"':
        return Text();
      default:
        if (Word("null")) return value;
        if (Word("true")) return value.kind = JsonValue::kTrue, value;
        if (Word("false")) return value.kind = JsonValue::kFalse, value;
        return Number();
    }
  }

  JsonValue List(int depth) {
    Expect('[');
    const size_t first = items_.size();
    if (!Skip(']')) {
      do {
        const JsonValue item = Value(depth + 1);
        items_.push_back(item);
      } while (Skip(','));
      Expect(']');
    }
    JsonValue list{};
    list.kind = JsonValue::kList;
    list.size = static_cast<uint32_t>(items_.size() - first);
    list.items = Keep(first);
    return list;
  }

  JsonValue Object(int depth) {
    Expect('{');
    const size_t first = items_.size();
    if (!Skip('}')) {
      do {
        Space();
        items_.push_back(Text());
        Space();
        Expect(':');
        const JsonValue value = Value(depth + 1);
        items_.push_back(value);
      } while (Skip(','));
      Expect('}');
    }
    JsonValue object{};
    object.kind = JsonValue::kObject;
    object.size = static_cast<uint32_t>((items_.size() - first) / 2);
    static_assert(sizeof(JsonMember) == 2 * sizeof(JsonValue));
    object.members = reinterpret_cast<const JsonMember*>(Keep(first));
    RefuseRepeatedNames(object);
    return object;
  }

  // Moves the items from `first` on to the memory of the text.
  const JsonValue* Keep(size_t first) {
    const size_t bytes = (items_.size() - first) * sizeof(JsonValue);
    void* kept = json_->Allocate(bytes);
    if (bytes != 0) std::memcpy(kept, &items_[first], bytes);
    items_.resize(first);
    return static_cast<const JsonValue*>(kept);
  }

  void RefuseRepeatedNames(const JsonValue& object) const {
    std::vector<std::string_view> names;
    for (uint32_t i = 0; i < object.size; ++i) names.push_back(object.members[i].name.string());
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice != names.end()) Refuse("key " + QuotedStart(*twice) + " is named twice");
  }

  JsonValue Text() {
    Expect('"');
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    if (at_ >= text_.size()) Refuse("a string without an end");
    const size_t end = at_;
    auto* bytes = static_cast<char*>(json_->Allocate(end - begin));  // escapes are longer
    size_t size = 0;
    for (at_ = begin; at_ < end;) size += Character(end, bytes + size);
    ++at_;
    JsonValue value{};
    value.kind = JsonValue::kText;
    value.size = static_cast<uint32_t>(size);
    value.text = bytes;
    return value;
  }

  // Copies a character, or what an escape stands for; returns its bytes.
  size_t Character(size_t end, char* to) {
    const auto* from = reinterpret_cast<const unsigned char*>(text_.data()) + at_;
    if (*from < 0x20) Refuse("a control character in a string");
    if (*from != '\\') {
      const size_t size = CharacterBytes(from, end - at_);
      if (size == 0) Refuse("broken UTF-8");
      std::memcpy(to, from, size);
      at_ += size;
      return size;
    }
    constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const char escape = text_[at_ + 1];
    at_ += 2;
    if (escape == 'u') return WriteCharacter(Unicode(end), to);
    const size_t which = kEscapes.find(escape);
    if (which == std::string_view::npos) Refuse("an unknown escape");
    *to = kMeanings[which];
    return 1;
  }

  // What follows \u, with the second half of a character.
  uint32_t Unicode(size_t end) {
    const uint32_t code = Hex(end);
    if (code < 0xd800 || code > 0xdfff) return code;
    if (code > 0xdbff || !Word("\\u")) Refuse("half a character");
    const uint32_t low = Hex(end);
    if (low < 0xdc00 || low > 0xdfff) Refuse("half a character");
    return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }

  uint32_t Hex(size_t end) {
    uint32_t code = 0;
    if (end - at_ < 4) Refuse("a broken escape");
    for (int i = 0; i < 4; ++i) {
      const char c = text_[at_++];
      const char lower = static_cast<char>(c | 0x20);
      if (!IsDigit(c) && (lower < 'a' || lower > 'f')) Refuse("a broken escape");
      code = code << 4 | static_cast<uint32_t>(IsDigit(c) ? c - '0' : lower - 'a' + 10);
    }
    return code;
  }

  JsonValue Number() {
    const size_t begin = at_;
    if (Peek() == '-') ++at_;
    const size_t digits = Digits();
    if (digits == 0) Refuse("no value");
    if (digits > 1 && text_[at_ - digits] == '0') Refuse("a number that begins with 0");
    const bool whole = !(Peek() == '.' || Peek() == 'e' || Peek() == 'E');
    if (Peek() == '.') {
      ++at_;
      if (Digits() == 0) Refuse("a number without digits");
    }
    if (Peek() == 'e' || Peek() == 'E') {
      ++at_;
      if (Peek() == '+' || Peek() == '-') ++at_;
      if (Digits() == 0) Refuse("a number without digits");
    }
    const std::string text(text_.substr(begin, at_ - begin));
    JsonValue value{};
    if (whole && digits <= 18) {
      value.kind = JsonValue::kInteger;
      value.integer = strtoll(text.c_str(), nullptr, 10);
      return value;
    }
    if (whole && digits > kMaxDigits) Refuse("a number of too many digits");
    value.kind = whole ? JsonValue::kHugeInteger : JsonValue::kReal;
    value.real = strtod_l(text.c_str(), nullptr, PlainLocale());
    if (!whole && std::isinf(value.real)) Refuse("a number that is too large");
    return value;
  }

  size_t Digits() {
    const size_t begin = at_;
    while (IsDigit(Peek())) ++at_;
    return at_ - begin;
  }

  std::string_view text_;
  Json* json_;
  size_t at_ = 0;
  std::vector<JsonValue> items_;  // of the lists and objects that are not at their ends yet
};

const JsonValue* JsonValue::find(std::string_view name) const {
  for (uint32_t i = 0; i < size; ++i) {
    if (members[i].name.string() == name) return &members[i].value;
  }
  return nullptr;
}

Json::Json(std::string_view text) : root_{} { root_ = JsonReader(text, this).Read(); }

void* Json::Allocate(size_t bytes) {
  bytes = (bytes + 7) & ~size_t{7};
  if (bytes > left_) {
    left_ = std::max(bytes, kBlock);
    blocks_.emplace_back(new uint64_t[left_ / 8]);
    free_ = reinterpret_cast<char*>(blocks_.back().get());
  }
  void* result = free_;
  free_ += bytes;
  left_ -= bytes;
  return result;
}

}  // namespace hios
