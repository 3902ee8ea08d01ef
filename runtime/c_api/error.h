// The one kind of exception of this library: a code and a message. None leaves it (c_api.cc).

#ifndef HIOS_C_API_ERROR_H_
#define HIOS_C_API_ERROR_H_

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

inline std::string Quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

}  // namespace hios

#endif  // HIOS_C_API_ERROR_H_
