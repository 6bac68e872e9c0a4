#ifndef PAVISE_CLI_STATEMENT_JSON_H_
#define PAVISE_CLI_STATEMENT_JSON_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/signing/statement.h"
#include "pavise/signing/trust_policy.h"

// What is signed, as JSON members and as words.
namespace pavise::cli {

// {"model", "model_version", "root_digest", "serialization", "files", "model_bytes"} without the
// resources. "model_bytes" is null where the signature does not say all lengths.
OrderedJson StatementSummaryJson(const signing::Statement& statement);

// The array of resources; tensors only `with_tensors`.
OrderedJson ResourcesJson(const signing::Statement& statement, bool with_tensors);

// {"method", "key_sha256", "name", "issuer", "signed_at"}; absent parts are null.
OrderedJson SignerJson(const signing::SignerIdentity& signer);

// "sha256:<hex>": the root digest as the reference tool prints it.
std::string RootDigestText(const signing::Statement& statement);
// "files, sha256; symbolic links refused; left out: .git, ..."
std::string SerializationText(const signing::Serialization& serialization);
// "acme/llm, version 3"
std::string ModelText(const signing::Statement& statement);
// "the holder of key <hex>", "CN=signer, vouched for by CN=root", ...
std::string SignerText(const signing::SignerIdentity& signer);

struct FileSummary {
  std::string path;
  std::optional<uint64_t> size_bytes;  // where the signature says it
};
// One a signed file, in the order of the statement.
std::vector<FileSummary> FilesOf(const signing::Statement& statement);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_STATEMENT_JSON_H_
