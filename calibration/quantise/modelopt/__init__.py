"""nvidia-modelopt as a back-end of ``calibrate``: a process of another environment, with which files are exchanged.

A folder each for the vision graph and the decoder: ``graph.onnx`` and ``graph.weights`` (``graph``), ``inputs.npz``
(``backend``) and ``request.json`` go out, ``result.onnx`` comes back. Of that only the scales are read
(``graph.read``): they go into our own graph, by our own insertion.
"""
