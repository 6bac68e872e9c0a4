#include "pavise/evidence/appraise/testing/test_snp.h"

#include <algorithm>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/testing/test_signatures.h"

namespace pavise::evidence::testing {

using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::Issue;
using crypto::testing::MakeRoot;

uint64_t SnpTcbVersion(SnpProduct product, const SnpTcb& tcb) {
  if (product == SnpProduct::kTurin) {
    return tcb.fmc | uint64_t{tcb.boot_loader} << 8 | uint64_t{tcb.tee} << 16 |
           uint64_t{tcb.snp} << 24 | uint64_t{tcb.microcode} << 56;
  }
  return tcb.boot_loader | uint64_t{tcb.tee} << 8 | uint64_t{tcb.snp} << 48 |
         uint64_t{tcb.microcode} << 56;
}

Bytes UnsignedSnpReport(const SnpReportOptions& options) {
  Bytes report(kSnpReportBytes);
  const uint64_t tcb = SnpTcbVersion(options.product, kTestSnpTcb);
  Put(report, 0x00, options.version, 4);
  Put(report, 0x04, 7, 4);
  Put(report, 0x08, options.policy, 8);
  Fill(report, 0x10, 16, 0x0f);
  Fill(report, 0x20, 16, 0x1f);
  Put(report, 0x34, 1, 4);
  Put(report, 0x38, tcb, 8);
  Put(report, 0x40, 0x25, 8);
  Put(report, 0x48, options.vlek ? 1u << 2 : 0, 4);
  Fill(report, 0x50, 64, 0xd0);
  Fill(report, 0x90, 48, 0x3e);
  Fill(report, 0xc0, 32, 0x40);
  Fill(report, 0xe0, 48, 0x1d);
  Fill(report, 0x110, 48, 0xa0);
  Fill(report, 0x140, 32, 0x1e);
  Fill(report, 0x160, 32, 0xff);
  Put(report, 0x180, tcb, 8);
  if (options.version >= 3) {
    Put(report, 0x188, options.product == SnpProduct::kTurin ? 0x1a : 0x19, 1);
    Put(report, 0x189, options.product == SnpProduct::kGenoa ? 0x11 : 0x01, 1);
    Put(report, 0x18a, 1, 1);
  }
  Fill(report, 0x1a0, options.product == SnpProduct::kTurin ? 8 : 64, 0xc1);
  Put(report, 0x1e0, tcb, 8);
  Put(report, 0x1e8, 0x013704, 3);
  Put(report, 0x1ec, 0x013703, 3);
  Put(report, 0x1f0, tcb, 8);
  if (options.version >= 5) Put(report, 0x1f8, 3, 8);
  return report;
}

void SignSnpReport(crypto::PrivateKey& key, Bytes& report) {
  const Bytes raw = SignRaw(key, ByteSpan(report).first(kSnpSignedBytes), 48);
  std::reverse_copy(raw.begin(), raw.begin() + 48, report.begin() + 0x2a0);
  std::reverse_copy(raw.begin() + 48, raw.end(), report.begin() + 0x2a0 + 72);
}

CertificateOptions SnpSigningOptions(SnpProduct product, bool vlek, const SnpTcb& tcb) {
  CertificateOptions options;
  options.common_name = vlek ? "SEV-VLEK" : "SEV-VCEK";
  options.key_type = crypto::KeyType::kEcP384;
  options.key_usage = "";
  options.extended_key_usage = "";
  options.basic_constraints = false;
  const std::string name = StrCat(SnpProductName(product), vlek ? "" : "-B0");
  options.extensions = {{"1.3.6.1.4.1.3704.1.1", DerUint(product == SnpProduct::kTurin ? 1 : 0)},
                        {"1.3.6.1.4.1.3704.1.2", DerElement(0x16, AsBytes(name))},
                        {"1.3.6.1.4.1.3704.1.3.1", DerUint(tcb.boot_loader)},
                        {"1.3.6.1.4.1.3704.1.3.2", DerUint(tcb.tee)},
                        {"1.3.6.1.4.1.3704.1.3.3", DerUint(tcb.snp)},
                        {"1.3.6.1.4.1.3704.1.3.8", DerUint(tcb.microcode)}};
  if (product == SnpProduct::kTurin) {
    options.extensions.emplace_back("1.3.6.1.4.1.3704.1.3.9", DerUint(tcb.fmc));
  }
  if (vlek) {
    options.extensions.emplace_back("1.3.6.1.4.1.3704.1.5",
                                    DerElement(0x16, AsBytes("cloud.example")));
  } else {
    options.extensions.emplace_back("1.3.6.1.4.1.3704.1.4",
                                    Bytes(product == SnpProduct::kTurin ? 8 : 64, 0xc1));
  }
  return options;
}

CertificateOptions SnpAuthority(std::string name, crypto::KeyType key_type) {
  CertificateOptions options = AuthorityOptions(std::move(name));
  options.key_type = key_type;
  options.digest = "SHA2-384";
  return options;
}

SnpPlatform::SnpPlatform(SnpProduct of, bool vlek, crypto::KeyType authorities)
    : product(of),
      ark(MakeRoot(SnpAuthority(StrCat("ARK-", SnpProductName(of)), authorities))),
      ask(Issue(ark, SnpAuthority(StrCat("SEV-", SnpProductName(of)), authorities))),
      leaf(Issue(ask, SnpSigningOptions(of, vlek))),
      options{.product = of, .vlek = vlek} {}

Bytes SnpPlatform::Report(const std::function<void(Bytes&)>& change) {
  Bytes report = UnsignedSnpReport(options);
  change(report);
  SignSnpReport(leaf.key, report);
  return report;
}

}  // namespace pavise::evidence::testing
