// Evidence of a real boot, committed with how it was made: testing/vectors/measured_boot.

#include <set>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/machine/machine_appraiser.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr std::string_view kKey =
    "000b066005ac8c75deaf7a18ce8eb9cefd2f786468812414317d90f6afa82137fe1c";

std::string Vector(std::string_view name) {
  return crypto::testing::ReadText(
      StrCat(PAVISE_SOURCE_DIR, "/pavise/evidence/testing/vectors/measured_boot/", name));
}

class MeasuredBootVectorTest : public ::testing::Test {
 protected:
  MeasuredBootVectorTest() {
    const std::string cbor = Vector("evidence.cbor");
    auto read = FromCbor(AsBytes(cbor), "evidence.cbor");
    EXPECT_TRUE(read.ok()) << read.status();
    if (read.ok()) evidence = *std::move(read);
    nonce = Digest32FromHex(Vector("challenge").substr(0, 64), "challenge").value();
    Use({"image.json", "golden.json"});
    attestation_keys = {std::string(kKey)};
  }

  void Use(const std::vector<std::string>& files) {
    references = {};
    for (const std::string& file : files) {
      const std::string text = Vector(file);
      const auto values = ParseReferenceValues(AsBytes(text), file);
      ASSERT_TRUE(values.ok()) << values.status();
      ASSERT_TRUE(references.Merge(*values).ok());
    }
  }

  std::vector<Reason> Reasons(const CompositeEvidence& of) const {
    AppraisalPolicy policy;
    policy.composite.required = {PartKind::kTpm};
    policy.tpm.attestation_keys = attestation_keys;
    policy.tpm.registers[PcrBank::kSha256] = {0, 1, 2, 3, 4, 5, 7, 9, 10, 11, 12, 13};
    const MachineAppraisal appraisal = AppraiseMachine(of, policy, references, MachineTrust{},
                                                       nonce, absl::FromUnixSeconds(1'795'276'800));
    EXPECT_EQ(appraisal.status.ok(), appraisal.accepted.has_value());
    std::vector<Reason> reasons;
    for (const Refusal& refusal : RefusalsOf(appraisal.status)) reasons.push_back(refusal.reason);
    EXPECT_EQ(appraisal.status.ok(), reasons.empty()) << appraisal.status;
    return reasons;
  }

  CompositeEvidence evidence;
  Digest32 nonce{};
  ReferenceValues references;
  std::set<std::string> attestation_keys;
};

TEST_F(MeasuredBootVectorTest, IsAcceptedWithTheValuesThatWerePredicted) {
  EXPECT_THAT(Reasons(evidence), IsEmpty());
}

TEST_F(MeasuredBootVectorTest, AnotherChallengeKeyOrImageIsRefused) {
  nonce[0] ^= 1;
  EXPECT_THAT(Reasons(evidence), Contains(Reason::kNonceMismatch));
  nonce[0] ^= 1;
  attestation_keys = {std::string(68, '0')};
  EXPECT_THAT(Reasons(evidence), Contains(Reason::kBindingMismatch));
  attestation_keys = {std::string(kKey)};
  Use({"golden.json"});
  EXPECT_THAT(Reasons(evidence), Contains(Reason::kMeasurementUnknown));
  Use({"image.json", "golden.json"});
  for (auto& [index, values] : references.registers[PcrBank::kSha256]) {
    const SourcedValues kept = values;
    values.clear();
    values[std::string(64, '1')] = "another image";
    EXPECT_THAT(Reasons(evidence), Contains(Reason::kMeasurementMismatch)) << "PCR " << index;
    values = kept;
  }
  references.files.erase("/usr/bin/pavise-agent");
  EXPECT_THAT(Reasons(evidence), Contains(Reason::kMeasurementUnknown));
}

// Of the event log, the data behind a digest describes and proves nothing, so that not all of its
// bytes decide; of every other item they do.
TEST_F(MeasuredBootVectorTest, EveryFlippedByteIsRefused) {
  size_t flipped = 0;
  for (const char* name : {"attestation_key", "quote", "signature", "pcr_values", "ima_log"}) {
    const size_t size_bytes = evidence.parts[0].items[name].size();
    for (size_t at = 0; at < size_bytes; ++at) {
      CompositeEvidence changed = evidence;
      changed.parts[0].items[name][at] ^= 1;
      EXPECT_THAT(Reasons(changed), Not(IsEmpty())) << name << " at " << at;
      ++flipped;
    }
  }
  EXPECT_GT(flipped, 5000u);
}

}  // namespace
}  // namespace pavise::evidence
