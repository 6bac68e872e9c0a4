#include "pavise/ledger/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <span>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/ledger/merkle_tree.h"

namespace pavise::ledger {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr size_t kHashBytes = 4;
constexpr size_t kSignatureBytes = 64;
constexpr size_t kTimeBytes = 8;
constexpr std::string_view kSignaturePrefix = "\xe2\x80\x94 ";  // em dash, space
// RFC 8410: what stands before the 32 bytes of an Ed25519 key.
constexpr std::array<uint8_t, 12> kEd25519Spki = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                                                  0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};

absl::Status CheckKeyName(std::string_view name) {
  if (name.size() > kMaxKeyNameBytes) {
    return Refuse(Reason::kLimitExceeded, "name of a log or cosigner",
                  StrCat("is longer than ", kMaxKeyNameBytes, " bytes"));
  }
  if (name.empty() || !std::all_of(name.begin(), name.end(),
                                   [](char c) { return c > ' ' && c < 0x7f && c != '+'; })) {
    return Refuse(Reason::kMalformed, "name of a log or cosigner",
                  StrCat("\"", Printable(name), "\" is empty or has spaces, \"+\" or other signs"),
                  "take a name such as broker.example/ledger");
  }
  return absl::OkStatus();
}

Bytes TypeAndKey(NoteKeyKind kind, const crypto::PublicKey& key) {
  Bytes bytes = {static_cast<uint8_t>(kind)};
  bytes.insert(bytes.end(), key.der().end() - kKeyBytes, key.der().end());
  return bytes;
}

std::string CosignedMessage(uint64_t time_seconds, const std::string& text) {
  return StrCat("cosignature/v1\ntime ", time_seconds, "\n", text);
}

std::string_view TakeLine(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

absl::StatusOr<NoteSignature> ParseSignatureLine(std::string_view line, std::string_view item) {
  const auto malformed = [&](std::string_view detail) {
    return Refuse(Reason::kMalformed, item, StrCat("a signature line ", detail));
  };
  if (!line.starts_with(kSignaturePrefix)) return malformed("does not begin with a dash");
  line.remove_prefix(kSignaturePrefix.size());
  const size_t space = line.find(' ');
  const std::string_view name = line.substr(0, space);
  if (space == std::string_view::npos || name.empty() || name.find('+') != std::string_view::npos) {
    return malformed("has no key name");
  }
  if (name.size() > kMaxKeyNameBytes) {
    return Refuse(Reason::kLimitExceeded, item, "has a key name that is too long");
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, FromBase64(line.substr(space + 1), item));
  if (bytes.size() <= kHashBytes) return malformed("holds no signature");
  NoteSignature signature;
  signature.key_name = std::string(name);
  std::copy_n(bytes.begin(), kHashBytes, signature.key_hash.begin());
  signature.signature.assign(bytes.begin() + kHashBytes, bytes.end());
  return signature;
}

// The one signature under a key's name and hash, nullptr where there is none.
absl::StatusOr<const NoteSignature*> SignatureOf(const CheckpointNote& note, const NoteKey& key,
                                                 std::string_view item) {
  const NoteSignature* found = nullptr;
  for (const NoteSignature& signature : note.signatures) {
    if (signature.key_name != key.name() || signature.key_hash != key.hash()) continue;
    if (found != nullptr) {
      return Refuse(Reason::kSignatureInvalid, item,
                    StrCat("has two signatures by ", Printable(key.name())));
    }
    found = &signature;
  }
  return found;
}

absl::StatusOr<absl::Time> VerifyCosignature(const NoteSignature& signature, const NoteKey& key,
                                             const std::string& text, std::string_view item) {
  if (signature.signature.size() != kTimeBytes + kSignatureBytes) {
    return Refuse(Reason::kSignatureInvalid, item,
                  StrCat("the cosignature by ", key.name(), " has another length"));
  }
  uint64_t seconds = 0;
  for (size_t i = 0; i < kTimeBytes; ++i) seconds = seconds << 8 | signature.signature[i];
  // Year 9999: later ones have no RFC 3339 text.
  if (seconds > 253'402'300'799) {
    return Refuse(Reason::kSignatureInvalid, item,
                  StrCat("the cosignature by ", key.name(), " is of no time"));
  }
  PAVISE_RETURN_IF_ERROR(key.key().Verify(AsBytes(CosignedMessage(seconds, text)),
                                          ByteSpan(signature.signature).subspan(kTimeBytes),
                                          StrCat(item, ": cosignature by ", key.name())));
  return absl::FromUnixSeconds(static_cast<int64_t>(seconds));
}

}  // namespace

absl::StatusOr<NoteKey> NoteKey::Create(std::string_view name, NoteKeyKind kind,
                                        const crypto::PublicKey& key) {
  PAVISE_RETURN_IF_ERROR(CheckKeyName(name));
  if (key.type() != crypto::KeyType::kEd25519) {
    return Refuse(Reason::kKeyUnsupported, name,
                  StrCat("is a ", crypto::KeyTypeName(key.type()), " key"),
                  "checkpoints are signed by Ed25519 keys");
  }
  Bytes named(AsBytes(name).begin(), AsBytes(name).end());
  named.push_back('\n');
  const Bytes encoded = TypeAndKey(kind, key);
  named.insert(named.end(), encoded.begin(), encoded.end());
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(named));
  std::array<uint8_t, kHashBytes> hash{};
  std::copy_n(digest.begin(), kHashBytes, hash.begin());
  return NoteKey(std::string(name), kind, key, hash);
}

