#include "pavise/evidence/collect/tpm/tpm_context.h"

#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tctildr.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kItem = "TPM";
constexpr size_t kMaxEkCertificateBytes = 16 << 10;
// Within every TPM's TPM_PT_NV_BUFFER_MAX.
constexpr uint16_t kNvReadBytes = 512;
constexpr size_t kMaxNonceBytes = 32;
constexpr int kMaxQuoteAttempts = 8;

template <typename T>
struct EsysFree {
  void operator()(T* memory) const noexcept { Esys_Free(memory); }
};
template <typename T>
using EsysOwned = std::unique_ptr<T, EsysFree<T>>;

// The name, NV index and public area of an endorsement key.
struct EkEntry {
  std::string_view name;
  TPM2_HANDLE certificate_index;
  // L templates are used under PolicySecret(endorsement), H templates also by their (empty) value.
  bool needs_policy;
};
const EkEntry& EntryOf(EkTemplate ek_template) {
  static constexpr std::array<EkEntry, 3> kEntries = {{
      {"RSA 2048", 0x01c00002, true},
      {"ECC P-256", 0x01c0000a, true},
      {"ECC P-384", 0x01c00016, false},
  }};
  return kEntries[static_cast<size_t>(ek_template)];
}

// PolicyA of the profile (B.6.2): TPM2_PolicySecret(TPM_RH_ENDORSEMENT).
constexpr std::array<uint8_t, 32> kPolicyASha256 = {
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa};
// PolicyB (B.6.3), which also lets the owner of the endorsement hierarchy use it by NV policy.
constexpr std::array<uint8_t, 48> kPolicyBSha384 = {
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
    0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
    0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12};

constexpr TPMA_OBJECT kEkAttributes =
    TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN |
    TPMA_OBJECT_ADMINWITHPOLICY | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
constexpr TPMA_OBJECT kAkAttributes =
    TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN |
    TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_SIGN_ENCRYPT;

TPM2B_PUBLIC EkPublic(EkTemplate ek_template) {
  TPM2B_PUBLIC result{};
  TPMT_PUBLIC& area = result.publicArea;
  area.objectAttributes = kEkAttributes;
  const bool is_p384 = ek_template == EkTemplate::kEccP384;
  if (is_p384) area.objectAttributes |= TPMA_OBJECT_USERWITHAUTH;
  area.nameAlg = is_p384 ? TPM2_ALG_SHA384 : TPM2_ALG_SHA256;
  const ByteSpan policy = is_p384 ? ByteSpan(kPolicyBSha384) : ByteSpan(kPolicyASha256);
  area.authPolicy.size = static_cast<UINT16>(policy.size());
  std::ranges::copy(policy, area.authPolicy.buffer);
  TPMT_SYM_DEF_OBJECT cipher{};
  cipher.algorithm = TPM2_ALG_AES;
  cipher.keyBits.aes = is_p384 ? 256 : 128;
  cipher.mode.aes = TPM2_ALG_CFB;
  if (ek_template == EkTemplate::kRsa2048) {
    area.type = TPM2_ALG_RSA;
    area.parameters.rsaDetail.symmetric = cipher;
    area.parameters.rsaDetail.scheme.scheme = TPM2_ALG_NULL;
    area.parameters.rsaDetail.keyBits = 2048;
    area.unique.rsa.size = 256;
    return result;
  }
  area.type = TPM2_ALG_ECC;
  area.parameters.eccDetail.symmetric = cipher;
  area.parameters.eccDetail.scheme.scheme = TPM2_ALG_NULL;
  area.parameters.eccDetail.curveID = is_p384 ? TPM2_ECC_NIST_P384 : TPM2_ECC_NIST_P256;
  area.parameters.eccDetail.kdf.scheme = TPM2_ALG_NULL;
  // L templates fill the coordinates with zeros, H templates leave them empty.
  area.unique.ecc.x.size = area.unique.ecc.y.size = is_p384 ? 0 : 32;
  return result;
}

