// pavise-agent: the small program on an attested machine. It collects evidence, holds no
// opinion about it, and runs stages of agreements.
#include <cstdio>
#include <exception>

#include "pavise/cli/program.h"

int main(int argc, char** argv) {
  try {
    std::vector<std::unique_ptr<pavise::cli::Verb>> verbs;
    verbs.push_back(pavise::cli::NewAttestVerb());
    verbs.push_back(pavise::cli::NewRunVerb());
    return pavise::cli::RunProgram(argc, argv, std::move(verbs));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "FAILED: %s\n", e.what());
    return 3;
  }
}
