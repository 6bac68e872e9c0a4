#include "pavise/evidence/appraise/nvidia/spdm_report.h"

#include <string>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/nvidia/testing/test_gpu.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::ReadText;
using crypto::testing::VectorsDirectory;
using testing::MakeTestGpu;
using testing::ReportOptions;
using ::testing::SizeIs;
using testing::TestGpu;

TestGpu& Gpu() {
  static TestGpu* const gpu = new TestGpu(MakeTestGpu());
  return *gpu;
}

std::optional<Reason> Refused(ByteSpan report) {
  return ReasonOf(ParseSpdmReport(report, "report").status());
}

TEST(SpdmReportTest, ReadsEveryField) {
  ReportOptions options;
  options.nonce.fill(7);
  const Bytes bytes = Gpu().Report(options);
  const SpdmReport report = ParseSpdmReport(bytes, "report").value();
  EXPECT_EQ(report.request_nonce, options.nonce);
  EXPECT_EQ(report.response_nonce[31], 0x5a);
  ASSERT_THAT(report.measurements, SizeIs(64));
  EXPECT_EQ(report.measurements[63].value, testing::TestMeasurements()[63]);
  EXPECT_EQ(report.measurements[63].value_type, 1);
  EXPECT_EQ(report.signed_bytes.size() + 96, bytes.size());
  EXPECT_EQ(Bytes(bytes.end() - 96, bytes.end()), report.signature);
  EXPECT_EQ(report.opaque.Text(GpuField::kDriverVersion).value(), "550.144.03");
  EXPECT_EQ(report.opaque.VbiosVersion().value(), "96.00.5e.00.01");
  EXPECT_EQ(report.opaque.Switch(GpuField::kNvdec0Status).value(), true);
  EXPECT_EQ(report.opaque.Switch(GpuField::kProtectedPcieStatus).value(), std::nullopt);
  EXPECT_EQ(*report.opaque.Find(GpuField::kBoardId), (Bytes{0xb1, 3, 0, 0}));
}

TEST(SpdmReportTest, OneByteMayFollowTheSignature) {
  Bytes bytes = Gpu().Report({});
  const Bytes signature = ParseSpdmReport(bytes, "report").value().signature;
  bytes.push_back(0);
  EXPECT_EQ(ParseSpdmReport(bytes, "report").value().signature, signature);
  bytes.push_back(0);
  EXPECT_EQ(Refused(bytes), Reason::kMalformed);
}

TEST(SpdmReportTest, RefusesEveryPrefix) {
  const Bytes bytes = Gpu().Report({});
  for (size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_EQ(Refused(ByteSpan(bytes).first(size)), Reason::kMalformed) << size;
  }
}

// Offsets: request 0, response 37, its record 45; the opaque length stands behind the record of 64
// blocks of 55 bytes and the nonce.
TEST(SpdmReportTest, RefusesEveryLengthAndHeaderThatIsAnother) {
  const Bytes good = Gpu().Report({});
  const size_t opaque_length = 45 + 64 * 55 + 32;
  struct Case {
    size_t offset;
    uint8_t value;
    Reason reason;
  };
  const Case cases[] = {
      {0, 0x12, Reason::kUnsupported},         // SPDM 1.2
      {1, 0xe1, Reason::kUnsupported},         // another request
      {2, 0x00, Reason::kUnsupported},         // no signature asked
      {3, 0x01, Reason::kUnsupported},         // one measurement asked
      {36, 0x01, Reason::kMalformed},          // another slot than the response's
      {37, 0x10, Reason::kUnsupported},        // response of SPDM 1.0
      {38, 0x7f, Reason::kUnsupported},        // ERROR
      {40, 0x02, Reason::kMalformed},          // slot
      {41, 0, Reason::kMalformed},             // no blocks
      {41, 63, Reason::kMalformed},            // blocks left over
      {41, 65, Reason::kMalformed},            // a block too few
      {42, 0xbf, Reason::kMalformed},          // record a byte shorter
      {42, 0xc1, Reason::kMalformed},          // record a byte longer
      {44, 1, Reason::kMalformed},             // record of 68 KiB
      {45, 2, Reason::kMalformed},             // index 2 first
      {46, 2, Reason::kUnsupported},           // not DMTF's specification
      {47, 50, Reason::kMalformed},            // block shorter than its value
      {47, 52, Reason::kMalformed},            // block longer
      {50, 47, Reason::kMalformed},            // value shorter than its block
      {50, 49, Reason::kMalformed},            // value longer
      {51, 1, Reason::kMalformed},             // value of 304 bytes
      {opaque_length, 0, Reason::kMalformed},  // opaque data of another length
      {opaque_length + 1, 0xff, Reason::kMalformed},
      {opaque_length + 4, 0xff, Reason::kMalformed},  // length of the first opaque field
  };
  size_t executed = 0;
  for (const Case& each : cases) {
    Bytes bytes = good;
    ASSERT_NE(bytes[each.offset], each.value) << each.offset;
    bytes[each.offset] = each.value;
    EXPECT_EQ(Refused(bytes), each.reason) << each.offset;
    ++executed;
  }
  EXPECT_EQ(executed, 24u);
  EXPECT_EQ(Refused(Bytes(70 << 10, 0)), Reason::kLimitExceeded);
}

