#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

// EFI_GLOBAL_VARIABLE, as it lies in memory (UEFI 2.10, 3.3).
constexpr std::array<uint8_t, 16> kGlobalVariable = {
    0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c};
// Tags of Linux's EFI stub (drivers/firmware/efi/libstub/efistub.h).
constexpr uint32_t kInitrdTag = 0x8f3b22ec;
constexpr uint32_t kLoadOptionsTag = 0x8f3b22ed;

constexpr std::array<std::string_view, 3> kGrubPrefixes = {
    "grub_cmd: ", "kernel_cmdline: ", "module_cmdline: "};

// What firmware measures beside images in the image register: PFP 1.06, 10.4.4 and 10.4.5 (strings
// of EV_EFI_ACTION and EV_OMIT_BOOT_DEVICE_EVENTS), those of PCR 5 for RTMR 1.
constexpr std::string_view kActions[] = {"Calling EFI Application from Boot Option",
                                         "Returning from EFI Application from Boot Option",
                                         "BOOT ATTEMPTS OMITTED",
                                         "Exit Boot Services Invocation",
                                         "Exit Boot Services Returned with Failure",
                                         "Exit Boot Services Returned with Success"};
// Of UEFI_PARTITION_TABLE_HEADER. An image begins with "MZ", "PE" or "VZ", or is not loaded.
constexpr std::string_view kPartitionTableSignature = "EFI PART";

// UEFI_VARIABLE_DATA (PFP 10.4.2.6).
struct VariableData {
  ByteSpan vendor;
  ByteSpan name;  // UTF-16LE
  ByteSpan content;
};

std::optional<VariableData> ReadVariable(ByteSpan data) {
  if (data.size() < 32) return std::nullopt;
  const uint64_t name_units = LoadLittleEndian64(data, 16);
  const uint64_t content_bytes = LoadLittleEndian64(data, 24);
  const uint64_t left = data.size() - 32;
  if (name_units > left / 2 || content_bytes > left - 2 * name_units) return std::nullopt;
  return VariableData{data.first(16), data.subspan(32, 2 * name_units),
                      data.subspan(32 + 2 * name_units, content_bytes)};
}

void AppendUtf8(uint32_t code, std::string& out) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xc0 | code >> 6));
    out.push_back(static_cast<char>(0x80 | (code & 0x3f)));
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | code >> 12));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3f)));
  } else {
    out.push_back(static_cast<char>(0xf0 | code >> 18));
    out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (code & 0x3f)));
  }
}

// Text in UTF-16LE, with or without one NUL at its end; nullopt for anything else.
std::optional<std::string> Utf8FromUtf16(ByteSpan bytes) {
  if (bytes.size() % 2 != 0) return std::nullopt;
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    uint32_t unit = bytes[i] | bytes[i + 1] << 8;
    if (unit == 0) {
      return i + 2 == bytes.size() ? std::optional(text) : std::nullopt;
    }
    if (unit >= 0xd800 && unit < 0xdc00 && i + 3 < bytes.size()) {
      const uint32_t low = bytes[i + 2] | bytes[i + 3] << 8;
      if (low < 0xdc00 || low > 0xdfff) return std::nullopt;
      unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
      i += 2;
    } else if (unit >= 0xd800 && unit <= 0xdfff) {
      return std::nullopt;
    }
    AppendUtf8(unit, text);
  }
  return text;
}

std::string GuidText(ByteSpan guid) {
  return absl::StrFormat("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                         guid[3], guid[2], guid[1], guid[0], guid[5], guid[4], guid[7], guid[6],
                         guid[8], guid[9], guid[10], guid[11], guid[12], guid[13], guid[14],
                         guid[15]);
}

// The file nodes (UEFI 2.10, 10.3.5.4) of UEFI_IMAGE_LOAD_EVENT's device path (PFP 10.4.2.3).
std::string ImagePath(ByteSpan data) {
  if (data.size() < 32) return "";
  const uint64_t path_bytes = LoadLittleEndian64(data, 24);
  if (path_bytes > data.size() - 32) return "";
  ByteSpan nodes = data.subspan(32, path_bytes);
  std::string path;
  while (nodes.size() >= 4) {
    const size_t node_bytes = nodes[2] | nodes[3] << 8;
    if (node_bytes < 4 || node_bytes > nodes.size()) break;
    if (nodes[0] == 0x04 && nodes[1] == 0x04) {
      path += Utf8FromUtf16(nodes.subspan(4, node_bytes - 4)).value_or("");
    }
    nodes = nodes.subspan(node_bytes);
  }
  return path;
}

