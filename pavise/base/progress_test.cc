#include "pavise/base/progress.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "pavise/base/file.h"

#include "gtest/gtest.h"

namespace pavise {
namespace {

void Use(Progress& progress) {
  progress.Start("hashing", 1000);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&progress] {
      for (int step = 0; step < 300; ++step) progress.Advance(1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  progress.Finish();
  progress.Finish();
}

TEST(ProgressTest, NoProgressIgnoresEverything) { Use(NoProgress()); }

TEST(ProgressTest, PrintsNothingWhereThereIsNoTerminal) {
  ::testing::internal::CaptureStderr();  // a file stands in for the terminal
  {
    const std::unique_ptr<Progress> progress = TerminalProgress();
    Use(*progress);
    progress->Start("no total", 0);
    progress->Advance(1);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

// Standard error becomes a pseudo-terminal for as long as this lives.
class TerminalForStderr {
 public:
  TerminalForStderr() : controller_(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC)) {
    if (!controller_.is_open() || grantpt(controller_.get()) != 0 ||
        unlockpt(controller_.get()) != 0) {
      return;
    }
    const char* const name = ptsname(controller_.get());
    terminal_ = FileDescriptor(name == nullptr ? -1 : open(name, O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!terminal_.is_open()) return;
    saved_ = FileDescriptor(dup(STDERR_FILENO));
    dup2(terminal_.get(), STDERR_FILENO);
  }
  ~TerminalForStderr() {
    if (saved_.is_open()) dup2(saved_.get(), STDERR_FILENO);
  }
  bool works() const { return saved_.is_open(); }
  std::string Shown() const {
    std::string shown;
    char buffer[4096];
    for (ssize_t got; (got = read(controller_.get(), buffer, sizeof(buffer))) > 0;) {
      shown.append(buffer, static_cast<size_t>(got));
    }
    return shown;
  }

 private:
  FileDescriptor controller_;
  FileDescriptor terminal_;
  FileDescriptor saved_;
};

TEST(ProgressTest, ShortWorkShowsNoBarOnATerminal) {
  std::string shown;
  {
    const TerminalForStderr terminal;
    if (!terminal.works()) GTEST_SKIP() << "no pseudo-terminals here";
    ASSERT_EQ(isatty(STDERR_FILENO), 1);
    const std::unique_ptr<Progress> progress = TerminalProgress();
    // Nothing to do, and done at once: both stay below the second after which a bar appears.
    progress->Start("hashing", 0);
    progress->Advance(0);
    progress->Finish();
    shown = terminal.Shown();
  }
  EXPECT_EQ(shown, "");
}

}  // namespace
}  // namespace pavise
