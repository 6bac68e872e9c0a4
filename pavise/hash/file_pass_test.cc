#include "pavise/hash/file_pass.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/cpu/sha256_pair.h"
#include "pavise/hash/internal/mapped_file.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kSeed = 20240610;
constexpr ReadMode kModes[] = {ReadMode::kAuto, ReadMode::kMapped, ReadMode::kBuffered,
                               ReadMode::kDirect};
std::string_view ModeName(ReadMode mode) {
  constexpr std::string_view kNames[] = {"Auto", "Mapped", "Buffered", "Direct"};
  return kNames[static_cast<size_t>(mode)];
}

Bytes RandomBytes(uint64_t size_bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size_bytes);
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  for (; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(random());
  return bytes;
}

Bytes ExpectedDigest(Algorithm algorithm, ByteSpan bytes) {
  crypto::DigestAlgorithm serial = crypto::DigestAlgorithm::kSha256;
  switch (algorithm) {
    case Algorithm::kBlake3: {
      const Digest32 digest = Blake3(bytes);
      return Bytes(digest.begin(), digest.end());
    }
    case Algorithm::kSha256:
      break;
    case Algorithm::kSha384:
      serial = crypto::DigestAlgorithm::kSha384;
      break;
    case Algorithm::kBlake2b:
      serial = crypto::DigestAlgorithm::kBlake2b512;
      break;
  }
  auto digest = crypto::Digest(serial, bytes);
  EXPECT_TRUE(digest.ok()) << digest.status();
  return *std::move(digest);
}

// Calls `on_advance` with every step.
class WatchingProgress final : public Progress {
 public:
  explicit WatchingProgress(std::function<void(uint64_t bytes)> on_advance = nullptr)
      : on_advance_(std::move(on_advance)) {}
  void Start(std::string_view, uint64_t) override { ADD_FAILURE() << "Start is the caller's"; }
  void Finish() override { ADD_FAILURE() << "Finish is the caller's"; }
  void Advance(uint64_t bytes) override {
    std::lock_guard lock(mutex_);
    total_bytes_ += bytes;
    if (on_advance_) on_advance_(bytes);
  }
  uint64_t total_bytes() {
    std::lock_guard lock(mutex_);
    return total_bytes_;
  }

 private:
  std::function<void(uint64_t bytes)> on_advance_;
  std::mutex mutex_;
  uint64_t total_bytes_ = 0;
};

class FilePassTest : public ::testing::Test {
 protected:
  std::string Path(std::string_view name) const { return StrCat(directory_.path(), "/", name); }

  void Write(std::string_view name, ByteSpan bytes) const {
    std::ofstream file(Path(name), std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.good()) << name;
  }

  FileRequest Request(const std::string& name, uint64_t size_bytes) const {
    FileRequest request;
    request.name = name;
    request.open = [path = Path(name)] { return OpenRegularFile(path); };
    request.size_bytes = size_bytes;
    return request;
  }
  FileRequest TreeRequest(const std::string& name, uint64_t size_bytes) const {
    FileRequest request = Request(name, size_bytes);
    request.tree = true;
    return request;
  }

  // Until a change of the file would get another time: kernels before 6.13 stamp files with a clock
  // that stands still for milliseconds.
  void WaitForAnotherTime(std::string_view name) const {
    const int64_t changed_ns = Identity(name).changed_ns;
    struct timespec now;
    do {
      ASSERT_EQ(clock_gettime(CLOCK_REALTIME_COARSE, &now), 0);
    } while (int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec <= changed_ns);
  }

  FileIdentity Identity(std::string_view name) const {
    struct stat status;
    EXPECT_EQ(stat(Path(name).c_str(), &status), 0);
    return IdentityOf(status);
  }

  testing::TemporaryDirectory directory_;
};

// Every digest of `request` recomputed from the whole content.
void ExpectMatches(const FileRequest& request, const FileResult& result, ByteSpan content) {
  ASSERT_EQ(content.size(), request.size_bytes);
  const bool all = request.tree && request.only_subtrees.empty();
  EXPECT_EQ(ToHex(result.root), ToHex(all ? Blake3(content) : Digest32{}));
  if ((!request.tree && request.only_subtrees.empty()) || content.size() <= kSubtreeBytes) {
    EXPECT_TRUE(result.subtrees.empty());
  } else {
    ASSERT_EQ(result.subtrees.size(), (content.size() + kSubtreeBytes - 1) / kSubtreeBytes);
    for (size_t i = 0; i < result.subtrees.size(); ++i) {
      const size_t begin = i * kSubtreeBytes;
      const bool wanted =
          all || std::binary_search(request.only_subtrees.begin(), request.only_subtrees.end(), i);
      const ChainingValue expected =
          wanted ? Blake3Subtree(
                       content.subspan(begin, std::min(kSubtreeBytes, content.size() - begin)),
                       begin / kBlake3ChunkBytes)
                 : ChainingValue{};
      ASSERT_EQ(ToHex(result.subtrees[i]), ToHex(expected)) << "subtree " << i;
    }
  }
  ASSERT_EQ(result.digests.size(), request.digests.size());
  for (size_t i = 0; i < request.digests.size(); ++i) {
    const auto& [algorithm, range] = request.digests[i];
    ASSERT_EQ(
        ToHex(result.digests[i]),
        ToHex(ExpectedDigest(algorithm, content.subspan(range.offset_bytes, range.size_bytes))))
        << "digest " << i << ", " << AlgorithmName(algorithm) << " of " << range.size_bytes
        << " bytes at " << range.offset_bytes;
  }
}

