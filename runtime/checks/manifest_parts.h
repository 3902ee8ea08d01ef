// The parts of a manifest that a run does not use. The operator graph is compared with what calls write;
// the rest is for people and for later commands.

#ifndef HIOS_CHECKS_MANIFEST_PARTS_H_
#define HIOS_CHECKS_MANIFEST_PARTS_H_

#include "decode.h"
#include "manifest.h"

namespace hios {

void Decode(const Place& place, OperatorGraph* graph);
void Decode(const Place& place, Prediction* prediction);

// These are not kept.
void ExpectRecipe(const Place& place);
void ExpectVerification(const Place& place);

}  // namespace hios

#endif  // HIOS_CHECKS_MANIFEST_PARTS_H_
