#include "pavise/vault/sealed_asset.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/vault/internal/parallel.h"
#include "pavise/vault/segment_cipher.h"

namespace pavise::vault {
namespace {

// A directory under a temporary name, removed with all in it unless it was renamed.
class NewDirectory {
 public:
  static absl::StatusOr<NewDirectory> Create(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    struct stat status;
    if (path.empty()) return UsageError("no directory to unseal into");
    if (lstat(path.c_str(), &status) == 0) {
      return UsageError(StrCat(path, " exists: give the name of a new directory"));
    }
    NewDirectory directory;
    directory.path_ = path;
    std::string temporary = StrCat(path, ".tmp-XXXXXX");
    if (mkdtemp(temporary.data()) == nullptr) return FromErrno(errno, "create", path);
    directory.temporary_ = std::move(temporary);
    directory.root_ = FileDescriptor(
        open(directory.temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!directory.root_.is_open()) return FromErrno(errno, "open", directory.temporary_);
    return directory;
  }
  ~NewDirectory() {
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
  }
  NewDirectory(NewDirectory&& other) noexcept
      : path_(std::move(other.path_)),
        temporary_(std::exchange(other.temporary_, {})),
        root_(std::move(other.root_)) {}

  int root() const { return root_.get(); }

  // The file and the directories above it. Nothing but this process's own is below the root, so no
  // link can lead out.
  absl::Status MakeFile(const IndexEntry& entry) const {
    for (size_t at = entry.path.find('/'); at != std::string::npos;
         at = entry.path.find('/', at + 1)) {
      if (mkdirat(root(), entry.path.substr(0, at).c_str(), 0700) != 0 && errno != EEXIST) {
        return FromErrno(errno, "create the directory of", entry.path);
      }
    }
    const FileDescriptor file(openat(root(), entry.path.c_str(),
                                     O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                                     entry.is_executable ? 0700 : 0600));
    if (!file.is_open()) return FromErrno(errno, "create", entry.path);
    if (entry.size_bytes > 0 && ftruncate(file.get(), static_cast<off_t>(entry.size_bytes)) != 0) {
      return FromErrno(errno, "make room for", entry.path);
    }
    return absl::OkStatus();
  }

  // To the disk, then to its name.
  absl::Status Commit() {
    if (syncfs(root()) != 0) return FromErrno(errno, "flush", path_);
    if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0) {
      if (errno == EEXIST) return UsageError(StrCat(path_, " exists by now"));
      return FromErrno(errno, "rename to", path_);
    }
    temporary_.clear();
    return absl::OkStatus();
  }

 private:
  NewDirectory() = default;
  std::string path_;
  std::string temporary_;
  FileDescriptor root_;
};

}  // namespace

struct UnlockedAsset::State {
  std::string path;
  std::shared_ptr<const FileDescriptor> file;
  Header header;
  Digest32 asset_id{};
  SecretBytes content_key;
  uint64_t segments_offset_bytes = 0;
  Index index;

  absl::StatusOr<SegmentCipher> Cipher() const {
    return SegmentCipher::Create(content_key, header.salt, asset_id);
  }

  // Segment `number` into `buffer`; its plain bytes.
  absl::StatusOr<std::span<uint8_t>> OpenSegment(SegmentCipher& cipher, uint64_t number,
                                                 std::span<uint8_t> buffer) const {
    const uint64_t size_bytes = SegmentSize(header.payload_bytes, number);
    const std::span<uint8_t> segment = buffer.first(size_bytes + kTagBytes);
    PAVISE_RETURN_IF_ERROR(ReadExactly(
        *file, segments_offset_bytes + number * (kSegmentBytes + kTagBytes), segment, path));
    const bool is_last = number + 1 == SegmentCount(header.payload_bytes);
    PAVISE_RETURN_IF_ERROR(cipher.Open(number, is_last, segment, path));
    return segment.first(size_bytes);
  }

