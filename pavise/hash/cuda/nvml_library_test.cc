#include "pavise/hash/cuda/nvml_library.h"

#include <functional>
#include <string>
#include <vector>

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash::cuda {
namespace {

using ::testing::HasSubstr;

// A machine whose GPU is confidential, but for what a case changes.
struct FakeMachine {
  ConfComputeState state = {.environment = 2, .feature = 1, .dev_tools_mode = 0};
  ConfComputeMemory memory = {.protected_kib = 80u << 20, .unprotected_kib = 0};
  int state_code = 0;
  int device_code = 0;
  int memory_code = 0;
};
FakeMachine machine;

constexpr const char* kAddress = "0000:3B:00.0";

NvmlLibrary FakeLibrary() {
  NvmlLibrary library;
  library.init = [] { return 0; };
  library.conf_compute_state = [](ConfComputeState* state) {
    // Written also where the call fails: a failed call's output is not looked at.
    *state = machine.state;
    return machine.state_code;
  };
  library.device_by_pci_bus_id = [](const char* address, void** device) {
    *device = &machine;
    return std::string(address) == kAddress ? machine.device_code : 6;  // NVML_ERROR_NOT_FOUND
  };
  library.conf_compute_memory = [](void* device, ConfComputeMemory* memory) {
    EXPECT_EQ(device, &machine);
    *memory = machine.memory;
    return machine.memory_code;
  };
  return library;
}

TEST(NvmlLibraryTest, OnlyAMachineThatSaysSoInEveryRespectIsEncrypted) {
  machine = {};
  const MemoryLink link = LinkOfGpu(FakeLibrary(), kAddress);
  EXPECT_EQ(link.kind, MemoryLink::Kind::kEncryptedUnattested);
  EXPECT_THAT(link.because, HasSubstr("the driver says"));

  struct Case {
    std::string because;
    std::function<void(FakeMachine&)> change;
  };
  const std::vector<Case> cases = {
      {"confidential computing is off", [](FakeMachine& fake) { fake.state.feature = 0; }},
      {"confidential computing is off", [](FakeMachine& fake) { fake.state.feature = 2; }},
      {"developers' mode", [](FakeMachine& fake) { fake.state.dev_tools_mode = 1; }},
      {"developers' mode", [](FakeMachine& fake) { fake.state.dev_tools_mode = 7; }},
      {"not a production one", [](FakeMachine& fake) { fake.state.environment = 0; }},
      {"not a production one", [](FakeMachine& fake) { fake.state.environment = 1; }},
      {"not a production one", [](FakeMachine& fake) { fake.state.environment = 3; }},
      {"no protected memory", [](FakeMachine& fake) { fake.memory.protected_kib = 0; }},
      {"nvmlSystemGetConfComputeState: error 3", [](FakeMachine& fake) { fake.state_code = 3; }},
      {"nvmlDeviceGetHandleByPciBusId_v2: error 15",
       [](FakeMachine& fake) { fake.device_code = 15; }},
      {"nvmlDeviceGetConfComputeMemSizeInfo: error 999",
       [](FakeMachine& fake) { fake.memory_code = 999; }}};
  size_t executed = 0;
  for (const Case& test : cases) {
    SCOPED_TRACE(test.because);
    machine = {};
    test.change(machine);
    const MemoryLink plain = LinkOfGpu(FakeLibrary(), kAddress);
    EXPECT_EQ(plain.kind, MemoryLink::Kind::kPlain);
    EXPECT_THAT(plain.because, HasSubstr(test.because));
    ++executed;
  }
  EXPECT_EQ(executed, 11u);
  machine = {};
  EXPECT_EQ(LinkOfGpu(FakeLibrary(), "0000:3C:00.0").kind, MemoryLink::Kind::kPlain);
}

TEST(NvmlLibraryTest, ALibraryThatIsNotThereOrTooOldIsPlain) {
  const auto missing = OpenNvml("libpavise-no-such-library.so.1");
  EXPECT_EQ(ReasonOf(missing.status()), Reason::kUnsupported);
  const MemoryLink link = LinkOfGpu(missing, kAddress);
  EXPECT_EQ(link.kind, MemoryLink::Kind::kPlain);
  EXPECT_THAT(link.because, HasSubstr("libpavise-no-such-library.so.1"));
  // A library that has none of the functions.
  EXPECT_EQ(ReasonOf(OpenNvml("libc.so.6").status()), Reason::kUnsupported);
  EXPECT_EQ(LinkOfGpu(MachineFailure("nvml", "nvmlInit_v2: error 9"), kAddress).kind,
            MemoryLink::Kind::kPlain);
}

}  // namespace
}  // namespace pavise::hash::cuda
