#ifndef PAVISE_EVIDENCE_TESTING_SWTPM_H_
#define PAVISE_EVIDENCE_TESTING_SWTPM_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/x509.h"

namespace pavise::evidence::testing {

// Why no swtpm can be started here; "" where it can. For GTEST_SKIP.
std::string SwtpmMissing();

// A certificate authority that makes EK certificates for software TPMs (swtpm_localca).
class SwtpmAuthority {
 public:
  SwtpmAuthority();
  const std::string& path() const { return directory_.path(); }
  // After the first TPM was made: the issuer of EK certificates, and its own issuer.
  std::vector<crypto::Certificate> issuers() const;
  crypto::Certificate root() const;

 private:
  pavise::testing::TemporaryDirectory directory_;
};

// A software TPM of its own, manufactured on the spot with EK certificates (RSA 2048, ECC P-384)
// and the PCR banks sha1 and sha256. It serves one client after the other on a unix socket and
// ends with this object.
class Swtpm {
 public:
  // A test failure and nullptr where it cannot be made.
  static std::unique_ptr<Swtpm> Start(const SwtpmAuthority& authority);
  ~Swtpm();
  Swtpm(const Swtpm&) = delete;
  Swtpm& operator=(const Swtpm&) = delete;

  // For TpmContext::Open and, as TPM2TOOLS_TCTI, for tpm2-tools.
  std::string tcti() const { return "swtpm:path=" + directory_ / "socket"; }
  const std::string& path() const { return directory_.path(); }

 private:
  Swtpm() = default;
  pavise::testing::TemporaryDirectory directory_;
  pid_t process_ = 0;
};

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_TESTING_SWTPM_H_
