#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "pavise/base/status.h"
#include "pavise/kbs/messages.h"
#include "pavise/kbs/resource_path.h"

// The first byte picks the message. What is accepted is written and read again, to the same value.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace pavise;       // NOLINT: a fuzz target is one function
  using namespace pavise::kbs;  // NOLINT
  if (size == 0) return 0;
  const ByteSpan text(data + 1, size - 1);
  const auto check = [](const absl::Status& status) {
    if (!status.ok() && ExitCodeOf(status) != 1) std::abort();
    return status.ok();
  };
  switch (data[0]) {
    case 'r': {
      const auto request = ParseAuthRequest(text, "fuzz");
      if (!check(request.status())) break;
      const auto again = ParseAuthRequest(AsBytes(FormatAuthRequest(*request)), "fuzz");
      if (!again.ok() || *again != *request) std::abort();
      check(ChooseHashAlgorithm(*request).status());
      break;
    }
    case 'c': {
      const auto challenge = ParseChallenge(text, "fuzz");
      if (!check(challenge.status())) break;
      const auto again = ParseChallenge(AsBytes(FormatChallenge(*challenge)), "fuzz");
      if (!again.ok() || *again != *challenge) std::abort();
      break;
    }
    case 'a': {
      const auto attestation = ParseAttestation(text, "fuzz");
      if (!check(attestation.status())) break;
      const auto again = ParseAttestation(AsBytes(FormatAttestation(*attestation)), "fuzz");
      if (!again.ok() || !(again->runtime_data.key == attestation->runtime_data.key) ||
          again->primary_evidence != attestation->primary_evidence) {
        std::abort();
      }
      for (const Tee tee : {Tee::kPavise, Tee::kSnp, Tee::kTdx}) {
        check(ParseTeeEvidence(tee, attestation->primary_evidence, "fuzz").status());
      }
      // Nobody's report data is 64 zeros.
      if (check(
              CheckReportData(*attestation, crypto::DigestAlgorithm::kSha384, Bytes(64), "fuzz"))) {
        std::abort();
      }
      break;
    }
    case 't':
      check(ParseTokenResponse(text, "fuzz").status());
      break;
    case 's':
      check(SessionIdOfCookie(AsText(text), "fuzz").status());
      break;
    case 'p': {
      const auto path = ParseResourcePath(AsText(text), "fuzz");
      if (check(path.status()) && FormatResourcePath(*path).value() != AsText(text)) std::abort();
      break;
    }
  }
  return 0;
}
