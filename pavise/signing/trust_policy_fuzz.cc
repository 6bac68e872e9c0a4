#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "pavise/signing/trust_policy.h"

namespace pavise::signing {
namespace {

// The generator of P-256: a valid public key, whose private key is 1.
constexpr std::string_view kPublicKey =
    "-----BEGIN PUBLIC KEY-----\n"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n"
    "6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n"
    "-----END PUBLIC KEY-----\n";

// A folder with the one file that the inputs can name: `key.pub`. Gone when the program ends.
class Folder {
 public:
  Folder() {
    std::string name =
        (std::filesystem::temp_directory_path() / "trust_policy_fuzz.XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
    std::ofstream(path_ / "key.pub") << kPublicKey;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// Whether the text names a file that is no business of a fuzz target: an absolute path could be a
// device, or the seeds of another run.
bool LeavesTheFolder(std::string_view text) { return text.find('/') != std::string_view::npos; }

}  // namespace
}  // namespace pavise::signing

// Any bytes: a refusal, or a policy in which every rule has a signer.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise::signing;  // NOLINT: a fuzz target is one function
  static const Folder folder;
  if (LeavesTheFolder({reinterpret_cast<const char*>(data), size})) return 0;
  const auto policy = ParseTrustPolicy({data, size}, folder / "trust.yaml");
  if (!policy.ok()) return 0;
  if (policy->rules.empty()) std::abort();
  for (const ModelRule& rule : policy->rules) {
    const TrustedSigners& signers = rule.signers;
    if (signers.keys.empty() && signers.certificates.empty() && signers.sigstore.empty()) {
      std::abort();
    }
  }
  return 0;
}
