// What functions of C make of exceptions: a code, and a message for the thread.

#ifndef HIOS_CHECKS_GUARD_H_
#define HIOS_CHECKS_GUARD_H_

#include <new>
#include <string>
#include <system_error>

#include "error.h"

namespace hios {

// Of the thread's latest call that failed.
inline thread_local std::string last_error;

inline hios_status Failed(hios_status code, const char* message) {
  try {
    last_error = message;
  } catch (const std::bad_alloc&) {
    last_error.clear();
  }
  return code;
}

template <typename Body>
hios_status Guard(Body body) {
  try {
    body();
    return HIOS_OK;
  } catch (const Error& error) {
    return Failed(error.code, error.message.c_str());
  } catch (const std::bad_alloc&) {
    return Failed(HIOS_MEMORY, "there is too little memory");
  } catch (const std::system_error& error) {  // of locks and threads
    return Failed(HIOS_MEMORY, error.what());
  }
}

}  // namespace hios

#endif  // HIOS_CHECKS_GUARD_H_
