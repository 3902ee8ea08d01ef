#include "decode.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "dtypes.h"

namespace hios {

std::string Place::Name() const {
  if (outer == nullptr) return std::string(field);
  const std::string before = outer->Name();
  if (index >= 0) return before + "[" + std::to_string(index) + "]";
  return before + "." + std::string(field);
}

void Place::Refuse(const std::string& expected) const {
  Fail(HIOS_ARTIFACT, Name() + " must be " + expected);
}

void Place::Expect(JsonValue::Kind kind, const char* expected) const {
  if (!value.is(kind)) Refuse(expected);
}

void Decode(const Place& place, std::string* result) {
  place.Expect(JsonValue::kText, "of type str");
  *result = place.value.string();
}

void Decode(const Place& place, int64_t* result) {
  const JsonValue& value = place.value;
  const bool fits = value.is(JsonValue::kInteger) && 0 <= value.integer && value.integer <= kMaxExact;
  if (!fits) place.Refuse("a whole number from 0 to 2**53");
  *result = value.integer;
}

void Decode(const Place& place, double* result) {
  const JsonValue& value = place.value;
  if (value.is(JsonValue::kInteger)) {
    if (std::abs(value.integer) > kMaxExact) place.Refuse("at most 2**53");
    *result = static_cast<double>(value.integer);
  } else if (value.is(JsonValue::kReal) || value.is(JsonValue::kHugeInteger)) {
    *result = value.real;
  } else {
    place.Refuse("a number");
  }
  if (std::fabs(*result) > static_cast<double>(kMaxExact)) place.Refuse("at most 2**53");
}

void Decode(const Place& place, bool* result) {
  *result = place.value.is(JsonValue::kTrue);
  if (!*result) place.Expect(JsonValue::kFalse, "of type bool");
}

void DecodeChoice(const Place& place, std::initializer_list<std::string_view> choices,
                  std::string* result) {
  const bool known = place.value.is(JsonValue::kText) &&
                     std::find(choices.begin(), choices.end(), place.value.string()) != choices.end();
  if (!known) {
    std::string words;
    for (const std::string_view choice : choices) words += " " + Quoted(choice);
    place.Refuse("one of" + words);
  }
  *result = place.value.string();
}

Fields::Fields(const Place& place) : place_(place) {
  place.Expect(JsonValue::kObject, "an object");
}

Fields& Fields::Take(const char* name, bool needed,
                     const std::function<void(const Place&)>& decode) {
  known_.push_back(name);
  if (const JsonValue* value = place_.value.find(name)) {
    decode(Place{*value, &place_, name});
  } else if (needed) {
    Fail(HIOS_ARTIFACT, place_.Name() + " has no field " + Quoted(name));
  }
  return *this;
}

void Fields::End() const {
  for (uint32_t i = 0; i < place_.value.size; ++i) {
    const std::string_view name = place_.value.members[i].name.string();
    if (std::find(known_.begin(), known_.end(), name) == known_.end()) {
      Fail(HIOS_ARTIFACT, place_.Name() + " has unknown field " + QuotedStart(name));
    }
  }
}

}  // namespace hios
