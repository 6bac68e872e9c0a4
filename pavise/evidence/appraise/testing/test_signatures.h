#ifndef PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_SIGNATURES_H_
#define PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_SIGNATURES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/check_list.h"

// For tests of appraisers: what a chip or an enclave would sign, signed by a key of the test's.
namespace pavise::evidence::testing {

// r || s, big-endian, each `field_bytes` long (P-256: 32, P-384: 48), under the curve's digest.
// Aborts where the key does not sign.
Bytes SignRaw(crypto::PrivateKey& key, ByteSpan message, size_t field_bytes);

// x || y of a P-256 or P-384 key.
Bytes RawPoint(const crypto::PublicKey& key, size_t field_bytes);

// The reasons of all findings, in order; empty: nothing was refused.
std::vector<Reason> ReasonsOf(const CheckList& checks);

// The least DER INTEGER of a number from 0 to 65,535, and other elements; contents up to 65,535
// bytes.
Bytes DerUint(uint32_t value);
Bytes DerElement(uint8_t tag, ByteSpan content);

// Write over bytes that are there: a little-endian number, one byte again and again.
void Put(Bytes& bytes, size_t offset, uint64_t value, size_t size_bytes);
void Fill(Bytes& bytes, size_t offset, size_t size_bytes, uint8_t value);

}  // namespace pavise::evidence::testing

#endif  // PAVISE_EVIDENCE_APPRAISE_TESTING_TEST_SIGNATURES_H_