  absl::Status ReadPayload(uint64_t offset, std::span<uint8_t> out) const {
    PAVISE_ASSIGN_OR_RETURN(SegmentCipher cipher, Cipher());
    Bytes buffer(std::min(kSegmentBytes, header.payload_bytes) + kTagBytes);
    absl::Status status;
    for (size_t done = 0; done < out.size() && status.ok();) {
      const uint64_t at = offset + done;
      const auto plain = OpenSegment(cipher, at / kSegmentBytes, buffer);
      status = plain.status();
      if (!status.ok()) break;
      const ByteSpan rest = plain->subspan(at % kSegmentBytes);
      const size_t taken = std::min(rest.size(), out.size() - done);
      std::ranges::copy(rest.first(taken), out.begin() + static_cast<std::ptrdiff_t>(done));
      done += taken;
    }
    WipeMemory(buffer);
    if (!status.ok()) WipeMemory(out);
    return status;
  }

  absl::Status ReadIndex() {
    const auto malformed = [&](std::string_view detail) {
      return Refuse(Reason::kMalformed, path, detail, "have its owner seal it again");
    };
    std::array<uint8_t, kIndexLengthBytes> length;
    if (header.payload_bytes < length.size()) return malformed("a payload without an index");
    PAVISE_RETURN_IF_ERROR(ReadPayload(0, length));
    const uint64_t index_bytes = LoadLittleEndian64(length, 0);
    if (index_bytes > kMaxIndexBytes || index_bytes > header.payload_bytes - length.size()) {
      return malformed("an index longer than its payload");
    }
    Bytes bytes(index_bytes);
    PAVISE_RETURN_IF_ERROR(ReadPayload(length.size(), bytes));
    PAVISE_ASSIGN_OR_RETURN(index, ParseIndex(bytes, path));
    const uint64_t expected = header.is_padded ? PaddedSize(index.end_bytes) : index.end_bytes;
    if (expected != header.payload_bytes) {
      return malformed(
          StrCat("a payload of ", header.payload_bytes, " bytes where its files take ", expected));
    }
    if ((index.signature_bytes != 0) != header.statement_sha256.has_value()) {
      return malformed("its header and its signature do not go together");
    }
    return absl::OkStatus();
  }
};

namespace {

// Writes what a segment holds of the files. One a thread.
class FilesWriter {
 public:
  FilesWriter(int root, const Index& index) : root_(root), index_(index) {}

