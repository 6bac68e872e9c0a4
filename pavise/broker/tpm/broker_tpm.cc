#include "pavise/broker/tpm/broker_tpm.h"

#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tctildr.h>

#include <algorithm>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kItem = "TPM";
constexpr TPM2_HANDLE kFirstCounter = 0x01827000;
constexpr TPM2_HANDLE kLastCounter = 0x018270ff;
constexpr std::string_view kCounterName = "TPM counter 0x";
constexpr std::string_view kSealedMagic = "pavise-tpm-sealed-1\n";
constexpr size_t kMostSecretBytes = 128;
constexpr size_t kMostPartBytes = 4096;
constexpr TPMA_OBJECT kSealedAttributes =
    TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_NODA;

template <typename T>
struct EsysFree {
  void operator()(T* memory) const noexcept { Esys_Free(memory); }
};
template <typename T>
using EsysOwned = std::unique_ptr<T, EsysFree<T>>;

// The error number of a response code of the TPM without the parameter, handle or session that it
// names (TPM 2.0 Library Part 2, 6.6.2, format one).
TSS2_RC WithoutPosition(TSS2_RC code) {
  constexpr TSS2_RC kFormatOne = 0x080;
  const bool is_tpm = (code & TSS2_RC_LAYER_MASK) == TSS2_TPM_RC_LAYER;
  return is_tpm && (code & kFormatOne) != 0 ? code & 0x0bf : code;
}

absl::Status TpmFailure(std::string_view operation, TSS2_RC code) {
  std::string_view remedy;
  switch (WithoutPosition(code)) {
    case TPM2_RC_AUTH_FAIL:
    case TPM2_RC_BAD_AUTH:
      remedy = "; the owner hierarchy has an authorization value: clear it";
      break;
    case TPM2_RC_NV_SPACE:
      remedy = "; the TPM has no room for a counter: remove what nobody needs";
      break;
    case TPM2_RC_OBJECT_MEMORY:
    case TPM2_RC_SESSION_MEMORY:
    case TPM2_RC_SESSION_HANDLES:
      remedy =
          "; other programs have left objects in the TPM: use its resource manager "
          "(device:/dev/tpmrm0), or flush them (tpm2_flushcontext)";
      break;
    default:
      if ((code & TSS2_RC_LAYER_MASK) != TSS2_TPM_RC_LAYER) {
        remedy = "; check that the TPM is there, that its TCTI is right, and that you may use it";
      }
      break;
  }
  return MachineFailure(kItem, StrCat(operation, ": ", std::string_view(Tss2_RC_Decode(code)),
                                      absl::StrFormat(" (0x%x)", code), remedy));
}

#define PAVISE_TPM(operation, call)                                             \
  do {                                                                          \
    if (const TSS2_RC pavise_code_ = (call); pavise_code_ != TSS2_RC_SUCCESS) { \
      return TpmFailure(operation, pavise_code_);                               \
    }                                                                           \
  } while (false)

// A length and the structure in the TPM's own form.
template <typename T>
absl::Status AppendPart(TSS2_RC (*marshal)(const T*, uint8_t*, size_t, size_t*), const T& value,
                        Bytes& out) {
  Bytes part(kMostPartBytes);
  size_t size_bytes = 0;
  PAVISE_TPM("marshalling", marshal(&value, part.data(), part.size(), &size_bytes));
  AppendLittleEndian32(static_cast<uint32_t>(size_bytes), out);
  out.insert(out.end(), part.begin(), part.begin() + static_cast<ptrdiff_t>(size_bytes));
  return absl::OkStatus();
}

template <typename T>
absl::Status TakePart(TSS2_RC (*unmarshal)(const uint8_t*, size_t, size_t*, T*), ByteReader& reader,
                      std::string_view field, T& value) {
  PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes, reader.LittleEndian32(field));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan part, reader.Take(size_bytes, field));
  size_t offset = 0;
  if (unmarshal(part.data(), part.size(), &offset, &value) != TSS2_RC_SUCCESS ||
      offset != part.size()) {
    return reader.Malformed(StrCat(field, " is not the TPM's structure"));
  }
  return absl::OkStatus();
}