constexpr uint64_t kSizes[] = {0,
                               1,
                               1023,
                               1024,
                               1025,
                               kMiB - 1,
                               kMiB,
                               kMiB + 1,
                               4 * kMiB - 1,
                               4 * kMiB,
                               4 * kMiB + 1,
                               5 * kMiB + 1,
                               9 * kMiB + 17};

class FilePassModesTest : public FilePassTest,
                          public ::testing::WithParamInterface<std::tuple<ReadMode, unsigned>> {
 protected:
  PassOptions Options() const {
    PassOptions options;
    std::tie(options.mode, options.threads) = GetParam();
    return options;
  }
};

TEST_P(FilePassModesTest, EveryDigestOfEverySize) {
  SCOPED_TRACE(StrCat("seed ", kSeed));
  std::mt19937_64 random(kSeed);
  std::vector<FileRequest> requests;
  std::vector<Bytes> contents;
  uint64_t total_bytes = 0;
  for (const uint64_t size : kSizes) {
    const std::string name = StrCat("file", size);
    contents.push_back(RandomBytes(size, kSeed + size));
    Write(name, contents.back());
    FileRequest request = TreeRequest(name, size);
    for (const Algorithm algorithm :
         {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake2b, Algorithm::kBlake3}) {
      request.digests.push_back({algorithm, {0, size}});
      request.digests.push_back({algorithm, {size / 2, 0}});
    }
    for (int i = 0; i < 40; ++i) {
      const uint64_t offset = random() % (size + 1);
      const uint64_t most = size - offset + 1;
      const uint64_t length = random() % (i % 2 == 0 ? std::min<uint64_t>(most, 5000) : most);
      const auto algorithm = static_cast<Algorithm>(i % 8 < 3 ? i % 8 : 3);
      request.digests.push_back({algorithm, {offset, length}});
    }
    requests.push_back(std::move(request));
    total_bytes += size;
  }
  WatchingProgress progress;
  PassOptions options = Options();
  options.progress = &progress;
  const auto results = RunFilePass(requests, options);
  ASSERT_TRUE(results.ok()) << results.status();
  size_t checked = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(requests[i].name);
    ASSERT_TRUE((*results)[i].ok()) << (*results)[i].status();
    ExpectMatches(requests[i], *(*results)[i], contents[i]);
    EXPECT_EQ((*results)[i]->identity, Identity(requests[i].name));
    ++checked;
  }
  EXPECT_EQ(checked, 13u);
  EXPECT_EQ(progress.total_bytes(), total_bytes);
}

TEST_P(FilePassModesTest, ShardsAndTensorsOfALargeFile) {
  // Shards that are no multiple of anything: lanes side by side whose borders every tree crosses.
  SCOPED_TRACE(StrCat("seed ", kSeed));
  std::mt19937_64 random(kSeed);
  constexpr uint64_t kShardBytes = 17'000'001;
  const uint64_t size = 66 * kMiB + 12345;
  const Bytes content = RandomBytes(size, kSeed);
  Write("large", content);
  FileRequest request = TreeRequest("large", size);
  for (uint64_t offset = 0; offset < size; offset += kShardBytes) {
    const uint64_t length = std::min(kShardBytes, size - offset);
    request.digests.push_back({Algorithm::kSha256, {offset, length}});
    request.digests.push_back({Algorithm::kBlake3, {offset, length}});
  }
  for (uint64_t offset = 4321; offset < size;) {
    const uint64_t length = std::min(1 + random() % (4 * kMiB), size - offset);
    request.digests.push_back({Algorithm::kBlake3, {offset, length}});
    offset += length;
  }
  // The same range twice; one inside another; all of it but the ends.
  request.digests.push_back(request.digests.back());
  request.digests.push_back({Algorithm::kBlake3, {1, size - 2}});
  request.digests.push_back({Algorithm::kBlake3, {3 * kMiB + 1, kMiB}});
  std::shuffle(request.digests.begin(), request.digests.end(), random);
  PassOptions options = Options();
  for (const uint64_t buffer_bytes : {uint64_t{0}, 64 * kMiB}) {
    options.buffer_bytes = buffer_bytes;
    const auto results = RunFilePass({request}, options);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE((*results)[0].ok()) << (*results)[0].status();
    ExpectMatches(request, *(*results)[0], content);
  }
}