TPM2B_PUBLIC AkPublic(AkKind kind) {
  TPM2B_PUBLIC result{};
  TPMT_PUBLIC& area = result.publicArea;
  area.objectAttributes = kAkAttributes;
  const bool is_p384 = kind == AkKind::kEcdsaP384;
  area.nameAlg = is_p384 ? TPM2_ALG_SHA384 : TPM2_ALG_SHA256;
  if (kind == AkKind::kRsaSsa2048 || kind == AkKind::kRsaPss2048) {
    area.type = TPM2_ALG_RSA;
    TPMS_RSA_PARMS& rsa = area.parameters.rsaDetail;
    rsa.symmetric.algorithm = TPM2_ALG_NULL;
    rsa.keyBits = 2048;
    rsa.scheme.scheme = kind == AkKind::kRsaSsa2048 ? TPM2_ALG_RSASSA : TPM2_ALG_RSAPSS;
    rsa.scheme.details.anySig.hashAlg = TPM2_ALG_SHA256;
    return result;
  }
  area.type = TPM2_ALG_ECC;
  TPMS_ECC_PARMS& ecc = area.parameters.eccDetail;
  ecc.symmetric.algorithm = TPM2_ALG_NULL;
  ecc.scheme.scheme = TPM2_ALG_ECDSA;
  ecc.scheme.details.ecdsa.hashAlg = is_p384 ? TPM2_ALG_SHA384 : TPM2_ALG_SHA256;
  ecc.curveID = is_p384 ? TPM2_ECC_NIST_P384 : TPM2_ECC_NIST_P256;
  ecc.kdf.scheme = TPM2_ALG_NULL;
  return result;
}

// The error number of a response code without the parameter, handle or session that it names, for
// codes of the TPM itself (TPM 2.0 Library Part 2, 6.6.2, format one); else the code.
TSS2_RC WithoutPosition(TSS2_RC code) {
  constexpr TSS2_RC kFormatOne = 0x080;
  const bool is_tpm = (code & TSS2_RC_LAYER_MASK) == TSS2_TPM_RC_LAYER;
  return is_tpm && (code & kFormatOne) != 0 ? code & 0x0bf : code;
}

std::string_view RemedyOf(TSS2_RC code) {
  switch (WithoutPosition(code)) {
    case TPM2_RC_AUTH_FAIL:
    case TPM2_RC_BAD_AUTH:
      return "the endorsement hierarchy has an authorization value; clear it";
    case TPM2_RC_LOCKOUT:
      return "the TPM is locked after wrong authorization values; wait, or reset the lockout";
    case TPM2_RC_INITIALIZE:
      return "the TPM was not started; send TPM2_Startup";
    case TPM2_RC_FAILURE:
      return "the TPM is in failure mode; reset it";
    case TPM2_RC_OBJECT_MEMORY:
    case TPM2_RC_SESSION_MEMORY:
      return "the TPM has no room; use /dev/tpmrm0, or flush what others left in it";
    case TPM2_RC_CURVE:
    case TPM2_RC_VALUE:
    case TPM2_RC_HASH:
    case TPM2_RC_SCHEME:
      return "the TPM may lack this algorithm; choose another kind of key";
    default:
      return (code & TSS2_RC_LAYER_MASK) == TSS2_TPM_RC_LAYER
                 ? ""
                 : "check that the TPM is there, that its TCTI is right, and that you may use it "
                   "(/dev/tpmrm0: group tss)";
  }
}

absl::Status TpmFailure(std::string_view operation, TSS2_RC code) {
  const std::string_view remedy = RemedyOf(code);
  return MachineFailure(
      kItem, StrCat(operation, ": ", std::string_view(Tss2_RC_Decode(code)),
                    absl::StrFormat(" (0x%x)", code), remedy.empty() ? "" : "; ", remedy));
}

#define PAVISE_TPM(operation, call)                                             \
  do {                                                                          \
    if (const TSS2_RC pavise_code_ = (call); pavise_code_ != TSS2_RC_SUCCESS) { \
      return TpmFailure(operation, pavise_code_);                               \
    }                                                                           \
  } while (false)