TEST(GpuOpaqueDataTest, RefusesWhatIsNoListOfFields) {
  EXPECT_TRUE(GpuOpaqueData::Parse({}, "x")->fields().empty());
  EXPECT_EQ(ReasonOf(GpuOpaqueData::Parse(Bytes{3, 0, 0}, "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(GpuOpaqueData::Parse(Bytes{3, 0, 1, 0}, "x").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(GpuOpaqueData::Parse(Bytes{9, 9, 0, 0, 9, 9, 0, 0}, "x").status()),
            Reason::kMalformed);  // twice
  EXPECT_TRUE(GpuOpaqueData::Parse(Bytes{34, 0, 2, 0, 1, 0}, "x").ok());
  EXPECT_EQ(ReasonOf(GpuOpaqueData::Parse(Bytes{34, 0, 2, 0, 2, 0}, "x").status()),
            Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(GpuOpaqueData::Parse(Bytes{34, 0, 2, 0, 0, 1}, "x").status()),
            Reason::kUnsupported);
}

TEST(GpuOpaqueDataTest, RefusesValuesOfAnotherForm) {
  const auto with = [](GpuField field, const Bytes& value) {
    Bytes bytes = {static_cast<uint8_t>(field), 0, static_cast<uint8_t>(value.size()), 0};
    bytes.insert(bytes.end(), value.begin(), value.end());
    return GpuOpaqueData::Parse(bytes, "x").value();
  };
  const auto text = [&](const Bytes& value) {
    return ReasonOf(with(GpuField::kDriverVersion, value).Text(GpuField::kDriverVersion).status());
  };
  EXPECT_EQ(text({'5', 0, 0}), std::nullopt);
  EXPECT_EQ(text({'5', 0, '6'}), Reason::kMalformed);
  EXPECT_EQ(text({'5', '\n'}), Reason::kMalformed);
  EXPECT_EQ(text({0xff}), Reason::kMalformed);
  const GpuOpaqueData none = GpuOpaqueData::Parse({}, "x").value();
  EXPECT_EQ(ReasonOf(none.Text(GpuField::kDriverVersion).status()), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonOf(none.VbiosVersion().status()), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonOf(with(GpuField::kVbiosVersion, Bytes(7)).VbiosVersion().status()),
            Reason::kMalformed);
  EXPECT_EQ(with(GpuField::kNvdec0Status, {0x55}).Switch(GpuField::kNvdec0Status).value(), false);
  for (const Bytes& value : {Bytes{}, Bytes{0x00}, Bytes{0x01}, Bytes{0xaa, 0xaa}}) {
    EXPECT_EQ(
        ReasonOf(with(GpuField::kNvdec0Status, value).Switch(GpuField::kNvdec0Status).status()),
        Reason::kMalformed);
  }
}

// Reports of Hopper and Blackwell GPUs, from NVIDIA's SDK (hexadecimal text).
TEST(SpdmReportVectors, ParseAsNvidiasParserDoes) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors (PAVISE_VECTORS)";
  const std::string folder = *vectors + "/attest/nvgpu/";
  struct Case {
    const char* file;
    size_t bytes, opaque;
    const char *driver, *vbios;
    bool firmware_id;
  };
  const Case cases[] = {
      {"hopperAttestationReport.txt", 4052, 357, "535.86.09", "96.00.5e.00.01", false},
      {"hopperAttestationReportExpired.txt", 4118, 423, "570.124.03", "96.00.5e.00.04", true},
      {"hopperAttestationReportInvalidSignature.txt", 4262, 567, "560.00", "96.00.a5.00.01", true},
      {"blackwellAttestationReport.txt", 4121, 426, "575.32", "97.00.88.00.0f", true},
  };
  size_t executed = 0;
  for (const Case& each : cases) {
    const Bytes bytes = FromHex(ReadText(folder + each.file), each.file).value();
    EXPECT_EQ(bytes.size(), each.bytes);
    const SpdmReport report = ParseSpdmReport(bytes, each.file).value();
    EXPECT_THAT(report.measurements, SizeIs(64));
    EXPECT_EQ(report.opaque_bytes.size(), each.opaque);
    EXPECT_EQ(report.signed_bytes.size(), 37 + 8 + 3520 + 32 + 2 + each.opaque);
    EXPECT_EQ(report.opaque.Text(GpuField::kDriverVersion).value(), each.driver);
    EXPECT_EQ(report.opaque.VbiosVersion().value(), each.vbios);
    EXPECT_EQ(report.opaque.Find(GpuField::kFirmwareId) != nullptr, each.firmware_id);
    ++executed;
  }
  EXPECT_EQ(executed, 4u);
}

// NVIDIA's parser wrote down the fields of a request and a response whose bytes are not there: the
// bytes are put together from its fields, and must be read as the same fields.
TEST(SpdmReportVectors, ReadsBackWhatNvidiasParserPrinted) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors (PAVISE_VECTORS)";
  const std::string folder = *vectors + "/attest/nvgpu/";
  const Json request = *ParseJson(AsBytes(ReadText(folder + "spdm_req_parsed_output.json")), "r");
  const Json response = *ParseJson(AsBytes(ReadText(folder + "spdm_parsed_output.json")), "r");
  const auto hex = [](const Json& text) {
    return FromHex(text.get<std::string>().substr(2), "oracle").value();
  };
  Bytes bytes;
  const auto append = [&bytes](const Bytes& more) {
    bytes.insert(bytes.end(), more.begin(), more.end());
  };
  for (const char* name :
       {"SPDMVersion", "RequestResponseCode", "Param1", "Param2", "Nonce", "SlotIDParam"}) {
    append(hex(request[name]));
  }
  for (const char* name : {"SPDMVersion", "RequestResponseCode", "Param1", "Param2"}) {
    append(hex(response[name]));
  }
  const int record = response["MeasurementRecordLength"];
  append({response["NumberOfBlocks"].get<uint8_t>(), static_cast<uint8_t>(record),
          static_cast<uint8_t>(record >> 8), static_cast<uint8_t>(record >> 16)});
  const Json& blocks = response["MeasurementRecord"]["MeasurementBlocks"];
  for (size_t i = 1; i <= blocks.size(); ++i) {
    const Json& block = blocks[std::to_string(i)];
    const uint8_t size = block["DMTFSpecMeasurementValueSize"];
    append({static_cast<uint8_t>(i), 1, static_cast<uint8_t>(size + 3), 0,
            block["DMTFSpecMeasurementValueType"].get<uint8_t>(), size, 0});
    append(hex(block["DMTFSpecMeasurementValue"]));
  }
  append(hex(response["Nonce"]));
  const std::map<std::string, uint16_t> ids = {{"VBIOS_VERSION", 6},
                                               {"BOARD_ID", 14},
                                               {"CHIP_SKU", 15},
                                               {"CHIP_SKU_MOD", 16},
                                               {"PROJECT", 17},
                                               {"PROJECT_SKU", 18},
                                               {"PROJECT_SKU_MOD", 19},
                                               {"DRIVER_VERSION", 3},
                                               {"GPU_INFO", 4},
                                               {"MSRSCNT", 12},
                                               {"CPRINFO", 13},
                                               {"NVDEC0_STATUS", 11},
                                               {"FWID", 20},
                                               {"PROTECTED_PCIE_STATUS", 21}};
  Bytes opaque;
  const Json& fields = response["OpaqueData"]["OpaqueDataField"];
  for (const auto& [name, id] : ids) {
    const Json& field = fields["OPAQUE_FIELD_ID_" + name];
    Bytes value;
    if (field.is_array()) {
      for (const uint32_t count : field) AppendLittleEndian32(count, value);
    } else {
      value = hex(field);
    }
    for (const size_t number : {size_t{id}, value.size()}) {
      opaque.push_back(static_cast<uint8_t>(number));
      opaque.push_back(static_cast<uint8_t>(number >> 8));
    }
    opaque.insert(opaque.end(), value.begin(), value.end());
  }
  // Two fields of two bytes that NVIDIA's parser did not know by name then.
  for (const uint8_t id : {uint8_t{33}, uint8_t{34}}) {
    opaque.insert(opaque.end(), {id, 0, 2, 0, 0, 0});
  }
  ASSERT_EQ(opaque.size(), response["OpaqueLength"]);
  append({static_cast<uint8_t>(opaque.size()), static_cast<uint8_t>(opaque.size() >> 8)});
  append(opaque);
  append(hex(response["Signature"]));

  const SpdmReport report = ParseSpdmReport(bytes, "oracle").value();
  EXPECT_EQ(ToHex(report.request_nonce), request["Nonce"].get<std::string>().substr(2));
  EXPECT_EQ(ToHex(report.response_nonce), response["Nonce"].get<std::string>().substr(2));
  EXPECT_EQ(report.signature, hex(response["Signature"]));
  size_t executed = 0;
  for (size_t i = 0; i < report.measurements.size(); ++i, ++executed) {
    EXPECT_EQ(report.measurements[i].value,
              hex(blocks[std::to_string(i + 1)]["DMTFSpecMeasurementValue"]));
  }
  EXPECT_EQ(executed, 64u);
  EXPECT_THAT(report.opaque.fields(), SizeIs(ids.size() + 2));
  EXPECT_EQ(report.opaque.Text(GpuField::kDriverVersion).value(), "580.159.03");
  EXPECT_EQ(report.opaque.VbiosVersion().value(), "96.00.74.00.20");
  EXPECT_EQ(report.opaque.Switch(GpuField::kProtectedPcieStatus).value(), false);
  EXPECT_EQ(*report.opaque.Find(GpuField::kFirmwareId), hex(fields["OPAQUE_FIELD_ID_FWID"]));
}

}  // namespace
}  // namespace pavise::evidence