TEST_P(FilePassModesTest, OnlyTheRangesAskedForAreRead) {
  const uint64_t size = 20 * kMiB + 99;
  const Bytes content = RandomBytes(size, kSeed);
  Write("file", content);
  FileRequest request = Request("file", size);
  request.digests = {{Algorithm::kBlake3, {3 * kMiB + 5, 2 * kMiB}},
                     {Algorithm::kSha256, {11 * kMiB + 7, 100}},
                     {Algorithm::kBlake3, {11 * kMiB + 7, 100}},
                     {Algorithm::kBlake3, {size - 1, 1}},
                     {Algorithm::kBlake2b, {size, 0}}};
  WatchingProgress progress;
  PassOptions options = Options();
  options.progress = &progress;
  const auto results = RunFilePass({request}, options);
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_TRUE((*results)[0].ok()) << (*results)[0].status();
  ExpectMatches(request, *(*results)[0], content);
  EXPECT_EQ(progress.total_bytes(), 2 * kMiB + 100 + 1);
}

TEST_P(FilePassModesTest, OnlySubtrees) {
  const uint64_t size = 21 * kMiB + 99;
  const Bytes content = RandomBytes(size, kSeed);
  Write("file", content);
  for (const std::vector<uint64_t>& numbers : std::vector<std::vector<uint64_t>>{
           {0}, {21}, {20, 21}, {3}, {0, 1, 2, 3, 4, 5, 6, 9, 11, 12, 19}}) {
    FileRequest request = Request("file", size);
    request.only_subtrees = numbers;
    WatchingProgress progress;
    PassOptions options = Options();
    options.progress = &progress;
    const auto results = RunFilePass({request}, options);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE((*results)[0].ok()) << (*results)[0].status();
    ExpectMatches(request, *(*results)[0], content);
    const bool has_tail = numbers.back() == 21;
    EXPECT_EQ(progress.total_bytes(), (numbers.size() - has_tail) * kMiB + has_tail * 99);
  }
  // A short file's only range is its root.
  for (const uint64_t short_size : {uint64_t{0}, uint64_t{10}, kMiB}) {
    const Bytes short_content = RandomBytes(short_size, 5);
    Write("short", short_content);
    FileRequest request = Request("short", short_size);
    request.only_subtrees = {0};
    const auto results = RunFilePass({request}, Options());
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE((*results)[0].ok()) << (*results)[0].status();
    EXPECT_EQ((*results)[0]->root, Blake3(short_content));
    EXPECT_TRUE((*results)[0]->subtrees.empty());
  }
}

TEST_P(FilePassModesTest, ManyTinyRanges) {
  const uint64_t size = 6 * kMiB + 1;
  const Bytes content = RandomBytes(size, kSeed);
  Write("file", content);
  FileRequest request = Request("file", size);
  std::mt19937_64 random(kSeed);
  for (int i = 0; i < 20'000; ++i) {
    const uint64_t length = random() % 300;
    request.digests.push_back({i % 10 == 0 ? Algorithm::kSha256 : Algorithm::kBlake3,
                               {random() % (size - length), length}});
  }
  const auto results = RunFilePass({request}, Options());
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_TRUE((*results)[0].ok()) << (*results)[0].status();
  ExpectMatches(request, *(*results)[0], content);
}

TEST_P(FilePassModesTest, ManySmallFilesWithFewDescriptors) {
  constexpr size_t kFiles = 5'000;
  std::vector<FileRequest> requests;
  std::vector<Bytes> contents;
  for (size_t i = 0; i < kFiles; ++i) {
    const std::string name = StrCat("f", i);
    contents.push_back(RandomBytes(i % 601, kSeed + i));
    Write(name, contents.back());
    FileRequest request = TreeRequest(name, contents.back().size());
    request.digests.push_back({Algorithm::kSha256, {0, contents.back().size()}});
    requests.push_back(std::move(request));
  }
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  struct rlimit few = before;
  few.rlim_cur = 40;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const auto results = RunFilePass(requests, Options());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(results.ok()) << results.status();
  size_t checked = 0;
  for (size_t i = 0; i < kFiles; ++i) {
    ASSERT_TRUE((*results)[i].ok()) << (*results)[i].status();
    ASSERT_NO_FATAL_FAILURE(ExpectMatches(requests[i], *(*results)[i], contents[i]));
    ++checked;
  }
  EXPECT_EQ(checked, kFiles);
}

