#include "read_artifact.h"

#include <algorithm>
#include <set>

#include "archive.h"
#include "check_manifest.h"
#include "digest.h"
#include "error.h"
#include "machine.h"
#include "signature.h"

#ifndef HIOS_TVM_VERSION
#error "define HIOS_TVM_VERSION as the version of TVM whose artifacts are read, in quotes"
#endif

namespace hios {
namespace {

constexpr int64_t kMaxManifestBytes = 256 << 20;
constexpr int64_t kParsed = 40;           // bytes of memory for a byte of JSON, at most
constexpr int64_t kChunk = 1 << 20;       // bytes that are read and hashed at once

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), archive_(path) {}

  std::shared_ptr<Artifact> Read(const std::optional<PublicKey>& key) {
    auto artifact = std::make_shared<Artifact>();
    artifact->path = path_;
    artifact->texts.push_back(ManifestText());
    const std::optional<std::string> signature = Signature();
    if (key) key->Check(artifact->texts[0], signature);
    command_ = RebuildCommand(artifact->texts[0]);
    artifact->rebuild_command = command_;
    artifact->manifests.push_back(std::make_unique<Manifest>());
    ReadManifest(artifact->texts[0], artifact->manifests[0].get());
    first_ = artifact->manifests[0].get();
    std::set<std::string> unused = ExpectedEntries();
    ReadOthers(artifact.get());
    for (const auto& manifest : artifact->manifests) CheckMachine(*manifest);
    ReadLibraries(artifact.get(), &unused);
    Require(unused.empty(), "it has an entry that no device uses");
    artifact->weights = ReadWeights(kParams);
    artifact->sources = ReadWeights(kSources);
    const TensorTypes weights = Types(artifact->weights), sources = Types(artifact->sources);
    for (const auto& manifest : artifact->manifests) CheckManifest(*manifest, weights, sources);
    CheckShapes(artifact->manifests);
    return artifact;
  }

  const std::string& command() const { return command_; }

 private:
  std::string ManifestText() const {
    const Entry& entry = *archive_.find(kManifest);
    RequireManifestBytes(entry.bytes);
    const std::string text = archive_.Read(entry.data_offset(), entry.bytes);
    Require(Crc32(text) == entry.crc, "its manifest is damaged (checksum)");
    return text;
  }

  void RequireManifestBytes(int64_t bytes) const {
    Require(bytes <= kMaxManifestBytes,
            [&] { return "its manifests have " + std::to_string(bytes) + " bytes"; });
    CheckMemory(kParsed * bytes, "the manifest of " + path_);
  }

  std::optional<std::string> Signature() const {
    const Entry* entry = archive_.find(kSignature);
    if (entry == nullptr) return {};
    Require(entry->bytes == kSignatureBytes && entry == &archive_.entries().back(),
            "its signature has a wrong size or place");
    const std::string signature = archive_.Read(entry->data_offset(), entry->bytes);
    Require(Crc32(signature) == entry->crc, "its signature is damaged (checksum)");
    return signature;
  }

  // The entries that the manifest names, which are all but itself and the signature; returned are
  // those that devices have to use.
  std::set<std::string> ExpectedEntries() const {
    std::set<std::string> expected = {kManifest}, found;
    for (const auto& [name, digest] : first_->entries) expected.insert(name);
    for (const Entry& entry : archive_.entries()) {
      if (entry.name != kSignature) found.insert(entry.name);
    }
    Require(expected == found, "its entries are not those that its manifest names");
    for (const char* name : {kManifest, kParams, kSources}) expected.erase(name);
    if (first_->shapes) {
      for (const std::string& name : first_->shapes->others) expected.erase(name);
    }
    return expected;
  }

  void ReadOthers(Artifact* artifact) const {
    if (!first_->shapes) return;
    int64_t bytes = 0;
    for (const std::string& name : first_->shapes->others) bytes += Known(name).bytes;
    RequireManifestBytes(bytes);
    for (const std::string& name : first_->shapes->others) {
      artifact->texts.push_back(Content(name));
      artifact->manifests.push_back(std::make_unique<Manifest>());
      ReadManifest(artifact->texts.back(), artifact->manifests.back().get());
    }
  }

