#ifndef PAVISE_EVIDENCE_APPRAISE_IMA_IMA_LOG_H_
#define PAVISE_EVIDENCE_APPRAISE_IMA_IMA_LOG_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// Templates of Linux (Documentation/security/IMA-templates.rst; 6.1).
enum class ImaTemplate { kIma, kImaNg, kImaSig, kImaNgv2, kImaSigv2, kImaBuf, kImaModsig };

enum class ImaForm {
  kLittleEndian,  // binary_runtime_measurements of little-endian machines and ima_canonical_fmt
  kBigEndian,     // of big-endian machines
  kAscii,         // ascii_runtime_measurements (of a little-endian machine)
};

// One measurement. The spans lie in the parsed bytes or in the ImaLog.
struct ImaEntry {
  uint32_t register_index;
  ByteSpan template_hash;  // SHA-1; all zero for a violation
  ImaTemplate kind;
  ByteSpan template_data;      // what the template hash is of
  std::string_view algorithm;  // of `digest`: "sha256"
  ByteSpan digest;             // of the file or buffer; all zero for a violation
  std::string_view name;       // path, or the name of a buffer
  bool is_verity = false;      // `digest` is an fs-verity digest (ima-ngv2, ima-sigv2)
  ByteSpan signature;          // of ima-sig, ima-sigv2 and ima-modsig; may be empty
  ByteSpan buffer;             // of ima-buf

  // Open writers or time-of-measure-time-of-use; the log does not say which. Of such an entry
  // nothing is measured: its path is the word of whoever gave the log.
  bool is_violation() const;
  // "sha256:0123...", "verity:sha256:...", as reference values are written.
  std::string DigestText() const;
};

// Entries in order. Moves, and does not copy, since entries point into it.
struct ImaLog {
  std::vector<ImaEntry> entries;
  std::deque<Bytes> owned;  // template data that the log does not hold as it was hashed

  ImaLog() = default;
  ImaLog(ImaLog&&) = default;
  ImaLog& operator=(ImaLog&&) = default;
};

// Parsing takes about 200 bytes of memory an entry beside the log, so by default at most 400 MiB.
struct ImaLogLimits {
  uint64_t max_bytes = 256u << 20;
  uint64_t max_entries = 2'000'000;
  uint32_t max_template_bytes = 16u << 20;  // of one entry
  uint32_t max_path_bytes = 4096;           // PATH_MAX
};

// Parses a log or the continuation of one (from an entry's beginning). `log` must outlive the
// result; nothing is verified. Binary: u32 PCR, SHA-1 template hash, u32 length and name of the
// template, u32 length of the data (not for `ima`), data as fields of u32 length and content
// (Linux 6.1, security/integrity/ima/ima_fs.c, ima_template_lib.c). ASCII: fields parted by one
// space, the path last or before the signature, as the kernel prints it, without escapes: a path
// with a line feed makes the line malformed, and only the binary form can be used.
// kMalformed: names the entry; also a digest that is not as long as its algorithm's, a missing NUL,
// an entry cut short. kUnsupported: a template of another name; kLimitExceeded.
absl::StatusOr<ImaLog> ParseImaLog(ByteSpan log, ImaForm form, std::string_view item,
                                   const ImaLogLimits& limits = {});

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_IMA_IMA_LOG_H_
