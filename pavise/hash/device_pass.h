#ifndef PAVISE_HASH_DEVICE_PASS_H_
#define PAVISE_HASH_DEVICE_PASS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/hash/device.h"
#include "pavise/hash/file_pass.h"
#include "pavise/hash/tag_chain.h"

#include "absl/status/statusor.h"

namespace pavise::hash {

// A stretch of a file that lies in device memory.
struct LoadedSpan {
  uint64_t file_begin_bytes = 0;
  uint64_t size_bytes = 0;
  uint64_t buffer_offset_bytes = 0;
};

// What a pass keeps of the bytes that it leaves in memory, for checking them again later
// (loading/guard.h).
//
// The order. A later check is worth what its reference is: the reference has to describe the bytes
// that the signature proves. The device reads them twice, once for the reference R and once for the
// digest D that is held against the signature, and something may write between the two. R is
// computed first, everywhere, and D over the same memory afterwards:
//   - bytes that change once, before R, between R and D or after D, show: before R or between, D is
//     of the changed bytes and the load is refused; after D, the first later check finds them. (The
//     other way round, one change between D and R would be taken for what was signed, for ever.)
//   - bytes that are wrong at R, right at D and wrong again afterwards do not show. It takes a
//   writer
//     who hits both gaps of the same piece, some milliseconds wide, with the signed bytes at hand.
// Where R *is* D, the chaining values of which the signed root or tensor digest was made, there is
// one reading and no gap: kBlake3 for every file whose signed digest is BLAKE3.
enum class References {
  kNone,
  // Device::Tag under key 0 of a TagChain for each span, queued behind the piece's copy and before
  // its chaining values, in the same stream.
  kTags,
  // The chaining value of every kSubtreeBytes range. Of stretches that only a serial digest (SHA-2,
  // BLAKE2b) proves they are recorded first and that digest is computed afterwards.
  kBlake3,
};

// A stretch of a file and what BLAKE3 says of it.
struct Blake3Reference {
  uint64_t file_begin_bytes = 0;
  uint64_t size_bytes = 0;  // at most kSubtreeBytes
  bool is_root = false;     // `value` is the digest of the stretch; else a chaining value at
  uint64_t first_chunk = 0;
  ChainingValue value = {};
};

// What a pass left in device memory of one file: the spans that its request needed, ascending, each
// beginning at a multiple of kLoadedSpanAlignment in the buffer.
struct LoadedFile {
  std::string name;  // as in the request
  uint64_t size_bytes = 0;
  std::unique_ptr<Buffer> buffer;
  std::vector<LoadedSpan> spans;
  // With References::kTags one a span, all with tags in force.
  std::vector<std::unique_ptr<TagChain>> tags;
  // With References::kBlake3, ascending within each digest that was asked for; these may overlap.
  std::vector<Blake3Reference> blake3;

  // How the bytes came: FileResult::read_by.
  std::string_view read_by;

  // Where bytes [begin, end) of the file lie in the buffer; nullopt when they were not all loaded.
  std::optional<Range> Find(uint64_t begin_bytes, uint64_t end_bytes) const;
  // Gives the memory back.
  void Clear();
};
inline constexpr uint64_t kLoadedSpanAlignment = 512;

// Whether the device's DirectReader reads the files, where their memory is not the host's.
enum class DirectReads {
  kAuto,  // where it has one that bypasses the host's memory and takes the file; else by staging
  kOn,    // also one that does not bypass it; what it lacks is refused
  kOff,
};

struct DevicePassOptions {
  // Readers at work at a time, each with a staging buffer of kPieceBytes and a stream of its own:
  // while one piece is read, others are copied and hashed. 0: one more than the CPUs, at most 8.
  unsigned readers = 0;
  // In every run so many of the device's answers (BLAKE3 of MiB ranges, which for this the device
  // computes also of what a serial digest proves; digests of up to kMostSampledBytes; tags), chosen
  // at random, are computed again on the CPU from bytes copied back: a device that answers for
  // other bytes than those it holds is caught with a probability that grows with the share of wrong
  // answers. 0: none.
  unsigned sampled_answers = 8;
  References references = References::kNone;
  // A reader that is there and then fails ends the pass: staging never steps in for it.
  DirectReads direct_reads = DirectReads::kAuto;
  // Of the samples, and of the tags' secrets.
  RandomSource* random = &SystemRandom();
};

// A pass that reads files into memory of a device and hashes them *there*, in their final place:
// what Run's digests describe is what LoadedFiles holds, whatever becomes of the files. One after
// the other; keeps what it loaded until it is taken. Not thread-safe. The device must outlive it
// and the buffers.
class DevicePass final : public FilePass {
 public:
  DevicePass(Device& device, const DevicePassOptions& options);
  ~DevicePass() override;

  // As RunFilePass; findings about files (kFileUnreadable, kContentMismatch, kFileUnstable) stand
  // in their places, and then no buffer is kept. A device that fails or that disagrees with the CPU
  // about a sampled answer ends the pass (kInternal) and every buffer with it; an algorithm that
  // the device lacks is kUnsupported, as is more than it can hold, and as are tags (References) and
  // direct reads (DirectReads::kOn) on a device without them.
  absl::StatusOr<std::vector<absl::StatusOr<FileResult>>> Run(const std::vector<FileRequest>& files,
                                                              Progress* progress) override;
  std::string description() const override;

  // Of the latest Run, in the order of its files; without buffers if one of them was refused.
  std::vector<LoadedFile> TakeLoadedFiles();
  // How many answers the CPU computed again, in all runs.
  uint64_t answers_sampled() const { return answers_sampled_; }

  static constexpr uint64_t kPieceBytes = uint64_t{16} << 20;
  static constexpr uint64_t kMostSampledBytes = uint64_t{64} << 20;

 private:
  struct Reader;
  struct FileWork;
  struct Piece;
  absl::Status Prepare();
  absl::StatusOr<FileResult> RunFile(const FileRequest& request, Progress* progress,
                                     LoadedFile& loaded);
  absl::Status LoadPieces(FileWork& work, Progress* progress);
  absl::Status LoadPiece(FileWork& work, const Piece& piece, Reader& reader);
  absl::Status ReadDirectly(FileWork& work, const LoadedSpan& piece);
  absl::Status HashLoaded(FileWork& work);
  absl::Status RecordBlake3(FileWork& work);
  absl::Status Sample(const std::vector<FileRequest>& files,
                      const std::vector<absl::StatusOr<FileResult>>& results);

  Device& device_;
  const DevicePassOptions options_;
  std::unique_ptr<DirectReader> direct_reader_;
  std::vector<std::unique_ptr<Reader>> readers_;
  std::vector<LoadedFile> loaded_;
  uint64_t answers_sampled_ = 0;
};

}  // namespace pavise::hash

#endif  // PAVISE_HASH_DEVICE_PASS_H_