TPML_PCR_SELECTION SelectionOf(const evidence::PcrIndices& pcrs) {
  TPML_PCR_SELECTION selection{};
  for (const auto& [bank, indices] : pcrs) {
    TPMS_PCR_SELECTION& entry = selection.pcrSelections[selection.count++];
    entry.hash = evidence::AlgorithmOfPcrBank(bank);
    entry.sizeofSelect = evidence::kPcrCount / 8;
    for (const uint32_t index : indices) {
      entry.pcrSelect[index / 8] |= static_cast<BYTE>(1u << (index % 8));
    }
  }
  return selection;
}

// TCG's template for a storage root key (TPM v2.0 Provisioning Guidance, 7.5.1), on P-256.
TPM2B_PUBLIC StorageKeyPublic() {
  TPM2B_PUBLIC result{};
  TPMT_PUBLIC& area = result.publicArea;
  area.type = TPM2_ALG_ECC;
  area.nameAlg = TPM2_ALG_SHA256;
  area.objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
                          TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                          TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT;
  TPMS_ECC_PARMS& ecc = area.parameters.eccDetail;
  ecc.symmetric.algorithm = TPM2_ALG_AES;
  ecc.symmetric.keyBits.aes = 128;
  ecc.symmetric.mode.aes = TPM2_ALG_CFB;
  ecc.scheme.scheme = TPM2_ALG_NULL;
  ecc.curveID = TPM2_ECC_NIST_P256;
  ecc.kdf.scheme = TPM2_ALG_NULL;
  return result;
}

TPM2B_AUTH AuthOf(const SecretBytes& secret) {
  TPM2B_AUTH auth{};
  auth.size = static_cast<UINT16>(std::min(secret.size_bytes(), sizeof auth.buffer));
  std::copy_n(secret.Reveal().begin(), auth.size, auth.buffer);
  return auth;
}

}  // namespace

struct BrokerTpm::Native {
  TSS2_TCTI_CONTEXT* tcti = nullptr;
  ESYS_CONTEXT* esys = nullptr;
  ESYS_TR storage_key = ESYS_TR_NONE;
  ESYS_TR session = ESYS_TR_NONE;

  Native() = default;
  Native(const Native&) = delete;
  Native& operator=(const Native&) = delete;
  ~Native() {
    if (esys != nullptr) {
      for (const ESYS_TR handle : {session, storage_key}) {
        if (handle != ESYS_TR_NONE) Esys_FlushContext(esys, handle);
      }
      Esys_Finalize(&esys);
    }
    if (tcti != nullptr) Tss2_TctiLdr_Finalize(&tcti);
  }

  // A handle that is flushed when this goes.
  class Flushed {
   public:
    explicit Flushed(ESYS_CONTEXT* context) : context_(context) {}
    ~Flushed() {
      if (handle != ESYS_TR_NONE) Esys_FlushContext(context_, handle);
    }
    Flushed(const Flushed&) = delete;
    Flushed& operator=(const Flushed&) = delete;
    ESYS_TR handle = ESYS_TR_NONE;

   private:
    ESYS_CONTEXT* context_;
  };

  // Which parameters the next command has encrypted: those that its first parameter, or its
  // answer's, allows.
  absl::Status Encrypt(ESYS_TR handle, TPMA_SESSION directions) {
    constexpr TPMA_SESSION kMask =
        TPMA_SESSION_CONTINUESESSION | TPMA_SESSION_DECRYPT | TPMA_SESSION_ENCRYPT;
    PAVISE_TPM("a session", Esys_TRSess_SetAttributes(
                                esys, handle, TPMA_SESSION_CONTINUESESSION | directions, kMask));
    return absl::OkStatus();
  }