// Any structure of tpm2-tss in the TPM's own form.
template <typename T>
absl::StatusOr<Bytes> Marshal(TSS2_RC (*marshal)(const T*, uint8_t*, size_t, size_t*),
                              const T& value) {
  Bytes bytes(kMaxTpmStructureBytes);
  size_t size_bytes = 0;
  PAVISE_TPM("marshalling", marshal(&value, bytes.data(), bytes.size(), &size_bytes));
  bytes.resize(size_bytes);
  return bytes;
}

template <typename T>
absl::Status Unmarshal(TSS2_RC (*unmarshal)(const uint8_t*, size_t, size_t*, T*), ByteSpan bytes,
                       std::string_view item, T& value) {
  size_t offset = 0;
  if (unmarshal(bytes.data(), bytes.size(), &offset, &value) != TSS2_RC_SUCCESS ||
      offset != bytes.size()) {
    return Refuse(Reason::kMalformed, item, "is not the structure that the TPM takes",
                  "begin the enrolment again");
  }
  return absl::OkStatus();
}

absl::StatusOr<TPML_PCR_SELECTION> SelectionOf(const PcrIndices& pcrs) {
  TPML_PCR_SELECTION selection{};
  for (const auto& [bank, indices] : pcrs) {
    TPMS_PCR_SELECTION& entry = selection.pcrSelections[selection.count++];
    entry.hash = AlgorithmOfPcrBank(bank);
    entry.sizeofSelect = kPcrCount / 8;
    for (const uint32_t index : indices) {
      if (index >= kPcrCount) return UsageError(StrCat("there is no ", PcrName(bank, index)));
      entry.pcrSelect[index / 8] |= static_cast<BYTE>(1u << (index % 8));
    }
  }
  if (std::all_of(pcrs.begin(), pcrs.end(), [](const auto& bank) { return bank.second.empty(); })) {
    return UsageError("no PCR is selected");
  }
  return selection;
}

// The bytes of the DER SEQUENCE that `bytes` begin with.
absl::StatusOr<Bytes> WithoutPadding(Bytes bytes, std::string_view item) {
  size_t header_bytes = 4;
  size_t size_bytes = 0;
  if (bytes.size() >= 4 && bytes[0] == 0x30 && bytes[1] == 0x82) {
    size_bytes = size_t{bytes[2]} << 8 | bytes[3];
  } else if (bytes.size() >= 3 && bytes[0] == 0x30 && bytes[1] == 0x81) {
    header_bytes = 3;
    size_bytes = bytes[2];
  } else {
    return Refuse(Reason::kMalformed, item, "the TPM's memory holds no certificate there");
  }
  if (size_bytes > bytes.size() - header_bytes) {
    return Refuse(Reason::kMalformed, item, "is longer than the memory that holds it");
  }
  bytes.resize(header_bytes + size_bytes);
  return bytes;
}

}  // namespace

struct TpmContext::Native {
  TSS2_TCTI_CONTEXT* tcti = nullptr;
  ESYS_CONTEXT* esys = nullptr;

  Native() = default;
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;
  ~Native() {
    if (esys != nullptr) Esys_Finalize(&esys);
    if (tcti != nullptr) Tss2_TctiLdr_Finalize(&tcti);
  }

  // A session or key that is flushed when this goes.
  class Flushed {
   public:
    Flushed(ESYS_CONTEXT* esys, ESYS_TR handle) : esys_(esys), handle_(handle) {}
    ~Flushed() {
      if (handle_ != ESYS_TR_NONE) Esys_FlushContext(esys_, handle_);
    }
    Flushed(const Flushed&) = delete;
    Flushed& operator=(const Flushed&) = delete;

   private:
    ESYS_CONTEXT* esys_;
    ESYS_TR handle_;
  };

  absl::StatusOr<bool> HasNvIndex(TPM2_HANDLE index);
};

struct TpmKey::Native {
  std::shared_ptr<TpmContext::Native> context;
  ESYS_TR handle = ESYS_TR_NONE;
  Bytes public_area;
  bool needs_policy = false;  // of endorsement keys

  Native() = default;
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;
  ~Native() {
    if (handle != ESYS_TR_NONE) Esys_FlushContext(context->esys, handle);
  }

