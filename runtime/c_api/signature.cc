#include "signature.h"

#include <dlfcn.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "error.h"
#include "machine.h"

namespace hios {
namespace {

constexpr std::string_view kPurpose("hios-tvm artifact\0", 18);  // what a signature is made for
constexpr int kEd25519 = 1087;                                   // NID_ED25519
constexpr const char* kLibraries[] = {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"};

// Functions of OpenSSL 1.1.1 and newer.
struct Crypto {
  void* (*new_memory)(const void* bytes, int size);
  int (*free_memory)(void* memory);
  void* (*read_key)(void* memory, void**, int (*password)(char*, int, int, void*), void*);
  int (*key_kind)(const void* key);
  void (*free_key)(void* key);
  void* (*new_context)();
  void (*free_context)(void* context);
  int (*start)(void* context, void**, const void*, void*, void* key);
  int (*verify)(void* context, const unsigned char* signature, size_t signature_bytes,
                const unsigned char* message, size_t message_bytes);
};

int NoPassword(char*, int, int, void*) { return -1; }  // without it OpenSSL asks at the terminal

template <typename Function>
bool Load(void* library, const char* name, const char* other_name, Function* function) {
  void* symbol = dlsym(library, name);
  if (symbol == nullptr) symbol = dlsym(library, other_name);
  *function = reinterpret_cast<Function>(symbol);
  return symbol != nullptr;
}

std::optional<Crypto> LoadCrypto() {
  for (const char* name : kLibraries) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    Crypto crypto;
    if (Load(library, "BIO_new_mem_buf", "", &crypto.new_memory) &&
        Load(library, "BIO_free", "", &crypto.free_memory) &&
        Load(library, "PEM_read_bio_PUBKEY", "", &crypto.read_key) &&
        Load(library, "EVP_PKEY_get_id", "EVP_PKEY_id", &crypto.key_kind) &&
        Load(library, "EVP_PKEY_free", "", &crypto.free_key) &&
        Load(library, "EVP_MD_CTX_new", "", &crypto.new_context) &&
        Load(library, "EVP_MD_CTX_free", "", &crypto.free_context) &&
        Load(library, "EVP_DigestVerifyInit", "", &crypto.start) &&
        Load(library, "EVP_DigestVerify", "", &crypto.verify)) {
      return crypto;
    }
  }
  return {};
}

const Crypto& LoadedCrypto() {
  static const std::optional<Crypto> crypto = LoadCrypto();
  if (!crypto) {
    Fail(HIOS_USAGE, "signatures need libcrypto.so of OpenSSL 1.1.1 or newer: install it");
  }
  return *crypto;
}

}  // namespace

std::optional<PublicKey> PublicKey::Required(const char* given) {
  const char* path = given != nullptr ? given : getenv("HIOS_REQUIRE_SIGNATURE");
  if (path == nullptr || (given == nullptr && *path == '\0')) return {};
  return PublicKey(path);
}

PublicKey::PublicKey(const char* path) {
  const Crypto& crypto = LoadedCrypto();
  const auto text = ReadText(path);
  if (!text) {
    Fail(HIOS_USAGE, std::string("cannot read the key ") + path + ": " + strerror(errno));
  }
  const std::shared_ptr<void> memory(crypto.new_memory(text->data(), static_cast<int>(text->size())),
                                     crypto.free_memory);
  key_.reset(crypto.read_key(memory.get(), nullptr, NoPassword, nullptr), crypto.free_key);
  if (!key_) Fail(HIOS_USAGE, std::string(path) + " is no public key in PEM");
  if (crypto.key_kind(key_.get()) != kEd25519) {
    Fail(HIOS_USAGE, std::string(path) + " is no Ed25519 key");
  }
}

void PublicKey::Check(std::string_view manifest, const std::optional<std::string>& signature) const {
  Require(signature.has_value(), "it is not signed");
  const Crypto& crypto = LoadedCrypto();
  const std::string message = std::string(kPurpose) + std::string(manifest);
  const std::shared_ptr<void> context(crypto.new_context(), crypto.free_context);
  const auto bytes = [](const std::string& text) {
    return reinterpret_cast<const unsigned char*>(text.data());
  };
  const bool valid =
      context && crypto.start(context.get(), nullptr, nullptr, nullptr, key_.get()) == 1 &&
      crypto.verify(context.get(), bytes(*signature), signature->size(), bytes(message),
                    message.size()) == 1;
  Require(valid,
          "its signature is not that of the given key: another key signed it, or it was changed");
}

}  // namespace hios
