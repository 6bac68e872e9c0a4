#include "pavise/evidence/appraise/testing/test_composite.h"

#include <utility>

#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/evidence/appraise/nvidia/testing/test_gpu.h"

namespace pavise::evidence::testing {
namespace {

Digest32 NextBinding(const CompositeEvidence& evidence, PartKind role) {
  std::vector<Digest32> collected;
  for (const EvidencePart& part : evidence.parts) collected.push_back(PartDigest(part).value());
  return BindingValue(role, evidence.nonce, evidence.session_key, collected).value();
}

}  // namespace

crypto::PrivateKey& SessionKey() {
  static auto* const key =
      new crypto::PrivateKey(crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value());
  return *key;
}

PartClaims AddGpu(CompositeEvidence& evidence, CheckList& checks) {
  static TestGpu* const gpu = new TestGpu(MakeTestGpu());
  static const TestRimPublisher* const publisher = new TestRimPublisher(MakeTestRimPublisher());
  static const auto* const driver_rim = new std::string(publisher->Rim());
  static const auto* const vbios_rim = new std::string(publisher->Rim(VbiosRimOptions()));
  const Digest32 binding = NextBinding(evidence, PartKind::kGpu);
  const Bytes report = gpu->Report({.nonce = binding});
  const std::string pem = crypto::testing::ChainPem(gpu->certificates);
  evidence.parts.push_back(
      {"nvidia-spdm-1.1", {{"report", report}, {"certificates", Bytes(pem.begin(), pem.end())}}});
  const VerifiedGpu claims =
      GpuAppraiser::Appraise(
          {report, gpu->certificates}, {AsBytes(*driver_rim), AsBytes(*vbios_rim)}, binding,
          kTestTime,
          {.device_root = gpu->root_fingerprint, .rim_root = publisher->root_fingerprint()}, checks)
          .value();
  return FromGpu(claims, "gpu0", checks);
}

TestSession::TestSession() {
  nonce.fill(0x77);
  evidence.nonce = nonce;
  evidence.session_key = SessionKey().public_key().der();
  CheckList gpu_checks;
  parts.push_back(AddGpu(evidence, gpu_checks));
  Add(PartKind::kTpm, "tpm", "ek:1234",
      {"tpm-2.0",
       {{"quote", {4}}, {"signature", {5}}, {"attestation_key", {6}}, {"pcr_values", {7}}}});
  Add(PartKind::kTee, "tee", "chip:5678", {"amd-sev-snp", {{"report", {8}}}});
}

void TestSession::Add(PartKind kind, std::string label, std::string id, EvidencePart part) {
  PartClaims claims;
  claims.kind = kind;
  claims.label = std::move(label);
  claims.machine_ids = {std::move(id)};
  claims.bound = NextBinding(evidence, kind);
  claims.claims = {{"from", "test"}};
  claims.trust.hardware = 2;
  parts.push_back(std::move(claims));
  evidence.parts.push_back(std::move(part));
}

}  // namespace pavise::evidence::testing
