"""The formats of an export beside the SavedModel: ONNX, LiteRT and OpenVINO, in floats and in integers."""
