#include "pavise/evidence/appraise/machine/appraisal_policy.h"

#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

absl::StatusOr<AppraisalPolicy> Parse(std::string_view members) {
  const std::string text = StrCat("{\"pavise_appraisal_policy\":1,\"required\":[\"tpm\"]",
                                  members.empty() ? "" : ",", members, "}");
  return ParseAppraisalPolicy(AsBytes(text), "policy");
}

std::optional<Reason> Refused(std::string_view members) {
  return ReasonOf(Parse(members).status());
}

TEST(AppraisalPolicyTest, WhatIsAbsentIsStrict) {
  const auto policy = Parse("");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_THAT(policy->composite.required, ElementsAre(PartKind::kTpm));
  EXPECT_FALSE(policy->composite.require_co_location);
  EXPECT_THAT(policy->tpm.attestation_keys, IsEmpty());
  EXPECT_FALSE(policy->tpm.allow_unbound_key);
  EXPECT_FALSE(policy->tpm.accept_pinned_roots);
  EXPECT_TRUE(policy->tpm.event_log);
  EXPECT_TRUE(policy->tpm.ima);
  EXPECT_TRUE(policy->tpm.host_protections);
  EXPECT_THAT(policy->tpm.registers, SizeIs(1));
  EXPECT_THAT(policy->tpm.registers.at(PcrBank::kSha256), SizeIs(15));
  EXPECT_THAT(policy->reference_values, IsEmpty());
}

TEST(AppraisalPolicyTest, ReadsEveryMember) {
  const std::string key = StrCat("000b", std::string(64, 'a'));
  const std::string digest48(96, 'b');
  const auto policy = Parse(StrCat(
      "\"machines\":[{\"name\":\"node-1\",\"ids\":[\"ak:1\"]}],\"require_co_location\":true,"
      "\"reference_values\":[\"a.json\",\"b.json\"],\"driver_rims\":[\"d\"],\"vbios_rims\":[\"v\"],"
      "\"tpm\":{\"attestation_keys\":[\"",
      key,
      "\"],\"allow_unbound_key\":true,\"accept_pinned_roots\":true,"
      "\"registers\":{\"sha256\":[0,23],\"sha1\":[10]},\"event_log\":true,\"ima\":false,"
      "\"host_protections\":true,\"protection_exceptions\":[\"kexec\"]},"
      "\"snp\":{\"products\":{\"Milan\":{\"snp\":8}},\"max_vmpl\":1,\"measurement\":[\"",
      digest48,
      "\"]},\"intel\":{\"accepted_statuses\":[\"UpToDate\",\"SWHardeningNeeded\"],\"mr_td\":[\"",
      digest48, "\"]}"));
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->composite.machines[0].name, "node-1");
  EXPECT_TRUE(policy->composite.require_co_location);
  EXPECT_THAT(policy->reference_values, ElementsAre("a.json", "b.json"));
  EXPECT_THAT(policy->tpm.attestation_keys, ElementsAre(key));
  EXPECT_TRUE(policy->tpm.allow_unbound_key);
  EXPECT_TRUE(policy->tpm.accept_pinned_roots);
  EXPECT_FALSE(policy->tpm.ima);
  EXPECT_THAT(policy->tpm.registers.at(PcrBank::kSha256), ElementsAre(0, 23));
  EXPECT_THAT(policy->tpm.registers.at(PcrBank::kSha1), ElementsAre(10));
  EXPECT_THAT(policy->tpm.protection_exceptions, ElementsAre("kexec"));
  EXPECT_EQ(policy->snp.tcb_floors.at(SnpProduct::kMilan).snp, 8);
  EXPECT_THAT(policy->snp.tcb_floors, SizeIs(1));
  EXPECT_EQ(policy->snp.max_vmpl, 1);
  EXPECT_TRUE(policy->snp.measurement.has_value());
  EXPECT_THAT(policy->intel.accepted_statuses, SizeIs(2));
  EXPECT_TRUE(policy->intel.td.mr_td.has_value());
}

