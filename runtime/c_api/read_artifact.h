// Reading and checking artifacts (.hios files).
//
// An artifact is checked whole before anything of it is used: the archive, its signature where a key
// is given, the SHA-256 of every entry, that its code fits this machine, and the manifest.

#ifndef HIOS_C_API_READ_ARTIFACT_H_
#define HIOS_C_API_READ_ARTIFACT_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "manifest.h"
#include "weights.h"

namespace hios {

struct Artifact {
  std::string path;
  std::string rebuild_command;                        // for messages
  std::vector<std::string> texts;                     // of the manifests
  std::vector<std::unique_ptr<Manifest>> manifests;   // of each shape, the largest first
  std::map<std::string, std::string> libraries;       // by entry; the code of GPUs is among them
  std::unique_ptr<Weights> weights, sources;          // or nullptr

  // Weights that sessions have prepared, by what decides their bytes.
  std::mutex prepared_mutex;
  std::map<std::string, std::weak_ptr<Pages>> prepared;
};

// Reads an artifact and verifies it whole. `key` is as in hios_artifact_open. Throws `Error`.
std::shared_ptr<Artifact> OpenArtifact(const std::string& path, const char* key);

}  // namespace hios

#endif  // HIOS_C_API_READ_ARTIFACT_H_
