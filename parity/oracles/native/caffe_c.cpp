// A plain C interface to Caffe's Net, for ctypes: open, feed, run layer by layer, read blobs.
// A network that Caffe refuses ends the process (glog's FATAL), which is why it is loaded in a process of its own.
#include <glog/logging.h>

#include <cstring>
#include <memory>

#include "caffe/caffe.hpp"
#include "caffe/net.hpp"

using caffe::Blob;
using caffe::Net;

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
}
