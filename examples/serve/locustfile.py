"""Load a server with random inputs, as many users as wanted (pip install locust).

hios-tvm serve model.hios &
locust -f examples/serve/locustfile.py --headless -u 8 -t 30s -H http://localhost:8080
"""

import os

import numpy as np
from locust import HttpUser, task

MODEL = os.environ.get("MODEL", "model")
DTYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32}


class User(HttpUser):
    """Asks again and again, in JSON."""

    def on_start(self) -> None:
        """Make a request for the model's inputs; -1 becomes 1."""
        metadata = self.client.get(f"/v2/models/{MODEL}").json()
        rng = np.random.default_rng(0)
        self.inputs = {}
        for item in metadata["inputs"]:
            shape = [max(extent, 1) for extent in item["shape"]]
            array = rng.random(shape).astype(DTYPES[item["datatype"]])
            self.inputs[item["name"]] = (item["datatype"], array)

    @task
    def infer(self) -> None:
        """Send one request; anything but 200 counts as a failure."""
        body = {
            "inputs": [
                {"name": name, "datatype": kind, "shape": array.shape, "data": array.tolist()}
                for name, (kind, array) in self.inputs.items()
            ]
        }
        self.client.post(f"/v2/models/{MODEL}/infer", json=body)
