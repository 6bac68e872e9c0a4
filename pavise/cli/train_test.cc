#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/crypto/testing/test_certificates.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

// `pavise train` with workers that are other programs: pavise-train, pavise-worker, TLS between
// them.
namespace pavise::cli {
namespace {

using crypto::testing::TestCertificate;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr size_t kSide = 8;

std::string BigEndian(uint32_t value) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<char>(value >> shift));
  return out;
}

// IDX files of images whose upper or lower half is bright, which is their class.
void WriteHalves(const std::string& prefix, uint32_t count,
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
  std::string Address() const { return StrCat("localhost:", port_); }

 private:
  pid_t child_ = -1;
  unsigned port_ = 0;
};

class TrainTest : public testing::CommandTest {
 protected:
  TrainTest() {
    for (const auto& [prefix, count] : {std::pair("train", 48u), std::pair("t10k", 16u)}) {
      WriteHalves(
          StrCat("data/", prefix), count,
          [this](const std::string& name, const std::string& bytes) { Write(name, bytes); });
    }
    MakeKey();
    Side({"worker", "worker-b", "worker-c"}, "serverAuth");
    Side({"coordinator"}, "clientAuth");
  }

  // Of an authority, FIRST-ca.pem, what it certified: NAME.pem, NAME.key.
  void Side(const std::vector<std::string>& names, const std::string& usage) {
    const TestCertificate root =
        crypto::testing::MakeRoot(crypto::testing::AuthorityOptions(StrCat(names[0], " root")));
    Write(names[0] + "-ca.pem", root.certificate.ToPem());
    for (const std::string& name : names) {
      crypto::testing::CertificateOptions options;
      options.common_name = name;
      options.extended_key_usage = usage;
      options.subject_alternative_name = "DNS:localhost";
      const TestCertificate leaf = crypto::testing::Issue(root, options);
      Write(name + ".pem", leaf.certificate.ToPem());
      Write(name + ".key", std::string(leaf.key.ToPem(SecretBytes()).value().RevealText()));
      EXPECT_EQ(chmod(Path(name + ".key").c_str(), 0600), 0);
    }
  }

