#ifndef PAVISE_EVIDENCE_APPRAISE_NVIDIA_RIM_H_
#define PAVISE_EVIDENCE_APPRAISE_NVIDIA_RIM_H_

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/x509.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Reference integrity manifests (RIM) of NVIDIA: the measurements that a driver or a VBIOS of some
// version has. SWID tags (ISO/IEC 19770-2:2015) with the attributes of TCG's "Reference Integrity
// Manifest Information Model" 1.01, signed with an enveloped XML signature (W3C "XML Signature
// Syntax and Processing" 1.1).
namespace pavise::evidence {

// SHA-256 fingerprint of "NVIDIA CoRIM signing Root CA", valid from 2023-03-16 to 2053-03-08.
inline constexpr std::string_view kNvidiaRimRoot =
    "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1";

// One <Resource type="Measurement">.
struct GoldenMeasurement {
  std::string name;
  bool active = false;              // inactive ones stand for nothing
  std::vector<Bytes> alternatives;  // any one of them; each as long as `size` says
};

struct Rim {
  std::string tag_id;                                  // SoftwareIdentity/@tagId
  std::string name;                                    // SoftwareIdentity/@name, "GH100"
  std::string version;                                 // Meta/@colloquialVersion, "550.144.03"
  std::map<uint32_t, GoldenMeasurement> measurements;  // by index, from 0
  std::string signer;                                  // subject of the signing certificate
  std::string signer_fingerprint;                      // SHA-256, lower-case hex
};

class RimVerifier;
using VerifiedRim = Verified<Rim, RimVerifier>;

// Reads and verifies RIM files. Pure: no network, no files. Thread-safe.
class RimVerifier {
 public:
  // In this order:
  // 1. The text: UTF-8, at most 4 MiB; no document type declaration, so no entities; the
  // signature's
  //    elements are exactly those that are expected, one signature in the document, below the root,
  //    with one reference, to the whole document (URI=""), enveloped-signature and C14N (1.1, or
  //    exclusive; without comments), SHA-384 and ECDSA with SHA-384. kMalformed, kUnsupported,
  //    kLimitExceeded.
  // 2. The certificates in KeyInfo, leaf first: a chain to the certificate with the fingerprint
  //    `root` (among them, or in `endorsements`), valid at `at`, whose leaf may sign.
  //    kCertificateInvalid. Whether one was revoked is not looked up.
  // 3. The signature under the leaf's P-384 key, by libxmlsec1. kSignatureInvalid.
  // 4. Only then the contents: versions and measurements. kMalformed: an element or attribute that
  //    is missing or wrong, an index that stands twice; kUnsupported: an element or a kind of
  //    resource that is not known (it might be a demand).
  static absl::StatusOr<VerifiedRim> Verify(
      ByteSpan xml, std::string_view item, absl::Time at, std::string_view root = kNvidiaRimRoot,
      const std::vector<crypto::Certificate>& endorsements = {});
};

// Step 1 and step 4 without any verification: for the fuzz target.
absl::StatusOr<Rim> ParseUnverifiedRim(ByteSpan xml, std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_NVIDIA_RIM_H_