// The NUL-terminated or whole text of a description; empty where it is not printable.
std::string Description(ByteSpan data) {
  std::string_view text = AsText(data);
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    if (nul + 1 != text.size()) {
      return Utf8FromUtf16(data).value_or("");  // systemd's stub describes in UTF-16
    }
    text.remove_suffix(1);
  }
  return IsUtf8(text) ? std::string(text) : "";
}

// What may have been measured, in the order tried, and whether one of them must have been.
struct Candidates {
  std::vector<Bytes> measured;
  bool must_match = false;
};

Candidates CandidatesOf(const Event& event) {
  const ByteSpan data = event.data;
  Candidates result;
  const auto add = [&](ByteSpan bytes) {
    result.measured.emplace_back(bytes.begin(), bytes.end());
  };
  switch (event.type) {
    case kEvSeparator:
    case kEvEfiAction:
    case kEvOmitBootDeviceEvents:
    case kEvEfiGptEvent:
    case kEvSCrtmVersion:
    case kEvEfiVariableDriverConfig:
    case kEvEfiVariableBoot2:
      result.must_match = true;
      add(data);
      return result;
    case kEvEfiVariableAuthority:
      result.must_match = true;
      add(data);
      if (!data.empty()) add(data.first(data.size() - 1));
      return result;
    case kEvEfiVariableBoot:
      result.must_match = true;
      add(data);
      if (const auto variable = ReadVariable(data)) add(variable->content);
      return result;
    case kEvIpl:
      for (const std::string_view prefix : kGrubPrefixes) {
        if (!AsText(data).starts_with(prefix)) continue;
        result.must_match = true;
        ByteSpan text = data.subspan(prefix.size());
        if (!text.empty() && text.back() == 0) text = text.first(text.size() - 1);
        add(text);
        return result;
      }
      break;
    case kEvEventTag:
      if (data.size() >= 8 && LoadLittleEndian32(data, 4) == data.size() - 8) add(data.subspan(8));
      break;
    default:
      break;
  }
  add(data);
  result.measured.push_back(result.measured.back());
  result.measured.back().push_back(0);
  return result;
}

absl::StatusOr<bool> IsDigestOf(PcrBank bank, ByteSpan digest, ByteSpan bytes) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes computed, crypto::Digest(PcrBankDigest(bank), bytes));
  return std::equal(computed.begin(), computed.end(), digest.begin(), digest.end());
}

std::string RegisterName(const EventLogRequest& request, PcrBank bank, uint32_t index) {
  if (request.kind == LogRegisters::kTdx && index >= 1) return StrCat("RTMR ", index - 1);
  return PcrName(bank, index);
}

bool IsSeparatorContent(ByteSpan data) {
  return data.size() == 4 && (data[0] == 0 || data[0] == 0xff) &&
         std::all_of(data.begin(), data.end(), [&](uint8_t byte) { return byte == data[0]; });
}

bool IsImageType(uint32_t type) {
  return type == kEvEfiBootServicesApplication || type == kEvEfiBootServicesDriver ||
         type == kEvEfiRuntimeServicesDriver;
}

absl::StatusOr<std::vector<Bytes>> DigestsOf(PcrBank bank, const std::vector<ByteSpan>& contents) {
  std::vector<Bytes> digests;
  for (const ByteSpan content : contents) {
    PAVISE_ASSIGN_OR_RETURN(Bytes digest, crypto::Digest(PcrBankDigest(bank), content));
    digests.push_back(std::move(digest));
  }
  return digests;
}

bool IsAmong(ByteSpan digest, const std::vector<Bytes>& digests) {
  return std::any_of(digests.begin(), digests.end(), [&](const Bytes& known) {
    return std::equal(known.begin(), known.end(), digest.begin(), digest.end());
  });
}

// The digests that the variable SecureBoot gives, by its content: on, off, absent.
absl::StatusOr<std::vector<std::pair<Bytes, bool>>> SecureBootDigests(PcrBank bank) {
  std::vector<std::pair<Bytes, bool>> digests;
  for (const int content : {1, 0, -1}) {
    Bytes data(kGlobalVariable.begin(), kGlobalVariable.end());
    constexpr std::string_view kName = "SecureBoot";
    AppendLittleEndian64(kName.size(), data);
    AppendLittleEndian64(content < 0 ? 0 : 1, data);
    for (const char letter : kName) {
      data.push_back(static_cast<uint8_t>(letter));
      data.push_back(0);
    }
    if (content >= 0) data.push_back(static_cast<uint8_t>(content));
    PAVISE_ASSIGN_OR_RETURN(Bytes digest, crypto::Digest(PcrBankDigest(bank), data));
    digests.emplace_back(std::move(digest), content == 1);
  }
  return digests;
}

