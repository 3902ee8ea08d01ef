// The parts of a manifest that a run does not use: they are checked like the rest.

#include <set>

#include "decode.h"
#include "manifest_parts.h"

namespace hios {

void Decode(const Place& place, Operator* operation) {
  Fields(place)
      .Need("name", &operation->name)
      .Need("kernel", &operation->kernel)
      .Need("inputs", &operation->inputs)
      .Need("outputs", &operation->outputs)
      .Optional("nodes", &operation->nodes)
      .End();
}

namespace {

struct GraphTensor {
  std::string name;
  Shape shape;
  std::string dtype;
};

struct PredictedOperator {
  std::string operation;
  double cost_ms;
  PredictedSpan span;
};

struct PredictedTransfer {
  std::string src, dst;
  PredictedSpan span;
};

struct OutputError {
  std::string output;
  double error, allowed;
};

void Decode(const Place& place, GraphTensor* tensor) {
  Fields(place)
      .Need("name", &tensor->name)
      .Need("shape", &tensor->shape)
      .Need("dtype", &tensor->dtype)
      .End();
}

void Decode(const Place& place, PredictedOperator* item) {
  Fields(place)
      .Need("operator", &item->operation)
      .Need("cost_ms", &item->cost_ms)
      .Need("start_ms", &item->span.start_ms)
      .Need("end_ms", &item->span.end_ms)
      .End();
}

void Decode(const Place& place, PredictedTransfer* item) {
  Fields(place)
      .Need("src", &item->src)
      .Need("dst", &item->dst)
      .Need("start_ms", &item->span.start_ms)
      .Need("end_ms", &item->span.end_ms)
      .End();
}

void Decode(const Place& place, OutputError* item) {
  Fields(place)
      .Need("output", &item->output)
      .Need("error", &item->error)
      .Need("allowed", &item->allowed)
      .End();
}

[[noreturn]] void RefuseGraph(const std::string& problem) {
  Fail(HIOS_ARTIFACT, "manifest.graph: " + problem);
}

std::set<std::string_view> Distinct(const char* what, const Names& names) {
  std::set<std::string_view> known;
  for (const std::string& name : names) {
    if (!known.insert(name).second) {
      RefuseGraph(std::string(what) + " names must be unique; used twice: " + name);
    }
  }
  return known;
}

// Operators are in topological order, and each tensor is written once.
void CheckGraph(const OperatorGraph& graph) {
  Names names;
  for (const Operator& operation : graph.operators) names.push_back(operation.name);
  Distinct("operator", names);
  const std::set<std::string_view> known = Distinct("tensor", graph.tensors);
  std::set<std::string_view> written(graph.inputs.begin(), graph.inputs.end());
  written.insert(graph.constants.begin(), graph.constants.end());
  for (const Operator& operation : graph.operators) {
    for (const Names* tensors : {&operation.inputs, &operation.outputs}) {
      for (const std::string& tensor : *tensors) {
        if (known.count(tensor) == 0) {
          RefuseGraph("operator " + Quoted(operation.name) + " uses unknown tensor " + Quoted(tensor));
        }
      }
    }
    for (const std::string& tensor : operation.inputs) {
      if (written.count(tensor) == 0) {
        RefuseGraph("operator " + Quoted(operation.name) + " reads " + Quoted(tensor) +
                    " before it is written: the graph has a cycle or is not in topological order");
      }
    }
    for (const std::string& tensor : operation.outputs) {
      if (!written.insert(tensor).second) RefuseGraph("tensor " + Quoted(tensor) + " is written twice");
    }
  }
  for (const std::string& tensor : graph.outputs) {
    if (written.count(tensor) == 0) RefuseGraph("output " + Quoted(tensor) + " is never written");
  }
}

}  // namespace

void Decode(const Place& place, OperatorGraph* graph) {
  std::vector<GraphTensor> tensors;
  Fields(place)
      .Need("name", &graph->name)
      .Need("operators", &graph->operators)
      .Need("tensors", &tensors)
      .Optional("inputs", &graph->inputs)
      .Optional("constants", &graph->constants)
      .Optional("outputs", &graph->outputs)
      .End();
  for (GraphTensor& tensor : tensors) graph->tensors.push_back(std::move(tensor.name));
  CheckGraph(*graph);
}

void Decode(const Place& place, Prediction* prediction) {
  std::vector<PredictedOperator> operators;
  std::vector<PredictedTransfer> transfers;
  std::optional<double> makespan_ms;
  Mapping<double> work_ms;
  double independence;
  Fields(place)
      .Optional("operators", &operators)
      .Optional("transfers", &transfers)
      .Optional("makespan_ms", &makespan_ms)
      .Optional("work_ms", &work_ms)
      .Optional("independence", &independence)
      .End();
  for (PredictedOperator& item : operators) {
    prediction->operators.push_back(std::move(item.operation));
    prediction->costs_ms.push_back(item.cost_ms);
    prediction->spans.push_back(item.span);
  }
  for (const PredictedTransfer& item : transfers) prediction->spans.push_back(item.span);
}


void ExpectRecipe(const Place& place) {
  Mapping<std::string> texts, traces;
  std::string precision;
  bool merge;
  Names dtypes;
  Fields(place)
      .Optional("targets", &texts)
      .Take("precision", false,
            [&](const Place& value) { DecodeChoice(value, {"fp32", "tf32", "fp16", "bf16"}, &precision); })
      .Optional("merge_convolutions", &merge)
      .Optional("traces", &traces)
      .Optional("dtypes", &dtypes)
      .End();
}

void ExpectVerification(const Place& place) {
  bool verified;
  std::string reason, reference;
  Shape seeds;
  int64_t scale;
  std::vector<OutputError> outputs;
  Names notes;
  Fields(place)
      .Optional("verified", &verified)
      .Optional("reason", &reason)
      .Optional("reference", &reference)
      .Optional("seeds", &seeds)
      .Optional("scale", &scale)
      .Optional("outputs", &outputs)
      .Optional("notes", &notes)
      .End();
}

}  // namespace hios
