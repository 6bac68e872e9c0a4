// Memory of devices: allocation and copies, the same on each of this machine's.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/cuda/cuda_device.h"
#include "pavise/hash/opencl/opencl_device.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

std::vector<std::unique_ptr<Device>> Devices() {
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(NewCpuDevice(2));
  if (!ListOpenClDevices().empty()) {
    auto device = NewOpenClDevice(0);
    EXPECT_TRUE(device.ok()) << device.status();
    if (device.ok()) devices.push_back(*std::move(device));
  }
  if (ListCudaDevices().ok()) {
    auto device = NewCudaDevice(0);
    EXPECT_TRUE(device.ok()) << device.status();
    if (device.ok()) devices.push_back(*std::move(device));
  }
  return devices;
}

Bytes Pattern(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

TEST(DeviceCopyTest, WhatGoesInComesOut) {
  for (const auto& device : Devices()) {
    SCOPED_TRACE(device->name());
    const Bytes content = Pattern(3'000'001);
    auto buffer = device->Allocate(content.size());
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ((*buffer)->size_bytes(), content.size());
    auto staging = device->AllocateStaging(1 << 20);
    ASSERT_TRUE(staging.ok()) << staging.status();
    ASSERT_EQ((*staging)->bytes().size(), size_t{1} << 20);
    auto stream = device->NewStream();
    ASSERT_TRUE(stream.ok()) << stream.status();
    // In pieces, through one staging buffer, the last one shorter.
    for (size_t done = 0; done < content.size(); done += 1 << 20) {
      const size_t size = std::min<size_t>(1 << 20, content.size() - done);
      const auto piece = (*staging)->bytes().first(size);
      std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(done), size, piece.begin());
      ASSERT_TRUE(device->CopyIn(piece, **buffer, done, **stream).ok());
      ASSERT_TRUE((*stream)->Wait().ok());
    }
    size_t compared = 0;
    for (const Range range : {Range{0, content.size()},
                              {1, 7},
                              {content.size() - 1, 1},
                              {1'048'575, 2},
                              {content.size(), 0}}) {
      Bytes out(range.size_bytes);
      ASSERT_TRUE(device->CopyOut(**buffer, range, **stream, out).ok());
      ASSERT_TRUE((*stream)->Wait().ok());
      EXPECT_TRUE(std::equal(out.begin(), out.end(),
                             content.begin() + static_cast<std::ptrdiff_t>(range.offset_bytes)));
      ++compared;
    }
    EXPECT_EQ(compared, 5u);
    // What is hashed is what was copied.
    const Range whole = {0, content.size()};
    Digest32 digest;
    ASSERT_TRUE(
        device->Digest(Algorithm::kBlake3, **buffer, std::span(&whole, 1), **stream, digest).ok());
    ASSERT_TRUE((*stream)->Wait().ok());
    EXPECT_EQ(digest, Blake3(content));
  }
}

TEST(DeviceCopyTest, ACopyWithinTheDeviceMovesItsRangeAndNothingElse) {
  for (const auto& device : Devices()) {
    SCOPED_TRACE(device->name());
    const Bytes content = Pattern(3'000'001);
    const Bytes before(content.size(), 0xEE);
    auto from = device->Upload(content);
    auto to = device->Upload(before);
    auto stream = device->NewStream();
    ASSERT_TRUE(from.ok() && to.ok() && stream.ok());
    const Range range = {1, 2'500'000};
    const absl::Status queued = device->CopyWithin(**from, range, **to, 3, **stream);
    ASSERT_TRUE(queued.ok()) << queued;
    ASSERT_TRUE((*stream)->Wait().ok());
    Bytes expected = before;
    std::copy_n(content.begin() + 1, range.size_bytes, expected.begin() + 3);
    Bytes out(content.size());
    ASSERT_TRUE(device->CopyOut(**to, {0, out.size()}, **stream, out).ok());
    ASSERT_TRUE((*stream)->Wait().ok());
    EXPECT_TRUE(out == expected);
    size_t refused = 0;
    const auto expect_usage = [&](const absl::Status& status) {
      EXPECT_EQ(ExitCodeOf(status), 2) << status;
      ++refused;
    };
    expect_usage(device->CopyWithin(**from, {2, content.size() - 1}, **to, 0, **stream));
    expect_usage(device->CopyWithin(**from, {0, 2}, **to, content.size() - 1, **stream));
    expect_usage(device->CopyWithin(**from, {0, 2}, **from, 0, **stream));
    const auto other = NewCpuDevice(1);
    const auto foreign = other->Allocate(10);
    ASSERT_TRUE(foreign.ok());
    expect_usage(device->CopyWithin(**foreign, {0, 2}, **to, 0, **stream));
    expect_usage(device->CopyWithin(**from, {0, 2}, **foreign, 0, **stream));
    EXPECT_EQ(refused, 5u);
  }
}

TEST(DeviceCopyTest, NothingIsCopiedOutsideABuffer) {
  const auto other = NewCpuDevice(1);
  for (const auto& device : Devices()) {
    SCOPED_TRACE(device->name());
    auto buffer = device->Allocate(100);
    auto foreign = other->Allocate(100);
    auto stream = device->NewStream();
    ASSERT_TRUE(buffer.ok() && foreign.ok() && stream.ok());
    Bytes bytes(50);
    size_t refused = 0;
    const auto expect_usage = [&](const absl::Status& status) {
      EXPECT_EQ(ExitCodeOf(status), 2) << status;
      ++refused;
    };
    expect_usage(device->CopyIn(bytes, **buffer, 51, **stream));
    expect_usage(device->CopyIn(bytes, **buffer, ~uint64_t{0}, **stream));
    expect_usage(device->CopyIn(bytes, **foreign, 0, **stream));
    expect_usage(device->CopyOut(**buffer, {51, 50}, **stream, bytes));
    expect_usage(device->CopyOut(**buffer, {0, 49}, **stream, bytes));
    expect_usage(device->CopyOut(**buffer, {~uint64_t{0}, 50}, **stream, bytes));
    expect_usage(device->CopyOut(**foreign, {0, 50}, **stream, bytes));
    EXPECT_EQ(refused, 7u);
    EXPECT_TRUE((*stream)->Wait().ok());
    EXPECT_TRUE(device->CopyIn({}, **buffer, 100, **stream).ok());
    EXPECT_TRUE((*stream)->Wait().ok());
  }
}

TEST(DeviceCopyTest, ImpossibleSizesAreNoCrash) {
  for (const auto& device : Devices()) {
    SCOPED_TRACE(device->name());
    for (const uint64_t size_bytes : {~uint64_t{0}, ~uint64_t{0} - 4096, uint64_t{1} << 62}) {
      EXPECT_FALSE(device->Allocate(size_bytes).ok()) << size_bytes;
    }
    const auto empty = device->Allocate(0);
    ASSERT_TRUE(empty.ok()) << empty.status();
    EXPECT_EQ((*empty)->size_bytes(), 0u);
  }
}

// Memory that a caller lent is read, never written.
TEST(DeviceCopyTest, BorrowedMemoryIsNotWritten) {
  const auto cpu = NewCpuDevice(1);
  const Bytes lent(100, 7);
  const auto buffer = WrapHostMemory(*cpu, lent);
  EXPECT_TRUE(buffer->host_bytes().empty());
  auto stream = cpu->NewStream();
  ASSERT_TRUE(stream.ok());
  EXPECT_EQ(ExitCodeOf(cpu->CopyIn(Bytes(10), *buffer, 0, **stream)), 2);
  EXPECT_EQ(lent, Bytes(100, 7));
}

}  // namespace
}  // namespace pavise::hash