  // Salted with the storage key.
  absl::Status StartSession(TPM2_SE type, ESYS_TR& handle) {
    TPMT_SYM_DEF cipher{};
    cipher.algorithm = TPM2_ALG_AES;
    cipher.keyBits.aes = 128;
    cipher.mode.aes = TPM2_ALG_CFB;
    const auto start = [&] {
      return Esys_StartAuthSession(esys, storage_key, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                   ESYS_TR_NONE, nullptr, type, &cipher, TPM2_ALG_SHA256, &handle);
    };
    TSS2_RC code = start();
    if (code == TPM2_RC_SESSION_MEMORY || code == TPM2_RC_SESSION_HANDLES) {
      FlushLeftovers(TPM2_LOADED_SESSION_FIRST);
      code = start();
    }
    PAVISE_TPM("starting a session", code);
    return absl::OkStatus();
  }

  absl::Status MakeStorageKey() {
    const TPM2B_PUBLIC area = StorageKeyPublic();
    const TPM2B_SENSITIVE_CREATE no_value{};
    const TPM2B_DATA no_data{};
    const TPML_PCR_SELECTION no_pcrs{};
    FlushLeftovers(TPM2_TRANSIENT_FIRST);
    PAVISE_TPM("making the storage key",
               Esys_CreatePrimary(esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                  ESYS_TR_NONE, &no_value, &area, &no_data, &no_pcrs, &storage_key,
                                  nullptr, nullptr, nullptr, nullptr));
    return absl::OkStatus();
  }

  // What a broker that was killed has left in a TPM without a resource manager: objects that look
  // like its storage key and what it unseals, and sessions. Such a TPM serves one client at a time,
  // so that nobody is at work with them; behind a resource manager only this client's are seen.
  // Objects go when the storage key is made, sessions, which say nothing of their owner, only where
  // there is no room for another.
  void FlushLeftovers(TPM2_HANDLE first) {
    constexpr UINT32 kMost = 64;
    TPMI_YES_NO more = 0;
    TPMS_CAPABILITY_DATA* raw = nullptr;
    if (Esys_GetCapability(esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_HANDLES, first,
                           kMost, &more, &raw) != TSS2_RC_SUCCESS) {
      return;
    }
    const EsysOwned<TPMS_CAPABILITY_DATA> data(raw);
    const TPML_HANDLE& handles = data->data.handles;
    TPM2_HANDLE own_session = 0;
    if (session != ESYS_TR_NONE) (void)Esys_TR_GetTpmHandle(esys, session, &own_session);
    for (UINT32 i = 0; i < std::min(handles.count, kMost); ++i) {
      if (handles.handle[i] == own_session) continue;
      ESYS_TR object = ESYS_TR_NONE;
      if (Esys_TR_FromTPMPublic(esys, handles.handle[i], ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                &object) != TSS2_RC_SUCCESS) {
        continue;
      }
      const bool is_ours = first != TPM2_TRANSIENT_FIRST || LooksLikeOurs(object);
      if (!is_ours || Esys_FlushContext(esys, object) != TSS2_RC_SUCCESS) {
        Esys_TR_Close(esys, &object);
      }
    }
  }

  bool LooksLikeOurs(ESYS_TR object) {
    TPM2B_PUBLIC* raw = nullptr;
    if (Esys_ReadPublic(esys, object, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &raw, nullptr,
                        nullptr) != TSS2_RC_SUCCESS) {
      return false;
    }
    const EsysOwned<TPM2B_PUBLIC> area(raw);
    const TPMT_PUBLIC& found = area->publicArea;
    const TPMT_PUBLIC key = StorageKeyPublic().publicArea;
    if (found.type == TPM2_ALG_KEYEDHASH) {
      return (found.objectAttributes & ~static_cast<TPMA_OBJECT>(TPMA_OBJECT_USERWITHAUTH)) ==
             kSealedAttributes;
    }
    return found.type == key.type && found.objectAttributes == key.objectAttributes &&
           found.parameters.eccDetail.curveID == key.parameters.eccDetail.curveID;
  }

