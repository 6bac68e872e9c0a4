#include "pavise/evidence/appraise/nvidia/rim.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <xmlsec/openssl/app.h>
#include <xmlsec/openssl/crypto.h>
#include <xmlsec/transforms.h>
#include <xmlsec/xmldsig.h>
#include <xmlsec/xmlsec.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/nvidia/internal/xmlsec_library.h"

namespace pavise::evidence {
namespace {

constexpr size_t kMaxRimBytes = 4 << 20;
constexpr size_t kMaxCertificates = 8;
constexpr uint32_t kMaxIndex = 254;  // SPDM counts blocks from 1 in a byte
constexpr uint32_t kMaxAlternatives = 256;
constexpr uint32_t kMaxDigestBytes = 64;

constexpr std::string_view kSwid = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
constexpr std::string_view kSha384Attributes = "http://www.w3.org/2001/04/xmlenc#sha384";
constexpr std::string_view kDsig = "http://www.w3.org/2000/09/xmldsig#";

constexpr std::string_view kEcdsaSha384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
constexpr std::string_view kSha384 = "http://www.w3.org/2001/04/xmldsig-more#sha384";
constexpr std::string_view kEnveloped = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
constexpr std::string_view kC14n11 = "http://www.w3.org/2006/12/xml-c14n11";
constexpr std::string_view kExclusiveC14n = "http://www.w3.org/2001/10/xml-exc-c14n#";

template <auto kFree>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const noexcept {
    kFree(object);
  }
};
void FreeText(xmlChar* text) { xmlFree(text); }
using OwnedParser = std::unique_ptr<xmlParserCtxt, FreeWith<xmlFreeParserCtxt>>;
using OwnedDocument = std::unique_ptr<xmlDoc, FreeWith<xmlFreeDoc>>;
using OwnedText = std::unique_ptr<xmlChar, FreeWith<FreeText>>;
using OwnedSignature = std::unique_ptr<xmlSecDSigCtx, FreeWith<xmlSecDSigCtxDestroy>>;

std::string_view View(const xmlChar* text) {
  return text == nullptr ? std::string_view() : reinterpret_cast<const char*>(text);
}
const xmlChar* Xml(const char* text) { return reinterpret_cast<const xmlChar*>(text); }

bool Is(const xmlNode* node, std::string_view space, std::string_view name) {
  return node->type == XML_ELEMENT_NODE && View(node->name) == name && node->ns != nullptr &&
         View(node->ns->href) == space;
}

// Where a node stands, for messages: "Payload, line 12".
std::string Where(const xmlNode* node) {
  return StrCat(Printable(View(node->name)), ", line ", xmlGetLineNo(node));
}

// One RIM being read.
class Document {
 public:
  explicit Document(std::string_view item) : item_(item) {}

  // Step 1 of Verify.
  absl::Status Parse(ByteSpan xml);
  // The certificates of KeyInfo.
  absl::StatusOr<std::vector<crypto::Certificate>> Certificates() const;
  absl::Status VerifySignature(const crypto::PublicKey& key);
  // Step 4.
  absl::StatusOr<Rim> Contents() const;

 private:
  absl::Status Malformed(std::string_view detail) const {
    return Refuse(Reason::kMalformed, item_, detail);
  }
  absl::Status Unsupported(std::string_view detail) const {
    return Refuse(Reason::kUnsupported, item_, detail);
  }

  absl::Status CheckNodes(const xmlNode* parent, bool in_signature);
  absl::Status CheckSignature() const;
  // The child elements, which must have these names, in the signature's namespace.
  absl::StatusOr<std::vector<xmlNode*>> Children(
      const xmlNode* parent, std::initializer_list<std::string_view> names) const;
  absl::Status RequireAlgorithm(xmlNode* node,
                                std::initializer_list<std::string_view> allowed) const;

  absl::StatusOr<std::string> Attribute(xmlNode* node, const char* name) const;
  absl::StatusOr<uint32_t> Number(xmlNode* node, const char* name, uint32_t max) const;
  absl::StatusOr<std::pair<uint32_t, GoldenMeasurement>> Measurement(xmlNode* node) const;