  static absl::StatusOr<std::unique_ptr<Native>> CreatePrimary(
      std::shared_ptr<TpmContext::Native> context, const TPM2B_PUBLIC& area, std::string_view what);
};

TpmKey::TpmKey(std::unique_ptr<Native> native) : native_(std::move(native)) {}
TpmKey::~TpmKey() = default;
TpmKey::TpmKey(TpmKey&&) noexcept = default;
TpmKey& TpmKey::operator=(TpmKey&&) noexcept = default;
const Bytes& TpmKey::public_area() const { return native_->public_area; }

std::string_view EkTemplateName(EkTemplate ek_template) { return EntryOf(ek_template).name; }

TpmContext::TpmContext(std::shared_ptr<Native> native) : native_(std::move(native)) {}
TpmContext::~TpmContext() = default;

absl::StatusOr<std::unique_ptr<TpmContext>> TpmContext::Open(const std::string& tcti) {
  // An empty name would have the library try whatever it finds.
  if (tcti.empty()) return UsageError("name the TPM, for example device:/dev/tpmrm0");
  auto native = std::make_shared<Native>();
  PAVISE_TPM(StrCat("opening ", tcti), Tss2_TctiLdr_Initialize(tcti.c_str(), &native->tcti));
  PAVISE_TPM(StrCat("opening ", tcti), Esys_Initialize(&native->esys, native->tcti, nullptr));
  return std::unique_ptr<TpmContext>(new TpmContext(std::move(native)));
}

absl::StatusOr<bool> TpmContext::Native::HasNvIndex(TPM2_HANDLE index) {
  TPMI_YES_NO more = 0;
  TPMS_CAPABILITY_DATA* raw = nullptr;
  PAVISE_TPM("listing the TPM's memory",
             Esys_GetCapability(esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_HANDLES,
                                index, 1, &more, &raw));
  const EsysOwned<TPMS_CAPABILITY_DATA> data(raw);
  // The first handle that is not below `index`.
  return data->data.handles.count >= 1 && data->data.handles.handle[0] == index;
}

absl::StatusOr<std::optional<Bytes>> TpmContext::ReadEkCertificate(EkTemplate ek_template) {
  const EkEntry& entry = EntryOf(ek_template);
  const std::string item = StrCat("EK certificate (", entry.name, ")");
  ESYS_CONTEXT* esys = native_->esys;
  PAVISE_ASSIGN_OR_RETURN(const bool is_there, native_->HasNvIndex(entry.certificate_index));
  if (!is_there) return std::nullopt;
  const std::string operation = StrCat("reading the ", item);
  ESYS_TR index = ESYS_TR_NONE;
  PAVISE_TPM(operation, Esys_TR_FromTPMPublic(esys, entry.certificate_index, ESYS_TR_NONE,
                                              ESYS_TR_NONE, ESYS_TR_NONE, &index));
  TPM2B_NV_PUBLIC* raw_public = nullptr;
  TSS2_RC code = Esys_NV_ReadPublic(esys, index, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                    &raw_public, nullptr);
  const EsysOwned<TPM2B_NV_PUBLIC> nv_public(raw_public);
  const size_t size_bytes = code == TSS2_RC_SUCCESS ? nv_public->nvPublic.dataSize : 0;
  const bool has_own_value =
      code == TSS2_RC_SUCCESS && (nv_public->nvPublic.attributes & TPMA_NV_AUTHREAD) != 0;
  const ESYS_TR reader = has_own_value ? index : ESYS_TR_RH_OWNER;
  Bytes bytes;
  if (size_bytes <= kMaxEkCertificateBytes) {
    while (code == TSS2_RC_SUCCESS && bytes.size() < size_bytes) {
      TPM2B_MAX_NV_BUFFER* raw_part = nullptr;
      code = Esys_NV_Read(
          esys, reader, index, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
          static_cast<UINT16>(std::min<size_t>(kNvReadBytes, size_bytes - bytes.size())),
          static_cast<UINT16>(bytes.size()), &raw_part);
      const EsysOwned<TPM2B_MAX_NV_BUFFER> part(raw_part);
      if (code != TSS2_RC_SUCCESS) break;
      if (part->size == 0) {
        code = TSS2_ESYS_RC_MALFORMED_RESPONSE;
        break;
      }
      bytes.insert(bytes.end(), part->buffer, part->buffer + part->size);
    }
  }
  // The object is the library's own; in the TPM it stays.
  Esys_TR_Close(esys, &index);
  PAVISE_TPM(operation, code);
  if (size_bytes > kMaxEkCertificateBytes) {
    return Refuse(Reason::kLimitExceeded, item, StrCat("takes ", size_bytes, " bytes"));
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes certificate, WithoutPadding(std::move(bytes), item));
  return certificate;
}

