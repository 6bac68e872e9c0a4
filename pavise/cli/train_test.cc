#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/cli/testing/training_programs.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

// `pavise train` with workers that are other programs: pavise-train, pavise-worker, TLS between
// them.
namespace pavise::cli {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::WorkerProgram;
using testing::WriteHalves;

class TrainTest : public testing::CommandTest {
 protected:
  TrainTest() {
    for (const auto& [prefix, count] : {std::pair("train", 48u), std::pair("t10k", 16u)}) {
      WriteHalves(
          StrCat("data/", prefix), count,
          [this](const std::string& name, const std::string& bytes) { Write(name, bytes); });
    }
    MakeKey();
    testing::WriteCertificates(directory_, {"worker", "worker-b", "worker-c"}, "serverAuth");
    testing::WriteCertificates(directory_, {"coordinator"}, "clientAuth");
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
  // A model's weights are checked while they are used, unless somebody says otherwise.
  EXPECT_EQ(ExpectExit(0, infer).json().at("guard").at("hash"), "tag");
  EXPECT_GE(ExpectExit(0, With(infer, {"--guard-hash", "blake3", "--guard-share", "100"}))
                .json()
                .at("guard")
                .at("passes_completed")
                .get<int>(),
            1);
  EXPECT_TRUE(ExpectExit(0, With(infer, {"--guard-hash", "none"})).json().at("guard").is_null());
  ExpectExit(2, With(infer, {"--guard-share", "0"}));
  FlipBit("offloaded/model/model.safetensors", 4096);
  EXPECT_THAT(ExpectExit(1, infer).reasons(), ElementsAre("content-mismatch"));
}

// Stands between a coordinator and its worker: as the coordinator has its model in memory and asks
// for the worker, `meanwhile` runs.
class Between {
 public:
  explicit Between(std::function<void(const std::string& request)> meanwhile)
      : meanwhile_(std::move(meanwhile)),
        listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_.get(), 1), 0);
    EXPECT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  std::string Address() const { return StrCat("127.0.0.1:", port_); }

  // Nobody comes any more.
  void End() const { shutdown(listener_.get(), SHUT_RDWR); }

  // One connection, to its end.
  void Serve(uint16_t worker_port) {
    const FileDescriptor asking(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!asking.is_open()) return;
    std::string request;
    for (char byte = 0; !request.ends_with("\r\n\r\n") && read(asking.get(), &byte, 1) == 1;) {
      request.push_back(byte);
    }
    meanwhile_(request);
    const FileDescriptor worker(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(worker_port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(worker.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    constexpr std::string_view kAnswer = "HTTP/1.1 200 OK\r\n\r\n";
    ASSERT_EQ(send(asking.get(), kAnswer.data(), kAnswer.size(), MSG_NOSIGNAL), 19);
    pollfd both[] = {{asking.get(), POLLIN, 0}, {worker.get(), POLLIN, 0}};
    std::vector<char> bytes(1 << 16);
    while (poll(both, 2, -1) > 0) {
      for (size_t i = 0; i < 2; ++i) {
        if (both[i].revents == 0) continue;
        const ssize_t size = read(both[i].fd, bytes.data(), bytes.size());
        if (size <= 0) return;
        for (ssize_t sent = 0; sent < size;) {
          const ssize_t more = send(both[1 - i].fd, bytes.data() + sent,
                                    static_cast<size_t>(size - sent), MSG_NOSIGNAL);
          if (more <= 0) return;
          sent += more;
        }
      }
    }
  }

 private:
  std::function<void(const std::string&)> meanwhile_;
  FileDescriptor listener_;
  uint16_t port_ = 0;
};

// Changes one bit wherever the program that runs in that directory has these bytes in memory that
// it may write; in how many places. -1: this test may not.
int FlipInMemory(const std::string& directory, const std::string& bytes) {
  int places = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::error_code ignored;
    if (std::filesystem::read_symlink(entry.path() / "cwd", ignored) != directory ||
        std::filesystem::read_symlink(entry.path() / "exe", ignored).filename() != "pavise-train") {
      continue;
    }
    const FileDescriptor memory(open((entry.path() / "mem").c_str(), O_RDWR | O_CLOEXEC));
    if (!memory.is_open()) return -1;
    std::ifstream maps(entry.path() / "maps");
    for (std::string line; std::getline(maps, line);) {
      uint64_t begin = 0;
      uint64_t end = 0;
      char rights[5] = {};
      if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, rights) != 3 || rights[1] != 'w' ||
          end - begin > (uint64_t{256} << 20)) {
        continue;
      }
      std::string content(end - begin, '\0');
      const ssize_t size =
          pread(memory.get(), content.data(), content.size(), static_cast<off_t>(begin));
      if (size <= 0) continue;
      content.resize(static_cast<size_t>(size));
      for (size_t at = content.find(bytes); at != content.npos; at = content.find(bytes, at + 1)) {
        const char flipped = static_cast<char>(bytes[0] ^ 1);
        if (pwrite(memory.get(), &flipped, 1, static_cast<off_t>(begin + at)) != 1) return -1;
        ++places;
      }
    }
  }
  return places;
}

// Another process writes to the memory of an inference, after the model was verified and loaded.
TEST_F(TrainTest, AWriteToTheMemoryOfAnInferenceIsRefused) {
  ExpectExit(0, TrainWords("plain"));
  const std::string weights = Read("plain/model/model.safetensors");
  const std::string bytes = weights.substr(weights.size() - 4096, 64);
  for (const bool writes : {false, true}) {
    const WorkerProgram worker(WorkerWords(), directory_.path());
    int places = 0;
    std::string request;
    Between between([&](const std::string& asked) {
      request = asked;
      if (writes) places = FlipInMemory(directory_.path(), bytes);
    });
    std::thread serving([&] { between.Serve(worker.port()); });
    const testing::CommandOutput output =
        testing::RunProgram({PAVISE_PROGRAM,  "--json",
                             "infer",         "plain/model",
                             "--signature",   "plain/model.sig",
                             "--public-key",  "key.pub",
                             "--data",        "data",
                             "--predictions", "predictions.csv",
                             "--threads",     "1",
                             "--mode",        "obfuscated",
                             "--scheme",      "orthogonal",
                             "--workers",     worker.Address(),
                             "--worker-ca",   "worker-ca.pem",
                             "--cert",        "coordinator.pem",
                             "--key",         "coordinator.key"},
                            {.directory = directory_.path(),
                             .environment = {{"PAVISE_WORKER_PROXY", between.Address()}}});
    between.End();
    serving.join();
    EXPECT_THAT(request, ::testing::StartsWith(StrCat("CONNECT ", worker.Address(), " HTTP/1.1")));
    if (places < 0) GTEST_SKIP() << "this machine lets no process write to another's memory";
    EXPECT_EQ(places, writes ? 1 : 0) << "the weights are there once";
    EXPECT_EQ(output.exit_code, writes ? 1 : 0) << output.out << output.error;
    EXPECT_EQ(Exists("predictions.csv"), !writes);
    if (!writes) {
      std::filesystem::remove(Path("predictions.csv"));
      continue;
    }
    EXPECT_THAT(output.reasons(), ElementsAre("content-mismatch"));
    EXPECT_THAT(output.out,
                AllOf(HasSubstr("gave no predictions"), HasSubstr("changed in the memory")));
  }
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
