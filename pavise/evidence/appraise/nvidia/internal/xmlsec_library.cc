#include "pavise/evidence/appraise/nvidia/internal/xmlsec_library.h"

// errors.h needs what xmlsec.h defines, and does not include it.
// clang-format off
#include <libxml/parser.h>
#include <xmlsec/xmlsec.h>
#include <xmlsec/errors.h>
#include <xmlsec/openssl/crypto.h>
// clang-format on

#include "pavise/base/status.h"

namespace pavise::evidence::internal {
namespace {

void Ignore(const char*, int, const char*, const char*, const char*, int, const char*) {}

absl::Status Start() {
  xmlInitParser();
  if (xmlSecInit() < 0 || xmlSecCheckVersion() != 1 || xmlSecOpenSSLInit() < 0) {
    return MachineFailure("libxmlsec1", "cannot be initialised");
  }
  xmlSecErrorsSetCallback(Ignore);  // xmlSecInit sets one that prints
  return absl::OkStatus();
}

}  // namespace

absl::Status StartXmlsec() {
  static const absl::Status status = Start();
  return status;
}

}  // namespace pavise::evidence::internal
