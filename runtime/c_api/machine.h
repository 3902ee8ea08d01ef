// What this process may use of the machine: cores, instruction sets, memory.

#ifndef HIOS_C_API_MACHINE_H_
#define HIOS_C_API_MACHINE_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "device_names.h"

namespace hios {

// The CPU's features in the words of /proc/cpuinfo; nothing where the system does not say.
std::optional<std::set<std::string, std::less<>>> AvailableFeatures();

// The cores of a device; throws `Error` (HIOS_DEVICE) where this process may not use one.
Cores RequireCores(std::string_view device);

// Compares bytes with the memory that is free, of the machine or of its container; throws `Error`
// (HIOS_MEMORY) where they are too many.
void CheckMemory(int64_t bytes, const std::string& what);

// A short text file, or nothing.
std::optional<std::string> ReadText(const char* path);

}  // namespace hios

#endif  // HIOS_C_API_MACHINE_H_
