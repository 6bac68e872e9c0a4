#ifndef PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_COMPOSITE_H_
#define PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_COMPOSITE_H_

#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/composite/composite_appraiser.h"

namespace pavise::evidence::testing {

// One for the whole program.
crypto::PrivateKey& SessionKey();

// Adds a GPU's evidence, made and appraised under a test root, always the same GPU's. Valid at
// kTestTime (test_gpu.h).
PartClaims AddGpu(CompositeEvidence& evidence, CheckList& checks);

// One session's evidence and the claims of its parts: GPU, TPM and TEE; the claims of the latter
// two are written down.
struct TestSession {
  TestSession();
  void Add(PartKind kind, std::string label, std::string id, EvidencePart part);

  CompositeEvidence evidence;
  std::vector<PartClaims> parts;
  Digest32 nonce{};
};

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_COMPOSITE_H_
