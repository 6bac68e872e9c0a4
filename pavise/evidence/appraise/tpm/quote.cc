#include "pavise/evidence/appraise/tpm/quote.h"

#include <algorithm>
#include <string>
#include <utility>

#include "pavise/base/strings.h"

#include "absl/strings/str_join.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kItem = "TPM quote";

std::string ShowSelection(const TpmPcrSelection& selection) {
  std::string text;
  for (const auto& [bank, indices] : selection) {
    if (indices.empty()) continue;
    StrAppend(&text, text.empty() ? "" : "+", PcrBankName(bank), ":", absl::StrJoin(indices, ","));
  }
  return text.empty() ? "none" : text;
}

bool Selects(const TpmPcrSelection& selection, PcrBank bank, uint32_t index) {
  return std::any_of(selection.begin(), selection.end(), [&](const auto& entry) {
    return entry.first == bank && entry.second.contains(index);
  });
}

absl::Status CheckSignature(const TpmPublic& ak, const TpmSignature& signature, ByteSpan quote,
                            CheckList& checks) {
  constexpr std::string_view kCheck = "AK signature";
  // A restricted key signs under its own scheme only.
  if (ak.signing_scheme.has_value() && *ak.signing_scheme != signature.scheme) {
    checks.Fail(kCheck, Reason::kSignatureInvalid, kItem,
                "the signature is of another scheme than the key's",
                "send the quote with the signature that the TPM returned for it");
    return absl::OkStatus();
  }
  return checks.Record(kCheck,
                       StrCat(crypto::KeyTypeName(ak.key.type()), " with ",
                              crypto::DigestName(signature.scheme.digest)),
                       VerifyTpmSignature(ak.key, signature, quote, kItem));
}

absl::Status CheckPcrs(const TpmQuote& quote, const PcrValues& pcrs, crypto::DigestAlgorithm digest,
                       const PcrIndices& wanted, CheckList& checks) {
  constexpr std::string_view kSelection = "PCR selection";
  bool is_complete = true;
  for (const auto& [bank, indices] : wanted) {
    for (const uint32_t index : indices) {
      if (Selects(quote.selection, bank, index)) continue;
      is_complete = false;
      checks.Fail(kSelection, Reason::kEvidenceMissing, PcrName(bank, index),
                  StrCat("is not quoted; quoted are ", ShowSelection(quote.selection)),
                  "quote every PCR that the policy asks for, in the banks that it names");
    }
  }
  if (is_complete) checks.Pass(kSelection, ShowSelection(quote.selection));

  constexpr std::string_view kDigest = "PCR digest";
  const absl::StatusOr<Bytes> computed = DigestOfPcrs(quote.selection, pcrs, digest, kItem);
  if (!computed.ok()) return checks.Record(kDigest, "", computed.status());
  if (*computed == quote.pcr_digest) {
    checks.Pass(kDigest, ToHex(*computed));
  } else {
    checks.Fail(kDigest, Reason::kMeasurementMismatch, kItem,
                StrCat("digests PCR values with ", ToHex(quote.pcr_digest),
                       ", those reported give ", ToHex(*computed)),
                "read the PCRs again together with a new quote");
  }
  return absl::OkStatus();
}

struct Binding {
  AkBinding bound_to = AkBinding::kNone;
  std::optional<TpmIdentity> tpm;
};

