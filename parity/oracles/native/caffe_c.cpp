// A plain C interface to Caffe's Net and Solver, for ctypes: open, feed, run layer by layer or train, read blobs.
// A network that Caffe refuses ends the process (glog's FATAL), which is why it is loaded in a process of its own.
#include <glog/logging.h>

#include <cstring>
#include <memory>

#include "caffe/caffe.hpp"
#include "caffe/net.hpp"

using caffe::Blob;
using caffe::Net;
using caffe::Solver;

extern "C" {

// A network in its TEST phase with the weights of a .caffemodel (or .caffemodel.h5).
void* net_open(const char* prototxt, const char* weights) {
  caffe::Caffe::set_mode(caffe::Caffe::CPU);
  std::unique_ptr<Net<float>> net(new Net<float>(prototxt, caffe::TEST));
  net->CopyTrainedLayersFrom(std::string(weights));
  return net.release();
}

// Give the input blob a shape and values (float32, C order); later blobs get their shapes anew.
void net_feed(void* handle, const char* blob, int axes, const int* shape, const float* values) {
  Net<float>* net = static_cast<Net<float>*>(handle);
  CHECK(net->has_blob(blob)) << "no blob " << blob;
  boost::shared_ptr<Blob<float>> input = net->blob_by_name(blob);
  std::vector<int> wanted(shape, shape + axes);
  if (input->shape() != wanted) {
    input->Reshape(wanted);
    net->Reshape();
  }
  std::memcpy(input->mutable_cpu_data(), values, input->count() * sizeof(float));
}

int net_layers(void* handle) { return static_cast<Net<float>*>(handle)->layers().size(); }

const char* net_layer_name(void* handle, int layer) { return static_cast<Net<float>*>(handle)->layer_names()[layer].c_str(); }

const char* net_layer_type(void* handle, int layer) { return static_cast<Net<float>*>(handle)->layers()[layer]->type(); }

void net_forward(void* handle, int layer) { static_cast<Net<float>*>(handle)->ForwardFromTo(layer, layer); }

int net_tops(void* handle, int layer) { return static_cast<Net<float>*>(handle)->top_vecs()[layer].size(); }

// Axes of one output; shape gets at most 32 sizes.
int net_top_shape(void* handle, int layer, int top, int* shape) {
  const Blob<float>* blob = static_cast<Net<float>*>(handle)->top_vecs()[layer][top];
  for (int i = 0; i < blob->num_axes(); ++i) shape[i] = blob->shape(i);
  return blob->num_axes();
}

const float* net_top_data(void* handle, int layer, int top) {
  return static_cast<Net<float>*>(handle)->top_vecs()[layer][top]->cpu_data();
}

int net_blobs(void* handle, int layer) { return static_cast<Net<float>*>(handle)->layers()[layer]->blobs().size(); }

// Axes of a layer's own blob (weights); shape gets at most 32 sizes.
int net_blob_shape(void* handle, int layer, int blob, int* shape) {
  boost::shared_ptr<Blob<float>> held = static_cast<Net<float>*>(handle)->layers()[layer]->blobs()[blob];
  for (int i = 0; i < held->num_axes(); ++i) shape[i] = held->shape(i);
  return held->num_axes();
}

const float* net_blob_data(void* handle, int layer, int blob) {
  return static_cast<Net<float>*>(handle)->layers()[layer]->blobs()[blob]->cpu_data();
}

const float* net_blob_diff(void* handle, int layer, int blob) {
  return static_cast<Net<float>*>(handle)->layers()[layer]->blobs()[blob]->cpu_diff();
}

// Forward and backward without an update: gradients of the loss alone lie in the blobs' diffs.
void net_gradients(void* handle) {
  Net<float>* net = static_cast<Net<float>*>(handle);
  net->ClearParamDiffs();
  net->ForwardBackward();
}

// The solver that a solver prototxt tells, with the weights of a .caffemodel; its net is in its TRAIN phase.
void* solver_open(const char* prototxt, const char* weights) {
  caffe::Caffe::set_mode(caffe::Caffe::CPU);
  caffe::SolverParameter told;
  caffe::ReadSolverParamsFromTextFileOrDie(prototxt, &told);
  std::unique_ptr<Solver<float>> solver(caffe::SolverRegistry<float>::CreateSolver(told));
  solver->net()->CopyTrainedLayersFrom(std::string(weights));
  return solver.release();
}

void* solver_net(void* handle) { return static_cast<Solver<float>*>(handle)->net().get(); }

void solver_step(void* handle, int updates) { static_cast<Solver<float>*>(handle)->Step(updates); }
}