  std::string item_;
  OwnedDocument document_;
  xmlNode* root_ = nullptr;
  xmlNode* signature_ = nullptr;
};

// A document type declaration is where entities and external files come from: the parser stops
// before it reads one.
void StopAtDeclaration(void* context, const xmlChar*, const xmlChar*, const xmlChar*) {
  auto* parser = static_cast<xmlParserCtxt*>(context);
  *static_cast<bool*>(parser->_private) = true;
  xmlStopParser(parser);
}

absl::Status Document::Parse(ByteSpan xml) {
  if (xml.size() > kMaxRimBytes) {
    return Refuse(
        Reason::kLimitExceeded, item_,
        StrCat("a RIM of ", HumanBytes(xml.size()), ", the limit is ", HumanBytes(kMaxRimBytes)));
  }
  if (!IsUtf8(AsText(xml))) return Malformed("not UTF-8");
  PAVISE_RETURN_IF_ERROR(internal::StartXmlsec());
  OwnedParser parser(xmlNewParserCtxt());
  if (parser == nullptr) return MachineFailure(item_, "out of memory");
  bool has_declaration = false;
  parser->_private = &has_declaration;
  parser->sax->internalSubset = StopAtDeclaration;
  document_.reset(xmlCtxtReadMemory(parser.get(), reinterpret_cast<const char*>(xml.data()),
                                    static_cast<int>(xml.size()), nullptr, "UTF-8",
                                    XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING));
  if (has_declaration) return Unsupported("it has a document type declaration");
  if (document_ == nullptr || document_->intSubset != nullptr) {
    const xmlError* error = xmlCtxtGetLastError(parser.get());
    if (error == nullptr || error->message == nullptr) return Malformed("not XML");
    std::string_view message = error->message;
    while (message.ends_with('\n')) message.remove_suffix(1);
    return Malformed(StrCat("not XML: line ", error->line, ": ", Printable(message)));
  }
  root_ = xmlDocGetRootElement(document_.get());
  if (root_ == nullptr || !Is(root_, kSwid, "SoftwareIdentity")) {
    return Malformed("the root is no SoftwareIdentity of ISO/IEC 19770-2:2015");
  }
  PAVISE_RETURN_IF_ERROR(CheckNodes(root_, false));
  if (signature_ == nullptr) {
    return Refuse(Reason::kSignatureInvalid, item_, "it is not signed",
                  "give the signed RIM file as NVIDIA publishes it");
  }
  return CheckSignature();
}

// Finds the signature. A second one, or one deeper down, is how signatures are wrapped.
absl::Status Document::CheckNodes(const xmlNode* parent, bool in_signature) {
  for (xmlNode* node = parent->children; node != nullptr; node = node->next) {
    if (node->type == XML_TEXT_NODE || (node->type == XML_COMMENT_NODE && !in_signature)) continue;
    if (node->type != XML_ELEMENT_NODE) {
      return Unsupported(StrCat("a node that is no element in ", Where(parent)));
    }
    const bool is_signature = Is(node, kDsig, "Signature");
    if (is_signature && (signature_ != nullptr || parent != root_)) {
      return Unsupported(
          StrCat("a second signature, or one that is not below the root (", Where(node), ")"));
    }
    if (is_signature) signature_ = node;
    PAVISE_RETURN_IF_ERROR(CheckNodes(node, in_signature || is_signature));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<xmlNode*>> Document::Children(
    const xmlNode* parent, std::initializer_list<std::string_view> names) const {
  std::vector<xmlNode*> found;
  for (xmlNode* node = xmlFirstElementChild(const_cast<xmlNode*>(parent)); node != nullptr;
       node = xmlNextElementSibling(node)) {
    if (found.size() == names.size() || !Is(node, kDsig, names.begin()[found.size()])) {
      return Unsupported(StrCat("an unexpected element in the signature: ", Where(node)));
    }
    found.push_back(node);
  }
  if (found.size() != names.size()) {
    return Malformed(StrCat(Where(parent), " lacks ", names.begin()[found.size()]));
  }
  return found;
}

absl::Status Document::RequireAlgorithm(xmlNode* node,
                                        std::initializer_list<std::string_view> allowed) const {
  PAVISE_ASSIGN_OR_RETURN(const std::string algorithm, Attribute(node, "Algorithm"));
  if (std::find(allowed.begin(), allowed.end(), algorithm) == allowed.end()) {
    return Unsupported(StrCat("algorithm ", Printable(algorithm), " of ", Where(node)));
  }
  if (xmlFirstElementChild(node) != nullptr) {
    return Unsupported(StrCat("parameters of ", Where(node)));
  }
  return absl::OkStatus();
}

absl::Status Document::CheckSignature() const {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<xmlNode*> parts,
                          Children(signature_, {"SignedInfo", "SignatureValue", "KeyInfo"}));
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<xmlNode*> info,
      Children(parts[0], {"CanonicalizationMethod", "SignatureMethod", "Reference"}));
  PAVISE_RETURN_IF_ERROR(RequireAlgorithm(info[0], {kC14n11, kExclusiveC14n}));
  PAVISE_RETURN_IF_ERROR(RequireAlgorithm(info[1], {kEcdsaSha384}));
  PAVISE_ASSIGN_OR_RETURN(const std::string uri, Attribute(info[2], "URI"));
  if (!uri.empty()) {
    return Unsupported(
        StrCat("the signature refers to \"", Printable(uri), "\" and not to the whole document"));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::vector<xmlNode*> reference,
                          Children(info[2], {"Transforms", "DigestMethod", "DigestValue"}));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<xmlNode*> transforms,
                          Children(reference[0], {"Transform", "Transform"}));
  PAVISE_RETURN_IF_ERROR(RequireAlgorithm(transforms[0], {kEnveloped}));
  PAVISE_RETURN_IF_ERROR(RequireAlgorithm(transforms[1], {kC14n11, kExclusiveC14n}));
  return RequireAlgorithm(reference[1], {kSha384});
}