Binding CheckBinding(const TpmPublic& ak, const QuoteExpectation& expected, CheckList& checks) {
  constexpr std::string_view kCheck = "AK binding";
  Binding binding;
  const std::string name = ToHex(ak.name);
  bool is_bound = true;
  const auto refuse = [&](std::string_view detail, std::string_view remedy) {
    is_bound = false;
    checks.Fail(kCheck, Reason::kBindingMismatch, StrCat("AK ", name), detail, remedy);
  };
  if (!expected.pinned_ak_names.empty()) {
    if (expected.pinned_ak_names.contains(name)) {
      binding.bound_to = AkBinding::kPinned;
    } else {
      refuse("is not one of the pinned attestation keys",
             "quote with a pinned key, or have the owners list this one");
    }
  }
  const TpmPublic* bound = nullptr;
  if (expected.enrolled != nullptr) {
    bound = &(*expected.enrolled)->ak;
    binding = {AkBinding::kEk, (*expected.enrolled)->ek.tpm};
  } else if (expected.certified != nullptr) {
    bound = &(*expected.certified)->ak;
    binding = {AkBinding::kCertificate, (*expected.certified)->tpm};
  }
  if (bound != nullptr && bound->name != ak.name) {
    refuse(StrCat("is not the key that was enrolled or certified (", ToHex(bound->name), ")"),
           "quote with the key of this session's enrolment");
  }
  if (is_bound) checks.Pass(kCheck, AkBindingName(binding.bound_to));
  return binding;
}

}  // namespace

std::string_view AkBindingName(AkBinding binding) {
  switch (binding) {
    case AkBinding::kNone:
      return "none";
    case AkBinding::kEk:
      return "ek";
    case AkBinding::kCertificate:
      return "certificate";
    case AkBinding::kPinned:
      break;
  }
  return "pinned";
}

absl::StatusOr<VerifiedQuote> QuoteAppraiser::Appraise(const QuoteEvidence& evidence,
                                                       const QuoteExpectation& expected,
                                                       CheckList& checks) {
  // An empty nonce would accept every quote that was made without one, at any time.
  if (expected.nonce.empty()) return UsageError("a quote is held against a nonce");
  absl::StatusOr<TpmPublic> ak = ParseTpm2bPublic(evidence.ak_public, "AK public area");
  absl::StatusOr<TpmQuote> quote = ParseTpmsAttestQuote(evidence.quote, kItem);
  const absl::StatusOr<TpmSignature> signature =
      ParseTpmtSignature(evidence.signature, "TPM quote signature");
  // All three are looked at before the first that is malformed ends it.
  const absl::Status forms[] = {
      checks.Add("AK public area", "well-formed", ak.status()),
      checks.Add("TPM quote", "well-formed", quote.status()),
      checks.Add("TPM quote signature", "well-formed", signature.status())};
  for (const absl::Status& form : forms) PAVISE_RETURN_IF_ERROR(form);

  CheckAkAttributes(*ak, checks);
  PAVISE_RETURN_IF_ERROR(CheckSignature(*ak, *signature, evidence.quote, checks));
  if (ConstantTimeEquals(quote->extra_data, expected.nonce)) {
    checks.Pass("nonce", ToHex(quote->extra_data));
  } else {
    checks.Fail(
        "nonce", Reason::kNonceMismatch, kItem,
        StrCat("was made for ", quote->extra_data.empty() ? "no nonce" : ToHex(quote->extra_data),
               ", asked for was ", ToHex(expected.nonce)),
        "quote again for the nonce of this session");
  }
  PAVISE_RETURN_IF_ERROR(
      CheckPcrs(*quote, evidence.pcrs, signature->scheme.digest, expected.pcrs, checks));
  Binding binding = CheckBinding(*ak, expected, checks);
  PAVISE_RETURN_IF_ERROR(checks.Verdict());

  QuoteClaims claims{*std::move(ak), binding.bound_to, std::move(binding.tpm)};
  for (const auto& [bank, indices] : quote->selection) {
    for (const uint32_t index : indices) {
      PAVISE_RETURN_IF_ERROR(claims.pcrs.Set(bank, index, *evidence.pcrs.Get(bank, index)));
    }
  }
  claims.qualified_signer = std::move(quote->qualified_signer);
  claims.clock = quote->clock;
  claims.firmware_version = quote->firmware_version;
  return VerifiedQuote(std::move(claims));
}

}  // namespace pavise::evidence
