// What a manifest may hold at most, so that all of it is checked in seconds; docs/artifact.md says why.

#ifndef HIOS_CHECKS_LIMITS_H_
#define HIOS_CHECKS_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace hios {

constexpr size_t kMaxDevices = 256;
constexpr int64_t kMaxStreams = 64;  // of a device
constexpr size_t kMaxInstructions = 32768;
constexpr size_t kMaxArguments = 1048576;  // of all calls together
constexpr size_t kMaxShapes = 64;
constexpr int64_t kMaxInFlight = 64;  // inputs of one session
constexpr int64_t kMaxThreads = 1024;  // of a block of a GPU
constexpr int64_t kMaxSharedBytes = 262144;

}  // namespace hios

#endif  // HIOS_CHECKS_LIMITS_H_
