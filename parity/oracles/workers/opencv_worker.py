"""OpenCV's run of a Caffe net, layer by layer: fusion and Winograd off, backend OpenCV on the CPU."""

import cv2
import numpy as np
from serving import serve


def layers(job, arrays):
    """``layers`` (those with several tops in ``several``) of ``prototxt`` (text) with the weights of ``caffemodel`` (path), for one array per input.

    Arrays: ``<layer>:<top>``; or it says ``failed``: OpenCV's words, and the layer if known.
    """
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        text = np.frombuffer(job["prototxt"].encode(), np.uint8)
        net = cv2.dnn.readNetFromCaffe(text, np.fromfile(job["caffemodel"], np.uint8))
    except cv2.error as error:
        return {"failed": f"it cannot read the network: {said(error)}"}, {}
    net.enableFusion(False)
    net.enableWinograd(False)
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    try:
        for name, value in arrays.items():
            net.setInput(np.ascontiguousarray(value), name)
        wanted = job["layers"]
        tops = dict(zip(wanted, net.forwardAndRetrieve(wanted), strict=True)) if wanted else {}
        for name in job["several"]:  # only a layer's first output is safe from later layers
            tops[name] = [top.copy() for top in net.forwardAndRetrieve([name])[0]]
    except cv2.error as error:
        return {"failed": said(error)}, {}
    return {}, {f"{name}:{i}": top for name, outputs in tops.items() for i, top in enumerate(outputs)}


def said(error):
    """OpenCV's message without its build paths."""
    return str(error).strip().split("error: ", 1)[-1].splitlines()[0]


if __name__ == "__main__":
    serve(layers)
