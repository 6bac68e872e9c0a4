#include "pavise/hash/internal/mapped_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash::internal {
namespace {

const uint64_t kPage = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));

// A file without a name, filled with bytes that repeat every 251.
FileDescriptor NewFile(uint64_t size_bytes) {
  std::string path = testing::TempDir() + "/mapped-XXXXXX";
  FileDescriptor file(mkstemp(path.data()));
  EXPECT_TRUE(file.is_open());
  unlink(path.c_str());
  Bytes content(size_bytes);
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<uint8_t>(i % 251);
  EXPECT_EQ(pwrite(file.get(), content.data(), content.size(), 0),
            static_cast<ssize_t>(size_bytes));
  return file;
}

bool HoldsContent(const MappedFile& mapped, uint64_t begin, uint64_t end) {
  for (uint64_t i = begin; i < end; ++i) {
    if (mapped.bytes()[i] != i % 251) return false;
  }
  return true;
}

bool IsZero(const MappedFile& mapped, uint64_t begin, uint64_t end) {
  for (uint64_t i = begin; i < end; ++i) {
    if (mapped.bytes()[i] != 0) return false;
  }
  return true;
}

TEST(MappedFileTest, ShowsTheBytes) {
  for (const uint64_t size : {uint64_t{1}, kPage - 1, kPage, kPage + 1, 100 * kPage + 17}) {
    const FileDescriptor file = NewFile(size);
    const auto mapped = MappedFile::Map(file, size, "file");
    ASSERT_TRUE(mapped.ok()) << mapped.status();
    EXPECT_EQ((*mapped)->bytes().size(), size);
    (*mapped)->Prefetch(0, size);
    (*mapped)->Prefetch(size - 1, 1000 * kPage);
    (*mapped)->Prefetch(size + kPage, 1);
    EXPECT_TRUE(HoldsContent(**mapped, 0, size)) << size;
    EXPECT_FALSE((*mapped)->faulted());
  }
}

TEST(MappedFileTest, RefusesWhatCannotBeMapped) {
  const FileDescriptor file = NewFile(10);
  EXPECT_FALSE(MappedFile::Map(file, 0, "empty").ok());
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const FileDescriptor read_end(ends[0]);
  const FileDescriptor write_end(ends[1]);
  const auto mapped = MappedFile::Map(read_end, 10, "pipe");
  EXPECT_EQ(ExitCodeOf(mapped.status()), 3) << mapped.status();
}

TEST(MappedFileTest, TruncationReadsAsZerosAndIsReported) {
  const uint64_t size = 8 * kPage;
  const FileDescriptor truncated = NewFile(size);
  const FileDescriptor whole = NewFile(size);
  const auto mapped = MappedFile::Map(truncated, size, "truncated");
  const auto other = MappedFile::Map(whole, size, "whole");
  ASSERT_TRUE(mapped.ok() && other.ok());
  ASSERT_EQ(ftruncate(truncated.get(), static_cast<off_t>(2 * kPage)), 0);
  EXPECT_TRUE(HoldsContent(**mapped, 0, 2 * kPage));
  EXPECT_FALSE((*mapped)->faulted());
  EXPECT_TRUE(IsZero(**mapped, 5 * kPage + 3, 5 * kPage + 4));
  EXPECT_TRUE((*mapped)->faulted());
  EXPECT_TRUE(IsZero(**mapped, 2 * kPage, size));
  // Stays so even when the file grows again.
  ASSERT_EQ(ftruncate(truncated.get(), static_cast<off_t>(size)), 0);
  EXPECT_TRUE((*mapped)->faulted());
  EXPECT_TRUE(HoldsContent(**other, 0, size));
  EXPECT_FALSE((*other)->faulted());
}

TEST(MappedFileTest, ASlotIsCleanForItsNextMapping) {
  const FileDescriptor truncated = NewFile(4 * kPage);
  {
    const auto mapped = MappedFile::Map(truncated, 4 * kPage, "truncated");
    ASSERT_TRUE(mapped.ok());
    ASSERT_EQ(ftruncate(truncated.get(), 0), 0);
    EXPECT_TRUE(IsZero(**mapped, 0, 4 * kPage));
    EXPECT_TRUE((*mapped)->faulted());
  }
  const FileDescriptor whole = NewFile(4 * kPage);
  const auto mapped = MappedFile::Map(whole, 4 * kPage, "whole");
  ASSERT_TRUE(mapped.ok());
  EXPECT_FALSE((*mapped)->faulted());
  EXPECT_TRUE(HoldsContent(**mapped, 0, 4 * kPage));
}

