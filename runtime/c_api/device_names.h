// What the name of a device says: cpu@0-3 is cores, cuda:0 a GPU, cuda:0.1/2 a half of one.

#ifndef HIOS_C_API_DEVICE_NAMES_H_
#define HIOS_C_API_DEVICE_NAMES_H_

#include <string>
#include <string_view>
#include <vector>

namespace hios {

using Cores = std::vector<int>;

enum class DeviceKind { kCpu, kCuda };

// All of these throw `Error` (HIOS_DEVICE) for names of another form.
DeviceKind KindOf(std::string_view device);
const char* KindName(DeviceKind kind);
Cores ParseCores(std::string_view device);       // ascending, each once
void CheckGpuName(std::string_view device);

Cores CoresOf(std::string_view device);          // none where it is no CPU
std::string CpuDeviceName(const Cores& cores);   // of ascending cores

// Whether devices of this kind have memory of their own; CPUs use the host's.
inline bool HasOwnMemory(DeviceKind kind) { return kind == DeviceKind::kCuda; }

// The device that the one called `device` is a part of: itself where it is whole.
std::string_view WholeDevice(std::string_view device);

}  // namespace hios

#endif  // HIOS_C_API_DEVICE_NAMES_H_
