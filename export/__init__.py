"""A converted network in forms that other tools read: ONNX models and folders as model hubs want them."""