// Whoever gives the log chooses types and data, and whoever runs the system may extend after the
// firmware did. So the first digest that some value of SecureBoot gives decides, whatever its event
// calls itself, and nothing after the first separator's digest counts.
absl::StatusOr<std::optional<bool>> SecureBootOf(const EventLog& log, PcrBank bank,
                                                 uint32_t register_index,
                                                 const std::vector<Bytes>& separators) {
  PAVISE_ASSIGN_OR_RETURN(const auto known, SecureBootDigests(bank));
  for (const Event& event : log.events) {
    if (event.type == kEvNoAction || event.register_index != register_index) continue;
    const ByteSpan digest = event.digest(bank);
    for (const auto& [of_value, on] : known) {
      if (std::equal(of_value.begin(), of_value.end(), digest.begin(), digest.end())) {
        return std::optional(on);
      }
    }
    if (IsAmong(digest, separators)) return std::optional<bool>();
  }
  return std::optional<bool>();
}

// The registers that replay in the asked bank. One that is not required and does not replay has
// other writers (IMA, systemd-pcrphase) and gives no claims.
absl::StatusOr<std::set<uint32_t>> CompareRegisters(const EventLog& log,
                                                    const EventLogRequest& request,
                                                    const PcrValues& quoted, std::string_view item,
                                                    CheckList& checks) {
  std::set<uint32_t> replayed;
  for (const PcrBank bank : log.banks) {
    const auto of_bank = quoted.banks().find(bank);
    if (of_bank == quoted.banks().end()) continue;
    PAVISE_ASSIGN_OR_RETURN(const PcrValues values, ReplayEventLog(log, bank, item));
    for (const auto& [index, value] : of_bank->second) {
      const std::string name = RegisterName(request, bank, index);
      const Bytes* computed = values.Get(bank, index);
      const bool required = bank == request.bank && request.required.contains(index);
      if (computed == nullptr && !required) continue;
      const Bytes result = computed != nullptr ? *computed : InitialPcrValue(bank, index);
      if (result == value) {
        if (bank == request.bank) replayed.insert(index);
        checks.Pass(name, StrCat("the event log replays to ", ToHex(value)));
        continue;
      }
      if (!request.required.contains(index)) continue;
      checks.Fail(name, Reason::kMeasurementMismatch, StrCat(item, ": ", name),
                  StrCat("the event log replays to ", ToHex(result), ", quoted is ", ToHex(value)),
                  "send the log of this boot, whole and unchanged; where something else extends "
                  "this register, take it out of the required ones");
    }
  }
  for (const uint32_t index : request.required) {
    if (quoted.Get(request.bank, index) != nullptr) continue;
    const std::string name = RegisterName(request, request.bank, index);
    checks.Fail(name, Reason::kEvidenceMissing, name, "is required and not quoted",
                "quote this register, in this bank");
  }
  return replayed;
}

void AddVariable(const Event& event, const EventContent& content, EventLogClaims& claims) {
  const auto variable = ReadVariable(event.data);
  if (!variable.has_value()) return;
  const ByteSpan digest = event.digest(claims.bank);
  // Of the content alone, the name is the log's word.
  const bool is_named = content.measured.size() + 1 >= event.data.size();
  claims.variables.push_back({is_named ? Utf8FromUtf16(variable->name).value_or("") : "",
                              is_named ? GuidText(variable->vendor) : "",
                              Bytes(digest.begin(), digest.end()), variable->content.size(),
                              event.register_index});
}

// The log's own description of an event.
std::string NameOf(const Event& event) {
  const bool is_tag = event.type == kEvEventTag && event.data.size() >= 8;
  return Description(is_tag ? event.data.subspan(8) : event.data);
}

// An event that is no image, of a register without command lines. `name`: the log's description;
// `name_proven`: the event before measured it.
void AddOther(const Event& event, const EventContent& content, const std::string& name,
              bool name_proven, EventLogClaims& claims) {
  switch (event.type) {
    case kEvEfiVariableDriverConfig:
    case kEvEfiVariableAuthority:
    case kEvEfiVariableBoot:
    case kEvEfiVariableBoot2:
      AddVariable(event, content, claims);
      return;
    case kEvEfiAction:
      claims.actions.push_back(name);
      return;
    case kEvIpl:
    case kEvEventTag: {
      if (content.proof == EventProof::kProven) return;
      const ByteSpan digest = event.digest(claims.bank);
      claims.measurements.push_back(
          {name, name_proven, Bytes(digest.begin(), digest.end()), event.register_index});
      return;
    }
    default:
      return;
  }
}

