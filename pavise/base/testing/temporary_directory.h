#ifndef PAVISE_BASE_TESTING_TEMPORARY_DIRECTORY_H_
#define PAVISE_BASE_TESTING_TEMPORARY_DIRECTORY_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>

#include "gtest/gtest.h"

namespace pavise::testing {

// A directory of its own below testing::TempDir(), removed with all it holds when it goes.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    path_ = ::testing::TempDir();
    if (path_.back() != '/') path_ += '/';
    path_ += "pavise-XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) ADD_FAILURE() << "cannot create " << path_;
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

  // Writes a file, with the directories above it; returns its path.
  std::string Write(std::string_view name, std::string_view content) const {
    const std::string path = *this / name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    if (!file.flush()) ADD_FAILURE() << "cannot write " << path;
    return path;
  }

 private:
  std::string path_;
};

// The content of a file; a failure where it cannot be read.
inline std::string ContentOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) ADD_FAILURE() << "cannot read " << path;
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

}  // namespace pavise::testing

#endif  // PAVISE_BASE_TESTING_TEMPORARY_DIRECTORY_H_