TEST_P(FilePassModesTest, ABadFileDoesNotStopTheOthers) {
  const Bytes small = RandomBytes(1000, 1);
  const Bytes large = RandomBytes(9 * kMiB + 17, 2);
  for (const auto& [name, content] : {std::pair("small", small), std::pair("large", large)}) {
    Write(name, content);
  }
  std::vector<FileRequest> requests;
  std::vector<std::optional<Reason>> expected;
  const auto add = [&](FileRequest request, std::optional<Reason> reason) {
    request.digests.push_back({Algorithm::kSha256, {0, std::min<uint64_t>(request.size_bytes, 9)}});
    requests.push_back(std::move(request));
    expected.push_back(reason);
  };
  for (const auto& [name, content] : {std::pair("small", small), std::pair("large", large)}) {
    const uint64_t size = content.size();
    add(TreeRequest(name, size), std::nullopt);
    // Shorter and longer than it must be.
    add(TreeRequest(name, size + 1), Reason::kContentMismatch);
    add(TreeRequest(name, size - 1), Reason::kContentMismatch);
    // The identity it must have, and each field of it wrong.
    FileRequest same = TreeRequest(name, size);
    same.expected_identity = Identity(name);
    add(same, std::nullopt);
    FileRequest other_inode = same;
    ++other_inode.expected_identity.inode;
    add(other_inode, Reason::kFileUnstable);
    FileRequest other_time = same;
    ++other_time.expected_identity.changed_ns;
    add(other_time, Reason::kFileUnstable);
    FileRequest older = same;
    --older.expected_identity.modified_ns;
    add(older, Reason::kFileUnstable);
  }
  add(TreeRequest("missing", 10), Reason::kFileUnreadable);
  add(TreeRequest("missing", 10 * kMiB), Reason::kFileUnreadable);
  ASSERT_EQ(mkdir(Path("directory").c_str(), 0755), 0);
  add(TreeRequest("directory", 10), Reason::kFileTypeRefused);
  FileRequest denied = TreeRequest("small", small.size());
  denied.open = []() -> absl::StatusOr<FileDescriptor> {
    return FromErrno(EACCES, "open", "small");
  };
  add(denied, Reason::kFileUnreadable);
  FileRequest pipe_request = TreeRequest("pipe", 0);
  pipe_request.open = []() -> absl::StatusOr<FileDescriptor> {
    int ends[2];
    if (pipe(ends) != 0) return FromErrno(errno, "pipe", "pipe");
    close(ends[1]);
    return FileDescriptor(ends[0]);
  };
  add(pipe_request, Reason::kFileTypeRefused);

  const auto results = RunFilePass(requests, Options());
  ASSERT_TRUE(results.ok()) << results.status();
  ASSERT_EQ(results->size(), requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(StrCat(i, " ", requests[i].name));
    EXPECT_EQ(ReasonOf((*results)[i].status()), expected[i]) << (*results)[i].status();
    if (!expected[i].has_value()) {
      ExpectMatches(requests[i], *(*results)[i], requests[i].name == "small" ? small : large);
    } else if (expected[i] == Reason::kContentMismatch) {
      const Refusal refusal = RefusalsOf((*results)[i].status())[0];
      EXPECT_EQ(refusal.item, requests[i].name);
      EXPECT_THAT(refusal.detail, HasSubstr(StrCat(requests[i].size_bytes)));
    }
  }
  EXPECT_EQ(requests.size(), 19u);
}

TEST_P(FilePassModesTest, ChangesDuringThePass) {
  // The first piece that is done with triggers the change, so it falls between opening and end (the
  // file is alone in the pass, and finished only after every piece was reported).
  const uint64_t size = 40 * kMiB;
  const Bytes content = RandomBytes(size, kSeed);
  const std::pair<std::string_view, std::function<void(int)>> changes[] = {
      {"grows", [&](int fd) { EXPECT_EQ(ftruncate(fd, static_cast<off_t>(size + 1)), 0); }},
      {"shrinks by one byte",
       [&](int fd) { EXPECT_EQ(ftruncate(fd, static_cast<off_t>(size - 1)), 0); }},
      {"shrinks to 5 MiB",
       [&](int fd) { EXPECT_EQ(ftruncate(fd, static_cast<off_t>(5 * kMiB)), 0); }},
      {"is emptied and refilled",
       [&](int fd) {
         EXPECT_EQ(ftruncate(fd, 0), 0);
         EXPECT_EQ(pwrite(fd, content.data(), size, 0), static_cast<ssize_t>(size));
       }},
      {"is rewritten in place, its modification time set back",
       [&](int fd) {
         struct stat status;
         EXPECT_EQ(fstat(fd, &status), 0);
         EXPECT_EQ(pwrite(fd, "x", 1, 39 * kMiB), 1);
         const struct timespec times[] = {status.st_atim, status.st_mtim};
         EXPECT_EQ(futimens(fd, times), 0);
       }},
  };
  size_t checked = 0;
  for (const auto& [what, change] : changes) {
    for (const bool serial : {false, true}) {
      SCOPED_TRACE(StrCat(what, serial ? ", SHA-256" : ", tree only"));
      Write("changing", content);
      FileRequest changing = TreeRequest("changing", size);
      if (serial) changing.digests.push_back({Algorithm::kSha256, {0, size}});
      std::atomic<bool> changed{false};
      const FileDescriptor writer(open(Path("changing").c_str(), O_RDWR));
      ASSERT_TRUE(writer.is_open());
      WatchingProgress progress([&](uint64_t) {
        if (changed.exchange(true)) return;
        WaitForAnotherTime("changing");
        change(writer.get());
      });
      PassOptions options = Options();
      options.progress = &progress;
      // Reads run ahead of the first piece done; this leaves them little to run.
      options.buffer_bytes = 0;
      const auto results = RunFilePass({changing}, options);
      ASSERT_TRUE(results.ok()) << results.status();
      EXPECT_TRUE(changed);
      EXPECT_EQ(ReasonOf((*results)[0].status()), Reason::kFileUnstable) << (*results)[0].status();
      ++checked;
    }
  }
  EXPECT_EQ(checked, 10u);
}