  absl::StatusOr<bool> HasNvIndex(TPM2_HANDLE index) {
    TPMI_YES_NO more = 0;
    TPMS_CAPABILITY_DATA* raw = nullptr;
    PAVISE_TPM("listing the TPM's memory",
               Esys_GetCapability(esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_HANDLES,
                                  index, 1, &more, &raw));
    const EsysOwned<TPMS_CAPABILITY_DATA> data(raw);
    // The first handle that is not below `index`.
    return data->data.handles.count >= 1 && data->data.handles.handle[0] == index;
  }

  // An index that the TPM has, ready to be used under `secret`; tpm2-tss forgets it when this goes.
  class NvIndex {
   public:
    explicit NvIndex(ESYS_CONTEXT* context) : context_(context) {}
    ~NvIndex() {
      if (handle != ESYS_TR_NONE) Esys_TR_Close(context_, &handle);
    }
    NvIndex(const NvIndex&) = delete;
    NvIndex& operator=(const NvIndex&) = delete;
    ESYS_TR handle = ESYS_TR_NONE;

   private:
    ESYS_CONTEXT* context_;
  };

  absl::Status OpenCounter(const std::string& name, const SecretBytes& secret, NvIndex& index) {
    uint32_t number = 0;
    absl::string_view digits = name;
    if (!absl::ConsumePrefix(&digits, ToAbsl(kCounterName)) ||
        !absl::SimpleHexAtoi(digits, &number) || number < kFirstCounter || number > kLastCounter) {
      return Refuse(Reason::kMalformed, name, "is no counter of a TPM");
    }
    PAVISE_ASSIGN_OR_RETURN(const bool is_there, HasNvIndex(number));
    if (!is_there) {
      return Refuse(Reason::kEvidenceMissing, name, "this TPM has no such counter",
                    "use the machine that the store was made on; if its TPM is lost or was "
                    "cleared, the owners accept this image (broker recover)");
    }
    PAVISE_TPM(name, Esys_TR_FromTPMPublic(esys, number, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                           &index.handle));
    TPM2B_AUTH auth = AuthOf(secret);
    const TSS2_RC code = Esys_TR_SetAuth(esys, index.handle, &auth);
    WipeMemory({auth.buffer, sizeof auth.buffer});
    PAVISE_TPM(name, code);
    return absl::OkStatus();
  }

  absl::StatusOr<uint64_t> ReadCounter(const std::string& name, const NvIndex& index) {
    PAVISE_RETURN_IF_ERROR(Encrypt(session, TPMA_SESSION_ENCRYPT));
    TPM2B_MAX_NV_BUFFER* raw = nullptr;
    const TSS2_RC code = Esys_NV_Read(esys, index.handle, index.handle, session, ESYS_TR_NONE,
                                      ESYS_TR_NONE, sizeof(uint64_t), 0, &raw);
    const EsysOwned<TPM2B_MAX_NV_BUFFER> buffer(raw);
    PAVISE_RETURN_IF_ERROR(CounterError(name, code));
    ByteReader reader({buffer->buffer, buffer->size}, name);
    PAVISE_ASSIGN_OR_RETURN(const uint64_t value, reader.BigEndian64("value"));
    PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
    return value;
  }

  static absl::Status CounterError(const std::string& name, TSS2_RC code) {
    switch (WithoutPosition(code)) {
      case TSS2_RC_SUCCESS:
        return absl::OkStatus();
      case TPM2_RC_AUTH_FAIL:
      case TPM2_RC_BAD_AUTH:
      case TSS2_ESYS_RC_RSP_AUTH_FAILED:
        return Refuse(Reason::kBindingMismatch, name,
                      "is not the counter that this store made: it has another secret",
                      "use the machine that the store was made on");
      default:
        return TpmFailure(name, code);
    }
  }
};