absl::StatusOr<std::unique_ptr<TpmKey::Native>> TpmKey::Native::CreatePrimary(
    std::shared_ptr<TpmContext::Native> context, const TPM2B_PUBLIC& area, std::string_view what) {
  const TPM2B_SENSITIVE_CREATE no_value{};
  const TPM2B_DATA no_data{};
  const TPML_PCR_SELECTION no_pcrs{};
  auto key = std::make_unique<Native>();
  key->context = std::move(context);
  TPM2B_PUBLIC* raw_public = nullptr;
  PAVISE_TPM(StrCat("making the ", what),
             Esys_CreatePrimary(key->context->esys, ESYS_TR_RH_ENDORSEMENT, ESYS_TR_PASSWORD,
                                ESYS_TR_NONE, ESYS_TR_NONE, &no_value, &area, &no_data, &no_pcrs,
                                &key->handle, &raw_public, nullptr, nullptr, nullptr));
  const EsysOwned<TPM2B_PUBLIC> made(raw_public);
  PAVISE_ASSIGN_OR_RETURN(key->public_area, Marshal(&Tss2_MU_TPM2B_PUBLIC_Marshal, *made));
  return key;
}

absl::StatusOr<TpmKey> TpmContext::CreateEk(EkTemplate ek_template) {
  PAVISE_ASSIGN_OR_RETURN(
      std::unique_ptr<TpmKey::Native> key,
      TpmKey::Native::CreatePrimary(native_, EkPublic(ek_template),
                                    StrCat(EkTemplateName(ek_template), " endorsement key")));
  key->needs_policy = EntryOf(ek_template).needs_policy;
  return TpmKey(std::move(key));
}

absl::StatusOr<TpmKey> TpmContext::CreateAk(AkKind kind) {
  PAVISE_ASSIGN_OR_RETURN(
      std::unique_ptr<TpmKey::Native> key,
      TpmKey::Native::CreatePrimary(native_, AkPublic(kind), "attestation key"));
  return TpmKey(std::move(key));
}

absl::StatusOr<PcrValues> TpmContext::ReadPcrs(const PcrIndices& pcrs) {
  PAVISE_ASSIGN_OR_RETURN(TPML_PCR_SELECTION left, SelectionOf(pcrs));
  PcrValues values;
  // One command returns at most eight values.
  for (;;) {
    const auto wanted = std::find_if(
        left.pcrSelections, left.pcrSelections + left.count, [](const TPMS_PCR_SELECTION& entry) {
          return std::any_of(entry.pcrSelect, entry.pcrSelect + entry.sizeofSelect,
                             [](BYTE bits) { return bits != 0; });
        });
    if (wanted == left.pcrSelections + left.count) return values;
    TPML_PCR_SELECTION* raw_selection = nullptr;
    TPML_DIGEST* raw_digests = nullptr;
    PAVISE_TPM("reading PCRs",
               Esys_PCR_Read(native_->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &left,
                             nullptr, &raw_selection, &raw_digests));
    const EsysOwned<TPML_PCR_SELECTION> read(raw_selection);
    const EsysOwned<TPML_DIGEST> digests(raw_digests);
    uint32_t next = 0;
    for (uint32_t i = 0; i < read->count; ++i) {
      const TPMS_PCR_SELECTION& entry = read->pcrSelections[i];
      const std::optional<PcrBank> bank = PcrBankOfAlgorithm(entry.hash);
      for (uint32_t index = 0; bank.has_value() && index < 8u * entry.sizeofSelect; ++index) {
        if ((entry.pcrSelect[index / 8] >> (index % 8) & 1) == 0) continue;
        if (next >= digests->count) return MachineFailure(kItem, "returned too few PCR values");
        const TPM2B_DIGEST& digest = digests->digests[next++];
        PAVISE_RETURN_IF_ERROR(values.Set(*bank, index, {digest.buffer, digest.size}));
        for (uint32_t j = 0; j < left.count; ++j) {
          if (left.pcrSelections[j].hash != entry.hash) continue;
          left.pcrSelections[j].pcrSelect[index / 8] &= static_cast<BYTE>(~(1u << (index % 8)));
        }
      }
    }
    if (next == 0) {
      const std::optional<PcrBank> bank = PcrBankOfAlgorithm(wanted->hash);
      return Refuse(Reason::kUnsupported,
                    StrCat("PCR bank ", bank.has_value() ? PcrBankName(*bank) : "unknown"),
                    "the TPM has no such PCRs allocated",
                    "choose another bank, or have the firmware allocate this one");
    }
  }
}