absl::StatusOr<std::vector<crypto::Certificate>> Document::Certificates() const {
  std::vector<crypto::Certificate> certificates;
  const auto each = [](xmlNode* parent, std::string_view name, auto&& visit) {
    for (xmlNode* node = xmlFirstElementChild(parent); node != nullptr;
         node = xmlNextElementSibling(node)) {
      if (!Is(node, kDsig, name)) continue;
      if (absl::Status status = visit(node); !status.ok()) return status;
    }
    return absl::OkStatus();
  };
  const auto read = [&](xmlNode* node) -> absl::Status {
    if (certificates.size() == kMaxCertificates) {
      return Refuse(Reason::kLimitExceeded, item_,
                    StrCat("more than ", kMaxCertificates, " certificates"));
    }
    const OwnedText text(xmlNodeGetContent(node));
    std::string base64;
    for (const char c : View(text.get())) {
      if (c != ' ' && c != '\n' && c != '\r' && c != '\t') base64.push_back(c);
    }
    PAVISE_ASSIGN_OR_RETURN(const Bytes der, FromBase64(base64, item_));
    PAVISE_ASSIGN_OR_RETURN(crypto::Certificate certificate,
                            crypto::Certificate::FromDer(der, item_));
    certificates.push_back(std::move(certificate));
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(each(signature_, "KeyInfo", [&](xmlNode* key_info) {
    return each(key_info, "X509Data",
                [&](xmlNode* data) { return each(data, "X509Certificate", read); });
  }));
  if (certificates.empty()) return Malformed("the signature comes with no certificate");
  return certificates;
}

absl::Status Document::VerifySignature(const crypto::PublicKey& key) {
  OwnedSignature context(xmlSecDSigCtxCreate(nullptr));
  if (context == nullptr) return MachineFailure(item_, "libxmlsec1: out of memory");
  // With a key in the context, KeyInfo is not read. What CheckSignature looked at is held once more
  // by the library itself.
  context->signKey =
      xmlSecOpenSSLAppKeyLoadMemory(key.der().data(), static_cast<xmlSecSize>(key.der().size()),
                                    xmlSecKeyDataFormatDer, nullptr, nullptr, nullptr);
  context->enabledReferenceUris = xmlSecTransformUriTypeEmpty;
  const xmlSecTransformId for_signature[] = {xmlSecTransformInclC14N11Id, xmlSecTransformExclC14NId,
                                             xmlSecOpenSSLTransformEcdsaSha384Id};
  const xmlSecTransformId for_reference[] = {xmlSecTransformEnvelopedId,
                                             xmlSecTransformInclC14N11Id, xmlSecTransformExclC14NId,
                                             xmlSecOpenSSLTransformSha384Id};
  bool is_ready = context->signKey != nullptr;
  for (const xmlSecTransformId id : for_signature) {
    is_ready = is_ready && xmlSecDSigCtxEnableSignatureTransform(context.get(), id) == 0;
  }
  for (const xmlSecTransformId id : for_reference) {
    is_ready = is_ready && xmlSecDSigCtxEnableReferenceTransform(context.get(), id) == 0;
  }
  if (!is_ready) return MachineFailure(item_, "libxmlsec1 cannot be set up");
  if (xmlSecDSigCtxVerify(context.get(), signature_) != 0 ||
      context->status != xmlSecDSigStatusSucceeded ||
      xmlSecPtrListGetSize(&context->signedInfoReferences) != 1) {
    return Refuse(Reason::kSignatureInvalid, item_,
                  "its XML signature does not verify under the key of its certificate",
                  "fetch the RIM file again; a changed one cannot be used");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Document::Attribute(xmlNode* node, const char* name) const {
  const OwnedText text(xmlGetNoNsProp(node, Xml(name)));
  if (text == nullptr) return Malformed(StrCat(Where(node), " has no attribute ", name));
  return std::string(View(text.get()));
}

absl::StatusOr<uint32_t> Document::Number(xmlNode* node, const char* name, uint32_t max) const {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, Attribute(node, name));
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > max) {
    return Malformed(
        StrCat(name, "=\"", Printable(text), "\" of ", Where(node), " is no number up to ", max));
  }
  return value;
}

absl::StatusOr<std::pair<uint32_t, GoldenMeasurement>> Document::Measurement(xmlNode* node) const {
  PAVISE_ASSIGN_OR_RETURN(const std::string type, Attribute(node, "type"));
  if (type != "Measurement") {
    return Unsupported(StrCat("a resource of type \"", Printable(type), "\" (", Where(node), ")"));
  }
  GoldenMeasurement golden;
  PAVISE_ASSIGN_OR_RETURN(golden.name, Attribute(node, "name"));
  PAVISE_ASSIGN_OR_RETURN(const std::string active, Attribute(node, "active"));
  golden.active = active == "True";
  if (!golden.active && active != "False") {
    return Malformed(StrCat("active=\"", Printable(active), "\" of ", Where(node)));
  }
  PAVISE_ASSIGN_OR_RETURN(const uint32_t index, Number(node, "index", kMaxIndex));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes, Number(node, "size", kMaxDigestBytes));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t count, Number(node, "alternatives", kMaxAlternatives));
  if (count == 0 || size_bytes == 0) {
    return Malformed(StrCat("no value for index ", index, " (", Where(node), ")"));
  }
  for (uint32_t i = 0; i < count; ++i) {
    const std::string name = StrCat("Hash", i);
    const OwnedText text(
        xmlGetNsProp(node, Xml(name.c_str()), Xml(std::string(kSha384Attributes).c_str())));
    if (text == nullptr) return Malformed(StrCat(Where(node), " has no attribute ", name));
    PAVISE_ASSIGN_OR_RETURN(Bytes value, FromHex(View(text.get()), item_));
    if (value.size() != size_bytes) {
      return Malformed(StrCat(name, " of ", Where(node), " has ", value.size(),
                              " bytes, its size is ", size_bytes));
    }
    golden.alternatives.push_back(std::move(value));
  }
  return std::pair(index, std::move(golden));
}