TEST_P(FilePassModesTest, ChangesBetweenWalkAndOpen) {
  const Bytes content = RandomBytes(3 * kMiB, 1);
  Write("file", content);
  FileRequest request = TreeRequest("file", content.size());
  request.expected_identity = Identity("file");
  ASSERT_TRUE((*RunFilePass({request}, Options()))[0].ok());
  request.open = [this, open = request.open, &content] {
    WaitForAnotherTime("file");
    Write("file", content);
    return open();
  };
  EXPECT_EQ(ReasonOf((*RunFilePass({request}, Options()))[0].status()), Reason::kFileUnstable);
  // Without an identity to hold it to, the new content is what is hashed.
  request.expected_identity = {};
  EXPECT_TRUE((*RunFilePass({request}, Options()))[0].ok());
}

TEST_P(FilePassModesTest, AFailedMachineEndsThePass) {
  const Bytes content = RandomBytes(30 * kMiB, 1);
  Write("file", content);
  std::vector<FileRequest> requests;
  for (int i = 0; i < 20; ++i) {
    requests.push_back(TreeRequest("file", content.size()));
    requests.back().digests.push_back({Algorithm::kSha256, {0, content.size()}});
  }
  requests[13].open = []() -> absl::StatusOr<FileDescriptor> {
    return MachineFailure("disk", "on fire");
  };
  const auto results = RunFilePass(requests, Options());
  EXPECT_EQ(ExitCodeOf(results.status()), 3) << results.status();
  EXPECT_THAT(results.status().message(), HasSubstr("on fire"));
  // Opened for writing only, no byte of it can be read.
  requests.resize(3);
  requests[1].open = [this]() -> absl::StatusOr<FileDescriptor> {
    return FileDescriptor(open(Path("file").c_str(), O_WRONLY));
  };
  const auto unreadable = RunFilePass(requests, Options());
  EXPECT_EQ(ExitCodeOf(unreadable.status()), 3) << unreadable.status();
}

INSTANTIATE_TEST_SUITE_P(Modes, FilePassModesTest,
                         ::testing::Combine(::testing::ValuesIn(kModes),
                                            ::testing::Values(1u, 2u, 5u)),
                         [](const auto& parameters) {
                           return StrCat(ModeName(std::get<0>(parameters.param)),
                                         std::get<1>(parameters.param), "Threads");
                         });

TEST_F(FilePassTest, NothingToDo) {
  const auto none = RunFilePass({}, {});
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->empty());
  // Nothing asked of a file: it is still opened and compared.
  Write("file", RandomBytes(5 * kMiB, 1));
  auto results = RunFilePass({Request("file", 5 * kMiB), Request("file", 4 * kMiB)}, {});
  ASSERT_TRUE(results.ok());
  EXPECT_TRUE((*results)[0].ok());
  EXPECT_EQ((*results)[0]->identity, Identity("file"));
  EXPECT_EQ(ReasonOf((*results)[1].status()), Reason::kContentMismatch);
}

TEST_F(FilePassTest, SaysHowItRead) {
  Write("small", RandomBytes(1000, 1));
  Write("large", RandomBytes(2 * kMiB, 1));
  for (const ReadMode mode : kModes) {
    PassOptions options;
    options.mode = mode;
    const auto results =
        RunFilePass({TreeRequest("small", 1000), TreeRequest("large", 2 * kMiB)}, options);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE((*results)[0].ok() && (*results)[1].ok());
    switch (mode) {
      case ReadMode::kAuto:
        EXPECT_EQ((*results)[0]->read_by, "read");
        EXPECT_EQ((*results)[1]->read_by, "mmap");
        break;
      case ReadMode::kMapped:
        EXPECT_EQ((*results)[0]->read_by, "mmap");
        EXPECT_EQ((*results)[1]->read_by, "mmap");
        break;
      case ReadMode::kBuffered:
        EXPECT_THAT((*results)[1]->read_by, ::testing::AnyOf("io_uring", "pread threads"));
        break;
      case ReadMode::kDirect:
        // Without ", O_DIRECT" where the file system has none.
        EXPECT_THAT(std::string((*results)[1]->read_by),
                    ::testing::AnyOf(::testing::StartsWith("io_uring"),
                                     ::testing::StartsWith("pread threads")));
        break;
    }
  }
}

