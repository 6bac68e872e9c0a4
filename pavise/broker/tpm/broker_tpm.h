#ifndef PAVISE_BROKER_TPM_BROKER_TPM_H_
#define PAVISE_BROKER_TPM_BROKER_TPM_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/broker/store.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::broker {

// What a broker needs of its TPM (TPM 2.0 Library specification, through tpm2-tss): to seal a
// secret, and a counter that never goes back. The owner hierarchy must have no authorization value.
// Commands and answers with secrets are encrypted on their way, under a session that is salted with
// a storage key made at Open; answers about a counter are authenticated with its secret, so that no
// other TPM can speak for this one. What the TPM or its driver reports is a machine failure where
// no reason is given. Not thread-safe.
class BrokerTpm final : public MonotonicCounter {
 public:
  // `tcti`: "device:/dev/tpmrm0", "swtpm:path=/run/x", ... Without a resource manager a broker that
  // was killed leaves objects in the TPM; Open flushes what looks like them.
  static absl::StatusOr<std::unique_ptr<BrokerTpm>> Open(const std::string& tcti);
  ~BrokerTpm() override;
  BrokerTpm(const BrokerTpm&) = delete;
  BrokerTpm& operator=(const BrokerTpm&) = delete;

  // At most 128 bytes. With PCRs, only while they have the values that they have now.
  absl::StatusOr<Bytes> Seal(const SecretBytes& secret, const evidence::PcrIndices& pcrs);
  // kBindingMismatch: sealed by another TPM, or before it was cleared; kMeasurementMismatch: the
  // PCRs have other values; kMalformed. They name `item`.
  absl::StatusOr<SecretBytes> Unseal(ByteSpan sealed, std::string_view item);

  // An NV index of type counter, the first free one of 0x01827000 to 0x018270ff: it begins above
  // all counters that were ever removed from this TPM. Named "TPM counter 0x...".
  absl::StatusOr<std::string> Create(const SecretBytes& secret) override;
  // kEvidenceMissing: the TPM has no such counter; kBindingMismatch: it has another secret.
  absl::StatusOr<uint64_t> Read(const std::string& name, const SecretBytes& secret) override;
  absl::StatusOr<uint64_t> Advance(const std::string& name, const SecretBytes& secret) override;

 private:
  struct Native;
  explicit BrokerTpm(std::unique_ptr<Native> native);
  std::unique_ptr<Native> native_;
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_TPM_BROKER_TPM_H_
