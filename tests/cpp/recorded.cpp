#include "recorded.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace dflash::traces {

namespace {

template <class Number>
std::vector<Number> numbers(std::istringstream& words) {
  std::vector<Number> found;
  for (Number number; words >> number;) found.push_back(number);
  return found;
}

Seconds by_width(std::vector<double> seconds) {
  return [=](int32_t width) { return seconds.at(static_cast<size_t>(width)); };
}

/// Drafts of four characters each: + or -, and thousandths.
std::vector<RecordedAnswer::Place> block_of(const std::string& word) {
  constexpr size_t kLength = 4;
  std::vector<RecordedAnswer::Place> places;
  for (size_t at = 0; at < word.size(); at += kLength) {
    const float probability = std::stof(word.substr(at + 1, kLength - 1)) / 1000;
    places.push_back({word[at] == '+', probability});
  }
  return places;
}

class Reader {
 public:
  void read(const std::string& line) {
    std::istringstream words(line);
    if (line[0] == '+' || line[0] == '-') {
      blocks_.emplace_back();
      for (std::string word; words >> word;) blocks_.back().push_back(block_of(word));
      return;
    }
    std::string key;
    words >> key;
    if (key == "verify") verify_ = numbers<double>(words);
    if (key == "draft") draft_ = numbers<double>(words);
    if (key == "inject") words >> inject_;
    if (key == "prompt") {
      end_answer();
      words >> name_;
      tokens_ = numbers<Token>(words);
      n_prompt_ = tokens_.size();
    }
    if (key == "answer") {
      for (const Token token : numbers<Token>(words)) tokens_.push_back(token);
    }
  }

  Recording end() {
    end_answer();
    if (!verify_.empty()) {
      recording_.pair = pair("measured", by_width(verify_), by_width(draft_), inject_);
    }
    return std::move(recording_);
  }

 private:
  void end_answer() {
    if (tokens_.empty()) return;
    if (blocks_.size() + n_prompt_ + 1 != tokens_.size()) {
      throw std::runtime_error(name_ +
                               ": an answer has a line for each of its tokens but the last");
    }
    recording_.answers.emplace_back(std::move(tokens_), n_prompt_, std::move(blocks_));
    tokens_.clear();
    blocks_.clear();
  }

  Recording recording_;
  std::vector<double> verify_;
  std::vector<double> draft_;
  double inject_ = 0;
  std::string name_;
  std::vector<Token> tokens_;
  size_t n_prompt_ = 0;
  RecordedAnswer::Blocks blocks_;
};

}  // namespace

void RecordedAnswer::draft(int64_t anchor, int32_t block, Draft& out) const {
  out.clear();
  const auto& places = blocks_.at(static_cast<size_t>(anchor)).at(static_cast<size_t>(block - 1));
  for (const Place& place : places) {
    const auto at = anchor + 1 + static_cast<int64_t>(out.tokens.size());
    out.tokens.push_back(place.right ? token(at) : -1);
    out.confidence.push_back(place.probability);
  }
}

Recording read_recording(const std::string& name) {
  const auto path = std::filesystem::path(__FILE__).parent_path() / "recorded" / name;
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path.string() + " cannot be read");
  Reader reader;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') reader.read(line);
  }
  return reader.end();
}

}  // namespace dflash::traces