  std::vector<std::string> WorkerWords(const std::string& name = "worker") const {
    return {"--cert", name + ".pem", "--key", name + ".key", "--client-ca", "coordinator-ca.pem"};
  }
  std::vector<std::string> TrainWords(const std::string& output) const {
    return {"--json",    "train", "--data",       "data", "--network",     "mlp",
            "--epochs",  "2",     "--batch-size", "16",   "--seed",        "7",
            "--threads", "1",     "--output",     output, "--private-key", "key.pem"};
  }
  static std::vector<std::string> With(std::vector<std::string> words,
                                       const std::vector<std::string>& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  std::vector<std::string> Offloaded(const std::string& output, const std::string& scheme,
                                     const std::string& workers) const {
    return With(TrainWords(output), {"--mode", "obfuscated", "--scheme", scheme, "--wire", "fp32",
                                     "--workers", workers, "--worker-ca", "worker-ca.pem", "--cert",
                                     "coordinator.pem", "--key", "coordinator.key"});
  }
};

TEST_F(TrainTest, WorkersOverTlsGiveTheModelOfTrainingHere) {
  const Json plain = ExpectExit(0, TrainWords("plain")).json();
  const WorkerProgram first(WorkerWords(), directory_.path()),
      second(WorkerWords(), directory_.path());
  const Json offloaded =
      ExpectExit(0, Offloaded("offloaded", "orthogonal", first.Address() + "," + second.Address()))
          .json();
  EXPECT_EQ(offloaded.at("mode"), "obfuscated");
  EXPECT_EQ(offloaded.at("steps"), plain.at("steps"));
  EXPECT_GT(plain.at("test_accuracy").get<double>(), 0.9);
  EXPECT_EQ(offloaded.at("test_accuracy"), plain.at("test_accuracy"));
  // fp32 products in another order, over six steps.
  EXPECT_NEAR(offloaded.at("train_loss").get<double>(), plain.at("train_loss").get<double>(), 1e-4);

  // Workers are called by their addresses, not what they call themselves.
  EXPECT_THAT(offloaded.at("report").get<std::string>(),
              AllOf(HasSubstr(first.Address()), HasSubstr(second.Address())));
  ExpectExit(0, {"verify", "offloaded/model", "--signature", "offloaded/model.sig", "--public-key",
                 "key.pub"});
  const std::vector<std::string> infer = {
      "--json",       "infer",   "offloaded/model", "--signature", "offloaded/model.sig",
      "--public-key", "key.pub", "--data",          "data"};
  EXPECT_EQ(ExpectExit(0, infer).json().at("accuracy"), offloaded.at("test_accuracy"));
  FlipBit("offloaded/model/model.safetensors", 4096);
  EXPECT_THAT(ExpectExit(1, infer).reasons(), ElementsAre("content-mismatch"));
}

// Of the run at hand: its metrics have a line.
void WaitForASteps(const std::string& path) {
  struct stat metrics = {};
  while (stat(path.c_str(), &metrics) != 0 || metrics.st_size == 0) sched_yield();
}

TEST_F(TrainTest, AWorkerThatIsAddedToTheFileJoinsWithinTheEpoch) {
  const WorkerProgram first(WorkerWords(), directory_.path()),
      second(WorkerWords(), directory_.path());
  Write("workers", "# one a line\n" + first.Address() + "=alpha  # the first\n\n");
  std::vector<std::string> words = Offloaded("grown", "tempo", "@workers");
  // One epoch of 600 steps: long after the first of them the second worker is there.
  for (const auto& [prefix, count] : {std::pair("train", 1200u), std::pair("t10k", 16u)}) {
    WriteHalves(StrCat("long/", prefix), count,
                [this](const std::string& name, const std::string& bytes) { Write(name, bytes); });
  }
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "--data") words[i + 1] = "long";
    if (words[i] == "--epochs") words[i + 1] = "1";
    if (words[i] == "--batch-size") words[i + 1] = "2";
  }
  std::thread grower([&] {
    WaitForASteps(Path("grown/metrics.jsonl"));
    // One that nobody can reach, too, which ends nothing.
    Write("workers.new", first.Address() + "=alpha\nlocalhost:1=gamma\n" + second.Address() + "\n");
    EXPECT_EQ(rename(Path("workers.new").c_str(), Path("workers").c_str()), 0);
  });
  const Json result = ExpectExit(0, words).json();
  grower.join();
  EXPECT_EQ(result.at("steps"), 600);
  const std::string report = result.at("report").get<std::string>();
  // Timed and admitted; whether it was given the layer was for its speed to decide.
  EXPECT_THAT(report, AllOf(HasSubstr(StrCat("worker ", first.Address())),
                            HasSubstr(StrCat("worker ", second.Address())),
                            HasSubstr("products a second"), Not(HasSubstr("evicted"))));

  Write("empty", "# nobody\n");
  EXPECT_THAT(ExpectExit(2, Offloaded("a", "tempo", "@empty")).out, HasSubstr("there are none"));
  EXPECT_THAT(ExpectExit(1, Offloaded("b", "tempo", "@missing")).reasons(),
              ElementsAre("file-unreadable"));
}

TEST_F(TrainTest, RefusesWorkersThatItCannotKnow) {
  const WorkerProgram worker(WorkerWords(), directory_.path());
  const std::string address = worker.Address();
  // Another authority's certificate, on either side.
  std::vector<std::string> words = Offloaded("a", "tempo", address);
  words[words.size() - 5] = "coordinator-ca.pem";
  ExpectExit(3, words);
  words = Offloaded("b", "tempo", address);
  words[words.size() - 3] = "worker.pem";
  words[words.size() - 1] = "worker.key";
  ExpectExit(3, words);
  // A key that is not the certificate's.
  words = Offloaded("c", "tempo", address);
  words[words.size() - 1] = "worker.key";
  EXPECT_THAT(ExpectExit(1, words).reasons(), ElementsAre("key-mismatch"));
  // Nobody is there.
  ExpectExit(3, Offloaded("d", "tempo", "localhost:1"));
  // No certificates at all.
  words = Offloaded("e", "tempo", address);
  words.resize(words.size() - 6);
  EXPECT_THAT(ExpectExit(2, words).out, HasSubstr("--worker-ca"));
  // Operators that nobody named may be one.
  EXPECT_THAT(ExpectExit(1, Offloaded("f", "shared", StrCat(address, ",", address, ",", address)))
                  .reasons(),
              ElementsAre("policy-denied"));
  // One worker's certificate under three names.
  EXPECT_THAT(
      ExpectExit(1, Offloaded("g", "shared", StrCat(address, "=a,", address, "=b,", address, "=c")))
          .reasons(),
      ElementsAre("policy-denied"));
  const WorkerProgram b(WorkerWords("worker-b"), directory_.path()),
      c(WorkerWords("worker-c"), directory_.path());
  EXPECT_EQ(ExpectExit(0, Offloaded("h", "shared",
                                    StrCat(address, "=a,", b.Address(), "=b,", c.Address(), "=c")))
                .json()
                .at("scheme"),
            "shared");
}

}  // namespace
}  // namespace pavise::cli
