// Runs the tests of all files; an argument selects those whose name contains it.

#include "checks.h"

int main(int argc, char** argv) {
  return checks::run_all(argc > 1 ? argv[1] : "");
}
