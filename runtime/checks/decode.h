// From values of JSON to structs: exactly their fields, exactly their types.

#ifndef HIOS_CHECKS_DECODE_H_
#define HIOS_CHECKS_DECODE_H_

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.h"
#include "json.h"

namespace hios {

// A value, and what to call it in messages. Names are made only where something is wrong.
struct Place {
  const JsonValue& value;
  const Place* outer = nullptr;
  std::string_view field = {};  // of an object
  int64_t index = -1;           // of a list

  std::string Name() const;
  [[noreturn]] void Refuse(const std::string& expected) const;
  void Expect(JsonValue::Kind kind, const char* expected) const;
};

void Decode(const Place& place, std::string* result);
void Decode(const Place& place, int64_t* result);
void Decode(const Place& place, double* result);
void Decode(const Place& place, bool* result);

template <typename T>
void Decode(const Place& place, std::vector<T>* result);

template <typename T>
void Decode(const Place& place, std::optional<T>* result) {
  if (!place.value.is(JsonValue::kNull)) Decode(place, &result->emplace());
}

template <typename T>
void Decode(const Place& place, std::vector<std::pair<std::string, T>>* result) {
  place.Expect(JsonValue::kObject, "an object");
  for (uint32_t i = 0; i < place.value.size; ++i) {
    const JsonMember& member = place.value.members[i];
    result->emplace_back(std::string(member.name.string()), T());
    Decode(Place{member.value, &place, member.name.string()}, &result->back().second);
  }
}

template <typename T>
void Decode(const Place& place, std::vector<T>* result) {
  place.Expect(JsonValue::kList, "a list");
  result->reserve(place.value.size);
  for (uint32_t i = 0; i < place.value.size; ++i) {
    result->emplace_back();
    Decode(Place{place.value.items[i], &place, {}, i}, &result->back());
  }
}

// One of some words.
void DecodeChoice(const Place& place, std::initializer_list<std::string_view> choices,
                  std::string* result);

// The fields of an object, each of which is asked for once; `End` refuses others.
class Fields {
 public:
  explicit Fields(const Place& place);

  template <typename T>
  Fields& Need(const char* name, T* result) {
    return Take(name, true, [&](const Place& place) { Decode(place, result); });
  }

  template <typename T>
  Fields& Optional(const char* name, T* result) {
    return Take(name, false, [&](const Place& place) { Decode(place, result); });
  }

  Fields& Take(const char* name, bool needed, const std::function<void(const Place&)>& decode);
  void End() const;

 private:
  const Place& place_;
  std::vector<std::string_view> known_;
};

}  // namespace hios

#endif  // HIOS_CHECKS_DECODE_H_
