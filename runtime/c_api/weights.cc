#include "weights.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "error.h"
#include "json.h"

namespace hios {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;

bool IsSize(const JsonValue& value) {
  return value.is(JsonValue::kInteger) && 0 <= value.integer && value.integer < kMaxExact;
}

// Reads one value of the header, where the data begins at `base`.
StoredTensor ReadTensor(std::string_view name, const JsonValue& value, size_t base) {
  const auto refuse = [&]() { Fail(HIOS_ARTIFACT, "tensor " + Quoted(name) + " is described wrongly"); };
  if (!value.is(JsonValue::kObject) || value.size != 3) refuse();
  const JsonValue* tag = value.find("dtype");
  const JsonValue* shape = value.find("shape");
  const JsonValue* offsets = value.find("data_offsets");
  if (tag == nullptr || shape == nullptr || offsets == nullptr || !tag->is(JsonValue::kText) ||
      !shape->is(JsonValue::kList) || !offsets->is(JsonValue::kList) || offsets->size != 2) {
    refuse();
  }
  if (!std::all_of(shape->items, shape->items + shape->size, IsSize) ||
      !IsSize(offsets->items[0]) || !IsSize(offsets->items[1])) {
    refuse();
  }
  const ElementType* type = FindTypeByTag(tag->string());
  if (type == nullptr) refuse();
  StoredTensor tensor;
  for (uint32_t i = 0; i < shape->size; ++i) tensor.shape.push_back(shape->items[i].integer);
  tensor.dtype = type->name;
  const int64_t bytes = TensorBytes(tensor.shape, tensor.dtype);
  if (offsets->items[1].integer - offsets->items[0].integer != bytes) refuse();
  tensor.start = base + static_cast<size_t>(offsets->items[0].integer);
  tensor.bytes = static_cast<size_t>(bytes);
  return tensor;
}

}  // namespace

StoredTensors ReadTensors(std::string_view file) {
  Require(file.size() >= 8, "no header");
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  Require(length <= std::min<uint64_t>(kMaxHeaderBytes, file.size() - 8),
          [&] { return "a header of " + std::to_string(length) + " bytes is too long"; });
  const std::string_view text = file.substr(8, length);
  Require(!text.empty() && text[0] == '{', "the header must begin with '{'");
  const Json json(text);
  std::vector<std::pair<std::string_view, StoredTensor>> found;
  for (uint32_t i = 0; i < json.root().size; ++i) {
    const JsonMember& member = json.root().members[i];
    const std::string_view name = member.name.string();
    found.emplace_back(name, ReadTensor(name, member.value, 8 + length));
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.second.start < b.second.start; });
  size_t end = 8 + length;
  StoredTensors tensors;
  for (auto& [name, tensor] : found) {
    Require(tensor.start == end,
            [name = name] { return "hole or overlap before tensor " + Quoted(name); });
    end += tensor.bytes;
    tensors.emplace(name, std::move(tensor));
  }
  Require(end == file.size(), [&] {
    return "tensors end at byte " + std::to_string(end) + " of " + std::to_string(file.size());
  });
  return tensors;
}

Weights::Weights(Pages memory, StoredTensors tensors)
    : memory_(std::move(memory)), tensors_(std::move(tensors)) {
  const auto is_aligned = [&](const StoredTensor& tensor) {
    return IsAligned(memory_.data() + tensor.start);
  };
  size_t copied = 0;
  for (const auto& [name, tensor] : tensors_) {
    if (!is_aligned(tensor)) copied += AlignUp(tensor.bytes);
  }
  copies_ = Pages(copied);
  char* copy = copies_.data();
  for (const auto& [name, tensor] : tensors_) {
    char* address = memory_.data() + tensor.start;
    if (!is_aligned(tensor)) {
      std::memcpy(copy, address, tensor.bytes);
      address = std::exchange(copy, copy + AlignUp(tensor.bytes));
    }
    addresses_.emplace(name, address);
  }
  memory_.Seal();
  copies_.Seal();
}

}  // namespace hios
