// pavise_bench: the program with the verb `bench` alone, for machines that have a driver and the C
// library only (bench/gpu/build.sh). What the other verbs bring along is not linked.
#include <cstdio>
#include <exception>

#include "pavise/cli/program.h"

int main(int argc, char** argv) {
  try {
    std::vector<std::unique_ptr<pavise::cli::Verb>> verbs;
    verbs.push_back(pavise::cli::NewBenchVerb());
    return pavise::cli::RunProgram(argc, argv, std::move(verbs));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "FAILED: %s\n", e.what());
    return 3;
  }
}
