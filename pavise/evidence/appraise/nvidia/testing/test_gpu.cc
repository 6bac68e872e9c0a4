#include "pavise/evidence/appraise/nvidia/testing/test_gpu.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <xmlsec/openssl/app.h>
#include <xmlsec/xmldsig.h>
#include <xmlsec/xmlsec.h>
#include <xmlsec/xmltree.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/nvidia/internal/xmlsec_library.h"

namespace pavise::evidence::testing {
namespace {

using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::TestCertificate;

void Append(ByteSpan bytes, Bytes& out) { out.insert(out.end(), bytes.begin(), bytes.end()); }
void Append16(size_t value, Bytes& out) {
  out.push_back(static_cast<uint8_t>(value));
  out.push_back(static_cast<uint8_t>(value >> 8));
}

// DER with up to 255 bytes of content.
Bytes Der(uint8_t tag, std::initializer_list<Bytes> parts) {
  Bytes content;
  for (const Bytes& part : parts) Append(part, content);
  Bytes out = {tag};
  if (content.size() >= 0x80) out.push_back(0x81);
  out.push_back(static_cast<uint8_t>(content.size()));
  Append(content, out);
  return out;
}

Bytes FirmwareId(uint8_t fill) {
  return Der(0x30, {Der(0x06, {{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02}}),
                    Der(0x04, {Bytes(48, fill)})});
}

std::string Element(const TestGolden& golden) {
  std::vector<Bytes> alternatives = golden.alternatives;
  if (alternatives.empty()) alternatives = {TestMeasurements()[golden.index]};
  std::string text =
      StrCat("    <ns0:Resource type=\"Measurement\" index=\"", golden.index, "\" active=\"",
             golden.active ? "True" : "False", "\" alternatives=\"", alternatives.size(), "\"");
  for (size_t i = 0; i < alternatives.size(); ++i) {
    StrAppend(&text, " ns2:Hash", i, "=\"", ToHex(alternatives[i]), "\"");
  }
  return StrCat(text, " name=\"Measurement_", golden.index, "\" size=\"", alternatives[0].size(),
                "\"/>\n");
}

// Signs in place; false where the library refuses the template.
bool Sign(std::string& text, const crypto::PrivateKey& key) {
  if (!internal::StartXmlsec().ok()) return false;
  xmlDoc* document = xmlReadMemory(text.data(), static_cast<int>(text.size()), nullptr, nullptr,
                                   XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
  if (document == nullptr) return false;
  const SecretBytes pem = key.ToPem(SecretBytes()).value();
  xmlSecDSigCtx* context = xmlSecDSigCtxCreate(nullptr);
  context->signKey =
      xmlSecOpenSSLAppKeyLoadMemory(pem.Reveal().data(), static_cast<xmlSecSize>(pem.size_bytes()),
                                    xmlSecKeyDataFormatPem, nullptr, nullptr, nullptr);
  xmlNode* signature =
      xmlSecFindNode(xmlDocGetRootElement(document), xmlSecNodeSignature, xmlSecDSigNs);
  const bool is_signed = signature != nullptr && xmlSecDSigCtxSign(context, signature) == 0;
  if (is_signed) {
    xmlChar* out = nullptr;
    int size = 0;
    xmlDocDumpMemory(document, &out, &size);
    text.assign(reinterpret_cast<const char*>(out), static_cast<size_t>(size));
    xmlFree(out);
  }
  xmlSecDSigCtxDestroy(context);
  xmlFreeDoc(document);
  return is_signed;
}

}  // namespace

void ReplaceOnce(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at == text.npos || text.find(from, at + 1) != text.npos) {
    std::fprintf(stderr, "test_gpu: \"%s\" stands not once\n", std::string(from).c_str());
    std::abort();
  }
  text.replace(at, from.size(), to);
}

std::vector<Bytes> TestMeasurements() {
  std::vector<Bytes> measurements;
  for (uint8_t i = 0; i < 64; ++i) {
    Bytes value(48, i);
    value[0] = 0x80;
    measurements.push_back(std::move(value));
  }
  return measurements;
}

Bytes TestGpu::Report(const ReportOptions& options) {
  Bytes report = {0x11, 0xe0, 0x01, 0xff};
  Append(options.nonce, report);
  report.push_back(0);
  Append(Bytes{0x11, 0x60, 0x00, 0x00}, report);
  const std::vector<Bytes> measurements =
      options.measurements.empty() ? TestMeasurements() : options.measurements;
  Bytes record;
  for (size_t i = 0; i < measurements.size(); ++i) {
    record.push_back(static_cast<uint8_t>(i + 1));
    record.push_back(1);
    Append16(measurements[i].size() + 3, record);
    record.push_back(1);
    Append16(measurements[i].size(), record);
    Append(measurements[i], record);
  }
  report.push_back(static_cast<uint8_t>(measurements.size()));
  Append16(record.size(), report);
  report.push_back(0);
  Append(record, report);
  Append(Bytes(32, 0x5a), report);
  Bytes driver(options.driver_version.begin(), options.driver_version.end());
  driver.push_back(0);
  std::map<uint16_t, Bytes> fields = options.more_fields;
  fields.emplace(3, driver);
  fields.emplace(6, Bytes{0x00, 0x5e, 0x00, 0x96, 0x01, 0x00, 0x00, 0x00});
  fields.emplace(14, Bytes{0xb1, 0x03, 0x00, 0x00});
  fields.emplace(15, Bytes{'8', '8', '2', 0});
  if (options.nvdec0.has_value()) fields.emplace(11, *options.nvdec0);
  if (options.firmware_id.has_value()) fields.emplace(20, *options.firmware_id);
  Bytes opaque;
  for (const auto& [id, value] : fields) {
    Append16(id, opaque);
    Append16(value.size(), opaque);
    Append(value, opaque);
  }
  Append16(opaque.size(), report);
  Append(opaque, report);
  options.before_signing(report);
  Append(crypto::EcdsaRawFromDer(key.public_key().type(), key.Sign(report).value(), "test").value(),
         report);
  return report;
}

TestGpu MakeTestGpu(const GpuOptions& options) {
  const auto authority = [](std::string name) {
    CertificateOptions made = AuthorityOptions(std::move(name));
    made.key_type = crypto::KeyType::kEcP384;
    made.digest = "SHA2-384";
    return made;
  };
  std::vector<TestCertificate> chain;
  chain.push_back(crypto::testing::MakeRoot(authority("test device root")));
  while (chain.size() + 1 < options.chain_length) {
    chain.push_back(Issue(chain.back(), authority(StrCat("test CA ", chain.size()))));
  }
  CertificateOptions leaf = options.leaf;
  if (leaf.common_name == CertificateOptions().common_name) leaf.common_name = "test GSP FMC LF";
  if (leaf.key_type == CertificateOptions().key_type) leaf.key_type = crypto::KeyType::kEcP384;
  leaf.extended_key_usage = "";
  leaf.digest = "SHA2-384";
  const Bytes device_info =
      Der(0x06, {{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0x1c, 0x82, 0x12, 0x01}});
  leaf.extensions.emplace_back(
      "2.5.29.17",
      Der(0x30, {Der(0xa0, {device_info,
                            Der(0xa0, {crypto::testing::Utf8StringDer(options.device_name)})})}));
  const bool both = options.form == FirmwareIdForm::kBoth;
  if (both || options.form == FirmwareIdForm::kCompositeDeviceId) {
    leaf.extensions.emplace_back(
        "2.23.133.5.4.1",
        Der(0x30, {Der(0x02, {{1}}), Der(0x30, {Bytes(20, 0)}), FirmwareId(0xf1)}));
  }
  if (both || options.form == FirmwareIdForm::kTcbInfo) {
    leaf.extensions.emplace_back(
        "2.23.133.5.4.1.1",
        Der(0x30, {Der(0x80, {{'N', 'V'}}), Der(0xa6, {FirmwareId(0xf1), FirmwareId(0x00)}),
                   Der(0x89, {{0x01, 0x00}})}));
  }
  TestCertificate device = Issue(chain.back(), leaf);
  std::vector<crypto::Certificate> certificates = {device.certificate};
  for (auto it = chain.rbegin(); it != chain.rend(); ++it) certificates.push_back(it->certificate);
  return {std::move(certificates), std::move(device.key), chain.front().certificate.Fingerprint()};
}

TestRimPublisher MakeTestRimPublisher(const CertificateOptions& signer) {
  CertificateOptions root = AuthorityOptions("test RIM root");
  root.key_type = crypto::KeyType::kEcP384;
  root.digest = "SHA2-384";
  TestCertificate made = crypto::testing::MakeRoot(root);
  TestCertificate issued = Issue(made, signer);
  return {std::move(made), std::move(issued)};
}

RimOptions VbiosRimOptions() {
  RimOptions options;
  options.version = "96.00.5E.00.01";
  options.measurements = {{3}, {4}, {5}, {6, false}};
  return options;
}

std::string TestRimPublisher::Rim(const RimOptions& options) const {
  std::string text = StrCat(
      "<SoftwareIdentity xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" "
      "xmlns:ns0=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" "
      "xmlns:ns2=\"http://www.w3.org/2001/04/xmlenc#sha384\" name=\"",
      options.product, "\" tagId=\"tag-", options.version, "\" version=\"1.0\" tagVersion=\"0\">\n",
      "  <ns0:Entity name=\"Test\" role=\"softwareCreator tagCreator\"/>\n",
      "  <ns0:Meta colloquialVersion=\"", options.version, "\" product=\"", options.product,
      "\"/>\n", "  <ns0:Payload>\n");
  for (const TestGolden& golden : options.measurements) text += Element(golden);
  text +=
      "  </ns0:Payload>\n"
      "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"><ds:SignedInfo>"
      "<ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/>"
      "<ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384\"/>"
      "<ds:Reference URI=\"\"><ds:Transforms>"
      "<ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/>"
      "<ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/></ds:Transforms>"
      "<ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#sha384\"/>"
      "<ds:DigestValue></ds:DigestValue></ds:Reference></ds:SignedInfo>"
      "<ds:SignatureValue></ds:SignatureValue><ds:KeyInfo><ds:X509Data>";
  for (const crypto::Certificate* certificate : {&signer.certificate, &root.certificate}) {
    StrAppend(&text, "<ds:X509Certificate>", ToBase64(certificate->der()), "</ds:X509Certificate>");
  }
  text += "</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>\n";
  options.before_signing(text);
  if (!Sign(text, signer.key)) return "";
  options.after_signing(text);
  return text;
}

}  // namespace pavise::evidence::testing