// SHA-256 of many files at once, where a thread may advance two of them together: of odd sizes, so
// that partners end at different times; shards, whose borders lie anywhere in a partner's piece;
// two digests of the same bytes; digests of other algorithms in between; and files that fail.
TEST_F(FilePassTest, ManySerialDigestsSideBySide) {
  SCOPED_TRACE(StrCat("seed ", kSeed));
  std::mt19937_64 random(kSeed);
  std::vector<FileRequest> requests;
  std::vector<Bytes> contents;
  const auto add = [&](const std::string& name, uint64_t size) -> FileRequest& {
    contents.push_back(RandomBytes(size, kSeed + contents.size()));
    Write(name, contents.back());
    requests.push_back(Request(name, size));
    return requests.back();
  };
  // The longest is opened and hashed first, so it is under way when the first piece is done.
  constexpr uint64_t kTruncatedBytes = 36 * kMiB + 5;
  add("truncated", kTruncatedBytes).digests = {{Algorithm::kSha256, {0, kTruncatedBytes}}};
  for (const uint64_t size :
       std::vector<uint64_t>{0, 1, 63, 64, 65, kMiB + 1, 3 * kMiB + 7, 4 * kMiB, 4 * kMiB + 55,
                             5 * kMiB - 1, 8 * kMiB + 64, 9 * kMiB + 17}) {
    FileRequest& request = add(StrCat("file", size), size);
    request.digests.push_back({Algorithm::kSha256, {0, size}});
    request.digests.push_back({Algorithm::kSha256, {size / 3, size - size / 3}});
    request.digests.push_back({Algorithm::kSha384, {size / 2, size / 4}});
    const uint64_t shard_bytes = size / 5 + random() % 1000 + 1;
    for (uint64_t offset = 0; offset < size; offset += shard_bytes) {
      const Algorithm algorithm =
          offset / shard_bytes == 2 ? Algorithm::kBlake2b : Algorithm::kSha256;
      request.digests.push_back({algorithm, {offset, std::min(shard_bytes, size - offset)}});
    }
  }
  // A large file whose shards are lanes of their own, with a tree beside them.
  constexpr uint64_t kShardedBytes = 34 * kMiB + 3;
  FileRequest& sharded = add("sharded", kShardedBytes);
  sharded.tree = true;
  sharded.digests = {{Algorithm::kSha256, {0, 17 * kMiB + 1}},
                     {Algorithm::kSha256, {17 * kMiB + 1, kShardedBytes - 17 * kMiB - 1}}};
  add("missing", 6 * kMiB).digests = {{Algorithm::kSha256, {0, 6 * kMiB}}};
  unlink(Path("missing").c_str());
  size_t expected_digests = 0;
  for (size_t i = 1; i + 1 < requests.size(); ++i) expected_digests += requests[i].digests.size();

  size_t compared = 0;
  for (const ReadMode mode : kModes) {
    for (const unsigned threads : {1u, 2u, 3u}) {
      for (const bool provider_only : {false, true}) {
        if (provider_only && threads != 2) continue;  // nothing but the numbers differs
        SCOPED_TRACE(StrCat(ModeName(mode), ", ", threads, " threads, provider ", provider_only));
        Write("truncated", contents[0]);
        std::atomic<bool> truncated{false};
        WatchingProgress progress([&](uint64_t) {
          if (truncated.exchange(true)) return;
          WaitForAnotherTime("truncated");
          ASSERT_EQ(truncate(Path("truncated").c_str(), 5 * kMiB + 3), 0);
        });
        PassOptions options;
        options.mode = mode;
        options.threads = threads;
        options.progress = &progress;
        options.provider_digests_only = provider_only;
        const auto results = RunFilePass(requests, options);
        ASSERT_TRUE(results.ok()) << results.status();
        EXPECT_EQ(ReasonOf(results->front().status()), Reason::kFileUnstable)
            << results->front().status();
        EXPECT_EQ(ReasonOf(results->back().status()), Reason::kFileUnreadable)
            << results->back().status();
        for (size_t i = 1; i + 1 < requests.size(); ++i) {
          SCOPED_TRACE(requests[i].name);
          ASSERT_TRUE((*results)[i].ok()) << (*results)[i].status();
          ASSERT_NO_FATAL_FAILURE(ExpectMatches(requests[i], *(*results)[i], contents[i]));
          EXPECT_EQ((*results)[i]->sha256_by, !provider_only && internal::Sha256PairAvailable()
                                                  ? "SHA instructions"
                                                  : "OpenSSL");
          compared += requests[i].digests.size();
        }
      }
    }
  }
  EXPECT_EQ(compared, 4 * (3 + 1) * expected_digests);
  EXPECT_EQ(expected_digests, 77u);
}

TEST_F(FilePassTest, SaysWhoComputedSha256) {
  Write("file", RandomBytes(2 * kMiB, 1));
  FileRequest none = TreeRequest("file", 2 * kMiB);
  none.digests.push_back({Algorithm::kSha384, {0, 5}});
  FileRequest some = none;
  some.digests.push_back({Algorithm::kSha256, {7, 5}});
  for (const bool provider_only : {false, true}) {
    PassOptions options;
    options.provider_digests_only = provider_only;
    const auto results = RunFilePass({none, some}, options);
    ASSERT_TRUE(results.ok() && (*results)[0].ok() && (*results)[1].ok());
    EXPECT_EQ((*results)[0]->sha256_by, "");
    EXPECT_EQ((*results)[1]->sha256_by,
              !provider_only && internal::Sha256PairAvailable() ? "SHA instructions" : "OpenSSL");
  }
}

TEST_F(FilePassTest, ReadsWhatCannotBeMapped) {
  // No mapping is left in this process.
  const Bytes content = RandomBytes(20 * kMiB + 3, 1);
  Write("file", content);
  const auto held_file = OpenRegularFile(Path("file"));
  ASSERT_TRUE(held_file.ok());
  std::vector<std::unique_ptr<internal::MappedFile>> held;
  while (true) {
    auto mapping = internal::MappedFile::Map(*held_file, 1, "held");
    if (!mapping.ok()) break;
    held.push_back(*std::move(mapping));
  }
  FileRequest request = TreeRequest("file", content.size());
  request.digests = {{Algorithm::kSha256, {0, content.size()}},
                     {Algorithm::kBlake3, {77, content.size() - 100}}};
  for (const unsigned threads : {1u, 3u}) {
    PassOptions options;
    options.threads = threads;
    auto results = RunFilePass({request, request}, options);
    ASSERT_TRUE(results.ok()) << results.status();
    for (const auto& result : *results) {
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->read_by, "read");
      ExpectMatches(request, *result, content);
    }
    // Who asked for a mapping does not silently get something else.
    options.mode = ReadMode::kMapped;
    EXPECT_EQ(ExitCodeOf(RunFilePass({request}, options).status()), 3);
  }
}

