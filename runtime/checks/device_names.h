// What the name of a device says: cpu@0-3 is cores, cuda:0 a GPU, cuda:0.1/2 a half of one.

#ifndef HIOS_CHECKS_DEVICE_NAMES_H_
#define HIOS_CHECKS_DEVICE_NAMES_H_

#include <string>
#include <string_view>
#include <vector>

namespace hios {

using Cores = std::vector<int>;

// What manifests depend on in a kind of device.
struct DeviceKind {
  std::string name;   // how the names of its devices begin
  std::string first;  // the name of a device
  bool own_memory;    // whether its devices have memory of their own; CPUs use the host's
};

// The kinds of devices: CPUs and GPUs, whose rules are known here, and those that a program adds.
class DeviceKinds {
 public:
  DeviceKinds() = default;
  explicit DeviceKinds(const std::vector<DeviceKind>& others) {
    kinds_.insert(kinds_.end(), others.begin(), others.end());
  }

  // Of a device, whose name may be malformed behind its kind; throws `Error` (HIOS_DEVICE).
  const DeviceKind& of(std::string_view device) const;

 private:
  std::vector<DeviceKind> kinds_ = {{"cpu", "cpu@0", false}, {"cuda", "cuda:0", true}};
};

// All of these throw `Error` (HIOS_DEVICE) for names of another form.
Cores ParseCores(std::string_view device);       // ascending, each once
void CheckGpuName(std::string_view device);

Cores CoresOf(std::string_view device);          // none where it is no CPU
std::string CpuDeviceName(const Cores& cores);   // of ascending cores

// The device that the one called `device` is a part of: itself where it is whole.
std::string_view WholeDevice(std::string_view device);

}  // namespace hios

#endif  // HIOS_CHECKS_DEVICE_NAMES_H_