absl::StatusOr<QuoteEvidence> TpmContext::Quote(const TpmKey& ak, ByteSpan nonce,
                                                const PcrIndices& pcrs) {
  if (nonce.empty() || nonce.size() > kMaxNonceBytes) {
    return UsageError(StrCat("a nonce of ", nonce.size(), " bytes; 1 to ", kMaxNonceBytes));
  }
  if (ak.native_->context != native_) return UsageError("the key is of another TPM connection");
  PAVISE_ASSIGN_OR_RETURN(const TPML_PCR_SELECTION selection, SelectionOf(pcrs));
  TPM2B_DATA qualifying{};
  qualifying.size = static_cast<UINT16>(nonce.size());
  std::ranges::copy(nonce, qualifying.buffer);
  TPMT_SIG_SCHEME own_scheme{};
  own_scheme.scheme = TPM2_ALG_NULL;
  for (int attempt = 0; attempt < kMaxQuoteAttempts; ++attempt) {
    QuoteEvidence evidence;
    PAVISE_ASSIGN_OR_RETURN(evidence.pcrs, ReadPcrs(pcrs));
    TPM2B_ATTEST* raw_quote = nullptr;
    TPMT_SIGNATURE* raw_signature = nullptr;
    PAVISE_TPM("quoting", Esys_Quote(native_->esys, ak.native_->handle, ESYS_TR_PASSWORD,
                                     ESYS_TR_NONE, ESYS_TR_NONE, &qualifying, &own_scheme,
                                     &selection, &raw_quote, &raw_signature));
    const EsysOwned<TPM2B_ATTEST> quote(raw_quote);
    const EsysOwned<TPMT_SIGNATURE> signature(raw_signature);
    evidence.ak_public = ak.public_area();
    evidence.quote.assign(quote->attestationData, quote->attestationData + quote->size);
    PAVISE_ASSIGN_OR_RETURN(evidence.signature,
                            Marshal(&Tss2_MU_TPMT_SIGNATURE_Marshal, *signature));
    PAVISE_ASSIGN_OR_RETURN(const TpmQuote parsed, ParseTpmsAttestQuote(evidence.quote, kItem));
    PAVISE_ASSIGN_OR_RETURN(const TpmSignature scheme,
                            ParseTpmtSignature(evidence.signature, kItem));
    PAVISE_ASSIGN_OR_RETURN(const Bytes digest, DigestOfPcrs(parsed.selection, evidence.pcrs,
                                                             scheme.scheme.digest, kItem));
    if (digest == parsed.pcr_digest) return evidence;
  }
  return MachineFailure(kItem,
                        StrCat("the PCRs changed between reading and quoting, ", kMaxQuoteAttempts,
                               " times in a row; try when the machine measures less"));
}