// Where GRUB passes a line on, it begins with the kernel's path: "/vmlinuz", "(hd0,1)/vmlinuz", or
// a list of blocks. A text with a NUL is none of GRUB's; command lines in UTF-16 have some.
bool MayBeGrubsCommandLine(std::string_view text) {
  return text.find('\0') != std::string_view::npos ||
         (!text.empty() && (text[0] == '/' || text[0] == '(' || text[0] == '+' ||
                            (text[0] >= '0' && text[0] <= '9')));
}

// An event of CommandLineRegisters that is no separator: a command line, an action or a
// measurement, by the rules of EventLogClaims. `name`, `name_proven`: as for AddOther.
void AddOfCommandLineRegister(const Event& event, const EventContent& content,
                              const std::string& name, bool name_proven, EventLogClaims& claims) {
  const ByteSpan span = event.digest(claims.bank);
  const Bytes digest(span.begin(), span.end());
  const uint32_t index = event.register_index;
  const std::string_view data = AsText(event.data);
  const bool is_proven = content.proof == EventProof::kProven;
  if (is_proven && event.type == kEvIpl) {
    for (const std::string_view prefix : kGrubPrefixes) {
      if (!data.starts_with(prefix)) continue;
      const std::string_view text = AsText(content.measured);
      const bool may_be_line = (claims.kind == LogRegisters::kTpm && index != 8) ||
                               prefix == "kernel_cmdline: " || MayBeGrubsCommandLine(text);
      if (!may_be_line) {
        claims.actions.push_back(Description(event.data));
        return;
      }
      claims.command_lines.push_back(
          {IsUtf8(text) ? std::optional(std::string(text)) : std::nullopt, digest,
           StrCat("GRUB ", prefix.substr(0, prefix.size() - 2)), index});
      return;
    }
  }
  const bool is_tag = event.type == kEvEventTag && event.data.size() >= 8;
  const uint32_t tag = is_tag ? LoadLittleEndian32(event.data, 0) : 0;
  std::optional<std::string> text =
      is_proven ? Utf8FromUtf16(content.measured) : std::optional<std::string>();
  const bool is_only_a_measurement =
      (claims.kind == LogRegisters::kTdx || index == 9) && tag != kLoadOptionsTag &&
      (!is_proven || (!is_tag && (!text.has_value() || text->empty())));
  if (is_only_a_measurement) {
    claims.measurements.push_back(
        {tag == kInitrdTag ? "Linux initrd" : name, name_proven, digest, index});
    return;
  }
  claims.command_lines.push_back(
      {std::move(text), digest,
       tag == kLoadOptionsTag && !is_proven ? "LOADED_IMAGE::LoadOptions" : "load options", index});
}

// systemd's stub measures a section's name, with its NUL, under a description in UTF-16 or ASCII
// that is the name, then the content under the same (systemd 252, src/boot/efi/stub.c).
absl::StatusOr<bool> IsItsOwnName(const Event& event, PcrBank bank) {
  std::string name = Description(event.data);
  if (event.type != kEvIpl || !name.starts_with('.')) return false;
  name.push_back('\0');
  return IsDigestOf(bank, event.digest(bank), AsBytes(name));
}

}  // namespace

uint32_t ImageRegister(LogRegisters kind) { return kind == LogRegisters::kTpm ? 4 : 2; }

std::set<uint32_t> CommandLineRegisters(LogRegisters kind) {
  if (kind == LogRegisters::kTdx) return {3};
  return {8, 9, 12};
}

absl::StatusOr<EventContent> ContentOf(const Event& event, PcrBank bank) {
  Candidates candidates = CandidatesOf(event);
  for (Bytes& bytes : candidates.measured) {
    PAVISE_ASSIGN_OR_RETURN(const bool match, IsDigestOf(bank, event.digest(bank), bytes));
    if (match) return EventContent{EventProof::kProven, std::move(bytes)};
  }
  return EventContent{candidates.must_match ? EventProof::kMismatched : EventProof::kDescribed, {}};
}

