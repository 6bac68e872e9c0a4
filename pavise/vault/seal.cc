#include "pavise/vault/seal.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/vault/internal/parallel.h"
#include "pavise/vault/internal/placed_buffer.h"
#include "pavise/vault/sealed_asset.h"
#include "pavise/vault/segment_cipher.h"

namespace pavise::vault {
namespace {

constexpr std::string_view kUnstableRemedy = "stop the program that writes it and seal again";

absl::StatusOr<std::string> WrapFor(const std::vector<crypto::PublicKey>& keys,
                                    const SecretBytes& content_key, std::string_view asset_id) {
  if (keys.size() > kMaxRecipients) {
    return Refuse(Reason::kLimitExceeded, "recipients",
                  StrCat(keys.size(), ", the limit is ", kMaxRecipients));
  }
  std::vector<Recipient> recipients;
  for (const crypto::PublicKey& key : keys) {
    const std::string item = StrCat("recipient ", key.Fingerprint());
    Recipient recipient{.key_id = key.Fingerprint()};
    PAVISE_ASSIGN_OR_RETURN(
        recipient.message,
        crypto::EncryptJwe(content_key, key, item, AsBytes(RecipientBinding(asset_id))));
    recipients.push_back(std::move(recipient));
  }
  std::string text = FormatRecipients(recipients);
  // What is written must be readable: no recipient twice, no list too long.
  PAVISE_RETURN_IF_ERROR(ParseRecipients(AsBytes(text), "recipients").status());
  return text;
}

// The prefix, the header and the recipients as they are written.
Bytes HeadOf(std::string_view header, std::string_view recipients) {
  Bytes head = FormatPrefix({.header_bytes = static_cast<uint32_t>(header.size()),
                             .recipients_bytes = static_cast<uint32_t>(recipients.size())});
  head.insert(head.end(), header.begin(), header.end());
  head.insert(head.end(), recipients.begin(), recipients.end());
  return head;
}

// The plain payload, read in pieces. One a thread.
class PayloadReader {
 public:
  PayloadReader(const SealOptions& options, const std::vector<InputFile>& files, const Index& index,
                ByteSpan index_bytes)
      : options_(options), files_(files), index_(index), index_bytes_(index_bytes) {}

  absl::Status Read(uint64_t offset, std::span<uint8_t> out) {
    CopyFrom(index_bytes_, 0, offset, out);
    CopyFrom(options_.signature, index_.signature_offset_bytes, offset, out);
    const uint64_t end = offset + out.size();
    // The last file that begins at or before the piece; those before it end before the piece.
    auto file = std::ranges::upper_bound(index_.files, offset, {}, &IndexEntry::offset_bytes);
    if (file != index_.files.begin()) --file;
    for (; file != index_.files.end() && file->offset_bytes < end; ++file) {
      const uint64_t first = std::max(offset, file->offset_bytes);
      const uint64_t last = std::min(end, file->offset_bytes + file->size_bytes);
      if (first >= last) continue;
      PAVISE_RETURN_IF_ERROR(OpenFile(static_cast<size_t>(file - index_.files.begin())));
      PAVISE_RETURN_IF_ERROR(ReadExactly(open_file_, first - file->offset_bytes,
                                         out.subspan(first - offset, last - first), file->path));
    }
    if (end > index_.end_bytes) {
      const uint64_t from = std::max(offset, index_.end_bytes) - offset;
      std::ranges::fill(out.subspan(from), uint8_t{0});
    }
    return absl::OkStatus();
  }

  // Whether every file is still the one that was listed.
  absl::Status CheckUnchanged() {
    for (size_t i = 0; i < files_.size(); ++i) {
      open_number_ = files_.size();
      PAVISE_RETURN_IF_ERROR(OpenFile(i));
    }
    return absl::OkStatus();
  }

 private:
  static void CopyFrom(ByteSpan source, uint64_t source_offset, uint64_t offset,
                       std::span<uint8_t> out) {
    const uint64_t first = std::max(offset, source_offset);
    const uint64_t last = std::min(offset + out.size(), source_offset + source.size());
    if (first >= last) return;
    std::ranges::copy(source.subspan(first - source_offset, last - first),
                      out.begin() + static_cast<std::ptrdiff_t>(first - offset));
  }

  absl::Status OpenFile(size_t number) {
    if (number == open_number_ && open_file_.is_open()) return absl::OkStatus();
    const InputFile& file = files_[number];
    PAVISE_ASSIGN_OR_RETURN(open_file_, options_.open(file.path));
    PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(open_file_, file.path));
    if (!(identity == file.identity)) {
      return Refuse(Reason::kFileUnstable, file.path, "changed while it was sealed",
                    kUnstableRemedy);
    }
    open_number_ = number;
    return absl::OkStatus();
  }

  const SealOptions& options_;
  const std::vector<InputFile>& files_;
  const Index& index_;
  ByteSpan index_bytes_;
  FileDescriptor open_file_;
  size_t open_number_ = 0;
};

}  // namespace

