// Checks of a manifest before anything of the artifact runs.
//
// Devices, buffers and programs must fit each other: no access out of bounds, none to the memory of
// another device, which only its own parts share. The order of instructions proves the rest: no hang,
// no read before the write, and no race between buffers that share memory.

#ifndef HIOS_CHECKS_CHECK_MANIFEST_H_
#define HIOS_CHECKS_CHECK_MANIFEST_H_

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device_names.h"
#include "error.h"
#include "happens_before.h"
#include "manifest.h"

namespace hios {

// Shape and dtype of stored tensors, by name.
using TensorTypes = std::map<std::string, std::pair<Shape, std::string>, std::less<>>;

// Throws `Error` (HIOS_ARTIFACT) on the first rule that is broken. `weights` and `sources` are what
// params.safetensors and sources.safetensors hold. Of kinds of devices that a program adds, names and
// code are not looked at.
void CheckManifest(const Manifest& manifest, const TensorTypes& weights, const TensorTypes& sources,
                   const DeviceKinds& kinds = DeviceKinds());

// The first CPU with a library, which has the kernels that prepare weights; nullptr if there is none.
const DeviceSpec* PreparingDevice(const Manifest& manifest);

// Checks that the manifests of an artifact are of one model, each of a shape of its own.
void CheckShapes(const std::vector<std::unique_ptr<Manifest>>& manifests);

// The parts of `CheckManifest` in files of their own.
// Instructions fit their buffers and devices.
void CheckPrograms(const Manifest& manifest, const DeviceKinds& kinds);
void CheckCode(const Manifest& manifest);   // code and calls have the form of their devices
void CheckOrder(const Manifest& manifest);  // what happens before what

template <typename Names>
void RequireUnique(const char* what, const Names& names) {
  std::map<std::string_view, int> counts;
  for (const std::string_view name : names) ++counts[name];
  for (const std::string_view name : names) {
    Require(counts[name] == 1, [&] {
      return std::string(what) + " " + Quoted(name) + " is named " + std::to_string(counts[name]) +
             " times";
    });
  }
}

}  // namespace hios

#endif  // HIOS_CHECKS_CHECK_MANIFEST_H_