absl::StatusOr<SecretBytes> TpmContext::ActivateCredential(const TpmKey& ak, const TpmKey& ek,
                                                           const CredentialChallenge& challenge) {
  constexpr std::string_view kOperation = "activating the credential";
  if (ak.native_->context != native_ || ek.native_->context != native_) {
    return UsageError("the keys are of another TPM connection");
  }
  ESYS_CONTEXT* esys = native_->esys;
  TPM2B_ID_OBJECT blob{};
  PAVISE_RETURN_IF_ERROR(Unmarshal(&Tss2_MU_TPM2B_ID_OBJECT_Unmarshal, challenge.credential_blob,
                                   "credential blob", blob));
  TPM2B_ENCRYPTED_SECRET secret{};
  PAVISE_RETURN_IF_ERROR(Unmarshal(&Tss2_MU_TPM2B_ENCRYPTED_SECRET_Unmarshal,
                                   challenge.encrypted_secret, "encrypted secret", secret));
  ESYS_TR session = ESYS_TR_NONE;
  if (ek.native_->needs_policy) {
    TPMT_SYM_DEF no_cipher{};
    no_cipher.algorithm = TPM2_ALG_NULL;
    PAVISE_TPM(kOperation,
               Esys_StartAuthSession(esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                     ESYS_TR_NONE, nullptr, TPM2_SE_POLICY, &no_cipher,
                                     TPM2_ALG_SHA256, &session));
  }
  const Native::Flushed flushed(esys, session);
  if (session != ESYS_TR_NONE) {
    PAVISE_TPM(kOperation, Esys_PolicySecret(esys, ESYS_TR_RH_ENDORSEMENT, session,
                                             ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, nullptr,
                                             nullptr, nullptr, 0, nullptr, nullptr));
  }
  TPM2B_DIGEST* raw_opened = nullptr;
  const TSS2_RC code =
      Esys_ActivateCredential(esys, ak.native_->handle, ek.native_->handle, ESYS_TR_PASSWORD,
                              session == ESYS_TR_NONE ? ESYS_TR_PASSWORD : session, ESYS_TR_NONE,
                              &blob, &secret, &raw_opened);
  const EsysOwned<TPM2B_DIGEST> opened(raw_opened);
  switch (WithoutPosition(code)) {
    case TSS2_RC_SUCCESS:
      break;
    case TPM2_RC_FAILURE: {
      // libtpms says so of an RSA secret for another key. A TPM in failure mode says so of every
      // other command as well.
      TPM2B_DIGEST* raw_random = nullptr;
      const TSS2_RC random_code =
          Esys_GetRandom(esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, 1, &raw_random);
      const EsysOwned<TPM2B_DIGEST> random(raw_random);
      if (random_code != TSS2_RC_SUCCESS) return TpmFailure(kOperation, code);
      [[fallthrough]];
    }
    case TPM2_RC_INTEGRITY:
    case TPM2_RC_SIZE:
    case TPM2_RC_VALUE:
    case TPM2_RC_ECC_POINT:
      return Refuse(Reason::kBindingMismatch, "credential",
                    StrCat("the TPM does not open it: ", std::string_view(Tss2_RC_Decode(code))),
                    "begin the enrolment again with this TPM's own keys");
    default:
      return TpmFailure(kOperation, code);
  }
  SecretBytes result(ByteSpan(opened->buffer, opened->size));
  WipeMemory({opened->buffer, opened->size});
  return result;
}

absl::Status TpmContext::ExtendPcr(PcrBank bank, uint32_t index, ByteSpan digest) {
  if (index >= kPcrCount || digest.size() != PcrSizeBytes(bank)) {
    return UsageError(StrCat("no digest for ", PcrName(bank, index)));
  }
  TPML_DIGEST_VALUES values{};
  values.count = 1;
  values.digests[0].hashAlg = AlgorithmOfPcrBank(bank);
  std::ranges::copy(digest, reinterpret_cast<BYTE*>(&values.digests[0].digest));
  PAVISE_TPM("extending a PCR",
             Esys_PCR_Extend(native_->esys, ESYS_TR_PCR0 + index, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                             ESYS_TR_NONE, &values));
  return absl::OkStatus();
}

}  // namespace pavise::evidence
