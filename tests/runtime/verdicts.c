/* Prints the code that opening each of the named artifacts leads to. */

#include <stdio.h>

#include "hios_runtime.h"

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    hios_artifact* artifact;
    const hios_status status = hios_artifact_open(argv[i], NULL, &artifact);
    if (status == HIOS_OK) hios_artifact_close(artifact);
    printf("%d\n", (int)status);
  }
  return 0;
}
