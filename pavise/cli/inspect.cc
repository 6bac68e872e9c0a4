#include <map>
#include <memory>
#include <optional>

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/signature_file.h"
#include "pavise/cli/statement_json.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/x509.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"

namespace pavise::cli {
namespace {

// Fulcio's extensions for the OIDC issuer: a bare string in the old one, DER UTF8String in the new.
constexpr const char* kIssuerExtension = "1.3.6.1.4.1.57264.1.8";
constexpr const char* kOldIssuerExtension = "1.3.6.1.4.1.57264.1.1";

// For display only; an odd value is shown as what it is, nothing.
std::string OidcIssuer(const crypto::Certificate& certificate) {
  if (const std::optional<Bytes> value = certificate.Extension(kIssuerExtension)) {
    constexpr uint8_t kUtf8String = 0x0c;
    constexpr size_t kHeaderBytes = 2;
    if (value->size() >= kHeaderBytes && (*value)[0] == kUtf8String &&
        (*value)[1] == value->size() - kHeaderBytes && (*value)[1] < 0x80) {
      return std::string(AsText(ByteSpan(*value).subspan(kHeaderBytes)));
    }
  }
  if (const std::optional<Bytes> value = certificate.Extension(kOldIssuerExtension)) {
    return std::string(AsText(*value));
  }
  return "";
}

std::string AlternativeNames(const crypto::Certificate& certificate) {
  const absl::StatusOr<std::vector<crypto::SubjectAlternativeName>> names =
      certificate.SubjectAlternativeNames();
  if (!names.ok()) return "";
  std::vector<std::string> values;
  for (const crypto::SubjectAlternativeName& name : *names) values.push_back(name.value);
  return absl::StrJoin(values, ", ");
}

class InspectVerb final : public Verb {
 public:
  std::string_view name() const override { return "inspect"; }
  std::string_view group() const override { return "Verify"; }
  std::string_view summary() const override {
    return "Show what a signature file says: who signed, by which method, which files and tensors. "
           "It is verified only if you say whom to trust; the model itself is not read.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise inspect model.sig\n"
           "  pavise inspect model.sig --tensors --public-key key.pub";
  }

  void Declare(CLI::App& app) override {
    AddOption(app, "SIGNATURE", signature_, "FILE", "the signature file", "Arguments")->required();
    AddFlag(app, "--tensors", tensors_, "list every tensor", "What is shown");
    trust_.Declare(app);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return StrCat("the signature file ", signature_, " is not accepted");
  }

 private:
  static void AddCertificates(const signing::Bundle& bundle,
                              std::vector<std::pair<std::string, std::string>>& rows,
                              OrderedJson& json);
  std::string FileTable(const signing::Statement& statement) const;
  std::string TensorText(const signing::Statement& statement) const;

