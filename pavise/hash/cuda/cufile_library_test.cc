#include "pavise/hash/cuda/cufile_library.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash::cuda {
namespace {

using ::testing::HasSubstr;

// A machine whose device memory is the host's, and what goes wrong on it.
struct FakeMachine {
  CuFileError open = {};
  CuFileError properties = {};
  CuFileError registering = {};
  unsigned int driver_major = 2;
  unsigned int driver_minor = 17;
  ssize_t read_result = 0;  // instead of reading, where it is not 0
  int registered = 0;
};
FakeMachine machine;

CuFileLibrary FakeLibrary() {
  CuFileLibrary library;
  library.driver_open = [] { return machine.open; };
  library.driver_get_properties = [](CuFileProperties* properties) {
    properties->driver_major = machine.driver_major;
    properties->driver_minor = machine.driver_minor;
    return machine.properties;
  };
  library.handle_register = [](void** handle, CuFileDescription* description) {
    EXPECT_EQ(description->type, 1);
    EXPECT_EQ(description->file_system, nullptr);
    if (machine.registering.code == 0) {
      ++machine.registered;
      *handle = new int(description->handle.fd);
    }
    return machine.registering;
  };
  library.handle_deregister = [](void* handle) {
    --machine.registered;
    delete static_cast<int*>(handle);
  };
  library.read = [](void* handle, void* memory, size_t size, off_t file_offset,
                    off_t memory_offset) -> ssize_t {
    if (machine.read_result != 0) {
      errno = EIO;
      return machine.read_result;
    }
    return pread(*static_cast<int*>(handle), static_cast<char*>(memory) + memory_offset, size,
                 file_offset);
  };
  return library;
}

class CuFileLibraryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    machine = {};
    file_ = FileDescriptor(open(directory_.Write("file", kContent).c_str(), O_RDONLY | O_CLOEXEC));
  }
  static constexpr std::string_view kContent = "what lies on the disk";
  testing::TemporaryDirectory directory_;
  FileDescriptor file_;
};

TEST_F(CuFileLibraryTest, ReadsToTheirPlacesUpToTheEnd) {
  Bytes memory(40, 0xEE);
  {
    const auto handle = CuFileHandle::Register(FakeLibrary(), file_.get());
    ASSERT_TRUE(handle.ok()) << handle.status();
    EXPECT_EQ(machine.registered, 1);
    EXPECT_EQ((*handle)->Read(5, memory.data(), 10, 4).value(), 4u);
    EXPECT_EQ(AsText(ByteSpan(memory).subspan(10, 4)), kContent.substr(5, 4));
    EXPECT_EQ(memory[9], 0xEE);
    EXPECT_EQ(memory[14], 0xEE);
    // Fewer at the end, none after it.
    EXPECT_EQ((*handle)->Read(kContent.size() - 3, memory.data(), 0, 8).value(), 3u);
    EXPECT_EQ((*handle)->Read(kContent.size(), memory.data(), 0, 8).value(), 0u);
  }
  EXPECT_EQ(machine.registered, 0);
}

TEST_F(CuFileLibraryTest, AReadThatFailsOrLiesAboutItsLengthIsAMachineFailure) {
  const auto handle = CuFileHandle::Register(FakeLibrary(), file_.get());
  ASSERT_TRUE(handle.ok()) << handle.status();
  Bytes memory(8);
  size_t executed = 0;
  for (const auto& [result, text] : {std::pair<ssize_t, std::string>{-1, "errno 5"},
                                     {-5011, "cuFileRead: error 5011"},
                                     {-5008, "cuFileRead: error 5008"},
                                     {9, "says 9 bytes, of 8"}}) {
    machine.read_result = result;
    const absl::Status status = (*handle)->Read(0, memory.data(), 0, 8).status();
    // Once it reads, nothing is a missing capability any more.
    EXPECT_EQ(ExitCodeOf(status), 3) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    ++executed;
  }
  EXPECT_EQ(executed, 4u);
  EXPECT_EQ((*handle)->Read(uint64_t{1} << 63, memory.data(), 0, 8).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CuFileLibraryTest, WhatCuFileDoesNotDoIsNotAFailureOfIt) {
  size_t executed = 0;
  for (const int code : {5007, 5008, 5009, 5018, 5020}) {
    machine = {.registering = {code, 0}};
    EXPECT_EQ(ReasonOf(CuFileHandle::Register(FakeLibrary(), file_.get()).status()),
              Reason::kUnsupported);
    ++executed;
  }
  for (const int code : {5001, 5011, 5025, 5028, 5030, -1, 1}) {
    machine = {.registering = {code, 700}};
    const absl::Status status = CuFileHandle::Register(FakeLibrary(), file_.get()).status();
    EXPECT_EQ(ExitCodeOf(status), 3) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("CUDA's 700"));
    ++executed;
  }
  EXPECT_EQ(executed, 12u);
}

TEST_F(CuFileLibraryTest, WhetherNvidiaFsIsThereIsTheDriversWord) {
  EXPECT_TRUE(StartCuFile(FakeLibrary()).value());
  machine = {.driver_major = 0, .driver_minor = 0};
  EXPECT_FALSE(StartCuFile(FakeLibrary()).value());
  machine = {.open = {5007, 0}};
  EXPECT_EQ(ReasonOf(StartCuFile(FakeLibrary()).status()), Reason::kUnsupported);
  machine = {.open = {5011, 100}};
  EXPECT_EQ(ExitCodeOf(StartCuFile(FakeLibrary()).status()), 3);
  machine = {.properties = {5030, 0}};
  EXPECT_EQ(ExitCodeOf(StartCuFile(FakeLibrary()).status()), 3);
}

TEST(CuFileLibraryAbsentTest, ALibraryThatIsNotThereOrNotCuFileIsUnsupported) {
  EXPECT_EQ(ReasonOf(OpenCuFile("libpavise-no-such-library.so.0").status()), Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(OpenCuFile("libc.so.6").status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace pavise::hash::cuda