BrokerTpm::BrokerTpm(std::unique_ptr<Native> native) : native_(std::move(native)) {}
BrokerTpm::~BrokerTpm() = default;

absl::StatusOr<std::unique_ptr<BrokerTpm>> BrokerTpm::Open(const std::string& tcti) {
  // An empty name would have the library try whatever it finds.
  if (tcti.empty()) return UsageError("name the TPM, for example device:/dev/tpmrm0");
  auto native = std::make_unique<Native>();
  PAVISE_TPM(StrCat("opening ", tcti), Tss2_TctiLdr_Initialize(tcti.c_str(), &native->tcti));
  PAVISE_TPM(StrCat("opening ", tcti), Esys_Initialize(&native->esys, native->tcti, nullptr));
  PAVISE_RETURN_IF_ERROR(native->MakeStorageKey());
  PAVISE_RETURN_IF_ERROR(native->StartSession(TPM2_SE_HMAC, native->session));
  return std::unique_ptr<BrokerTpm>(new BrokerTpm(std::move(native)));
}

absl::StatusOr<Bytes> BrokerTpm::Seal(const SecretBytes& secret, const evidence::PcrIndices& pcrs) {
  constexpr std::string_view kOperation = "sealing";
  if (secret.empty() || secret.size_bytes() > kMostSecretBytes) {
    return UsageError("a TPM seals 1 to 128 bytes");
  }
  for (const auto& [bank, indices] : pcrs) {
    if (indices.empty() || *indices.rbegin() >= evidence::kPcrCount) {
      return UsageError("there are PCRs 0 to 23");
    }
  }
  ESYS_CONTEXT* esys = native_->esys;
  const TPML_PCR_SELECTION selection = SelectionOf(pcrs);
  TPM2B_PUBLIC area{};
  area.publicArea.type = TPM2_ALG_KEYEDHASH;
  area.publicArea.nameAlg = TPM2_ALG_SHA256;
  area.publicArea.objectAttributes = kSealedAttributes;
  area.publicArea.parameters.keyedHashDetail.scheme.scheme = TPM2_ALG_NULL;
  if (pcrs.empty()) {
    area.publicArea.objectAttributes |= TPMA_OBJECT_USERWITHAUTH;
  } else {
    Native::Flushed trial(esys);
    PAVISE_RETURN_IF_ERROR(native_->StartSession(TPM2_SE_TRIAL, trial.handle));
    // Without a digest: of what the PCRs hold now.
    const TPM2B_DIGEST of_now{};
    PAVISE_TPM(kOperation, Esys_PolicyPCR(esys, trial.handle, ESYS_TR_NONE, ESYS_TR_NONE,
                                          ESYS_TR_NONE, &of_now, &selection));
    TPM2B_DIGEST* raw_policy = nullptr;
    PAVISE_TPM(kOperation, Esys_PolicyGetDigest(esys, trial.handle, ESYS_TR_NONE, ESYS_TR_NONE,
                                                ESYS_TR_NONE, &raw_policy));
    const EsysOwned<TPM2B_DIGEST> policy(raw_policy);
    area.publicArea.authPolicy = *policy;
  }
  PAVISE_RETURN_IF_ERROR(native_->Encrypt(native_->session, TPMA_SESSION_DECRYPT));
  TPM2B_SENSITIVE_CREATE sensitive{};
  sensitive.sensitive.data.size = static_cast<UINT16>(secret.size_bytes());
  std::ranges::copy(secret.Reveal(), sensitive.sensitive.data.buffer);
  const TPM2B_DATA no_data{};
  const TPML_PCR_SELECTION no_pcrs{};
  TPM2B_PRIVATE* raw_private = nullptr;
  TPM2B_PUBLIC* raw_public = nullptr;
  const TSS2_RC code = Esys_Create(esys, native_->storage_key, native_->session, ESYS_TR_NONE,
                                   ESYS_TR_NONE, &sensitive, &area, &no_data, &no_pcrs,
                                   &raw_private, &raw_public, nullptr, nullptr, nullptr);
  WipeMemory({sensitive.sensitive.data.buffer, sizeof sensitive.sensitive.data.buffer});
  const EsysOwned<TPM2B_PRIVATE> made_private(raw_private);
  const EsysOwned<TPM2B_PUBLIC> made_public(raw_public);
  PAVISE_TPM(kOperation, code);
  Bytes sealed(kSealedMagic.begin(), kSealedMagic.end());
  PAVISE_RETURN_IF_ERROR(AppendPart(&Tss2_MU_TPM2B_PUBLIC_Marshal, *made_public, sealed));
  PAVISE_RETURN_IF_ERROR(AppendPart(&Tss2_MU_TPM2B_PRIVATE_Marshal, *made_private, sealed));
  PAVISE_RETURN_IF_ERROR(AppendPart(&Tss2_MU_TPML_PCR_SELECTION_Marshal, selection, sealed));
  return sealed;
}

