#include "pavise/vault/sealed_asset.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "pavise/base/atomic_directory.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/vault/internal/parallel.h"
#include "pavise/vault/internal/placed_buffer.h"
#include "pavise/vault/segment_cipher.h"

namespace pavise::vault {
namespace {

// Files beyond which one flush of the file system, that of other programs too, costs less than one
// of each file.
constexpr size_t kMaxFlushedFiles = 256;

// The file and the directories above it. Nothing but this process's own is below the root, so no
// link can lead out.
absl::Status MakeFile(const FileDescriptor& root, const IndexEntry& entry) {
  for (size_t at = entry.path.find('/'); at != std::string::npos;
       at = entry.path.find('/', at + 1)) {
    if (mkdirat(root.get(), entry.path.substr(0, at).c_str(), 0700) != 0 && errno != EEXIST) {
      return FromErrno(errno, "create the directory of", entry.path);
    }
  }
  const FileDescriptor file(openat(root.get(), entry.path.c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                                   entry.is_executable ? 0700 : 0600));
  if (!file.is_open()) return FromErrno(errno, "create", entry.path);
  if (entry.size_bytes > 0 && ftruncate(file.get(), static_cast<off_t>(entry.size_bytes)) != 0) {
    return FromErrno(errno, "make room for", entry.path);
  }
  return absl::OkStatus();
}

// Everything below the root to the disk.
absl::Status Flush(const FileDescriptor& root, const std::vector<IndexEntry>& files) {
  if (files.size() > kMaxFlushedFiles) {
    return syncfs(root.get()) == 0 ? absl::OkStatus() : FromErrno(errno, "flush", "the files");
  }
  std::set<std::string> directories = {"."};
  for (const IndexEntry& entry : files) {
    const FileDescriptor file(
        openat(root.get(), entry.path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    if (!file.is_open() || fsync(file.get()) != 0) return FromErrno(errno, "flush", entry.path);
    for (size_t at = entry.path.find('/'); at != std::string::npos;
         at = entry.path.find('/', at + 1)) {
      directories.insert(entry.path.substr(0, at));
    }
  }
  for (const std::string& path : directories) {
    const FileDescriptor directory(
        openat(root.get(), path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    PAVISE_RETURN_IF_ERROR(FlushDirectory(directory, path));
  }
  return absl::OkStatus();
}

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

  // Segment `number` into `plain`, which is as long as it.
  absl::Status OpenSegment(SegmentCipher& cipher, uint64_t number, internal::PlacedBuffer& buffer,
                           std::span<uint8_t> plain) const {
    const uint64_t offset = segments_offset_bytes + number * (kSegmentBytes + kTagBytes);
    const std::span<uint8_t> sealed = buffer.At(offset, plain.size() + kTagBytes);
    PAVISE_RETURN_IF_ERROR(ReadExactly(*file, offset, sealed, path));
    const bool is_last = number + 1 == SegmentCount(header.payload_bytes);
    return cipher.Open(number, is_last, sealed, plain, path);
  }

  absl::Status ReadPayload(uint64_t offset, std::span<uint8_t> out) const {
    PAVISE_ASSIGN_OR_RETURN(SegmentCipher cipher, Cipher());
    const uint64_t segment_bytes = std::min(kSegmentBytes, header.payload_bytes);
    internal::PlacedBuffer buffer(segment_bytes + kTagBytes);
    Bytes segment(segment_bytes);
    absl::Status status;
    for (size_t done = 0; done < out.size();) {
      const uint64_t at = offset + done;
      const uint64_t number = at / kSegmentBytes;
      const std::span<uint8_t> plain =
          std::span(segment).first(SegmentSize(header.payload_bytes, number));
      status = OpenSegment(cipher, number, buffer, plain);
      if (!status.ok()) break;
      const ByteSpan rest = plain.subspan(at % kSegmentBytes);
      const size_t taken = std::min(rest.size(), out.size() - done);
      std::ranges::copy(rest.first(taken), out.begin() + static_cast<std::ptrdiff_t>(done));
      done += taken;
    }
    WipeMemory(segment);
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

// Writes what a segment holds of the files, which the kernel begins to bring to the disk at once:
// the flush at the end then finds little to do. One a thread.
class FilesWriter {
 public:
  FilesWriter(const FileDescriptor& root, const Index& index) : root_(root), index_(index) {}

  absl::Status Write(uint64_t offset, ByteSpan plain) {
    const uint64_t end = offset + plain.size();
    auto file = std::ranges::upper_bound(index_.files, offset, {}, &IndexEntry::offset_bytes);
    if (file != index_.files.begin()) --file;
    for (; file != index_.files.end() && file->offset_bytes < end; ++file) {
      const uint64_t first = std::max(offset, file->offset_bytes);
      const uint64_t last = std::min(end, file->offset_bytes + file->size_bytes);
      if (first >= last) continue;
      if (open_entry_ != &*file) {
        open_file_ = FileDescriptor(
            openat(root_.get(), file->path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
        if (!open_file_.is_open()) return FromErrno(errno, "open", file->path);
        open_entry_ = &*file;
      }
      PAVISE_RETURN_IF_ERROR(WriteExactly(open_file_, first - file->offset_bytes,
                                          plain.subspan(first - offset, last - first), file->path));
      // A hint: what it could not do, the flush does, and reports.
      (void)sync_file_range(open_file_.get(), static_cast<off64_t>(first - file->offset_bytes),
                            static_cast<off64_t>(last - first), SYNC_FILE_RANGE_WRITE);
    }
    return absl::OkStatus();
  }

 private:
  const FileDescriptor& root_;
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
  const Index& index = state_->index;
  PAVISE_ASSIGN_OR_RETURN(AtomicDirectory directory, AtomicDirectory::Create(options.directory));
  for (const IndexEntry& entry : index.files) {
    PAVISE_RETURN_IF_ERROR(MakeFile(directory.root(), entry));
  }
  const uint64_t payload_bytes = state_->header.payload_bytes;
  internal::Numbers numbers(SegmentCount(payload_bytes));
  Progress& progress = options.progress != nullptr ? *options.progress : NoProgress();
  progress.Start("unsealing", payload_bytes);
  const absl::Status status =
      internal::RunWorkers(options.threads, numbers, [&](internal::Numbers& taken) {
        FilesWriter writer(directory.root(), index);
        internal::PlacedBuffer sealed_buffer(kSegmentBytes + kTagBytes);
        internal::PlacedBuffer plain_buffer(kSegmentBytes);
        absl::StatusOr<SegmentCipher> cipher = state_->Cipher();
        const auto unseal = [&](uint64_t number) -> absl::Status {
          if (!cipher.ok()) return cipher.status();
          const uint64_t offset = number * kSegmentBytes;
          const uint64_t size_bytes = SegmentSize(payload_bytes, number);
          const std::span<uint8_t> plain =
              plain_buffer.At(index.FileOffsetAt(offset, size_bytes), size_bytes);
          PAVISE_RETURN_IF_ERROR(state_->OpenSegment(*cipher, number, sealed_buffer, plain));
          PAVISE_RETURN_IF_ERROR(writer.Write(offset, plain));
          if (offset + plain.size() > index.end_bytes) {
            const ByteSpan padding = plain.subspan(std::max(offset, index.end_bytes) - offset);
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
      });
  progress.Finish();
  PAVISE_RETURN_IF_ERROR(status);
  PAVISE_RETURN_IF_ERROR(Flush(directory.root(), index.files));
  std::optional<AtomicFileWriter> signature_writer;
  if (!options.signature_path.empty() && index.signature_bytes > 0) {
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