absl::StatusOr<NoteKey> NoteKey::Parse(std::string_view text, std::string_view item) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  const size_t name_end = text.find('+');
  const size_t hash_end =
      name_end == std::string_view::npos ? name_end : text.find('+', name_end + 1);
  if (hash_end == std::string_view::npos) {
    return Refuse(Reason::kMalformed, item, "is no key of a log or cosigner: NAME+HASH+KEY",
                  "give the line that the log's or the cosigner's operator publishes");
  }
  const std::string_view hash = text.substr(name_end + 1, hash_end - name_end - 1);
  PAVISE_ASSIGN_OR_RETURN(const Bytes encoded, FromBase64(text.substr(hash_end + 1), item));
  if (encoded.empty() || (encoded[0] != static_cast<uint8_t>(NoteKeyKind::kLog) &&
                          encoded[0] != static_cast<uint8_t>(NoteKeyKind::kCosigner))) {
    return Refuse(Reason::kKeyUnsupported, item, "is a key of an unknown type",
                  "Ed25519 (type 1) and Ed25519 cosignatures (type 4) are understood");
  }
  if (encoded.size() != 1 + kKeyBytes) {
    return Refuse(Reason::kMalformed, item, "holds a key of another length than 32 bytes");
  }
  Bytes spki(kEd25519Spki.begin(), kEd25519Spki.end());
  spki.insert(spki.end(), encoded.begin() + 1, encoded.end());
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, crypto::PublicKey::FromDer(spki, item));
  PAVISE_ASSIGN_OR_RETURN(
      NoteKey made, Create(text.substr(0, name_end), static_cast<NoteKeyKind>(encoded[0]), key));
  if (ToHex(made.hash()) != hash) {
    return Refuse(Reason::kKeyMismatch, item, "its hash is not that of its name and key",
                  "get the line again; it was changed or cut");
  }
  return made;
}

std::string NoteKey::Format() const {
  return StrCat(name_, "+", ToHex(hash_), "+", ToBase64(TypeAndKey(kind_, key_)));
}

std::string CheckpointNote::Text() const {
  std::string text =
      StrCat(checkpoint.origin, "\n", checkpoint.size, "\n", ToBase64(checkpoint.root), "\n");
  for (const std::string& line : extensions) StrAppend(&text, line, "\n");
  return text;
}

std::string CheckpointNote::Format() const {
  std::string note = StrCat(Text(), "\n");
  for (const NoteSignature& signature : signatures) {
    Bytes bytes(signature.key_hash.begin(), signature.key_hash.end());
    bytes.insert(bytes.end(), signature.signature.begin(), signature.signature.end());
    StrAppend(&note, kSignaturePrefix, signature.key_name, " ", ToBase64(bytes), "\n");
  }
  return note;
}

absl::StatusOr<CheckpointNote> ParseCheckpointNote(ByteSpan note, std::string_view item) {
  const auto malformed = [&](std::string_view detail) {
    return Refuse(Reason::kMalformed, item, detail, "a checkpoint in C2SP's note format is needed");
  };
  if (note.size() > kMaxNoteBytes) {
    return Refuse(Reason::kLimitExceeded, item, StrCat("is larger than ", kMaxNoteBytes, " bytes"));
  }
  const std::string_view whole = AsText(note);
  if (!IsUtf8(whole) || std::any_of(note.begin(), note.end(), [](uint8_t byte) {
        return (byte < 0x20 && byte != '\n') || byte == 0x7f;
      })) {
    return malformed("is not text, or has control characters");
  }
  // Lines of a checkpoint are not empty: the first empty line is the one before the signatures.
  const size_t separator = whole.find("\n\n");
  if (separator == std::string_view::npos || !whole.ends_with('\n')) {
    return malformed("has no signatures, or ends within a line");
  }
  std::string_view text = whole.substr(0, separator + 1);
  std::string_view lines = whole.substr(separator + 2);

  CheckpointNote parsed;
  parsed.checkpoint.origin = std::string(TakeLine(text));
  if (parsed.checkpoint.origin.empty()) return malformed("has no origin");
  const std::string_view size = TakeLine(text);
  const auto [end, error] =
      std::from_chars(size.data(), size.data() + size.size(), parsed.checkpoint.size);
  if (error != std::errc() || end != size.data() + size.size() ||
      size != std::to_string(parsed.checkpoint.size)) {
    return malformed("its second line is no number of entries");
  }
  if (parsed.checkpoint.size > kMaxTreeSize) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("counts more than ", kMaxTreeSize, " entries"));
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes root, FromBase64(TakeLine(text), StrCat(item, ": root")));
  if (root.size() != parsed.checkpoint.root.size()) return malformed("its root is not 32 bytes");
  std::copy(root.begin(), root.end(), parsed.checkpoint.root.begin());
  while (!text.empty()) parsed.extensions.emplace_back(TakeLine(text));

  if (lines.empty()) return malformed("has no signatures");
  while (!lines.empty()) {
    if (parsed.signatures.size() == kMaxNoteSignatures) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat("has more than ", kMaxNoteSignatures, " signatures"));
    }
    PAVISE_ASSIGN_OR_RETURN(NoteSignature signature, ParseSignatureLine(TakeLine(lines), item));
    parsed.signatures.push_back(std::move(signature));
  }
  return parsed;
}

