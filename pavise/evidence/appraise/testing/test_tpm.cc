#include "pavise/evidence/appraise/testing/test_tpm.h"

#include <array>
#include <cstdint>
#include <set>

#include "pavise/evidence/appraise/testing/test_signatures.h"

// Structures and constants: TPM 2.0 Library Part 2, as in tpm_structures.cc.
namespace pavise::evidence::testing {
namespace {

using crypto::testing::AuthorityOptions;
using crypto::testing::Issue;
using crypto::testing::IssueFor;
using crypto::testing::MakeRoot;

constexpr size_t kFieldBytes = 32;

void Append(ByteSpan bytes, Bytes& out) { out.insert(out.end(), bytes.begin(), bytes.end()); }

void AppendUint(uint64_t value, size_t size_bytes, Bytes& out) {
  while (size_bytes-- > 0) out.push_back(static_cast<uint8_t>(value >> (8 * size_bytes)));
}

void AppendSized(ByteSpan bytes, Bytes& out) {
  AppendUint(bytes.size(), 2, out);
  Append(bytes, out);
}

// Of a key on P-256; `schemes`: symmetric algorithm and signing scheme.
Bytes SizedPublic(uint32_t attributes, ByteSpan schemes, const crypto::PublicKey& key) {
  Bytes area = {0x00, 0x23, 0x00, 0x0b};
  AppendUint(attributes, 4, area);
  AppendSized({}, area);
  Append(schemes, area);
  Append(Bytes{0x00, 0x03, 0x00, 0x10}, area);
  const Bytes point = RawPoint(key, kFieldBytes);
  AppendSized(ByteSpan(point).first(kFieldBytes), area);
  AppendSized(ByteSpan(point).subspan(kFieldBytes), area);
  Bytes sized;
  AppendSized(area, sized);
  return sized;
}

crypto::PrivateKey NewKey() {
  return crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
}

crypto::testing::CertificateOptions EkOptions() {
  crypto::testing::CertificateOptions options;
  options.common_name = "EK";
  options.key_usage = "critical,keyAgreement";
  options.extended_key_usage = "2.23.133.8.1";
  return options;
}

}  // namespace

TestTpm::TestTpm()
    : root(MakeRoot(AuthorityOptions("TPM root"))),
      intermediate(Issue(root, AuthorityOptions("TPM intermediate"))),
      ek(NewKey()),
      ak(NewKey()),
      ek_certificate(IssueFor(intermediate, ek.public_key(), EkOptions())) {}

Bytes TestTpm::EkPublic() const {
  return SizedPublic(kTpmFixedTpm | kTpmFixedParent | kTpmSensitiveDataOrigin |
                         kTpmAdminWithPolicy | kTpmRestricted | kTpmDecrypt,
                     Bytes{0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10}, ek.public_key());
}

Bytes TestTpm::AkPublic() const {
  return SizedPublic(kTpmFixedTpm | kTpmFixedParent | kTpmSensitiveDataOrigin | kTpmUserWithAuth |
                         kTpmRestricted | kTpmSign,
                     Bytes{0x00, 0x10, 0x00, 0x18, 0x00, 0x0b}, ak.public_key());
}

TpmTrust TestTpm::trust() const {
  return {.roots = {root.certificate}, .others = {intermediate.certificate}, .revoked = {}};
}

QuoteEvidence TestTpm::Quote(ByteSpan nonce, const PcrValues& pcrs) {
  Bytes quote = {0xff, 0x54, 0x43, 0x47, 0x80, 0x18};
  AppendSized(ParseTpm2bPublic(AkPublic(), "AK").value().name, quote);
  AppendSized(nonce, quote);
  AppendUint(12345, 8, quote);  // clock
  AppendUint(2, 4, quote);      // resets
  AppendUint(0, 4, quote);      // restarts
  quote.push_back(1);           // safe
  AppendUint(1, 8, quote);      // firmware
  AppendUint(pcrs.banks().size(), 4, quote);
  TpmPcrSelection selection;
  for (const auto& [bank, values] : pcrs.banks()) {
    std::array<uint8_t, 3> bitmap{};
    std::set<uint32_t>& indices = selection.emplace_back(bank, std::set<uint32_t>()).second;
    for (const auto& [index, value] : values) {
      indices.insert(index);
      bitmap[index / 8] |= static_cast<uint8_t>(1u << (index % 8));
    }
    AppendUint(AlgorithmOfPcrBank(bank), 2, quote);
    quote.push_back(bitmap.size());
    Append(bitmap, quote);
  }
  AppendSized(DigestOfPcrs(selection, pcrs, crypto::DigestAlgorithm::kSha256, "quote").value(),
              quote);

  const Bytes raw = SignRaw(ak, quote, kFieldBytes);
  Bytes signature = {0x00, 0x18, 0x00, 0x0b};
  AppendSized(ByteSpan(raw).first(kFieldBytes), signature);
  AppendSized(ByteSpan(raw).subspan(kFieldBytes), signature);
  return {AkPublic(), quote, signature, pcrs};
}

}  // namespace pavise::evidence::testing