absl::StatusOr<SecretBytes> BrokerTpm::Unseal(ByteSpan sealed, std::string_view item) {
  constexpr std::string_view kOperation = "unsealing";
  ByteReader reader(sealed, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan magic, reader.Take(kSealedMagic.size(), "format"));
  if (AsText(magic) != kSealedMagic) return reader.Malformed("was not sealed by a broker's TPM");
  TPM2B_PUBLIC area{};
  TPM2B_PRIVATE sensitive{};
  TPML_PCR_SELECTION selection{};
  PAVISE_RETURN_IF_ERROR(TakePart(&Tss2_MU_TPM2B_PUBLIC_Unmarshal, reader, "public area", area));
  PAVISE_RETURN_IF_ERROR(
      TakePart(&Tss2_MU_TPM2B_PRIVATE_Unmarshal, reader, "private area", sensitive));
  PAVISE_RETURN_IF_ERROR(
      TakePart(&Tss2_MU_TPML_PCR_SELECTION_Unmarshal, reader, "PCRs", selection));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());

  ESYS_CONTEXT* esys = native_->esys;
  PAVISE_RETURN_IF_ERROR(native_->Encrypt(native_->session, TPMA_SESSION_DECRYPT));
  Native::Flushed object(esys);
  const TSS2_RC loaded = Esys_Load(esys, native_->storage_key, native_->session, ESYS_TR_NONE,
                                   ESYS_TR_NONE, &sensitive, &area, &object.handle);
  switch (WithoutPosition(loaded)) {
    case TSS2_RC_SUCCESS:
      break;
    case TPM2_RC_INTEGRITY:
    case TPM2_RC_SIZE:
    case TPM2_RC_VALUE:
    case TPM2_RC_BINDING:
    case TPM2_RC_ATTRIBUTES:
      object.handle = ESYS_TR_NONE;
      return Refuse(Reason::kBindingMismatch, item,
                    "was sealed by another TPM, or before this one was cleared, or was changed",
                    "use the machine that it was sealed on, or the owners' shares");
    default:
      object.handle = ESYS_TR_NONE;
      return TpmFailure(kOperation, loaded);
  }
  Native::Flushed policy(esys);
  if (selection.count != 0) {
    PAVISE_RETURN_IF_ERROR(native_->StartSession(TPM2_SE_POLICY, policy.handle));
    const TPM2B_DIGEST of_now{};
    PAVISE_TPM(kOperation, Esys_PolicyPCR(esys, policy.handle, ESYS_TR_NONE, ESYS_TR_NONE,
                                          ESYS_TR_NONE, &of_now, &selection));
  }
  const ESYS_TR session = selection.count != 0 ? policy.handle : native_->session;
  PAVISE_RETURN_IF_ERROR(native_->Encrypt(session, TPMA_SESSION_ENCRYPT));
  TPM2B_SENSITIVE_DATA* raw_data = nullptr;
  const TSS2_RC code =
      Esys_Unseal(esys, object.handle, session, ESYS_TR_NONE, ESYS_TR_NONE, &raw_data);
  const EsysOwned<TPM2B_SENSITIVE_DATA> data(raw_data);
  if (WithoutPosition(code) == TPM2_RC_POLICY_FAIL) {
    return Refuse(Reason::kMeasurementMismatch, item,
                  "the machine's PCRs are not those that it was sealed to",
                  "boot what was booted then, or take the owners' shares and seal anew");
  }
  PAVISE_TPM(kOperation, code);
  SecretBytes secret(ByteSpan(data->buffer, data->size));
  WipeMemory({data->buffer, data->size});
  return secret;
}