absl::StatusOr<Rim> Document::Contents() const {
  Rim rim;
  PAVISE_ASSIGN_OR_RETURN(rim.name, Attribute(root_, "name"));
  PAVISE_ASSIGN_OR_RETURN(rim.tag_id, Attribute(root_, "tagId"));
  xmlNode* meta = nullptr;
  xmlNode* payload = nullptr;
  for (xmlNode* node = xmlFirstElementChild(root_); node != nullptr;
       node = xmlNextElementSibling(node)) {
    if (node == signature_ || Is(node, kSwid, "Entity") || Is(node, kSwid, "Link")) continue;
    xmlNode** place = Is(node, kSwid, "Meta")      ? &meta
                      : Is(node, kSwid, "Payload") ? &payload
                                                   : nullptr;
    if (place == nullptr) return Unsupported(StrCat("an unknown element: ", Where(node)));
    if (*place != nullptr) return Malformed(StrCat("a second ", Where(node)));
    *place = node;
  }
  if (meta == nullptr || payload == nullptr) return Malformed("it has no Meta or no Payload");
  PAVISE_ASSIGN_OR_RETURN(rim.version, Attribute(meta, "colloquialVersion"));
  if (rim.version.empty()) return Malformed("it names no version");
  for (xmlNode* node = xmlFirstElementChild(payload); node != nullptr;
       node = xmlNextElementSibling(node)) {
    if (!Is(node, kSwid, "Resource")) {
      return Unsupported(StrCat("an unknown element in the payload: ", Where(node)));
    }
    PAVISE_ASSIGN_OR_RETURN(auto measurement, Measurement(node));
    const uint32_t index = measurement.first;
    if (!rim.measurements.insert(std::move(measurement)).second) {
      return Malformed(StrCat("index ", index, " stands twice (", Where(node), ")"));
    }
  }
  if (rim.measurements.empty()) return Malformed("it holds no measurements");
  return rim;
}

