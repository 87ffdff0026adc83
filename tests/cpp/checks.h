#pragma once

#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

// Tests without a framework: TEST(name) { CHECK(...); } and one main() that runs them all. doctest
// comes with Linux distributions only, and the tests build wherever there is pip and a compiler.

namespace checks {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int64_t n_checks = 0;
inline int64_t n_failed = 0;

struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

inline void fail(const char* file, int line, const std::string& what) {
  constexpr int64_t kShown = 25;
  if (++n_failed <= kShown) std::cerr << file << ':' << line << ": " << what << '\n';
}

inline void check(bool ok, const char* file, int line, const char* expression) {
  ++n_checks;
  if (!ok) fail(file, line, expression);
}

template <class T>
std::string text_of(const T& value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

template <class T>
std::string text_of(const std::vector<T>& values) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
  out << ']';
  return out.str();
}

template <class A, class B>
void check_equal(const A& found, const B& expected, const char* file, int line,
                 const char* expression) {
  ++n_checks;
  if (found == expected) return;
  fail(file, line,
       std::string(expression) + ": found " + text_of(found) + ", expected " + text_of(expected));
}

/// Runs the tests whose name contains `part`; gives the exit status.
inline int run_all(const std::string& part) {
  int n_run = 0;
  for (const Test& test : tests()) {
    if (std::string(test.name).find(part) == std::string::npos) continue;
    const int64_t failed_before = n_failed;
    try {
      test.run();
    } catch (const std::exception& error) {
      fail(__FILE__, __LINE__, std::string("the test threw: ") + error.what());
    }
    std::cout << (n_failed == failed_before ? "ok     " : "FAILED ") << test.name << '\n';
    ++n_run;
  }
  std::cout << n_run << " tests, " << n_checks << " checks, " << n_failed << " failed\n";
  return n_run > 0 && n_failed == 0 ? 0 : 1;
}

}  // namespace checks

#define TEST(name)                                              \
  static void name();                                           \
  static const checks::Register registered_##name{#name, name}; \
  static void name()

#define CHECK(...) checks::check(static_cast<bool>(__VA_ARGS__), __FILE__, __LINE__, #__VA_ARGS__)

#define CHECK_EQUAL(found, expected) \
  checks::check_equal((found), (expected), __FILE__, __LINE__, #found " == " #expected)

#define CHECK_THROWS(type, ...)                                                      \
  do {                                                                               \
    ++checks::n_checks;                                                              \
    bool thrown = false;                                                             \
    try {                                                                            \
      __VA_ARGS__;                                                                   \
    } catch (const type&) {                                                          \
      thrown = true;                                                                 \
    }                                                                                \
    if (!thrown) checks::fail(__FILE__, __LINE__, #__VA_ARGS__ " throws no " #type); \
  } while (false)
