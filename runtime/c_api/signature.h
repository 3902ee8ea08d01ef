// Signatures of artifacts: who made a file, checked before anything of it is used.

#ifndef HIOS_C_API_SIGNATURE_H_
#define HIOS_C_API_SIGNATURE_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace hios {

constexpr int64_t kSignatureBytes = 64;

// An Ed25519 public key. The system's libcrypto does the arithmetic: it is loaded with the first key.
class PublicKey {
 public:
  // The key that must have signed: of the file `given`, or of the one that the environment variable
  // HIOS_REQUIRE_SIGNATURE names; nothing where there is neither. Throws `Error` (HIOS_USAGE) where
  // the file holds no such key, or there is no libcrypto.
  static std::optional<PublicKey> Required(const char* given);

  // Throws `Error` (HIOS_ARTIFACT) unless the key's owner has signed the manifest.
  void Check(std::string_view manifest, const std::optional<std::string>& signature) const;

 private:
  explicit PublicKey(const char* path);

  std::shared_ptr<void> key_;  // an EVP_PKEY
};

}  // namespace hios

#endif  // HIOS_C_API_SIGNATURE_H_
