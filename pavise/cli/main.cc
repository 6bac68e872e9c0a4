// pavise: the verbs that sign, verify and load are in this program, which links none of the
// libraries of brokers and evidence: mapping those takes longer than verifying a tensor, and a
// verifier is safer without them. Training is pavise-train's, which links libtorch, and everything
// else pavise-all's; both lie beside it (decision 12).
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/cli/program.h"

namespace {

using pavise::cli::Verb;

std::vector<std::unique_ptr<Verb>> OwnVerbs() {
  std::vector<std::unique_ptr<Verb>> verbs;
  verbs.push_back(pavise::cli::NewKeygenVerb());
  verbs.push_back(pavise::cli::NewSignVerb());
  verbs.push_back(pavise::cli::NewVerifyVerb());
  verbs.push_back(pavise::cli::NewLoadVerb());
  verbs.push_back(pavise::cli::NewDigestVerb());
  verbs.push_back(pavise::cli::NewInspectVerb());
  verbs.push_back(pavise::cli::NewDiffVerb());
  return verbs;
}

// The next word from `at` on, where nothing but options without doubt stands before it; else "".
std::string_view NextWord(int argc, char** argv, int& at) {
  while (at < argc) {
    const std::string_view word = argv[at++];
    if (word == "--json" || word == "-q" || word == "--quiet") continue;
    if (word == "--log-level") {
      ++at;
      continue;
    }
    return word.starts_with('-') ? std::string_view() : word;
  }
  return {};
}

int RunBeside(const char* name, char** argv) {
  std::array<char, 4096> path;
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  if (length > 0) {
    std::string program(path.data(), static_cast<size_t>(length));
    program.replace(program.rfind('/') + 1, std::string::npos, name);
    execv(program.c_str(), argv);
  }
  if (errno == ENOENT) {
    std::fprintf(
        stderr,
        "FAILED: %s, which does this, does not lie beside pavise\n"
        "      what to do: install it there (Debian package %s), or build it; training needs "
        "libtorch\n",
        name, std::string_view(name) == "pavise-train" ? "pavise-train" : "pavise");
    return 3;
  }
  std::fprintf(stderr, "FAILED: %s, which lies beside pavise, cannot be started: %s\n", name,
               std::strerror(errno));
  return 3;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    int at = 1;
    const std::string_view verb = NextWord(argc, argv, at);
    std::vector<std::unique_ptr<Verb>> own = OwnVerbs();
    const bool is_own = std::any_of(own.begin(), own.end(), [verb](const auto& candidate) {
      return candidate->name() == verb;
    });
    if (is_own) return pavise::cli::RunProgram(argc, argv, std::move(own));
    const bool trains = verb == "train" || verb == "infer" || verb == "audit" ||
                        (verb == "bench" && NextWord(argc, argv, at) == "modes");
    return RunBeside(trains ? "pavise-train" : "pavise-all", argv);
  } catch (const std::bad_alloc&) {
    return pavise::cli::ReportOutOfMemory(argc, argv);
  } catch (const std::exception& e) {
    // No exception crosses the areas' interfaces: this is a defect, and never a verdict.
    std::fprintf(stderr, "FAILED: internal error: %s\n", e.what());
    return 3;
  }
}
