#include "pavise/base/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace pavise {
namespace {

class Ignored final : public Progress {
 public:
  void Start(std::string_view, uint64_t) override {}
  void Advance(uint64_t) override {}
  void Finish() override {}
};

class TerminalBar final : public Progress {
 public:
  ~TerminalBar() override { Finish(); }

  void Start(std::string_view phase, uint64_t total_bytes) override {
    const std::lock_guard lock(mutex_);
    phase_ = phase;
    total_bytes_ = total_bytes;
    done_bytes_ = 0;
    started_ = absl::Now();
    next_draw_ = started_ + absl::Seconds(1);
  }

  void Advance(uint64_t bytes) override {
    const std::lock_guard lock(mutex_);
    done_bytes_ += bytes;
    const absl::Time now = absl::Now();
    if (total_bytes_ == 0 || now < next_draw_) return;
    next_draw_ = now + absl::Milliseconds(100);
    Draw(absl::ToDoubleSeconds(now - started_));
  }

  void Finish() override {
    const std::lock_guard lock(mutex_);
    if (drawn_) std::fputs("\r\x1b[K", stderr);
    drawn_ = false;
    total_bytes_ = 0;
  }

 private:
  void Draw(double elapsed_s) {
    constexpr int kWidth = 30;
    const double share =
        std::min(1.0, static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_));
    const double rate = static_cast<double>(done_bytes_) / elapsed_s;
    const double left_s =
        rate > 0 ? static_cast<double>(total_bytes_ - std::min(done_bytes_, total_bytes_)) / rate
                 : 0;
    const int filled = static_cast<int>(share * kWidth);
    std::string bar(static_cast<size_t>(filled), '#');
    bar.append(static_cast<size_t>(kWidth - filled), '.');
    const std::string line = absl::StrFormat("\r%s [%s] %3.0f%%  %.2f GB/s  %.0f s left\x1b[K",
                                             phase_, bar, share * 100, rate / 1e9, left_s);
    std::fwrite(line.data(), 1, line.size(), stderr);
    drawn_ = true;
  }

  std::mutex mutex_;
  std::string phase_;
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
  absl::Time started_;
  absl::Time next_draw_;
  bool drawn_ = false;
};

}  // namespace

Progress& NoProgress() {
  static Ignored ignored;
  return ignored;
}

std::unique_ptr<Progress> TerminalProgress() {
  if (isatty(STDERR_FILENO) == 0) return std::make_unique<Ignored>();
  return std::make_unique<TerminalBar>();
}

}  // namespace pavise