absl::StatusOr<CheckpointNote> SignCheckpoint(const Checkpoint& checkpoint,
                                              crypto::Signer& signer) {
  PAVISE_ASSIGN_OR_RETURN(const NoteKey key, NoteKey::Create(checkpoint.origin, NoteKeyKind::kLog,
                                                             signer.public_key()));
  if (checkpoint.size > kMaxTreeSize) {
    return Refuse(Reason::kLimitExceeded, checkpoint.origin,
                  StrCat("has more than ", kMaxTreeSize, " entries"));
  }
  CheckpointNote note;
  note.checkpoint = checkpoint;
  PAVISE_ASSIGN_OR_RETURN(Bytes signature, signer.Sign(AsBytes(note.Text())));
  note.signatures.push_back({key.name(), key.hash(), std::move(signature)});
  return note;
}

absl::StatusOr<VerifiedCheckpoint> CheckpointVerifier::Verify(const CheckpointNote& note,
                                                              const CheckpointTrust& trust,
                                                              std::string_view item) {
  if (trust.log.kind() != NoteKeyKind::kLog) return UsageError("a cosigner's key as the log's");
  if (note.checkpoint.origin != trust.log.name()) {
    return Refuse(Reason::kIdentityMismatch, item,
                  StrCat("is a checkpoint of \"", Printable(note.checkpoint.origin),
                         "\", not of \"", trust.log.name(), "\""),
                  "give the key of the log that wrote it");
  }
  PAVISE_ASSIGN_OR_RETURN(const NoteSignature* const by_log, SignatureOf(note, trust.log, item));
  if (by_log == nullptr) {
    return Refuse(Reason::kSignerUntrusted, item,
                  StrCat("is not signed by the key ", trust.log.Format()),
                  "give the log's key; after a rotation, the one that signed this checkpoint");
  }
  const std::string text = note.Text();
  PAVISE_RETURN_IF_ERROR(trust.log.key().Verify(AsBytes(text), by_log->signature, item));

  SignedCheckpoint accepted{note, {}};
  for (const NoteKey& cosigner : trust.cosigners) {
    if (cosigner.kind() != NoteKeyKind::kCosigner) {
      return UsageError(StrCat(cosigner.name(), ": a log's key as a cosigner's"));
    }
    // One key counts once, whatever it is called.
    const auto same = [&](const NoteKey& each) { return each.key() == cosigner.key(); };
    if (cosigner.key() == trust.log.key() ||
        std::count_if(trust.cosigners.begin(), trust.cosigners.end(), same) != 1) {
      return UsageError(StrCat(cosigner.name(), ": the same key twice"));
    }
    PAVISE_ASSIGN_OR_RETURN(const NoteSignature* const signature,
                            SignatureOf(note, cosigner, item));
    if (signature == nullptr) continue;
    PAVISE_ASSIGN_OR_RETURN(const absl::Time time,
                            VerifyCosignature(*signature, cosigner, text, item));
    accepted.cosignatures.push_back({cosigner, time});
  }
  if (accepted.cosignatures.size() < trust.cosigners_required) {
    return Refuse(
        Reason::kSignerUntrusted, item,
        StrCat("is cosigned by ", accepted.cosignatures.size(), " of the ", trust.cosigners.size(),
               " given cosigners, ", trust.cosigners_required, " are required"),
        "ask the cosigners to sign this checkpoint, or take an earlier one");
  }
  return VerifiedCheckpoint(std::move(accepted));
}

absl::StatusOr<NoteSignature> Cosign(const VerifiedCheckpoint& checkpoint,
                                     std::string_view key_name, crypto::Signer& signer,
                                     absl::Time time) {
  PAVISE_ASSIGN_OR_RETURN(const NoteKey key,
                          NoteKey::Create(key_name, NoteKeyKind::kCosigner, signer.public_key()));
  const int64_t seconds = absl::ToUnixSeconds(time);
  if (seconds < 0) return UsageError("a cosignature's time lies before 1970");
  NoteSignature made{key.name(), key.hash(), {}};
  for (int shift = 56; shift >= 0; shift -= 8) {
    made.signature.push_back(static_cast<uint8_t>(static_cast<uint64_t>(seconds) >> shift));
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes signature,
                          signer.Sign(AsBytes(CosignedMessage(static_cast<uint64_t>(seconds),
                                                              checkpoint->note.Text()))));
  made.signature.insert(made.signature.end(), signature.begin(), signature.end());
  return made;
}

}  // namespace pavise::ledger
