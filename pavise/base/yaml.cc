#include "pavise/base/yaml.h"

#include <algorithm>
#include <exception>
#include <sstream>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/exceptions.h"
#include "yaml-cpp/mark.h"
#include "yaml-cpp/parser.h"

namespace pavise {
namespace {

// Builds the tree from the parser's events rather than taking the library's own: that one keeps
// both of two equal keys and follows aliases, a few of which unfold to gigabytes. After the first
// refusal the remaining events are ignored.
class YamlBuilder final : public YAML::EventHandler {
 public:
  YamlBuilder(const std::string& file, const YamlLimits& limits) : file_(file), limits_(limits) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) Fail(mark, Reason::kMalformed, "a second YAML document");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override { Add(mark, {}); }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Fail(mark, Reason::kMalformed, "an alias (*name); none is allowed here");
  }
  void OnAnchor(const YAML::Mark& mark, const std::string&) override {
    Fail(mark, Reason::kMalformed, "an anchor (&name); none is allowed here");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    if (!CheckTag(mark, tag)) return;
    if (!stack_.empty() && stack_.back()->kind == YamlNode::Kind::kMap && !HasKey()) {
      YamlNode& map = *stack_.back();
      if (map.keys.size() == limits_.max_keys) {
        return Fail(mark, Reason::kLimitExceeded, StrCat("more than ", limits_.max_keys, " names"));
      }
      if (std::find(map.keys.begin(), map.keys.end(), value) != map.keys.end()) {
        return Fail(mark, Reason::kMalformed, StrCat("the key \"", Printable(value), "\" twice"));
      }
      if (!Count(mark)) return;
      map.keys.push_back(value);
      return;
    }
    Add(mark, {.kind = YamlNode::Kind::kScalar, .is_plain = tag == "?", .text = value});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    if (CheckTag(mark, tag)) Push(mark, YamlNode::Kind::kSequence);
  }
  void OnSequenceEnd() override { Pop(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    if (CheckTag(mark, tag)) Push(mark, YamlNode::Kind::kMap);
  }
  void OnMapEnd() override { Pop(); }

  const absl::Status& error() const { return error_; }
  bool is_empty() const { return documents_ == 0; }
  YamlNode TakeRoot() { return std::move(root_); }

 private:
  void Fail(const YAML::Mark& mark, Reason reason, std::string_view detail) {
    if (error_.ok()) error_ = Refuse(reason, StrCat(file_, ", line ", mark.line + 1), detail);
  }
  // What the parser reports where no tag was written: "?" plain, "!" quoted.
  bool CheckTag(const YAML::Mark& mark, const std::string& tag) {
    if (!tag.empty() && tag != "?" && tag != "!") {
      Fail(mark, Reason::kMalformed, "a tag (!name); none is allowed here");
    }
    return error_.ok();
  }
  bool HasKey() const { return stack_.back()->keys.size() > stack_.back()->items.size(); }
  bool Count(const YAML::Mark& mark) {
    if (++nodes_ > limits_.max_nodes) {
      Fail(mark, Reason::kLimitExceeded, StrCat("more than ", limits_.max_nodes, " values"));
    }
    return error_.ok();
  }
  YamlNode* Add(const YAML::Mark& mark, YamlNode node) {
    if (!error_.ok() || !Count(mark)) return nullptr;
    node.line = mark.line + 1;
    if (stack_.empty()) {
      root_ = std::move(node);
      return &root_;
    }
    YamlNode& parent = *stack_.back();
    if (parent.kind == YamlNode::Kind::kMap && !HasKey()) {
      Fail(mark, Reason::kMalformed, "a key that is not text");
      return nullptr;
    }
    parent.items.push_back(std::move(node));
    return &parent.items.back();
  }
  void Push(const YAML::Mark& mark, YamlNode::Kind kind) {
    if (stack_.size() >= limits_.max_depth) {
      return Fail(mark, Reason::kLimitExceeded, StrCat("nested deeper than ", limits_.max_depth));
    }
    // The pointer stays valid: only the innermost container grows.
    YamlNode* added = Add(mark, {.kind = kind});
    if (added != nullptr) stack_.push_back(added);
  }
  void Pop() {
    if (error_.ok() && !stack_.empty()) stack_.pop_back();
  }

  const std::string& file_;
  const YamlLimits limits_;
  int documents_ = 0;
  size_t nodes_ = 0;
  YamlNode root_;
  std::vector<YamlNode*> stack_;
  absl::Status error_;
};

}  // namespace

absl::StatusOr<YamlNode> ParseYaml(ByteSpan bytes, const std::string& file,
                                   const YamlLimits& limits) {
  if (bytes.size() > limits.max_bytes) {
    return Refuse(Reason::kLimitExceeded, file,
                  StrCat("is larger than ", limits.max_bytes, " bytes"));
  }

  const std::string text(AsText(bytes));
  // The library takes other encodings by their looks, replaces what is not UTF-8, and reads U+0004
  // as the end of the file: what follows would be there for a person and not for it.
  if (!IsUtf8(text)) return Refuse(Reason::kMalformed, file, "is not UTF-8");
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\r' && c != '\t') || byte == 0x7f) {
      return Refuse(Reason::kMalformed, file, "holds a control character");
    }
  }
  YamlBuilder builder(file, limits);
  try {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    while (builder.error().ok() && parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    if (!builder.error().ok()) return builder.error();
    return Refuse(Reason::kMalformed, StrCat(file, ", line ", error.mark.line + 1),
                  StrCat("not YAML: ", Printable(error.msg)));
  } catch (const std::exception& error) {
    return MachineFailure(file, StrCat("the YAML parser failed: ", error.what()));
  }
  if (!builder.error().ok()) return builder.error();
  if (builder.is_empty()) return Refuse(Reason::kMalformed, file, "is empty");
  return builder.TakeRoot();
}

}  // namespace pavise
