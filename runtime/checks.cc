// The checks of manifests as functions of C: those of runtime/check_manifest.py, by way of ctypes.
//
// They return 0, or the code of an error, whose message `hios_check_error` then is.

#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check_manifest.h"
#include "decode.h"
#include "guard.h"
#include "json.h"
#include "manifest.h"

namespace hios {

struct StoredType {
  Shape shape;
  std::string dtype;
};

void Decode(const Place& place, StoredType* type) {
  Fields(place).Need("shape", &type->shape).Need("dtype", &type->dtype).End();
}

void Decode(const Place& place, DeviceKind* kind) {
  Fields(place)
      .Need("name", &kind->name)
      .Need("first", &kind->first)
      .Need("own_memory", &kind->own_memory)
      .End();
}

namespace {

TensorTypes TypesOf(Mapping<StoredType> stored) {
  TensorTypes types;
  for (auto& [name, type] : stored) {
    types.emplace(std::move(name), std::pair(std::move(type.shape), std::move(type.dtype)));
  }
  return types;
}

// What a manifest is compared with.
struct Facts {
  explicit Facts(std::string_view text) {
    const Json json(text);
    Mapping<StoredType> stored_weights, stored_sources;
    std::vector<DeviceKind> others;
    Fields(Place{json.root(), nullptr, "facts"})
        .Need("weights", &stored_weights)
        .Need("sources", &stored_sources)
        .Need("kinds", &others)
        .End();
    weights = TypesOf(std::move(stored_weights));
    sources = TypesOf(std::move(stored_sources));
    kinds = DeviceKinds(others);
  }

  TensorTypes weights, sources;
  DeviceKinds kinds;
};

}  // namespace
}  // namespace hios

extern "C" {

// In the place of what compilers since GCC 11 call (by ld's --wrap): older libraries of C++ lack it.
[[noreturn]] void __wrap__ZSt28__throw_bad_array_new_lengthv() { throw std::bad_alloc(); }

HIOS_API const char* hios_check_error() { return hios::last_error.c_str(); }

// Checks the manifest of one shape. `facts` is JSON: the types of weights and sources by name, and
// the kinds of devices that Python adds.
HIOS_API hios_status hios_check_manifest(const char* text, size_t bytes, const char* facts,
                                         size_t facts_bytes) {
  return hios::Guard([&] {
    const hios::Facts known({facts, facts_bytes});
    hios::Manifest manifest;
    hios::ReadManifest({text, bytes}, &manifest);
    hios::CheckManifest(manifest, known.weights, known.sources, known.kinds);
  });
}

// Checks that the manifests of several shapes are of one model.
HIOS_API hios_status hios_check_shapes(const char* const* texts, const size_t* bytes, size_t count) {
  return hios::Guard([&] {
    std::vector<std::unique_ptr<hios::Manifest>> manifests;
    for (size_t i = 0; i < count; ++i) {
      manifests.push_back(std::make_unique<hios::Manifest>());
      hios::ReadManifest({texts[i], bytes[i]}, manifests.back().get());
    }
    hios::CheckShapes(manifests);
  });
}

}  // extern "C"
