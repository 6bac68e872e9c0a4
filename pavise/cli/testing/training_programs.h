#ifndef PAVISE_CLI_TESTING_TRAINING_PROGRAMS_H_
#define PAVISE_CLI_TESTING_TRAINING_PROGRAMS_H_

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_certificates.h"

#include "gtest/gtest.h"

// Data, workers and certificates of tests that train with other programs. Needs the definition
// PAVISE_WORKER, the built program.
namespace pavise::cli::testing {

inline constexpr size_t kSide = 8;

inline std::string BigEndian(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
  return out;
}

// IDX files of images whose upper or lower half is bright, which is their class.
inline void WriteHalves(const std::string& prefix, uint32_t count,
                        const std::function<void(const std::string&, const std::string&)>& write) {
  std::string images = BigEndian(0x803) + BigEndian(count) + BigEndian(kSide) + BigEndian(kSide);
  std::string labels = BigEndian(0x801) + BigEndian(count);
  uint32_t noise = count;
  for (uint32_t image = 0; image < count; ++image) {
    const bool lower = image % 2 == 1;
    labels.push_back(lower ? 1 : 0);
    for (size_t pixel = 0; pixel < kSide * kSide; ++pixel) {
      noise = noise * 1'664'525u + 1'013'904'223u;
      const bool bright = (pixel >= kSide * kSide / 2) == lower;
      images.push_back(static_cast<char>((bright ? 150 : 20) + (noise >> 26)));
    }
  }
  write(prefix + "-images-idx3-ubyte", images);
  write(prefix + "-labels-idx1-ubyte", labels);
}

// A pavise-worker on a free port of its own; ended with the object.
class WorkerProgram {
 public:
  WorkerProgram(std::vector<std::string> words, const std::string& directory) {
    words.insert(words.begin(), {PAVISE_WORKER, "--listen", "127.0.0.1:0", "--threads", "1"});
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    child_ = fork();
    if (child_ == 0) {
      if (chdir(directory.c_str()) != 0) _exit(127);
      dup2(ends[1], STDOUT_FILENO);
      execv(PAVISE_WORKER, argv.data());
      _exit(127);
    }
    close(ends[1]);
    std::string line;
    for (char byte = 0; read(ends[0], &byte, 1) == 1 && byte != '\n';) line.push_back(byte);
    close(ends[0]);
    const size_t at = line.find("port ");
    EXPECT_NE(at, std::string::npos) << line;
    if (at != std::string::npos) std::sscanf(line.c_str() + at, "port %u", &port_);
  }
  WorkerProgram(const WorkerProgram&) = delete;
  WorkerProgram& operator=(const WorkerProgram&) = delete;
  ~WorkerProgram() {
    kill(child_, SIGTERM);
    int status = 0;
    EXPECT_EQ(waitpid(child_, &status, 0), child_);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  uint16_t port() const { return static_cast<uint16_t>(port_); }
  std::string Address() const { return StrCat("localhost:", port_); }

 private:
  pid_t child_ = -1;
  unsigned port_ = 0;
};

// Of an authority, FIRST-ca.pem, what it certified for "localhost": NAME.pem, NAME.key.
inline void WriteCertificates(const pavise::testing::TemporaryDirectory& directory,
                              const std::vector<std::string>& names, const std::string& usage) {
  using crypto::testing::TestCertificate;
  const TestCertificate root =
      crypto::testing::MakeRoot(crypto::testing::AuthorityOptions(StrCat(names[0], " root")));
  directory.Write(names[0] + "-ca.pem", root.certificate.ToPem());
  for (const std::string& name : names) {
    crypto::testing::CertificateOptions options;
    options.common_name = name;
    options.extended_key_usage = usage;
    options.subject_alternative_name = "DNS:localhost";
    const TestCertificate leaf = crypto::testing::Issue(root, options);
    directory.Write(name + ".pem", leaf.certificate.ToPem());
    const std::string key = directory.Write(
        name + ".key", std::string(leaf.key.ToPem(SecretBytes()).value().RevealText()));
    EXPECT_EQ(chmod(key.c_str(), 0600), 0);
  }
}

}  // namespace pavise::cli::testing

#endif  // PAVISE_CLI_TESTING_TRAINING_PROGRAMS_H_