TEST(AppraisalPolicyTest, RefusesWhatItDoesNotKnow) {
  const std::string sha1_name = StrCat("0004", std::string(40, 'a'));
  const std::string upper = StrCat("000B", std::string(64, 'A'));
  size_t executed = 0;
  for (const std::string& members :
       std::vector<std::string>{"\"other\":1",
                                "\"tpm\":{\"other\":1}",
                                "\"snp\":{\"other\":1}",
                                "\"intel\":{\"other\":1}",
                                "\"tpm\":[]",
                                "\"tpm\":{},\"tpm\":{}",
                                "\"tpm\":{\"ima\":true,\"ima\":false}",
                                "\"tpm\":{\"ima\":1}",
                                "\"tpm\":{\"ima\":\"false\"}",
                                "\"tpm\":{\"accept_pinned_roots\":1}",
                                "\"tpm\":{\"allow_unbound_key\":null}",
                                "\"tpm\":{\"attestation_keys\":\"00\"}",
                                "\"tpm\":{\"attestation_keys\":[\"\"]}",
                                StrCat("\"tpm\":{\"attestation_keys\":[\"", sha1_name, "\"]}"),
                                StrCat("\"tpm\":{\"attestation_keys\":[\"", upper, "\"]}"),
                                "\"tpm\":{\"event_log\":false}",
                                "\"tpm\":{\"registers\":{\"md5\":[0]}}",
                                "\"tpm\":{\"registers\":{\"sha256\":[24]}}",
                                "\"tpm\":{\"registers\":{\"sha256\":[0,0]}}",
                                "\"tpm\":{\"registers\":{\"sha256\":[-1]}}",
                                "\"tpm\":{\"registers\":{\"sha256\":[0.5]}}",
                                "\"tpm\":{\"registers\":[0]}",
                                "\"tpm\":{\"protection_exceptions\":[\"Kexec\"]}",
                                "\"tpm\":{\"protection_exceptions\":[\"kexec\",\"kexec\"]}",
                                "\"snp\":{\"max_vmpl\":256}",
                                "\"snp\":{\"products\":{\"milan\":{}}}",
                                "\"snp\":{\"products\":{\"Milan\":{\"other\":1}}}",
                                "\"snp\":{\"measurement\":[]}",
                                "\"snp\":{\"measurement\":[\"00\"]}",
                                "\"intel\":{\"accepted_statuses\":[\"Revoked\"]}",
                                "\"intel\":{\"accepted_statuses\":[\"uptodate\"]}",
                                "\"intel\":{\"mr_enclave\":[\"00\"]}",
                                "\"machines\":[{\"name\":\"\",\"ids\":[\"a\"]}]",
                                "\"machines\":[{\"name\":\"n\",\"ids\":[]}]",
                                "\"machines\":[{\"name\":\"n\",\"ids\":[\"a\"],\"x\":1}]",
                                "\"machines\":{}",
                                "\"require_co_location\":\"yes\"",
                                "\"reference_values\":[\"a\",\"a\"]",
                                "\"reference_values\":[1]",
                                "\"required\":[\"tpm\"]"}) {
    EXPECT_EQ(Refused(members), Reason::kMalformed) << members;
    ++executed;
  }
  EXPECT_EQ(executed, 40u);
}

TEST(AppraisalPolicyTest, RefusesOtherVersionsAndFragments) {
  const auto reason = [](std::string_view text) {
    return ReasonOf(ParseAppraisalPolicy(AsBytes(text), "policy").status());
  };
  EXPECT_EQ(reason("{\"pavise_appraisal_policy\":2,\"required\":[\"tpm\"]}"), Reason::kUnsupported);
  EXPECT_EQ(reason("{\"required\":[\"tpm\"]}"), Reason::kMalformed);
  EXPECT_EQ(reason("{\"pavise_appraisal_policy\":1}"), Reason::kMalformed);
  EXPECT_EQ(reason("{\"pavise_appraisal_policy\":1,\"required\":[]}"), Reason::kMalformed);
  EXPECT_EQ(reason("{\"pavise_appraisal_policy\":1,\"required\":[\"TPM\"]}"), Reason::kMalformed);
  const std::string good = "{\"pavise_appraisal_policy\":1,\"required\":[\"tpm\",\"gpu\"]}";
  EXPECT_EQ(reason(good), std::nullopt);
  EXPECT_EQ(reason(good + "{}"), Reason::kMalformed);
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(reason(good.substr(0, size)), Reason::kMalformed) << size;
  }
}

}  // namespace
}  // namespace pavise::evidence