  absl::Status Write(uint64_t offset, ByteSpan plain) {
    const uint64_t end = offset + plain.size();
    auto file = std::ranges::upper_bound(index_.files, offset, {}, &IndexEntry::offset_bytes);
    if (file != index_.files.begin()) --file;
    for (; file != index_.files.end() && file->offset_bytes < end; ++file) {
      const uint64_t first = std::max(offset, file->offset_bytes);
      const uint64_t last = std::min(end, file->offset_bytes + file->size_bytes);
      if (first >= last) continue;
      if (open_entry_ != &*file) {
        open_file_ =
            FileDescriptor(openat(root_, file->path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
        if (!open_file_.is_open()) return FromErrno(errno, "open", file->path);
        open_entry_ = &*file;
      }
      PAVISE_RETURN_IF_ERROR(WriteExactly(open_file_, first - file->offset_bytes,
                                          plain.subspan(first - offset, last - first), file->path));
    }
    return absl::OkStatus();
  }

 private:
  int root_;
  const Index& index_;
  const IndexEntry* open_entry_ = nullptr;
  FileDescriptor open_file_;
};

}  // namespace

UnlockedAsset::UnlockedAsset(std::unique_ptr<State> state) : state_(std::move(state)) {}
UnlockedAsset::~UnlockedAsset() = default;
UnlockedAsset::UnlockedAsset(UnlockedAsset&&) noexcept = default;
UnlockedAsset& UnlockedAsset::operator=(UnlockedAsset&&) noexcept = default;

const std::vector<IndexEntry>& UnlockedAsset::files() const { return state_->index.files; }
uint64_t UnlockedAsset::signature_bytes() const { return state_->index.signature_bytes; }

absl::StatusOr<Bytes> UnlockedAsset::ReadSignature() const {
  Bytes signature(state_->index.signature_bytes);
  PAVISE_RETURN_IF_ERROR(state_->ReadPayload(state_->index.signature_offset_bytes, signature));
  return signature;
}

absl::Status UnlockedAsset::ReadRange(std::string_view path, uint64_t offset_bytes,
                                      std::span<uint8_t> out) const {
  const std::vector<IndexEntry>& files = state_->index.files;
  const auto file = std::ranges::lower_bound(files, path, {}, &IndexEntry::path);
  const auto refuse = [&](Reason reason, std::string_view detail) {
    WipeMemory(out);
    return Refuse(reason, StrCat(state_->path, ": ", Printable(path)), detail);
  };
  if (file == files.end() || file->path != path) {
    return refuse(Reason::kFileMissing, "the asset holds no such file");
  }
  if (offset_bytes > file->size_bytes || out.size() > file->size_bytes - offset_bytes) {
    return refuse(Reason::kLimitExceeded, StrCat("the file has ", file->size_bytes, " bytes"));
  }
  return state_->ReadPayload(file->offset_bytes + offset_bytes, out);
}

absl::Status UnlockedAsset::Unseal(const UnsealOptions& options) const {
  PAVISE_ASSIGN_OR_RETURN(NewDirectory directory, NewDirectory::Create(options.directory));
  for (const IndexEntry& entry : state_->index.files) {
    PAVISE_RETURN_IF_ERROR(directory.MakeFile(entry));
  }
  const uint64_t payload_bytes = state_->header.payload_bytes;
  internal::Numbers numbers(SegmentCount(payload_bytes));
  Progress& progress = options.progress != nullptr ? *options.progress : NoProgress();
  progress.Start("unsealing", payload_bytes);
  const absl::Status status =
      internal::RunWorkers(options.threads, numbers, [&](internal::Numbers& taken) {
        FilesWriter writer(directory.root(), state_->index);
        Bytes buffer(kSegmentBytes + kTagBytes);
        absl::StatusOr<SegmentCipher> cipher = state_->Cipher();
        const auto unseal = [&](uint64_t number) -> absl::Status {
          if (!cipher.ok()) return cipher.status();
          PAVISE_ASSIGN_OR_RETURN(const ByteSpan plain,
                                  state_->OpenSegment(*cipher, number, buffer));
          const uint64_t offset = number * kSegmentBytes;
          PAVISE_RETURN_IF_ERROR(writer.Write(offset, plain));
          if (offset + plain.size() > state_->index.end_bytes) {
            const ByteSpan padding =
                plain.subspan(std::max(offset, state_->index.end_bytes) - offset);
            if (std::ranges::any_of(padding, [](uint8_t byte) { return byte != 0; })) {
              return Refuse(Reason::kMalformed, state_->path, "its padding is not of zeros");
            }
          }
          progress.Advance(plain.size());
          return absl::OkStatus();
        };
        for (uint64_t number = 0; taken.Take(number);) {
          if (absl::Status failed = unseal(number); !failed.ok()) {
            taken.Fail(number, std::move(failed));
          }
        }
        WipeMemory(buffer);
      });
  progress.Finish();
  PAVISE_RETURN_IF_ERROR(status);
  std::optional<AtomicFileWriter> signature_writer;
  if (!options.signature_path.empty() && state_->index.signature_bytes > 0) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes signature, ReadSignature());
    PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter writer,
                            AtomicFileWriter::Create(options.signature_path));
    PAVISE_RETURN_IF_ERROR(writer.Append(signature));
    PAVISE_RETURN_IF_ERROR(writer.Prepare());
    signature_writer.emplace(std::move(writer));
  }
  PAVISE_RETURN_IF_ERROR(directory.Commit());
  return signature_writer.has_value() ? signature_writer->Commit() : absl::OkStatus();
}