  std::string signature_;
  bool tensors_ = false;
  TrustOptions trust_;
};

void InspectVerb::AddCertificates(const signing::Bundle& bundle,
                                  std::vector<std::pair<std::string, std::string>>& rows,
                                  OrderedJson& json) {
  json = OrderedJson::array();
  for (size_t i = 0; i < bundle.certificates.size(); ++i) {
    const absl::StatusOr<crypto::Certificate> certificate =
        crypto::Certificate::FromDer(bundle.certificates[i], "certificate");
    if (!certificate.ok()) {
      rows.emplace_back("certificate", "cannot be read");
      json.push_back(nullptr);
      continue;
    }
    const std::string names = AlternativeNames(*certificate);
    const std::string oidc_issuer = OidcIssuer(*certificate);
    rows.emplace_back(i == 0 ? "certificate" : "above it",
                      certificate->subject().empty() ? "(no subject)" : certificate->subject());
    rows.emplace_back("", StrCat("issued by ", certificate->issuer()));
    rows.emplace_back("", StrCat("valid from ", FormatUtc(certificate->not_before()), " to ",
                                 FormatUtc(certificate->not_after())));
    rows.emplace_back("", StrCat("SHA-256 ", certificate->Fingerprint()));
    if (bundle.method == signing::Method::kSigstore) {
      rows.emplace_back("identity", names);
      rows.emplace_back("provider", oidc_issuer);
    } else if (!names.empty()) {
      rows.emplace_back("", StrCat("also called ", names));
    }
    json.push_back(
        {{"subject", certificate->subject()},
         {"issuer", certificate->issuer()},
         {"alternative_names", names},
         {"oidc_issuer", oidc_issuer.empty() ? OrderedJson(nullptr) : OrderedJson(oidc_issuer)},
         {"serial", certificate->SerialHex()},
         {"not_before", FormatUtc(certificate->not_before())},
         {"not_after", FormatUtc(certificate->not_after())},
         {"sha256", certificate->Fingerprint()}});
  }
}

std::string InspectVerb::FileTable(const signing::Statement& statement) const {
  std::map<std::string, std::optional<uint64_t>> sizes;
  for (const FileSummary& file : FilesOf(statement)) sizes[file.path] = file.size_bytes;
  std::vector<std::vector<std::string>> rows = {{"SIZE", "DIGEST", "FILE"}};
  for (const signing::Resource& resource : statement.resources) {
    const bool shard = statement.serialization.method == signing::SerializationMethod::kShards;
    const std::optional<uint64_t> size_bytes =
        shard ? resource.end_bytes - resource.begin_bytes : sizes[resource.path];
    rows.push_back({size_bytes.has_value() ? HumanBytes(*size_bytes) : "?",
                    StrCat(resource.algorithm, ":", ToHex(resource.digest)), resource.name});
  }
  return AlignedTable(rows, {0});
}

std::string InspectVerb::TensorText(const signing::Statement& statement) const {
  std::vector<std::vector<std::string>> rows = {{"DTYPE", "SHAPE", "BYTES", "BLAKE3", "TENSOR"}};
  for (const signing::Resource& resource : statement.resources) {
    if (!resource.annotation.has_value()) continue;
    for (const signing::TensorDigest& digest : resource.annotation->tensors) {
      const model::TensorEntry& tensor = digest.tensor;
      rows.push_back({tensor.dtype, StrCat("[", absl::StrJoin(tensor.shape, ","), "]"),
                      StrCat(tensor.end_bytes - tensor.begin_bytes), ToHex(digest.blake3),
                      tensor.name});
    }
  }
  return rows.size() == 1 ? "" : AlignedTable(rows, {2});
}

absl::StatusOr<Outcome> InspectVerb::Run(const Session&) {
  PAVISE_ASSIGN_OR_RETURN(const SignatureFile file, ReadSignatureFile(signature_, trust_));
  const signing::Bundle& bundle = file.bundle;
  const signing::Statement& statement = file.statement;

  uint64_t tensors = 0;
  uint64_t tensor_bytes = 0;
  std::map<std::string, uint64_t> dtypes;
  for (const signing::Resource& resource : statement.resources) {
    if (!resource.annotation.has_value()) continue;
    for (const signing::TensorDigest& digest : resource.annotation->tensors) {
      ++tensors;
      tensor_bytes += digest.tensor.end_bytes - digest.tensor.begin_bytes;
      ++dtypes[digest.tensor.dtype];
    }
  }
  std::vector<std::string> dtype_counts;
  for (const auto& [dtype, count] : dtypes) dtype_counts.push_back(StrCat(count, " ", dtype));

  Outcome outcome;
  if (file.signer.has_value()) {
    outcome.verdict = "OK";
    outcome.headline = StrCat("the signature in ", Printable(signature_),
                              " is good; the model's files were not looked at");
  } else {
    outcome.text = std::string(kNotVerified);
  }
  std::vector<std::pair<std::string, std::string>> rows = {
      {"signed by", file.signer.has_value() ? SignerText(*file.signer) : std::string()},
      {"method", std::string(signing::MethodName(bundle.method))},
      {"key hint", bundle.key_hint.value_or("")}};
  OrderedJson certificates;
  AddCertificates(bundle, rows, certificates);
  OrderedJson log_entries = OrderedJson::array();
  for (const signing::TlogEntry& entry : bundle.tlog_entries) {
    const std::string time = FormatUtc(absl::FromUnixSeconds(entry.integrated_time_s));
    rows.emplace_back("logged", StrCat("index ", entry.log_index, ", ", time, ", ", entry.kind, " ",
                                       entry.kind_version));
    log_entries.push_back({{"log_index", entry.log_index},
                           {"integrated_time", time},
                           {"kind", entry.kind},
                           {"version", entry.kind_version}});
  }
  const OrderedJson summary = StatementSummaryJson(statement);
  rows.emplace_back("model", ModelText(statement));
  rows.emplace_back("root digest", RootDigestText(statement));
  rows.emplace_back("serialization", SerializationText(statement.serialization));
  rows.emplace_back("files",
                    StrCat(Counted(FilesOf(statement).size(), "file"),
                           summary["model_bytes"].is_null()
                               ? ", sizes are not signed"
                               : StrCat(", ", HumanBytes(summary["model_bytes"].get<uint64_t>()))));
  if (tensors > 0) {
    rows.emplace_back("tensors", StrCat(Counted(tensors, "tensor"), ", ", HumanBytes(tensor_bytes),
                                        ": ", absl::StrJoin(dtype_counts, ", ")));
  }
  if (statement.is_release_020) {
    rows.emplace_back("format", "written by release 0.2.0 of the reference tool");
  }
  if (file.signer.has_value()) {
    for (const std::string& warning : file.signer->warnings) rows.emplace_back("warning", warning);
  }
  StrAppend(&outcome.text, AlignedRows(rows), "\n", FileTable(statement));
  if (tensors_) StrAppend(&outcome.text, "\n", TensorText(statement));

  outcome.json = {{"signature", signature_}, {"verified", file.signer.has_value()}};
  outcome.json["signer"] =
      file.signer.has_value() ? SignerJson(*file.signer) : OrderedJson(nullptr);
  outcome.json["method"] = std::string(signing::MethodName(bundle.method));
  outcome.json["key_hint"] =
      bundle.key_hint.has_value() ? OrderedJson(*bundle.key_hint) : OrderedJson(nullptr);
  outcome.json["certificates"] = certificates;
  outcome.json["log_entries"] = log_entries;
  for (const auto& member : summary.items()) outcome.json[member.key()] = member.value();
  outcome.json["tensors"] = tensors;
  outcome.json["resources"] = ResourcesJson(statement, tensors_);
  outcome.json["warnings"] =
      file.signer.has_value() ? file.signer->warnings : std::vector<std::string>();
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewInspectVerb() { return std::make_unique<InspectVerb>(); }

}  // namespace pavise::cli