// The chain from the first certificate to the pinned root.
absl::Status VerifySigner(const std::vector<crypto::Certificate>& certificates,
                          const std::vector<crypto::Certificate>& endorsements,
                          std::string_view root, absl::Time at, std::string_view item) {
  std::vector<crypto::Certificate> roots, intermediates;
  const auto sort = [&](const crypto::Certificate& certificate) {
    (certificate.Fingerprint() == root ? roots : intermediates).push_back(certificate);
  };
  std::for_each(certificates.begin() + 1, certificates.end(), sort);
  for (const crypto::Certificate& certificate : endorsements) {
    if (certificate.Fingerprint() == root) roots.push_back(certificate);
  }
  if (roots.empty()) {
    return Refuse(Reason::kCertificateInvalid, item,
                  StrCat("the root certificate ", root, " is not among its certificates"),
                  "add NVIDIA's RIM root certificate to the trusted certificates");
  }
  PAVISE_RETURN_IF_ERROR(
      crypto::VerifyChain(certificates.front(), intermediates, {roots.front()}, at).status());
  if (!certificates.front().MaySignModels()) {  // the same rule: digitalSignature or codeSigning
    return Refuse(Reason::kCertificateInvalid, item,
                  StrCat("the certificate of ", certificates.front().subject(), " may not sign"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VerifiedRim> RimVerifier::Verify(
    ByteSpan xml, std::string_view item, absl::Time at, std::string_view root,
    const std::vector<crypto::Certificate>& endorsements) {
  Document document(item);
  PAVISE_RETURN_IF_ERROR(document.Parse(xml));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::Certificate> certificates,
                          document.Certificates());
  PAVISE_RETURN_IF_ERROR(VerifySigner(certificates, endorsements, root, at, item));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, certificates.front().public_key());
  if (key.type() != crypto::KeyType::kEcP384) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("signed with a key of type ", KeyTypeName(key.type()), ", not P-384"));
  }
  PAVISE_RETURN_IF_ERROR(document.VerifySignature(key));
  PAVISE_ASSIGN_OR_RETURN(Rim rim, document.Contents());
  rim.signer = certificates.front().subject();
  rim.signer_fingerprint = certificates.front().Fingerprint();
  return VerifiedRim(std::move(rim));
}

absl::StatusOr<Rim> ParseUnverifiedRim(ByteSpan xml, std::string_view item) {
  Document document(item);
  PAVISE_RETURN_IF_ERROR(document.Parse(xml));
  PAVISE_RETURN_IF_ERROR(document.Certificates().status());
  return document.Contents();
}

}  // namespace pavise::evidence