absl::StatusOr<SealedAsset> SealedAsset::Open(const std::string& path) {
  SealedAsset asset;
  asset.path_ = path;
  PAVISE_ASSIGN_OR_RETURN(FileDescriptor file, OpenRegularFile(path));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, path));
  const auto cut_short = [&] {
    return Refuse(Reason::kContentMismatch, path, "cut short", "copy it again from its source");
  };
  if (identity.size_bytes < kPrefixBytes) {
    return Refuse(Reason::kMalformed, path, "not a sealed asset",
                  "give a file that pavise seal wrote");
  }
  std::array<uint8_t, kPrefixBytes> prefix_bytes;
  PAVISE_RETURN_IF_ERROR(ReadExactly(file, 0, prefix_bytes, path));
  PAVISE_ASSIGN_OR_RETURN(const Prefix prefix, ParsePrefix(prefix_bytes, path));
  asset.segments_offset_bytes_ =
      kPrefixBytes + uint64_t{prefix.header_bytes} + prefix.recipients_bytes;
  if (identity.size_bytes < asset.segments_offset_bytes_) return cut_short();
  Bytes head(prefix.header_bytes + prefix.recipients_bytes);
  PAVISE_RETURN_IF_ERROR(ReadExactly(file, kPrefixBytes, head, path));
  const ByteSpan header_text = ByteSpan(head).first(prefix.header_bytes);
  PAVISE_ASSIGN_OR_RETURN(asset.header_, ParseHeader(header_text, StrCat(path, ": header")));
  asset.header_text_ = AsText(header_text);
  PAVISE_ASSIGN_OR_RETURN(const Digest32 asset_id, crypto::Sha256(header_text));
  asset.asset_id_ = ToHex(asset_id);
  PAVISE_ASSIGN_OR_RETURN(
      asset.recipients_,
      ParseRecipients(ByteSpan(head).subspan(prefix.header_bytes), StrCat(path, ": recipients")));
  const uint64_t segments_bytes =
      asset.header_.payload_bytes + SegmentCount(asset.header_.payload_bytes) * kTagBytes;
  const uint64_t expected = asset.segments_offset_bytes_ + segments_bytes;
  if (identity.size_bytes < expected) return cut_short();
  if (identity.size_bytes > expected) {
    return Refuse(Reason::kContentMismatch, path,
                  StrCat(identity.size_bytes - expected, " bytes after its end"),
                  "copy it again from its source");
  }
  asset.file_ = std::make_shared<const FileDescriptor>(std::move(file));
  return asset;
}

absl::StatusOr<SecretBytes> SealedAsset::ContentKey(const crypto::PrivateKey& key) const {
  const std::string key_id = key.public_key().Fingerprint();
  const auto recipient = std::ranges::find(recipients_, key_id, &Recipient::key_id);
  if (recipient == recipients_.end()) {
    return Refuse(Reason::kKeyMismatch, path_, StrCat("not sealed for key ", key_id),
                  "have its owner add this recipient, or give another private key");
  }
  return crypto::DecryptJwe(recipient->message, key, StrCat(path_, ": recipient ", key_id),
                            AsBytes(RecipientBinding(asset_id_)));
}

absl::Status SealedAsset::CheckKey(const SecretBytes& content_key) const {
  if (content_key.size_bytes() == kContentKeyBytes) {
    PAVISE_ASSIGN_OR_RETURN(const auto commitment, KeyCommitment(content_key, header_.salt));
    if (ConstantTimeEquals(commitment, header_.commitment)) return absl::OkStatus();
  }
  return Refuse(Reason::kContentMismatch, path_, "this is not the asset's content key",
                "give the key that belongs to this asset");
}

absl::StatusOr<UnlockedAsset> SealedAsset::Unlock(const SecretBytes& content_key) const {
  PAVISE_RETURN_IF_ERROR(CheckKey(content_key));
  auto state = std::make_unique<UnlockedAsset::State>();
  state->path = path_;
  state->file = file_;
  state->header = header_;
  PAVISE_ASSIGN_OR_RETURN(state->asset_id, Digest32FromHex(asset_id_, path_));
  state->content_key = SecretBytes(content_key.Reveal());
  state->segments_offset_bytes = segments_offset_bytes_;
  PAVISE_RETURN_IF_ERROR(state->ReadIndex());
  return UnlockedAsset(std::move(state));
}

}  // namespace pavise::vault
