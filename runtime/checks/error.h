// The one kind of exception of this library: a code and a message. None leaves it (c_api.cc).

#ifndef HIOS_CHECKS_ERROR_H_
#define HIOS_CHECKS_ERROR_H_

#include <string>
#include <string_view>
#include <utility>

#include "hios_runtime.h"

namespace hios {

struct Error {
  hios_status code;
  std::string message;
};

[[noreturn]] inline void Fail(hios_status code, std::string message) {
  throw Error{code, std::move(message)};
}

inline void Require(bool holds, const char* message) {
  if (!holds) Fail(HIOS_ARTIFACT, message);
}

// As above, where the message has to be made: `message` returns it.
template <typename Message, typename = decltype(std::declval<Message>()())>
void Require(bool holds, Message message) {
  if (!holds) Fail(HIOS_ARTIFACT, message());
}

// A text of a file as Python shows it, so that it cannot steer a terminal.
inline std::string Quoted(std::string_view text) {
  const bool has_single = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = has_single ? '"' : '\'';
  std::string result(1, quote);
  for (const char c : text) {
    constexpr char kDigits[] = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      result += {'\\', 'x', kDigits[byte / 16], kDigits[byte % 16]};
    } else {
      if (c == '\\' || c == quote) result += '\\';
      result += c;
    }
  }
  return result + quote;
}

// A list of names as Python shows it.
template <typename Names>
std::string QuotedList(const Names& names) {
  std::string result;
  for (const auto& name : names) result += (result.empty() ? "" : ", ") + Quoted(name);
  return "[" + result + "]";
}

// The first characters of a text that a file holds, which may be long.
inline std::string QuotedStart(std::string_view text) {
  size_t end = text.size();
  if (end > 60) {
    for (end = 60; end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80;) --end;
  }
  return Quoted(text.substr(0, end));
}

}  // namespace hios

#endif  // HIOS_CHECKS_ERROR_H_
