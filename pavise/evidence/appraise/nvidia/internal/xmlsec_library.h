#ifndef PAVISE_EVIDENCE_APPRAISE_NVIDIA_INTERNAL_XMLSEC_LIBRARY_H_
#define PAVISE_EVIDENCE_APPRAISE_NVIDIA_INTERNAL_XMLSEC_LIBRARY_H_

#include "absl/status/status.h"

namespace pavise::evidence::internal {

// Initialises libxml2 and libxmlsec1 with OpenSSL, once a process, whoever calls first; libxmlsec1
// prints nothing from then on. Thread-safe. A machine failure stays one.
absl::Status StartXmlsec();

}  // namespace pavise::evidence::internal

#endif  // PAVISE_EVIDENCE_APPRAISE_NVIDIA_INTERNAL_XMLSEC_LIBRARY_H_
