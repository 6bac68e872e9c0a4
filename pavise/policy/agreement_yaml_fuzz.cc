// The input is an agreement as a person writes it; every file that it names is the same key.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/policy/agreement.h"

namespace {

constexpr char kKey[] =
    "-----BEGIN PUBLIC KEY-----\n"
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n"
    "6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n"
    "-----END PUBLIC KEY-----\n";

class OneKey final : public pavise::policy::FileSource {
 public:
  absl::StatusOr<pavise::Bytes> Read(const std::string&, uint64_t) const override {
    const pavise::ByteSpan bytes = pavise::AsBytes(kKey);
    return pavise::Bytes(bytes.begin(), bytes.end());
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string&) const override {
    return std::vector<std::string>{"tpm/key.pem"};
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const OneKey files;
  const auto written =
      pavise::policy::AgreementFromYaml({data, size}, "input", files, std::nullopt);
  if (!written.ok()) {
    if (pavise::ExitCodeOf(written.status()) != 1) abort();
    return 0;
  }
  if (!pavise::policy::ParseAgreement(pavise::AsBytes(written->payload), "again").ok()) abort();
  return 0;
}
