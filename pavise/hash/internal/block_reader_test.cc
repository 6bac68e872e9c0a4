#include "pavise/hash/internal/block_reader.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash::internal {
namespace {

constexpr uint32_t kFileBytes = (3u << 20) + 4711;

// Collects results until as many arrived as were expected.
class Results {
 public:
  BlockReader::Done done() {
    return [this](const BlockReadResult& result) {
      std::lock_guard lock(mutex_);
      results_[result.context] = result;
      ++count_;
      arrived_.notify_all();
    };
  }
  void WaitFor(size_t count) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return count_ >= count; });
  }
  size_t count() {
    std::lock_guard lock(mutex_);
    return count_;
  }
  BlockReadResult operator[](void* context) {
    std::lock_guard lock(mutex_);
    return results_.at(context);
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<void*, BlockReadResult> results_;
  size_t count_ = 0;
};

class BlockReaderTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    path_ = testing::TempDir() + "/block-reader-XXXXXX";
    file_ = FileDescriptor(mkstemp(path_.data()));
    ASSERT_TRUE(file_.is_open());
    std::mt19937_64 random(20240607);
    content_.resize(kFileBytes);
    for (uint8_t& byte : content_) byte = static_cast<uint8_t>(random());
    ASSERT_EQ(pwrite(file_.get(), content_.data(), content_.size(), 0),
              static_cast<ssize_t>(content_.size()));
  }
  void TearDown() override { unlink(path_.c_str()); }

  // Null (and the test skipped) where this machine has no io_uring.
  std::unique_ptr<BlockReader> NewReader(unsigned depth, BlockReader::Done done) {
    auto reader = GetParam() == "io_uring" ? NewUringReader(depth, std::move(done))
                                           : NewThreadReader(depth, std::move(done));
    if (absl::IsUnimplemented(reader.status())) return nullptr;
    EXPECT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->name(), GetParam());
    return *std::move(reader);
  }

  std::string path_;
  FileDescriptor file_;
  std::vector<uint8_t> content_;
};

#define SKIP_WITHOUT(reader) \
  if ((reader) == nullptr) GTEST_SKIP() << "this kernel or its policy refuses io_uring"