  void ReadLibraries(Artifact* artifact, std::set<std::string>* unused) const {
    for (const auto& manifest : artifact->manifests) {
      for (const DeviceSpec& device : manifest->devices) {
        for (const auto& name : {device.library, device.device_code}) {
          if (!name || artifact->libraries.count(*name) != 0) continue;
          artifact->libraries[*name] = Content(*name);
          Require(unused->erase(*name) != 0, "a device uses an entry of another kind as code");
        }
      }
    }
  }

  const Entry& Known(const std::string& name) const {
    const Entry* entry = archive_.find(name);
    Require(entry != nullptr && first_->entry(name) != nullptr,
            [&] { return "it has no entry " + Quoted(name); });
    return *entry;
  }

  void RequireDigest(const std::string& name, Sha256* digest) const {
    Require(digest->Hex() == *first_->entry(name),
            [&] { return "its entry " + Quoted(name) + " is damaged (SHA-256)"; });
  }

  // Reads an entry piece by piece; its SHA-256 must be that of the manifest.
  void ReadChecked(const std::string& name, char* to) const {
    const Entry& entry = Known(name);
    Sha256 digest;
    for (int64_t done = 0; done < entry.bytes; done += kChunk) {
      const int64_t bytes = std::min(kChunk, entry.bytes - done);
      archive_.ReadInto(entry.data_offset() + done, bytes, to + done);
      digest.Update(to + done, static_cast<size_t>(bytes));
    }
    RequireDigest(name, &digest);
  }

  std::string Content(const std::string& name) const {
    std::string content(static_cast<size_t>(Known(name).bytes), '\0');
    ReadChecked(name, content.data());
    return content;
  }

  std::unique_ptr<Weights> ReadWeights(const char* name) const {
    if (first_->entry(name) == nullptr) return nullptr;
    const int64_t bytes = Known(name).bytes;
    Require(bytes != 0, "its weights have no header");
    CheckMemory(bytes, "the weights of " + path_);
    Pages memory(static_cast<size_t>(bytes));
    ReadChecked(name, memory.data());
    try {
      StoredTensors tensors = ReadTensors({memory.data(), memory.size()});
      return std::make_unique<Weights>(std::move(memory), std::move(tensors));
    } catch (const Error& error) {
      Fail(error.code, std::string(name) + ": " + error.message);
    }
  }

  static TensorTypes Types(const std::unique_ptr<Weights>& weights) {
    TensorTypes types;
    if (weights == nullptr) return types;
    for (const auto& [name, tensor] : weights->tensors()) {
      types.emplace(name, std::pair(tensor.shape, tensor.dtype));
    }
    return types;
  }

  static void CheckMachine(const Manifest& manifest) {
    Require(manifest.tvm_version == HIOS_TVM_VERSION, [&] {
      return "it was compiled with TVM " + manifest.tvm_version + ", this is TVM " HIOS_TVM_VERSION;
    });
    const auto features = AvailableFeatures();
    for (const DeviceSpec& device : manifest.devices) {
      for (const std::string& feature : device.cpu_features) {
        Require(!features || features->count(feature) != 0, [&] {
          return "its code for " + device.name + " (" + device.target + ") needs the CPU feature " +
                 feature + ", which this machine lacks";
        });
      }
    }
  }

  std::string path_;
  std::string command_ = "hios-tvm compile";
  Archive archive_;
  const Manifest* first_ = nullptr;
};

}  // namespace

std::shared_ptr<Artifact> OpenArtifact(const std::string& path, const char* key) {
  const auto required = PublicKey::Required(key);
  std::unique_ptr<Reader> reader;
  try {
    reader = std::make_unique<Reader>(path);
    return reader->Read(required);
  } catch (const Error& error) {
    if (error.code != HIOS_ARTIFACT) throw;
    const std::string command = reader ? reader->command() : "hios-tvm compile";
    Fail(HIOS_ARTIFACT,
         path + ": " + error.message + "; make it again with " + Quoted(command));
  }
}

}  // namespace hios