TEST(MappedFileTest, ReleaseKeepsWhatLiesAround) {
  const uint64_t size = 16 * kPage + 5;
  const FileDescriptor file = NewFile(size);
  const auto mapped = MappedFile::Map(file, size, "file");
  ASSERT_TRUE(mapped.ok());
  (*mapped)->Release(kPage + 1, 4 * kPage);   // pages 2, 3 and 4
  (*mapped)->Release(10 * kPage, kPage - 1);  // none
  (*mapped)->Release(size, kPage);
  (*mapped)->Release(16 * kPage, ~uint64_t{0} - 16 * kPage);
  EXPECT_TRUE(HoldsContent(**mapped, 0, 2 * kPage));
  EXPECT_TRUE(HoldsContent(**mapped, 5 * kPage, size));
  EXPECT_FALSE((*mapped)->faulted());
}

TEST(MappedFileTest, NumberOfMappingsIsBounded) {
  const FileDescriptor file = NewFile(kPage);
  std::vector<std::unique_ptr<MappedFile>> all;
  for (int i = 0; i < MappedFile::kMaximumMappings; ++i) {
    auto mapped = MappedFile::Map(file, kPage, "file");
    ASSERT_TRUE(mapped.ok()) << i << mapped.status();
    all.push_back(*std::move(mapped));
  }
  EXPECT_EQ(ExitCodeOf(MappedFile::Map(file, kPage, "file").status()), 3);
  all.erase(all.begin() + 7);
  EXPECT_TRUE(MappedFile::Map(file, kPage, "file").ok());
}

TEST(MappedFileTest, FaultsInManyThreadsWhileOthersMap) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  constexpr int kRounds = 100;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        const FileDescriptor file = NewFile(4 * kPage);
        const auto mapped = MappedFile::Map(file, 4 * kPage, "file");
        const bool cut = (t + i) % 2 == 0;
        if (cut && ftruncate(file.get(), static_cast<off_t>(kPage)) != 0) ++wrong;
        if (!mapped.ok() || !HoldsContent(**mapped, 0, kPage) ||
            (cut ? !IsZero(**mapped, kPage, 4 * kPage)
                 : !HoldsContent(**mapped, kPage, 4 * kPage)) ||
            (*mapped)->faulted() != cut) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// Everybody else's bus errors keep their meaning.
class MappedFileDeathTest : public testing::Test {
 protected:
  void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  // Maps a file of ours, then runs into the missing page of a mapping that is not.
  static void FaultOutside() {
    const FileDescriptor ours = NewFile(kPage);
    const auto mapped = MappedFile::Map(ours, kPage, "ours");
    if (!mapped.ok()) _exit(100);
    const FileDescriptor theirs = NewFile(2 * kPage);
    void* memory = mmap(nullptr, 2 * kPage, PROT_READ, MAP_SHARED, theirs.get(), 0);
    if (memory == MAP_FAILED || ftruncate(theirs.get(), 0) != 0) _exit(101);
    const uint8_t byte = static_cast<volatile uint8_t*>(memory)[kPage];
    _exit(byte == 0 ? 102 : 103);
  }
};

TEST_F(MappedFileDeathTest, ForeignFaultEndsTheProgram) {
  // A sanitizer's own report ends it by an exit code of its own.
  EXPECT_EXIT(
      FaultOutside(),
      [](int status) {
        return (WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) ||
               (WIFEXITED(status) && WEXITSTATUS(status) < 100);
      },
      "");
}

TEST_F(MappedFileDeathTest, ForeignFaultGoesToTheHandlerBefore) {
  EXPECT_EXIT(
      {
        struct sigaction action = {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = [](int, siginfo_t* info, void*) {
          _exit(info->si_addr != nullptr ? 42 : 43);
        };
        sigaction(SIGBUS, &action, nullptr);
        FaultOutside();
      },
      testing::ExitedWithCode(42), "");
}

TEST_F(MappedFileDeathTest, PlainHandlerBeforeIsCalledToo) {
  EXPECT_EXIT(
      {
        signal(SIGBUS, [](int number) { _exit(number == SIGBUS ? 44 : 45); });
        FaultOutside();
      },
      testing::ExitedWithCode(44), "");
}

TEST_F(MappedFileDeathTest, SentSignalStillEndsTheProgram) {
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_DFL);
        const FileDescriptor ours = NewFile(kPage);
        const auto mapped = MappedFile::Map(ours, kPage, "ours");
        raise(SIGBUS);
        _exit(mapped.ok() ? 100 : 101);
      },
      testing::KilledBySignal(SIGBUS), "");
}

TEST_F(MappedFileDeathTest, IgnoredSentSignalStaysIgnored) {
  EXPECT_EXIT(
      {
        signal(SIGBUS, SIG_IGN);
        const FileDescriptor ours = NewFile(kPage);
        const auto mapped = MappedFile::Map(ours, kPage, "ours");
        raise(SIGBUS);
        _exit(mapped.ok() ? 46 : 101);
      },
      testing::ExitedWithCode(46), "");
}

}  // namespace
}  // namespace pavise::hash::internal
