#include "pavise/job/report.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/markup.h"
#include "pavise/base/strings.h"
#include "pavise/job/plan.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/scheme_named.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"

namespace pavise::job {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #1a1a1a; background: #ffffff; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 1px solid #767676; }
h1, td, th, p, li, code { overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
caption { text-align: left; color: #4a4a4a; padding: .25rem 0; }
th, td { min-width: 4rem; text-align: left; vertical-align: top; padding: .25rem .5rem .25rem 0; border-bottom: 1px solid #c8c8c8; }
th[scope=row] { min-width: 6rem; }
code { font: .85rem/1.4 ui-monospace, monospace; }
.verdict { padding: .75rem 1rem; border: 2px solid; border-radius: .25rem; font-weight: bold; }
.good { color: #0b5a1e; background: #eef8f0; } .bad { color: #8f1414; background: #fdf0f0; }
figure { margin: 1rem 0; } figure svg, figure img { width: 100%; height: auto; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; } tr, figure { break-inside: avoid; } .verdict { background: none; } }
)";

std::string Utc(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}
std::string Day(absl::Time time) { return absl::FormatTime("%Y-%m-%d", time, absl::UTCTimeZone()); }
std::string Short(std::string_view digest) {
  return digest.size() > 16 ? StrCat(digest.substr(0, 16), "…") : std::string(digest);
}
std::string Code(std::string_view text) { return StrCat("<code>", MarkupText(text), "</code>"); }

// Cells are HTML already.
std::string Table(std::string_view caption, const std::vector<std::string>& head,
                  const std::vector<std::vector<std::string>>& rows) {
  std::string html = StrCat("<table><caption>", caption, "</caption><thead><tr>");
  for (const std::string& cell : head) StrAppend(&html, "<th scope=\"col\">", cell, "</th>");
  StrAppend(&html, "</tr></thead><tbody>\n");
  for (const std::vector<std::string>& row : rows) {
    StrAppend(&html, "<tr>");
    for (size_t i = 0; i < row.size(); ++i) {
      StrAppend(&html, i == 0 ? "<th scope=\"row\">" : "<td>", row[i], i == 0 ? "</th>" : "</td>");
    }
    StrAppend(&html, "</tr>\n");
  }
  return html + "</tbody></table>\n";
}

std::string List(const std::vector<std::string>& lines) {
  std::string html = "<ul>";
  for (const std::string& line : lines) StrAppend(&html, "<li>", MarkupText(line), "</li>\n");
  return html + "</ul>\n";
}

// ---- the trust chain ----

struct Box {
  std::string head;
  std::vector<std::string> lines;
};

// Rows of boxes from top to bottom, an arrow between two rows with what it says.
class Chain {
 public:
  void Add(std::string arrow, std::vector<Box> boxes) {
    rows_.push_back({std::move(arrow), std::move(boxes)});
  }

  std::string Svg(std::string_view title, std::string_view description) const {
    std::string body;
    double y = 0;
    for (const auto& [arrow, boxes] : rows_) {
      if (y > 0) {
        const double middle = kWidth / 2;
        StrAppend(&body,
                  absl::StrFormat("<path d=\"M%g %g V%g\" class=\"arrow\" "
                                  "marker-end=\"url(#head)\"/>",
                                  middle, y, y + kGap - 11),
                  absl::StrFormat("<text x=\"%g\" y=\"%g\" class=\"small\">", middle + 10,
                                  y + kGap / 2 + 3),
                  MarkupText(arrow), "</text>\n");
        y += kGap;
      }
      for (size_t begin = 0; begin < boxes.size(); begin += kInRow) {
        const size_t count = std::min(kInRow, boxes.size() - begin);
        const double width =
            (kWidth - static_cast<double>(count - 1) * kSpace) / static_cast<double>(count);
        size_t most = 0;
        for (size_t i = 0; i < count; ++i) most = std::max(most, boxes[begin + i].lines.size());
        const double height = kLine * static_cast<double>(most + 1) + 2 * kPad;
        for (size_t i = 0; i < count; ++i) {
          const Box& box = boxes[begin + i];
          const double x = static_cast<double>(i) * (width + kSpace);
          StrAppend(&body, absl::StrFormat("<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" "
                                           "rx=\"4\" class=\"box\"/>",
                                           x + 1, y + 1, width - 2, height - 2));
          double line = y + kPad + kLine - 4;
          StrAppend(&body, Line(x, line, width, "strong", box.head));
          for (const std::string& text : box.lines) {
            line += kLine;
            StrAppend(&body, Line(x, line, width, "plain", text));
          }
        }
        y += height + (begin + kInRow < boxes.size() ? kSpace : 0);
      }
    }
    return StrCat(
        absl::StrFormat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" ", kWidth,
                        y),
        "role=\"img\" aria-labelledby=\"chain-title chain-description\">\n<title "
        "id=\"chain-title\">",
        MarkupText(title), "</title><desc id=\"chain-description\">", MarkupText(description),
        "</desc>\n<style>.box{fill:#f4f7fb;stroke:#1f4e79;stroke-width:1.5}"
        ".arrow{stroke:#1f4e79;stroke-width:1.5;fill:none}"
        "svg text{font-family:system-ui,sans-serif;fill:#1a1a1a}"
        ".strong{font-size:14px;font-weight:bold}.plain,.small{font-size:12px}</style>\n"
        "<defs><marker id=\"head\" markerWidth=\"8\" markerHeight=\"8\" refX=\"1\" refY=\"4\" "
        "orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\" fill=\"#1f4e79\"/></marker></defs>\n",
        body, "</svg>\n");
  }

 private:
  static constexpr double kWidth = 720;
  static constexpr double kGap = 34;
  static constexpr double kSpace = 10;
  static constexpr double kLine = 18;
  static constexpr double kPad = 8;
  static constexpr double kCharacter = 7.6;  // of the widest usual text
  static constexpr size_t kInRow = 4;

  static std::string Line(double x, double y, double width, std::string_view kind,
                          std::string_view text) {
    // By code points, so that none is cut; a picture shows what fits, the tables have it all.
    const auto most = static_cast<size_t>((width - 2 * kPad) / kCharacter);
    std::string shown;
    size_t points = 0;
    const std::string whole = Printable(text);
    for (size_t i = 0; i < whole.size();) {
      size_t next = i + 1;
      while (next < whole.size() && (static_cast<uint8_t>(whole[next]) & 0xC0) == 0x80) ++next;
      if (++points > most) {
        shown += "…";
        break;
      }
      shown += whole.substr(i, next - i);
      i = next;
    }
    return StrCat(absl::StrFormat("<text x=\"%g\" y=\"%g\" class=\"", x + kPad, y), kind, "\">",
                  MarkupText(shown), "</text>\n");
  }

  std::vector<std::pair<std::string, std::vector<Box>>> rows_;
};

std::string TrustChain(const ResultClaims& claims) {
  const agent::Provenance& run = claims.run;
  Chain chain;
  std::vector<Box> owners;
  std::vector<std::string> names;
  for (const SignedStep& step : claims.agreement) {
    if (step.version != run.version && step.version != 0) continue;
    names.push_back(StrCat(step.stakeholder, " (", step.kind, ")"));
    owners.push_back(
        {step.stakeholder, {step.kind, Day(step.received), StrCat("ledger ", step.ledger_index)}});
  }
  chain.Add("", std::move(owners));
  chain.Add("signed", {{StrCat("Agreement, version ", run.version),
                        {StrCat("id ", Short(run.agreement)),
                         StrCat("text ", Short(ToHex(run.agreement_payload))),
                         StrCat("stage ", run.stage, ", mode ", run.mode)}}});
  chain.Add("every owner's rules accept",
            {{"Evidence of the machine",
              {StrCat("digest ", Short(ToHex(run.evidence))),
               claims.machine.empty() ? "machine not named" : StrCat("machine ", claims.machine)}},
             {"Session key", {Short(claims.session_key), "by the broker's token"}},
             {"Broker's key", {Short(claims.broker_key)}}});
  std::vector<Box> inputs;
  for (const agent::ProvenanceMaterial& material : run.materials) {
    inputs.push_back({material.name,
                      {material.kind, StrCat("sealed ", Short(ToHex(material.sealed))),
                       StrCat("signed ", Short(ToHex(material.statement)))}});
  }
  chain.Add("keys released to the session", std::move(inputs));
  chain.Add("unsealed, verified",
            {{"Command", {absl::StrJoin(run.command, " "), StrCat("run ", Short(run.run))}}});
  std::vector<Box> outputs;
  for (const auto& [name, output] : run.outputs) {
    outputs.push_back({name,
                       {StrCat("sealed ", Short(ToHex(output.sealed))),
                        StrCat("file ", Short(ToHex(output.file_sha256)))}});
  }
  chain.Add("sealed, signed by the session key", std::move(outputs));
  chain.Add(
      "recorded",
      {{StrCat("Ledger ", claims.log),
        {StrCat("entry ", run.ledger_index, " ends the run; ", claims.log_size, " entries")}}});
  return chain.Svg("Trust chain of the run",
                   StrCat("From top to bottom: ", absl::StrJoin(names, ", "),
                          "; the agreement; the machine's evidence and session key; ",
                          run.materials.size(), " sealed inputs; the command; ", run.outputs.size(),
                          " sealed outputs; the ledger. The tables below have "
                          "every digest in full."));
}

// ---- sections ----

std::string Decisions(const policy::Decision& decision) {
  std::vector<std::vector<std::string>> rows;
  for (const policy::RuleResult& rule : decision.rules) {
    const std::string owner = rule.owner.empty() ? "agreement" : rule.owner;
    rows.push_back({MarkupText(rule.rule), MarkupText(owner),
                    rule.refusal.has_value() ? "refused" : "passed",
                    rule.refusal.has_value()
                        ? MarkupText(StrCat(rule.refusal->item, ": ", rule.refusal->detail))
                        : std::string("holds")});
  }
  return Table(
      "Each owner's rules, held again against the evidence and the time of the run's "
      "begin",
      {"Rule", "Whose", "Verdict", "Reason"}, rows);
}

std::string Digests(const ResultClaims& claims) {
  const agent::Provenance& run = claims.run;
  std::vector<std::vector<std::string>> rows;
  for (const agent::ProvenanceMaterial& material : run.materials) {
    rows.push_back({MarkupText(material.name), MarkupText(material.kind),
                    Code(ToHex(material.sealed)), Code(ToHex(material.statement))});
  }
  std::string html = Table("Inputs", {"Name", "Kind", "Sealed asset", "Signed statement"}, rows);
  rows.clear();
  for (const auto& [name, output] : run.outputs) {
    rows.push_back({MarkupText(name), Code(ToHex(output.sealed)), Code(ToHex(output.file_sha256))});
  }
  StrAppend(&html, Table("Outputs", {"Name", "Sealed asset", "SHA-256 of the file"}, rows));
  rows = {{"Agreement", Code(run.agreement)},
          {"Its text", Code(ToHex(run.agreement_payload))},
          {"Evidence", Code(ToHex(run.evidence))},
          {"Session key", Code(claims.session_key)},
          {"Broker's signing key", Code(claims.broker_key)},
          {"Ledger's key", Code(claims.log_key)},
          {"Run", Code(run.run)},
          {"Command", Code(absl::StrJoin(run.command, " "))}};
  StrAppend(&html, Table("Everything else that was held against something",
                         {"What", "SHA-256, id or text"}, rows));
  return html;
}

std::string Curves(const std::optional<train::Metrics>& metrics) {
  if (!metrics.has_value() || metrics->epochs.empty()) {
    return "<p>None given: whoever may unseal the output gives its metrics "
           "(<code>--metrics</code>).</p>\n";
  }
  const train::EpochMetrics& last = metrics->epochs.back();
  const std::string alt = absl::StrFormat(
      "Loss by step and accuracy by epoch; after epoch %d the test loss is %.4f and "
      "the test accuracy %.1f%%",
      last.epoch, last.test_loss, 100 * last.test_accuracy);
  const std::string svg = train::RenderCurves("Training", *metrics);
  // As an image: its style stays its own.
  return StrCat(
      "<figure><img alt=\"", MarkupText(alt), "\" src=\"data:image/svg+xml;base64,",
      ToBase64(AsBytes(svg)), "\"><figcaption>", MarkupText(alt),
      ". From the trainer's metrics, which nothing here vouches for.</figcaption></figure>\n");
}

std::string Leakage(const ResultClaims& claims) {
  const agent::Provenance& run = claims.run;
  // "--scheme tempo" or "--scheme=tempo".
  const auto after = [&](std::string_view option) -> std::string {
    const std::string joined = StrCat(option, "=");
    for (size_t i = 0; i < run.command.size(); ++i) {
      if (run.command[i].starts_with(joined)) return run.command[i].substr(joined.size());
      if (run.command[i] == option && i + 1 < run.command.size()) return run.command[i + 1];
    }
    return "";
  };
  const auto scheme = offload::NewSchemeNamed(after("--scheme"));
  if (!scheme.ok()) {
    constexpr std::string_view kModel =
        " Whoever receives a trained model may learn of its data what the model remembers.</p>\n";
    if (claims.network.empty()) {
      return StrCat(
          "<p>The stage reaches no network: nothing was sent to machines beside the ones "
          "trusted.",
          kModel);
    }
    return StrCat("<p>The command names no scheme, and may reach ",
                  Code(absl::StrJoin(claims.network, ", ")),
                  ": what it sends there is up to the code that the owners agreed on.", kModel);
  }
  const bool infers = run.command.size() > 1 && run.command[1] == "infer";
  const offload::LeakageProfile profile =
      (*scheme)->leakage(infers ? offload::Use::kInference : offload::Use::kTraining);
  std::vector<std::vector<std::string>> rows;
  for (const auto& [what, exposure] :
       {std::pair("inputs", profile.inputs), std::pair("weights", profile.weights),
        std::pair("outputs", profile.outputs), std::pair("gradients", profile.gradients)}) {
    rows.push_back({what, std::string(offload::ExposureName(exposure))});
  }
  std::string html =
      StrCat("<p>By its command, products were done by workers: ", Code(after("--workers")),
             ". Assumed: ", MarkupText(profile.assumption), "</p>\n",
             Table(StrCat("What each worker sees under the scheme ", MarkupText(profile.scheme)),
                   {"Of", "It sees"}, rows));
  std::vector<std::string> leaks;
  for (const std::string_view leak : profile.leaks) leaks.emplace_back(leak);
  StrAppend(&html, List(leaks));
  rows.clear();
  for (const offload::KnownAttack& attack : profile.attacks) {
    rows.push_back(
        {MarkupText(attack.name), MarkupText(attack.needs), MarkupText(attack.recovers)});
  }
  if (!rows.empty()) {
    StrAppend(&html, Table("Known attacks", {"Attack", "Needs", "Recovers"}, rows));
  }
  return html;
}

std::string Cost(const ResultClaims& claims) {
  const auto count = [&](std::string_view kind) {
    return StrCat(std::count_if(claims.entries.begin(), claims.entries.end(),
                                [&](const LedgerReference& entry) { return entry.kind == kind; }));
  };
  return Table(
      "What the run took", {"Of", "Amount"},
      {{"Command", MarkupText(absl::FormatDuration(claims.run.ended - claims.run.began))},
       {"Keys released", count("release")},
       {"Outputs' keys deposited", count("output-deposited")},
       {"Appraised again", count("reattested")},
       {"Weights in memory", claims.run.resident_weights.has_value()
                                 ? MarkupText(agent::Describe(*claims.run.resident_weights))
                                 : "no check while they were used was asked for"},
       {"Ledger entries of the run", StrCat(claims.entries.size())}});
}

std::string Accepted(const ReportInput& input) {
  const ResultClaims& claims = **input.verified;
  std::vector<std::vector<std::string>> approvals;
  for (const SignedStep& step : claims.agreement) {
    approvals.push_back({MarkupText(step.stakeholder), MarkupText(step.kind), StrCat(step.version),
                         Utc(step.received), StrCat(step.ledger_index), Code(step.file)});
  }
  std::vector<std::vector<std::string>> entries;
  for (const LedgerReference& entry : claims.entries) {
    entries.push_back(
        {StrCat(entry.index), Utc(entry.time), MarkupText(entry.kind), MarkupText(entry.asset)});
  }
  std::vector<std::string> trusted = TrustLines(claims.run.mode);
  trusted.emplace_back(
      "the broker: that its clock was right, that it appraised the machine on a fresh challenge, "
      "and again while the command ran, and that it wrote every release and withdrawal");
  trusted.emplace_back(
      claims.cosigners.empty()
          ? "that the ledger is the one that others see: nobody cosigned it"
          : StrCat("cosigners of the ledger: ", absl::StrJoin(claims.cosigners, ", ")));
  for (const std::string& name : claims.run.not_enforced) {
    trusted.push_back(StrCat("not enforced by the machine, as its operator accepted: ", name));
  }
  return StrCat(
      "<p class=\"verdict good\" role=\"status\">Accepted: signatures, approvals, evidence, ledger "
      "proofs and digests hold.</p>\n<h2>Trust chain</h2>\n<figure>",
      TrustChain(claims), "</figure>\n<h2>Verdicts</h2>\n", Decisions(claims.decision),
      "<h2>What is still trusted</h2>\n", List(trusted), "<h2>Who signed the agreement</h2>\n",
      Table("In the order in which the broker took them; each is in the ledger",
            {"Owner", "What", "Version", "Received", "Ledger entry", "File"}, approvals),
      "<h2>Digests and keys</h2>\n", Digests(claims), "<h2>Learning curves</h2>\n",
      Curves(input.metrics), "<h2>Leakage</h2>\n", Leakage(claims), "<h2>Cost</h2>\n", Cost(claims),
      "<h2>Ledger</h2>\n",
      Table(StrCat("Entries of the run in ", Code(claims.log), ", proven in its checkpoint of ",
                   claims.log_size, " entries"),
            {"Entry", "Time", "Kind", "Asset or output"}, entries));
}

std::string Refused(const absl::Status& status) {
  std::vector<std::vector<std::string>> rows;
  for (const Refusal& finding : RefusalsOf(status)) {
    rows.push_back({MarkupText(finding.item), std::string(ReasonName(finding.reason)),
                    MarkupText(finding.detail), MarkupText(finding.remedy)});
  }
  return StrCat(
      "<p class=\"verdict bad\" role=\"status\">",
      rows.empty() ? StrCat("Not verified: ", MarkupText(FromAbsl(status.message())))
                   : std::string("Refused. Nothing of this result is shown, since nothing vouches "
                                 "for it."),
      "</p>\n<h2>Verdicts</h2>\n",
      rows.empty() ? std::string()
                   : Table("Why", {"What", "Reason", "Detail", "What would change it"}, rows));
}

}  // namespace

std::string RenderReport(const ReportInput& input) {
  const std::string title = input.verified.ok() ? StrCat("Run ", (*input.verified)->run.run)
                                                : StrCat("Result ", input.result);
  // Should something ever get past the escaping, a browser runs and fetches nothing of it.
  return StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
      "style-src 'unsafe-inline'\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\">\n<title>",
      MarkupText(title), " — Pavise report</title>\n<style>", kStyle,
      "</style></head>\n<body><main>\n<h1>", MarkupText(title), "</h1>\n<p>Result folder ",
      Code(input.result), "</p>\n",
      input.verified.ok() ? Accepted(input) : Refused(input.verified.status()),
      "</main></body></html>\n");
}

}  // namespace pavise::job