absl::StatusOr<SealReport> Seal(const SealOptions& options, const std::string& output) {
  if (options.files.empty()) return UsageError("no files to seal");
  if (options.signature.empty() == options.statement_sha256.has_value()) {
    return UsageError("a signature and the digest of its statement go together");
  }
  std::vector<InputFile> files = options.files;
  std::ranges::sort(files, {}, &InputFile::path);
  Index index{.signature_bytes = options.signature.size()};
  for (const InputFile& file : files) {
    index.files.push_back({.path = file.path,
                           .size_bytes = file.identity.size_bytes,
                           .is_executable = file.is_executable});
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes index_bytes, FormatIndex(index, output));

  RandomSource& random = options.random != nullptr ? *options.random : SystemRandom();
  Bytes key_bytes(kContentKeyBytes);
  PAVISE_RETURN_IF_ERROR(random.Fill(key_bytes));
  SealReport report{.content_key = SecretBytes(std::move(key_bytes))};
  Header header{
      .payload_bytes = options.hide ? PaddedSize(index.end_bytes) : index.end_bytes,
      .is_padded = options.hide,
      .name = options.hide ? "" : options.name,
      .statement_sha256 = options.statement_sha256,
  };
  PAVISE_RETURN_IF_ERROR(random.Fill(header.salt));
  PAVISE_ASSIGN_OR_RETURN(header.commitment, KeyCommitment(report.content_key, header.salt));
  PAVISE_ASSIGN_OR_RETURN(const std::string header_text, FormatHeader(header, output));
  PAVISE_RETURN_IF_ERROR(ParseHeader(AsBytes(header_text), output).status());
  PAVISE_ASSIGN_OR_RETURN(const Digest32 asset_id, crypto::Sha256(AsBytes(header_text)));
  report.asset_id = ToHex(asset_id);
  PAVISE_ASSIGN_OR_RETURN(const std::string recipients,
                          WrapFor(options.recipients, report.content_key, report.asset_id));
  const Bytes head = HeadOf(header_text, recipients);

  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(output));
  PAVISE_RETURN_IF_ERROR(writer.WriteAt(0, head));
  const uint64_t payload_bytes = header.payload_bytes;
  internal::Numbers numbers(SegmentCount(payload_bytes));
  Progress& progress = options.progress != nullptr ? *options.progress : NoProgress();
  progress.Start("sealing", payload_bytes);
  const absl::Status sealed =
      internal::RunWorkers(options.threads, numbers, [&](internal::Numbers& taken) {
        PayloadReader reader(options, files, index, index_bytes);
        internal::PlacedBuffer plain_buffer(kSegmentBytes);
        internal::PlacedBuffer sealed_buffer(kSegmentBytes + kTagBytes);
        auto cipher = SegmentCipher::Create(report.content_key, header.salt, asset_id);
        const auto seal = [&](uint64_t number) -> absl::Status {
          if (!cipher.ok()) return cipher.status();
          const uint64_t size_bytes = SegmentSize(payload_bytes, number);
          const uint64_t offset = number * kSegmentBytes;
          const std::span<uint8_t> plain =
              plain_buffer.At(index.FileOffsetAt(offset, size_bytes), size_bytes);
          PAVISE_RETURN_IF_ERROR(reader.Read(offset, plain));
          const uint64_t sealed_offset = head.size() + number * (kSegmentBytes + kTagBytes);
          const std::span<uint8_t> segment =
              sealed_buffer.At(sealed_offset, size_bytes + kTagBytes);
          PAVISE_RETURN_IF_ERROR(cipher->Seal(number, number + 1 == taken.count(), plain, segment));
          PAVISE_RETURN_IF_ERROR(writer.WriteAt(sealed_offset, segment));
          progress.Advance(size_bytes);
          return absl::OkStatus();
        };
        for (uint64_t number = 0; taken.Take(number);) {
          if (absl::Status status = seal(number); !status.ok()) {
            taken.Fail(number, std::move(status));
          }
        }
      });
  progress.Finish();
  PAVISE_RETURN_IF_ERROR(sealed);
  PAVISE_RETURN_IF_ERROR(PayloadReader(options, files, index, index_bytes).CheckUnchanged());
  PAVISE_RETURN_IF_ERROR(writer.Commit());
  report.payload_bytes = payload_bytes;
  report.sealed_bytes = head.size() + payload_bytes + numbers.count() * kTagBytes;
  return report;
}

absl::Status ReplaceRecipients(const std::string& path, const SecretBytes& content_key,
                               const std::vector<crypto::PublicKey>& recipients,
                               const std::string& output) {
  PAVISE_ASSIGN_OR_RETURN(const SealedAsset asset, SealedAsset::Open(path));
  PAVISE_RETURN_IF_ERROR(asset.CheckKey(content_key));
  PAVISE_ASSIGN_OR_RETURN(const std::string text,
                          WrapFor(recipients, content_key, asset.asset_id()));
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(output));
  PAVISE_RETURN_IF_ERROR(writer.Append(HeadOf(asset.header_text_, text)));
  const uint64_t payload_bytes = asset.header().payload_bytes;
  uint64_t left = payload_bytes + SegmentCount(payload_bytes) * kTagBytes;
  Bytes buffer(std::min(left, kSegmentBytes));
  for (uint64_t offset = asset.segments_offset_bytes_; left > 0;) {
    const std::span<uint8_t> piece =
        std::span(buffer).first(std::min<uint64_t>(left, buffer.size()));
    PAVISE_RETURN_IF_ERROR(ReadExactly(*asset.file_, offset, piece, path));
    PAVISE_RETURN_IF_ERROR(writer.Append(piece));
    offset += piece.size();
    left -= piece.size();
  }
  return writer.Commit();
}

}  // namespace pavise::vault
