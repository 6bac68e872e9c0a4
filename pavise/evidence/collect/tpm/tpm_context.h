#ifndef PAVISE_EVIDENCE_COLLECT_TPM_TPM_CONTEXT_H_
#define PAVISE_EVIDENCE_COLLECT_TPM_TPM_CONTEXT_H_

#include <memory>
#include <optional>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/evidence/appraise/tpm/credential.h"
#include "pavise/evidence/appraise/tpm/pcr.h"
#include "pavise/evidence/appraise/tpm/quote.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::evidence {

// The templates of TCG's EK Credential Profile 2.5 (B.3, B.4) that are made here, each with the NV
// index of its certificate: L-1 at 0x01c00002, L-2 at 0x01c0000a, H-3 at 0x01c00016.
enum class EkTemplate { kRsa2048, kEccP256, kEccP384 };
// "RSA 2048", "ECC P-256", "ECC P-384".
std::string_view EkTemplateName(EkTemplate ek_template);

// How an attestation key signs.
enum class AkKind {
  kEcdsaP256,  // with SHA-256
  kEcdsaP384,  // with SHA-384
  kRsaSsa2048,
  kRsaPss2048,
};

// A key that is loaded in the TPM, and flushed from it when this goes. Keeps its context's
// connection open. Move-only; not thread-safe.
class TpmKey {
 public:
  ~TpmKey();
  TpmKey(TpmKey&&) noexcept;
  TpmKey& operator=(TpmKey&&) noexcept;

  // TPM2B_PUBLIC.
  const Bytes& public_area() const;

 private:
  friend class TpmContext;
  struct Native;
  explicit TpmKey(std::unique_ptr<Native> native);
  std::unique_ptr<Native> native_;
};

// A connection to a TPM through tpm2-tss (ESAPI). Commands are those of the TPM 2.0 Library
// specification, Part 3. The endorsement hierarchy must have no authorization value.
// Errors: what the TPM or its driver reports is a machine failure, decoded and with what to do
// about it, where no reason is given below. tpm2-tss also writes
// warnings of its own to standard error, as its variable TSS2_LOG says. Not thread-safe; a key is
// for the context that made it (usage error).
class TpmContext {
 public:
  // `tcti`: "device:/dev/tpmrm0", "tabrmd", "swtpm:path=/run/x" or
  // "swtpm:host=127.0.0.1,port=2321". /dev/tpmrm0 is the kernel's resource manager; with /dev/tpm0
  // this must be the only user.
  static absl::StatusOr<std::unique_ptr<TpmContext>> Open(const std::string& tcti);
  ~TpmContext();
  TpmContext(const TpmContext&) = delete;
  TpmContext& operator=(const TpmContext&) = delete;

  // The certificate of an endorsement key from the TPM's memory: DER, without the padding that
  // some vendors leave after it. nullopt: the TPM holds none. kMalformed, kLimitExceeded (over 16
  // KiB).
  absl::StatusOr<std::optional<Bytes>> ReadEkCertificate(EkTemplate ek_template);

  // The endorsement key of a template: one TPM makes the same one each time.
  absl::StatusOr<TpmKey> CreateEk(EkTemplate ek_template);
  // The TPM's attestation key of a kind, a primary key of the endorsement hierarchy: the same one
  // each time until the hierarchy's seed is changed, so that nothing needs to be kept on disk.
  absl::StatusOr<TpmKey> CreateAk(AkKind kind);

  // kUnsupported: a bank that is not allocated. An empty selection is a usage error.
  absl::StatusOr<PcrValues> ReadPcrs(const PcrIndices& pcrs);
  // `nonce`: at most 32 bytes, which every TPM takes (usage error). The values are those that the
  // quote digests: where PCRs are extended in between, it is made again, at most 8 times.
  absl::StatusOr<QuoteEvidence> Quote(const TpmKey& ak, ByteSpan nonce, const PcrIndices& pcrs);

  // Opens a credential that was made for `ek` and `ak`. kBindingMismatch: it was made for others,
  // or changed on its way; kMalformed.
  absl::StatusOr<SecretBytes> ActivateCredential(const TpmKey& ak, const TpmKey& ek,
                                                 const CredentialChallenge& challenge);

  // Extends a PCR with `digest` in `bank`.
  absl::Status ExtendPcr(PcrBank bank, uint32_t index, ByteSpan digest);

 private:
  friend class TpmKey;
  struct Native;
  explicit TpmContext(std::shared_ptr<Native> native);
  std::shared_ptr<Native> native_;
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_COLLECT_TPM_TPM_CONTEXT_H_
