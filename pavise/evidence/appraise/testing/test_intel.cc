#include "pavise/evidence/appraise/testing/test_intel.h"

#include <algorithm>
#include <utility>

#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/testing/test_signatures.h"

namespace pavise::evidence::testing {
namespace {

using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::Issue;
using crypto::testing::MakeRevocationList;
using crypto::testing::MakeRoot;

void Append(const Bytes& more, Bytes& bytes) {
  bytes.insert(bytes.end(), more.begin(), more.end());
}

void AppendUint(uint64_t value, size_t size_bytes, Bytes& bytes) {
  for (size_t i = 0; i < size_bytes; ++i) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

CertificateOptions Leaf(std::string name) {
  CertificateOptions options;
  options.common_name = std::move(name);
  options.extended_key_usage = "";
  return options;
}

Bytes Header(const QuoteOptions& options) {
  Bytes header(48);
  Put(header, 0, options.version, 2);
  Put(header, 2, 2, 2);
  Put(header, 4, options.tdx ? 0x81 : 0, 4);
  const Bytes vendor = FromHex("939a7233f79c4ca9940a0db3957f0607", "vendor").value();
  std::copy(vendor.begin(), vendor.end(), header.begin() + 12);
  return header;
}

Bytes TdBody(bool is_15) {
  Bytes body(is_15 ? 648 : 584);
  body[0] = 3;
  body[1] = is_15 ? 1 : 0;
  body[2] = 5;
  Fill(body, 16, 48, 0x5e);
  Put(body, 120, TdReportBody::kSeptVeDisable, 8);
  Put(body, 128, 0xe7, 8);
  Fill(body, 136, 48, 0x3d);
  Fill(body, 184, 48, 0x3c);
  Fill(body, 232, 48, 0x30);
  Fill(body, 280, 48, 0x31);
  for (uint8_t i = 0; i < 4; ++i) Fill(body, 328 + 48u * i, 48, static_cast<uint8_t>(0x70 + i));
  Fill(body, 520, 64, 0xd0);
  return body;
}

Bytes SgxBody() {
  Bytes body(384);
  Put(body, 48, 0x05, 8);
  Put(body, 56, 0xe7, 8);
  Fill(body, 64, 32, 0x3e);
  Fill(body, 128, 32, 0x35);
  Put(body, 256, 11, 2);
  Put(body, 258, 4, 2);
  Fill(body, 320, 64, 0xd0);
  return body;
}

Bytes Field(std::initializer_list<uint8_t> path, const Bytes& value) {
  Bytes oid = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01};
  oid.insert(oid.end(), path.begin(), path.end());
  Bytes content = DerElement(0x06, oid);
  Append(value, content);
  return DerElement(0x30, content);
}

OrderedJson Components(std::initializer_list<int> svns) {
  OrderedJson components = OrderedJson::array();
  for (const int svn : svns) components.push_back({{"svn", svn}});
  while (components.size() < 16) components.push_back({{"svn", 0}});
  return components;
}

OrderedJson IsvLevel(int svn, const char* status) {
  return {{"tcb", {{"isvsvn", svn}}}, {"tcbDate", "2026-01-01T00:00:00Z"}, {"tcbStatus", status}};
}

}  // namespace

Bytes SgxExtension() {
  Bytes tcb;
  for (uint8_t i = 1; i <= 16; ++i) Append(Field({2, i}, DerUint(i <= 3 ? 7 : 0)), tcb);
  Append(Field({2, 17}, DerUint(13)), tcb);
  Append(Field({2, 18}, DerElement(0x04, Bytes(16, 7))), tcb);
  Bytes content;
  Append(Field({1}, DerElement(0x04, Bytes(16, 0x99))), content);
  Append(Field({2}, DerElement(0x30, tcb)), content);
  Append(Field({3}, DerElement(0x04, Bytes{0, 0})), content);
  Append(Field({4}, DerElement(0x04, Bytes{0x50, 0x80, 0x6f, 0, 0, 0})), content);
  Append(Field({5}, DerElement(0x0a, Bytes{1})), content);
  Append(Field({6}, DerElement(0x04, Bytes(16, 0x66))), content);
  return DerElement(0x30, content);
}

IntelPlatform::IntelPlatform()
    : root(MakeRoot(AuthorityOptions("Intel SGX Root CA"))),
      pck_ca(Issue(root, AuthorityOptions("Intel SGX PCK Platform CA"))),
      tcb_signing(Issue(root, Leaf("Intel SGX TCB Signing"))),
      pck([this] {
        CertificateOptions options = Leaf("Intel SGX PCK Certificate");
        options.extensions = {{"1.2.840.113741.1.13.1", SgxExtension()}};
        return Issue(pck_ca, options);
      }()) {}

std::string IntelPlatform::PckChain(const crypto::Certificate* leaf) const {
  return crypto::testing::ChainPem(
      {leaf == nullptr ? pck.certificate : *leaf, pck_ca.certificate, root.certificate});
}

Bytes IntelPlatform::QuoteWith(const QuoteOptions& options, crypto::testing::TestCertificate& by,
                               const std::string& chain) {
  Bytes header = Header(options);
  if (options.header) options.header(header);
  Bytes body = options.tdx ? TdBody(options.tdx_15) : SgxBody();
  if (options.body) options.body(body);
  Bytes quote = header;
  if (options.version >= 5) {
    AppendUint(!options.tdx ? 1 : options.tdx_15 ? 3 : 2, 2, quote);
    AppendUint(body.size(), 4, quote);
  }
  Append(body, quote);

  auto attestation_key = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
  const Bytes signature = SignRaw(attestation_key, quote, 32);
  const Bytes point = RawPoint(attestation_key.public_key(), 32);
  const Bytes authentication_data(32, 0xad);
  Bytes certified = point;
  Append(authentication_data, certified);
  const Bytes binding = crypto::Digest(crypto::DigestAlgorithm::kSha256, certified).value();
  Bytes enclave(384);
  Put(enclave, 48, 0x11 | 0x04, 8);
  Fill(enclave, 128, 32, 0xdc);
  Put(enclave, 256, options.tdx ? 2 : 1, 2);
  Put(enclave, 258, 8, 2);
  std::copy(binding.begin(), binding.end(), enclave.begin() + 320);
  if (options.quoting_enclave) options.quoting_enclave(enclave);

  Bytes certification = enclave;
  Append(SignRaw(by.key, enclave, 32), certification);
  AppendUint(authentication_data.size(), 2, certification);
  Append(authentication_data, certification);
  AppendUint(5, 2, certification);
  AppendUint(chain.size() + 1, 4, certification);
  certification.insert(certification.end(), chain.begin(), chain.end());
  certification.push_back(0);

  Bytes data = signature;
  Append(point, data);
  if (options.version >= 4) {
    AppendUint(6, 2, data);
    AppendUint(certification.size(), 4, data);
  }
  Append(certification, data);
  AppendUint(data.size(), 4, quote);
  Append(data, quote);
  return quote;
}

Bytes IntelPlatform::Sign(std::string_view member, const OrderedJson& body,
                          crypto::testing::TestCertificate* by) {
  const std::string text = body.dump();
  const Bytes signature = SignRaw(by == nullptr ? tcb_signing.key : by->key, AsBytes(text), 32);
  const std::string document =
      "{\"" + std::string(member) + "\":" + text + ",\"signature\":\"" + ToHex(signature) + "\"}";
  return {document.begin(), document.end()};
}

OrderedJson IntelPlatform::TcbInfo(bool tdx) {
  OrderedJson current = {{"sgxtcbcomponents", Components({7, 7, 7})}, {"pcesvn", 13}};
  OrderedJson old = {{"sgxtcbcomponents", Components({5, 5, 5})}, {"pcesvn", 5}};
  if (tdx) {
    current["tdxtcbcomponents"] = Components({3, 0, 5});
    old["tdxtcbcomponents"] = Components({2, 0, 4});
  }
  OrderedJson info = {{"id", tdx ? "TDX" : "SGX"},
                      {"version", 3},
                      {"issueDate", "2027-01-01T00:00:00Z"},
                      {"nextUpdate", "2027-01-31T00:00:00Z"},
                      {"fmspc", "50806F000000"},
                      {"pceId", "0000"},
                      {"tcbType", 0},
                      {"tcbEvaluationDataNumber", 17}};
  if (tdx) {
    const OrderedJson module = {{"mrsigner", std::string(96, '0')},
                                {"attributes", "0000000000000000"},
                                {"attributesMask", "FFFFFFFFFFFFFFFF"}};
    info["tdxModule"] = module;
    OrderedJson identity = {{"id", "TDX_01"}};
    identity.update(module);
    identity["tcbLevels"] = {IsvLevel(3, "UpToDate"), IsvLevel(2, "OutOfDate")};
    info["tdxModuleIdentities"] = OrderedJson::array({identity});
  }
  info["tcbLevels"] = OrderedJson::array(
      {{{"tcb", current}, {"tcbDate", "2026-06-01T00:00:00Z"}, {"tcbStatus", "UpToDate"}},
       {{"tcb", old},
        {"tcbDate", "2024-06-01T00:00:00Z"},
        {"tcbStatus", "OutOfDate"},
        {"advisoryIDs", {"INTEL-SA-00837"}}}});
  return info;
}

OrderedJson IntelPlatform::QeIdentity(bool tdx) {
  std::string signer;
  for (int i = 0; i < 32; ++i) signer += "DC";
  return {{"id", tdx ? "TD_QE" : "QE"},
          {"version", 2},
          {"issueDate", "2027-01-02T00:00:00Z"},
          {"nextUpdate", "2027-01-30T00:00:00Z"},
          {"tcbEvaluationDataNumber", 18},
          {"miscselect", "00000000"},
          {"miscselectMask", "FFFFFFFF"},
          {"attributes", "11000000000000000000000000000000"},
          {"attributesMask", "FBFFFFFFFFFFFFFF0000000000000000"},
          {"mrsigner", signer},
          {"isvprodid", tdx ? 2 : 1},
          {"tcbLevels", {IsvLevel(8, "UpToDate"), IsvLevel(6, "OutOfDate")}}};
}

IntelCollateral IntelPlatform::Collateral(bool tdx) {
  const std::string chain = crypto::testing::ChainPem({tcb_signing.certificate, root.certificate});
  return {.tcb_info = Sign("tcbInfo", TcbInfo(tdx)),
          .tcb_info_issuer_chain = Bytes(chain.begin(), chain.end()),
          .qe_identity = Sign("enclaveIdentity", QeIdentity(tdx)),
          .qe_identity_issuer_chain = {},
          .root_crl = MakeRevocationList(root, {}),
          .pck_crl = MakeRevocationList(pck_ca, {})};
}

}  // namespace pavise::evidence::testing