TEST_F(FilePassTest, RefusesRequestsThatContradictThemselves) {
  const uint64_t size = 3 * kMiB + 1;
  Write("file", RandomBytes(size, 1));
  const FileRequest good = TreeRequest("file", size);
  std::vector<FileRequest> bad;
  FileRequest request = good;
  for (const Range range : {Range{0, size + 1}, Range{size + 1, 0}, Range{size, 1},
                            Range{1, ~uint64_t{0}}, Range{~uint64_t{0}, 2}}) {
    request.digests = {{Algorithm::kSha256, range}};
    bad.push_back(request);
    request.digests = {{Algorithm::kBlake3, range}};
    bad.push_back(request);
  }
  request.digests.clear();
  for (const std::vector<uint64_t>& numbers :
       std::vector<std::vector<uint64_t>>{{4}, {1, 1}, {2, 1}, {~uint64_t{0}}}) {
    request.only_subtrees = numbers;
    bad.push_back(request);
  }
  request.only_subtrees = {1};
  request.digests = {{Algorithm::kSha256, {0, 1}}};
  bad.push_back(request);
  request = good;
  request.open = nullptr;
  bad.push_back(request);
  request = good;
  request.size_bytes = ~uint64_t{0};
  bad.push_back(request);
  size_t refused = 0;
  for (const FileRequest& each : bad) {
    refused += ExitCodeOf(RunFilePass({good, each}, {}).status()) == 2;
  }
  EXPECT_EQ(refused, bad.size());
  EXPECT_EQ(refused, 17u);
  EXPECT_TRUE(RunFilePass({good, good}, {}).ok());
}

TEST_F(FilePassTest, TruncationUnderAMapping) {
  // One thread: after the first piece most of the file is certainly untouched and now gone.
  const uint64_t size = 64 * kMiB;
  const Bytes other = RandomBytes(5 * kMiB, 4);
  Write("other", other);
  for (const ReadMode mode : {ReadMode::kAuto, ReadMode::kMapped}) {
    for (const bool serial : {false, true}) {
      Write("file", RandomBytes(size, 1));
      FileRequest request = TreeRequest("file", size);
      if (serial) request.digests.push_back({Algorithm::kSha256, {0, size}});
      int advances = 0;
      WatchingProgress progress([&](uint64_t) {
        if (++advances == 1) {
          ASSERT_EQ(truncate(Path("file").c_str(), static_cast<off_t>(kMiB + 1)), 0);
        }
      });
      PassOptions options;
      options.mode = mode;
      options.threads = 1;
      options.progress = &progress;
      const FileRequest after = TreeRequest("other", other.size());
      const auto results = RunFilePass({request, after}, options);
      ASSERT_TRUE(results.ok()) << results.status();
      EXPECT_EQ(ReasonOf((*results)[0].status()), Reason::kFileUnstable) << (*results)[0].status();
      ASSERT_TRUE((*results)[1].ok());
      ExpectMatches(after, *(*results)[1], other);
      // It gave up early instead of hashing zeros to the end.
      EXPECT_LT(progress.total_bytes(), size / 2 + other.size());
    }
  }
}

// What another program writes through a shared mapping changes no time that the pass could see. Of
// a private copy all digests still describe one content, whichever of them it was.
TEST_F(FilePassTest, DigestsOfABufferedFileAreOfOneContent) {
  constexpr size_t kSize = 32 * kMiB + 4096;
  constexpr size_t kPlace = kSize / 2;
  Bytes content = RandomBytes(kSize, 5);
  Write("file", content);
  const int fd = open(Path("file").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  auto* shared =
      static_cast<uint8_t*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  ASSERT_NE(shared, MAP_FAILED);
  // The first write is what is stamped; the later ones go unseen.
  volatile uint8_t* byte = shared + kPlace;
  *byte = 0;
  fsync(fd);
  *byte = 0;
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop) *byte = *byte == 0 ? 1 : 0;
  });

  size_t accepted = 0;
  for (int round = 0; round < 40 && accepted < 6; ++round) {
    for (const ReadMode mode : {ReadMode::kBuffered, ReadMode::kDirect}) {
      PassOptions options;
      options.mode = mode;
      options.threads = 2;
      FileRequest request = TreeRequest("file", kSize);
      request.digests.push_back({Algorithm::kSha256, {0, kSize}});
      request.digests.push_back({Algorithm::kSha384, {0, kSize}});
      const auto results = RunFilePass({request}, options);
      ASSERT_TRUE(results.ok()) << results.status();
      if (!(*results)[0].ok()) {
        EXPECT_EQ(ReasonOf((*results)[0].status()), Reason::kFileUnstable);
        continue;
      }
      const FileResult& result = *(*results)[0];
      ++accepted;
      int matches = 0;
      for (const uint8_t value : {0, 1}) {
        content[kPlace] = value;
        if (Blake3(content) != result.root) continue;
        ++matches;
        EXPECT_EQ(result.digests[0], ExpectedDigest(Algorithm::kSha256, content));
        EXPECT_EQ(result.digests[1], ExpectedDigest(Algorithm::kSha384, content));
      }
      EXPECT_EQ(matches, 1);
    }
  }
  stop = true;
  writer.join();
  munmap(shared, kSize);
  close(fd);
  if (accepted == 0) GTEST_SKIP() << "this kernel stamped every write: nothing to compare";
}