TEST_P(BlockReaderTest, ReadsManyMoreThanItsDepth) {
  Results results;
  auto reader = NewReader(4, results.done());
  SKIP_WITHOUT(reader);
  std::mt19937_64 random(7);
  constexpr size_t kReads = 600;
  std::vector<std::vector<uint8_t>> buffers(kReads);
  std::vector<uint64_t> offsets(kReads);
  for (size_t i = 0; i < kReads; ++i) {
    offsets[i] = random() % kFileBytes;
    buffers[i].resize(1 + random() % (kFileBytes - offsets[i]) % 70'000);
    reader->Submit({.fd = file_.get(),
                    .offset_bytes = offsets[i],
                    .data = buffers[i].data(),
                    .size_bytes = static_cast<uint32_t>(buffers[i].size()),
                    .context = &buffers[i]});
  }
  results.WaitFor(kReads);
  size_t checked = 0;
  for (size_t i = 0; i < kReads; ++i) {
    const BlockReadResult result = results[&buffers[i]];
    ASSERT_EQ(result.error_number, 0);
    ASSERT_EQ(result.size_bytes, buffers[i].size());
    ASSERT_EQ(std::memcmp(buffers[i].data(), content_.data() + offsets[i], buffers[i].size()), 0);
    ++checked;
  }
  EXPECT_EQ(checked, kReads);
  EXPECT_EQ(results.count(), kReads);
}

TEST_P(BlockReaderTest, ReportsTheEndOfTheFile) {
  Results results;
  auto reader = NewReader(2, results.done());
  SKIP_WITHOUT(reader);
  std::vector<uint8_t> crossing(5000), past(100);
  reader->Submit({.fd = file_.get(),
                  .offset_bytes = kFileBytes - 1234,
                  .data = crossing.data(),
                  .size_bytes = 5000,
                  .context = &crossing});
  reader->Submit({.fd = file_.get(),
                  .offset_bytes = kFileBytes + 9,
                  .data = past.data(),
                  .size_bytes = 100,
                  .context = &past});
  results.WaitFor(2);
  EXPECT_EQ(results[&crossing].size_bytes, 1234u);
  EXPECT_EQ(results[&crossing].error_number, 0);
  EXPECT_EQ(std::memcmp(crossing.data(), content_.data() + kFileBytes - 1234, 1234), 0);
  EXPECT_EQ(results[&past].size_bytes, 0u);
  EXPECT_EQ(results[&past].error_number, 0);
}

TEST_P(BlockReaderTest, ContinuesShortReads) {
  // A pipe returns what is in it, less than asked.
  Results results;
  auto reader = NewReader(1, results.done());
  SKIP_WITHOUT(reader);
  if (GetParam() != "io_uring") GTEST_SKIP() << "pread(2) does not read pipes";
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const FileDescriptor read_end(ends[0]);
  FileDescriptor write_end(ends[1]);
  std::vector<uint8_t> buffer(10);
  reader->Submit({.fd = read_end.get(),
                  .offset_bytes = 0,
                  .data = buffer.data(),
                  .size_bytes = 10,
                  .context = &buffer});
  ASSERT_EQ(write(write_end.get(), "abcd", 4), 4);
  ASSERT_EQ(write(write_end.get(), "efg", 3), 3);
  write_end = FileDescriptor();
  results.WaitFor(1);
  EXPECT_EQ(results[&buffer].size_bytes, 7u);
  EXPECT_EQ(std::memcmp(buffer.data(), "abcdefg", 7), 0);
}

TEST_P(BlockReaderTest, ReportsErrors) {
  Results results;
  auto reader = NewReader(2, results.done());
  SKIP_WITHOUT(reader);
  const FileDescriptor write_only(open(path_.c_str(), O_WRONLY));
  const FileDescriptor directory(open(testing::TempDir().c_str(), O_RDONLY | O_DIRECTORY));
  std::vector<uint8_t> a(10), b(10), c(10);
  reader->Submit({.fd = -1, .data = a.data(), .size_bytes = 10, .context = &a});
  reader->Submit({.fd = write_only.get(), .data = b.data(), .size_bytes = 10, .context = &b});
  reader->Submit({.fd = directory.get(), .data = c.data(), .size_bytes = 10, .context = &c});
  results.WaitFor(3);
  EXPECT_EQ(results[&a].error_number, EBADF);
  EXPECT_EQ(results[&b].error_number, EBADF);
  EXPECT_EQ(results[&c].error_number, EISDIR);
}

TEST_P(BlockReaderTest, ReadsDirectly) {
  const FileDescriptor direct(open(path_.c_str(), O_RDONLY | O_DIRECT));
  if (!direct.is_open()) GTEST_SKIP() << "the temporary directory has no O_DIRECT";
  Results results;
  auto reader = NewReader(2, results.done());
  SKIP_WITHOUT(reader);
  constexpr uint32_t kBlock = 4096;
  const uint32_t last = kFileBytes / kBlock * kBlock;
  struct Free {
    void operator()(uint8_t* p) const { free(p); }
  };
  std::unique_ptr<uint8_t, Free> buffer(
      static_cast<uint8_t*>(std::aligned_alloc(kBlock, 64 * kBlock)));
  reader->Submit({.fd = direct.get(),
                  .offset_bytes = last - kBlock,
                  .data = buffer.get(),
                  .size_bytes = 3 * kBlock,
                  .alignment_bytes = kBlock,
                  .context = &results});
  results.WaitFor(1);
  EXPECT_EQ(results[&results].error_number, 0);
  EXPECT_EQ(results[&results].size_bytes, kFileBytes - (last - kBlock));
  EXPECT_EQ(std::memcmp(buffer.get(), content_.data() + last - kBlock, kFileBytes - last + kBlock),
            0);
  // Off by one, the file system refuses (or serves it all the same): never a wrong answer.
  reader->Submit({.fd = direct.get(),
                  .offset_bytes = 1,
                  .data = buffer.get(),
                  .size_bytes = kBlock,
                  .alignment_bytes = kBlock,
                  .context = &results});
  results.WaitFor(2);
  const BlockReadResult result = results[&results];
  EXPECT_TRUE(
      result.error_number == EINVAL ||
      (result.size_bytes == kBlock && std::memcmp(buffer.get(), content_.data() + 1, kBlock) == 0));
}

TEST_P(BlockReaderTest, DestructorDeliversWhatIsUnderWay) {
  for (int round = 0; round < 20; ++round) {
    Results results;
    std::vector<std::vector<uint8_t>> buffers(50, std::vector<uint8_t>(50'000));
    {
      auto reader = NewReader(3, results.done());
      SKIP_WITHOUT(reader);
      for (auto& buffer : buffers) {
        reader->Submit({.fd = file_.get(),
                        .offset_bytes = 17,
                        .data = buffer.data(),
                        .size_bytes = 50'000,
                        .context = &buffer});
      }
    }
    ASSERT_EQ(results.count(), 50u);
    for (auto& buffer : buffers) {
      ASSERT_EQ(std::memcmp(buffer.data(), content_.data() + 17, buffer.size()), 0);
    }
  }
}

TEST_P(BlockReaderTest, MaySubmitFromTheCallback) {
  std::unique_ptr<BlockReader> reader;
  std::mutex mutex;
  std::condition_variable done;
  std::vector<uint8_t> buffer(1000);
  uint64_t offset = 0;
  int left = 100;
  reader = NewReader(1, [&](const BlockReadResult& result) {
    std::lock_guard lock(mutex);
    EXPECT_EQ(result.size_bytes, 1000u);
    EXPECT_EQ(std::memcmp(buffer.data(), content_.data() + offset, 1000), 0);
    if (--left == 0) {
      done.notify_all();
      return;
    }
    offset += 999;
    reader->Submit(
        {.fd = file_.get(), .offset_bytes = offset, .data = buffer.data(), .size_bytes = 1000});
  });
  SKIP_WITHOUT(reader);
  {
    std::unique_lock lock(mutex);
    reader->Submit(
        {.fd = file_.get(), .offset_bytes = 0, .data = buffer.data(), .size_bytes = 1000});
    done.wait(lock, [&] { return left == 0; });
  }
  reader.reset();
}

INSTANTIATE_TEST_SUITE_P(Kinds, BlockReaderTest, testing::Values("io_uring", "pread threads"),
                         [](const auto& parameters) {
                           return parameters.param == "io_uring" ? "Uring" : "Threads";
                         });

// From here on io_uring_setup(2) fails with `error_number`, as under a container's policy.
void ForbidUring(int error_number) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error_number)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) {
    _exit(99);
  }
}

TEST(BlockReaderDeathTest, FallsBackWhereUringIsRefused) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const int error_number : {EPERM, ENOSYS}) {
    EXPECT_EXIT(
        {
          ForbidUring(error_number);
          if (!absl::IsUnimplemented(NewUringReader(4, [](const auto&) {}).status())) _exit(1);
          const auto reader = NewBlockReader(4, [](const auto&) {});
          _exit(reader.ok() && (*reader)->name() == "pread threads" ? 0 : 2);
        },
        testing::ExitedWithCode(0), "");
  }
  // Other errors are not a refusal: the machine failed.
  EXPECT_EXIT(
      {
        ForbidUring(EFAULT);
        _exit(ExitCodeOf(NewBlockReader(4, [](const auto&) {}).status()));
      },
      testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace pavise::hash::internal
