// pavise-all: every verb. `pavise` starts it for those that it has not itself (main.cc).
#include <cstdio>
#include <exception>
#include <new>

#include "pavise/cli/program.h"

int main(int argc, char** argv) {
  try {
    return pavise::cli::RunProgram(argc, argv, pavise::cli::AllVerbs());
  } catch (const std::bad_alloc&) {
    return pavise::cli::ReportOutOfMemory(argc, argv);
  } catch (const std::exception& e) {
    // No exception crosses the areas' interfaces: this is a defect, and never a verdict.
    std::fprintf(stderr, "FAILED: internal error: %s\n", e.what());
    return 3;
  }
}