TEST_F(FilePassTest, LargeSparseFileGivesItsPageTablesBack) {
  // Over 1 GiB, so that pages are released in steps of 256 MiB; only ranges on the borders of the
  // steps are asked for.
  const uint64_t size = 1536 * kMiB + 7;
  const FileDescriptor file(open(Path("sparse").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_TRUE(file.is_open());
  ASSERT_EQ(ftruncate(file.get(), static_cast<off_t>(size)), 0);
  FileRequest request = Request("sparse", size);
  std::vector<Bytes> expected;
  for (uint64_t border = 256 * kMiB; border < size; border += 256 * kMiB) {
    const Bytes content = RandomBytes(3 * kMiB, border);
    const uint64_t offset = border - 3 * kMiB / 2;
    if (offset + content.size() > size) break;
    ASSERT_EQ(pwrite(file.get(), content.data(), content.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(content.size()));
    for (const Algorithm algorithm : {Algorithm::kBlake3, Algorithm::kSha256}) {
      request.digests.push_back({algorithm, {offset, content.size()}});
      expected.push_back(ExpectedDigest(algorithm, content));
    }
  }
  for (const unsigned threads : {1u, 3u}) {
    PassOptions options;
    options.mode = ReadMode::kMapped;
    options.threads = threads;
    const auto results = RunFilePass({request}, options);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_TRUE((*results)[0].ok()) << (*results)[0].status();
    EXPECT_EQ((*results)[0]->digests, expected);
  }
  EXPECT_EQ(expected.size(), 10u);
}

// Kilobytes of /proc/self/status.
uint64_t StatusKiB(std::string_view field) {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind(field, 0) == 0) return std::stoull(line.substr(field.size() + 1));
  }
  return 0;
}

TEST_F(FilePassTest, PrivateMemoryStaysBounded) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's shadow memory counts as well";
#endif
  const uint64_t size = 400 * kMiB;
  const FileDescriptor file(open(Path("sparse").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(ftruncate(file.get(), static_cast<off_t>(size)), 0);
  FileRequest request = TreeRequest("sparse", size);
  for (uint64_t offset = 1; offset < size; offset += 7 * kMiB) {
    // Many ranges over the same borders share their seams.
    for (uint64_t i = 0; i < 4; ++i) {
      const uint64_t begin = offset + i * 1000;
      request.digests.push_back({Algorithm::kBlake3, {begin, std::min(8 * kMiB, size - begin)}});
    }
  }
  for (const ReadMode mode : kModes) {
    const uint64_t before = StatusKiB("RssAnon:");
    uint64_t most = before;
    WatchingProgress progress([&](uint64_t) { most = std::max(most, StatusKiB("RssAnon:")); });
    PassOptions options;
    options.mode = mode;
    options.threads = 3;
    options.buffer_bytes = 32 * kMiB;
    options.progress = &progress;
    const auto results = RunFilePass({request}, options);
    ASSERT_TRUE(results.ok() && (*results)[0].ok());
    EXPECT_LT(most - before, (32 + 16 + 8) * 1024u) << ModeName(mode);
  }
}

// From here on io_uring_setup(2) fails, as under a container's policy.
void ForbidUring() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    _exit(99);
  }
}

using FilePassDeathTest = FilePassTest;

TEST_F(FilePassDeathTest, ReadsWithThreadsWhereUringIsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Bytes content = RandomBytes(9 * kMiB + 17, 1);
  Write("file", content);
  EXPECT_EXIT(
      {
        ForbidUring();
        for (const ReadMode mode : {ReadMode::kBuffered, ReadMode::kDirect}) {
          FileRequest request = TreeRequest("file", content.size());
          request.digests.push_back({Algorithm::kBlake3, {5, content.size() - 7}});
          PassOptions options;
          options.mode = mode;
          options.threads = 3;
          const auto results = RunFilePass({request}, options);
          if (!results.ok() || !(*results)[0].ok()) _exit(1);
          if ((*results)[0]->read_by.rfind("pread threads", 0) != 0) _exit(2);
          if ((*results)[0]->root != Blake3(content)) _exit(3);
          if ((*results)[0]->digests[0] !=
              ExpectedDigest(Algorithm::kBlake3,
                             ByteSpan(content).subspan(5, content.size() - 7))) {
            _exit(4);
          }
        }
        _exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace pavise::hash