absl::StatusOr<VerifiedEventLog> EventLogAppraiser::Appraise(const EventLog& log,
                                                             const EventLogRequest& request,
                                                             const PcrValues& quoted,
                                                             std::string_view item,
                                                             CheckList& checks) {
  if (std::find(log.banks.begin(), log.banks.end(), request.bank) == log.banks.end()) {
    checks.Fail("event log", Reason::kEvidenceMissing, item,
                StrCat("the event log has no ", PcrBankName(request.bank), " digests"),
                "enable that bank in the firmware");
    return checks.Verdict();
  }
  EventLogClaims claims;
  claims.bank = request.bank;
  claims.kind = request.kind;
  claims.event_count = log.events.size();
  PAVISE_ASSIGN_OR_RETURN(claims.registers, CompareRegisters(log, request, quoted, item, checks));
  for (const uint32_t index : claims.registers) {
    PAVISE_RETURN_IF_ERROR(
        claims.values.Set(request.bank, index, *quoted.Get(request.bank, index)));
  }
  const uint32_t secure_boot_register = request.kind == LogRegisters::kTpm ? 7 : 1;
  const uint32_t image_register = ImageRegister(request.kind);
  const std::set<uint32_t> line_registers = CommandLineRegisters(request.kind);
  const Bytes error_separator = {1, 0, 0, 0};
  const Bytes zeros(4, 0);
  const Bytes ones(4, 0xff);
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Bytes> separators,
                          DigestsOf(request.bank, {zeros, ones}));
  std::vector<ByteSpan> texts = {zeros, ones};
  for (const std::string_view action : kActions) texts.push_back(AsBytes(action));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Bytes> known_texts, DigestsOf(request.bank, texts));
  if (claims.registers.contains(secure_boot_register)) {
    PAVISE_ASSIGN_OR_RETURN(claims.secure_boot,
                            SecureBootOf(log, request.bank, secure_boot_register, separators));
  }
  uint64_t mismatched = 0;
  std::map<uint32_t, std::string> last_proven;  // register -> name
  for (const Event& event : log.events) {
    if (event.type == kEvNoAction || !claims.registers.contains(event.register_index)) continue;
    PAVISE_ASSIGN_OR_RETURN(const EventContent content, ContentOf(event, request.bank));
    const std::string name =
        StrCat(item, ": event ", event.number, " (", EventTypeName(event.type), ")");
    PAVISE_ASSIGN_OR_RETURN(const bool reports_error,
                            IsDigestOf(request.bank, event.digest(request.bank), error_separator));
    // BootOrder of Boot0001 and Boot0000 is the same four bytes, where it is measured alone.
    const bool is_boot_variable = event.type == kEvEfiVariableBoot && event.register_index == 1 &&
                                  content.proof == EventProof::kProven &&
                                  content.measured.size() != event.data.size();
    if (reports_error && !is_boot_variable) {
      ++mismatched;
      checks.Fail("event data", Reason::kPlatformInsecure, name,
                  "the firmware reports an error before it handed over", "repair the firmware");
      continue;
    }
    if (content.proof == EventProof::kMismatched) {
      ++mismatched;
      checks.Fail("event data", Reason::kMeasurementMismatch, name,
                  "the event's data is not what its digest measured",
                  "send the log as the kernel gives it");
      continue;
    }
    if (content.proof == EventProof::kDescribed) {
      claims.described_registers.insert(event.register_index);
    }
    if (event.type == kEvSeparator && !IsSeparatorContent(event.data)) {
      ++mismatched;
      checks.Fail("event data", Reason::kPlatformInsecure, name,
                  StrCat("a separator of ",
                         ToHex(event.data.first(std::min<size_t>(event.data.size(), 16)))),
                  "repair the firmware");
      continue;
    }
    const ByteSpan digest = event.digest(request.bank);
    const bool in_image_register = event.register_index == image_register;
    const bool is_known = IsAmong(digest, known_texts);
    const bool is_partition_table = request.kind == LogRegisters::kTdx &&
                                    content.proof == EventProof::kProven &&
                                    AsText(content.measured).starts_with(kPartitionTableSignature);
    if (in_image_register ? !is_known && !is_partition_table : IsImageType(event.type)) {
      claims.images.push_back(
          {ImagePath(event.data), Bytes(digest.begin(), digest.end()), event.register_index});
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(const bool own_name, IsItsOwnName(event, request.bank));
    const bool may_be_line = line_registers.contains(event.register_index);
    // Sections' names are measured in PCR 11, which is RTMR 2 too.
    if (own_name && (!may_be_line || request.kind == LogRegisters::kTdx)) {
      last_proven[event.register_index] = NameOf(event);
      continue;
    }
    const std::string description = NameOf(event);
    const bool name_proven =
        !description.empty() && last_proven[event.register_index] == description;
    last_proven.erase(event.register_index);
    if (!may_be_line) {
      AddOther(event, content, description, name_proven, claims);
    } else if (!IsAmong(digest, separators)) {
      AddOfCommandLineRegister(event, content, description, name_proven, claims);
    }
  }
  if (mismatched == 0) {
    checks.Pass("event data", "every event whose digest is of its data agrees with it");
  }
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedEventLog(std::move(claims));
}

}  // namespace pavise::evidence
