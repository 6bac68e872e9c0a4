#ifndef PAVISE_EVIDENCE_APPRAISE_REFERENCE_REFERENCE_VALUES_H_
#define PAVISE_EVIDENCE_APPRAISE_REFERENCE_REFERENCE_VALUES_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"
#include "pavise/evidence/appraise/ima/ima_log.h"
#include "pavise/evidence/appraise/ima/ima_policy.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::evidence {

// A value, and where it comes from ("boot of node-1 on 2026-05-01", "package busybox 1.35.0-4").
using SourcedValues = std::map<std::string, std::string>;

struct KeyReference {
  std::string pem;
  std::optional<uint32_t> key_id;
  std::string source;
  friend bool operator==(const KeyReference&, const KeyReference&) = default;
};

// What measurements are held against (docs/formats/reference_values.md). A value type. Digests are
// written "sha256:hex" in lower case.
struct ReferenceValues {
  std::optional<bool> secure_boot;
  std::map<PcrBank, std::map<uint32_t, SourcedValues>> registers;  // hexadecimal
  SourcedValues images;                        // Authenticode digests of what the firmware starts
  SourcedValues command_lines;                 // texts
  SourcedValues command_line_digests;          // of command lines, and of what may be one
  std::map<std::string, SourcedValues> files;  // path (or "buffer:NAME") -> digests
  SourcedValues excludes;                      // patterns
  SourcedValues violations;                    // patterns
  std::map<std::string, KeyReference> keys;    // by fingerprint

  // Adds what is not there yet; a value that is there keeps its source. kPolicyDenied, and nothing
  // is added: both say something of Secure Boot or of one key's id, and not the same.
  absl::Status Merge(const ReferenceValues& other);
  friend bool operator==(const ReferenceValues&, const ReferenceValues&) = default;
};

inline constexpr uint64_t kMaxReferenceBytes = 256u << 20;

// Strict: unknown members, doubled values, digests of the wrong length or in upper case, PCRs above
// 23 and versions other than 1 are kMalformed (kUnsupported: a later version); kLimitExceeded.
absl::StatusOr<ReferenceValues> ParseReferenceValues(ByteSpan text, std::string_view item);
// One line a value, sorted: the same values give the same bytes, and a diff of two files shows what
// changed.
std::string FormatReferenceValues(const ReferenceValues& values);

// One path, register or pattern whose values are not the same.
struct ReferenceDifference {
  std::string item;  // "file /bin/ls", "PCR 7 (sha256)", "exclude /tmp/*"
  std::set<std::string> removed;
  std::set<std::string> added;
};
// Sources do not count. Sorted by item.
std::vector<ReferenceDifference> DiffReferenceValues(const ReferenceValues& before,
                                                     const ReferenceValues& after);

// The rules of an ImaPolicy. kMalformed: a key that does not parse.
absl::StatusOr<ImaRules> ImaRulesOf(const ReferenceValues& values);

// Holds a boot against what is listed. Each listed register must be quoted with a listed value
// (kEvidenceMissing, kMeasurementMismatch); for that `boot` is not asked. The rest is read from the
// event log: `boot` is nullptr where there is none that was verified (kEvidenceMissing, where any
// of the rest is listed).
// - secure_boot: kPlatformInsecure.
// - Where images are listed, the image register must replay and hold an image (kEvidenceMissing),
// and
//   each image of the log must be listed (kMeasurementUnknown).
// - Where command lines are listed, each of the log must be, by its text or digest, or as the
// digest
//   of a listed text in UTF-16LE with its NUL (kMeasurementUnknown). There must be one, and no
//   CommandLineRegister may hold what the log does not show (kEvidenceMissing). Measurements beside
//   them that may be a line under another label must be listed as digests (kMeasurementUnknown),
//   where their register has no reference value: that alone says what else is in it.
// The result lists what no measurement needed.
std::vector<std::string> AppraiseBoot(const VerifiedEventLog* boot, const PcrValues& quoted,
                                      const ReferenceValues& values, CheckList& checks);

// The listed command line that a digest is of (in UTF-16LE with its NUL); nullopt: of none.
std::optional<std::string> ListedText(ByteSpan digest, PcrBank bank, const ReferenceValues& values);

// Made from golden evidence: what was appraised on a machine in a known state. What cannot become a
// reference value is returned as text (violations, paths that are not UTF-8), never left out
// silently.
//
// The first `entries` entries of an IMA log, without boot_aggregate, which follows from the
// registers.
std::vector<std::string> AddImaLog(const ImaLog& log, size_t entries, const std::string& source,
                                   ReferenceValues& values);
// Secure Boot's state, images, command lines and what may be one. kPolicyDenied: a state of Secure
// Boot other than the one that is there.
absl::Status AddBoot(const VerifiedEventLog& boot, const std::string& source,
                     ReferenceValues& values);
// Values of those registers, where they are there.
void AddRegisters(const PcrValues& quoted, PcrBank bank, const std::set<uint32_t>& indices,
                  const std::string& source, ReferenceValues& values);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_REFERENCE_REFERENCE_VALUES_H_