absl::StatusOr<std::string> BrokerTpm::Create(const SecretBytes& secret) {
  constexpr std::string_view kOperation = "making a counter";
  TPM2_HANDLE number = kFirstCounter;
  for (;; ++number) {
    if (number > kLastCounter) {
      return MachineFailure(kItem, "all 256 counters for brokers are taken; remove unused ones");
    }
    PAVISE_ASSIGN_OR_RETURN(const bool is_there, native_->HasNvIndex(number));
    if (!is_there) break;
  }
  TPM2B_NV_PUBLIC area{};
  area.nvPublic.nvIndex = number;
  area.nvPublic.nameAlg = TPM2_ALG_SHA256;
  area.nvPublic.attributes = TPMA_NV_AUTHWRITE | TPMA_NV_AUTHREAD | TPMA_NV_NO_DA |
                             (TPM2_NT_COUNTER << TPMA_NV_TPM2_NT_SHIFT);
  area.nvPublic.dataSize = sizeof(uint64_t);
  PAVISE_RETURN_IF_ERROR(native_->Encrypt(native_->session, TPMA_SESSION_DECRYPT));
  TPM2B_AUTH auth = AuthOf(secret);
  Native::NvIndex index(native_->esys);
  const TSS2_RC code = Esys_NV_DefineSpace(native_->esys, ESYS_TR_RH_OWNER, native_->session,
                                           ESYS_TR_NONE, ESYS_TR_NONE, &auth, &area, &index.handle);
  WipeMemory({auth.buffer, sizeof auth.buffer});
  PAVISE_TPM(kOperation, code);
  PAVISE_RETURN_IF_ERROR(native_->Encrypt(native_->session, 0));
  // Without a value until then.
  PAVISE_TPM(kOperation, Esys_NV_Increment(native_->esys, index.handle, index.handle,
                                           native_->session, ESYS_TR_NONE, ESYS_TR_NONE));
  return StrCat(kCounterName, absl::StrFormat("%08x", number));
}

absl::StatusOr<uint64_t> BrokerTpm::Read(const std::string& name, const SecretBytes& secret) {
  Native::NvIndex index(native_->esys);
  PAVISE_RETURN_IF_ERROR(native_->OpenCounter(name, secret, index));
  return native_->ReadCounter(name, index);
}

absl::StatusOr<uint64_t> BrokerTpm::Advance(const std::string& name, const SecretBytes& secret) {
  Native::NvIndex index(native_->esys);
  PAVISE_RETURN_IF_ERROR(native_->OpenCounter(name, secret, index));
  PAVISE_RETURN_IF_ERROR(native_->Encrypt(native_->session, 0));
  PAVISE_RETURN_IF_ERROR(
      Native::CounterError(name, Esys_NV_Increment(native_->esys, index.handle, index.handle,
                                                   native_->session, ESYS_TR_NONE, ESYS_TR_NONE)));
  return native_->ReadCounter(name, index);
}

}  // namespace pavise::broker
